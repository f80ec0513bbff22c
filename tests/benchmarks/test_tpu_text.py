"""Forms that the TPU compiler alone writes, cut from its programs."""

import pytest

from benchmarks.aot.collectives import group_size
from benchmarks.aot.cost import Traffic, cost
from benchmarks.aot.hlo import Instruction
from benchmarks.aot.products import flops


def module(*computations: str, devices: int = 8) -> str:
    """Computations, the entry last."""
    *others, entry = computations
    text = "\n\n".join([*others, f"ENTRY {entry}"])
    return f"HloModule jit_f, num_partitions={devices}\n\n{text}\n"


GATHER = """\
  %p = bf16[96,768]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-gather.NUMBER = bf16[768,768]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=4, \
replica_groups=mesh['axis_0'=8] {'axis_0'}, dimensions={0}, \
frontend_attributes={chain_id="0"}, \
backend_config={"window_config":{"estimated_cycles":"5"}}"""
STEP = "(p: bf16[96,768]) -> bf16[768,768] {"

ASYNC_FUSION = module(
    f"%start {STEP}\n"
    + GATHER.replace("NUMBER", "1")
    + """
  ROOT %call.1 = (bf16[96,768]{1,0}, bf16[768,768]{1,0}, /*index=2*/u32[]{:S(2)}) \
custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}""",
    f"%overlapping {STEP}\n"
    + GATHER.replace("NUMBER", "2").replace("  %all-gather", "  ROOT %all-gather")
    + "\n}",
    f"%done {STEP}\n"
    + GATHER.replace("NUMBER", "3")
    + """
  ROOT %call.3 = bf16[768,768]{1,0} custom-call(%all-gather.3), \
custom_call_target="AsyncCollectiveDone"
}""",
    """%main (p: bf16[96,768]) -> bf16[768,768] {
  %p = bf16[96,768]{1,0} parameter(0)
  %one = (bf16[96,768]{1,0}, bf16[768,768]{1,0}, u32[]) fusion(%p), calls=%start
  %two = bf16[768,768]{1,0} fusion(%p), kind=kOutput, calls=%overlapping, \
backend_config={"window_config":{"estimated_cycles":"700","iteration_bounds":["1"]}}
  ROOT %three = bf16[768,768]{1,0} fusion(%p), calls=%done
}""",
)


def test_an_asynchronous_fusion_counts_once():
    """And its cycles are those beside the fusion, not of what it holds."""
    found = cost(ASYNC_FUSION)
    payload = 768 * 768 * 2
    assert found.traffic == {"all-gather": Traffic(1, payload, payload * 7 / 8)}
    assert found.cycles == 700


def test_an_all_reduce_that_is_sliced_is_a_reduce_scatter():
    found = cost(
        module(
            """%all-reduce-scatter.2 (input: f32[64,32]) -> f32[8,32] {
  %input = f32[64,32]{1,0:T(8,128)S(1)} parameter(0)
  %all-reduce = f32[64,32]{1,0} all-reduce(%input), replica_groups={}, to_apply=%add
  %zero = u32[] constant(0)
  ROOT %part = f32[8,32]{1,0} dynamic-slice(%all-reduce, %zero, %zero)
}""",
            """%main (x: f32[64,32]) -> f32[8,32] {
  %x = f32[64,32]{1,0} parameter(0)
  ROOT %f = f32[8,32]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.2
}""",
        )
    )
    payload = 64 * 32 * 4
    assert found.traffic == {"reduce-scatter": Traffic(1, payload, payload * 7 / 8)}


def test_several_buffers_and_a_pair_of_start_and_done():
    found = cost(
        module(
            """%main (x: f32[8], y: bf16[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %y = bf16[8]{0} parameter(1)
  %start = (f32[8]{0}, bf16[8]{0}) all-reduce-start(%x, %y), \
replica_groups=[2,4]<=[4,2]T(1,0), to_apply=%add
  %done = (f32[8]{0}, bf16[8]{0}) all-reduce-done(%start)
  ROOT %z = f32[8]{0} get-tuple-element(%done), index=0
}"""
        )
    )
    payload = 8 * 4 + 8 * 2
    assert found.traffic == {"all-reduce": Traffic(1, payload, 2 * payload * 3 / 4)}


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("{{0,1,2},{3,4,5}}", 3),
        ("[2,4]<=[8]", 4),
        ("[4,2]<=[2,4]T(1,0)", 2),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_1'}", 2),
        ("mesh['x'=4,'y'=2] {'x','y'}", 8),
        ("mesh['x'=8] {'x':(2)4}", 4),
        ("{}", 16),
    ],
)
def test_group_sizes(groups, expected):
    attributes = f", channel_id=1, replica_groups={groups}, dimensions={{0}}"
    i = Instruction("i", "f32[8]", "all-gather", "%x", attributes, True)
    assert group_size(i, devices=16) == expected


def product(left: str, right: str, result: str, attributes: str) -> int:
    def parameter(name: str, shape: str) -> Instruction:
        return Instruction(name, shape, "parameter", "0", "", False)

    operands = {"x": parameter("x", left), "y": parameter("y", right)}
    i = Instruction("z", result, "convolution", "%x, %y", f", {attributes}", True)
    return flops(i, operands)


@pytest.mark.parametrize(
    ("left", "right", "result", "attributes", "expected"),
    [
        # X X^T of one matrix.
        ("f32[96,768]", "f32[96,768]", "f32[96,96]", "dim_labels=bf_oi->bf", 96 * 96),
        # Of four, in a window that meets each of them once.
        (
            *("bf16[4,96,768]", "bf16[4,96,768]", "bf16[4,96,96]"),
            "window={size=4 stride=3 lhs_dilate=4}, dim_labels=0bf_0oi->0bf",
            4 * 96 * 96,
        ),
        # Their sum.
        (
            *("bf16[4,96,768]", "bf16[4,96,768]", "bf16[96,96,1]"),
            "window={size=4}, dim_labels=0bf_0oi->bf0, metadata={}",
            4 * 96 * 96,
        ),
        # One matrix times each of four, the operand being the one.
        (
            *("bf16[96,768,1]", "bf16[4,768,64]", "bf16[4,64,96]"),
            "window={size=4 pad=3_3 rhs_reversal=1}, dim_labels=bf0_0io->0fb",
            4 * 96 * 64,
        ),
    ],
)
def test_products_are_convolutions(left, right, result, attributes, expected):
    assert product(left, right, result, attributes) == 2 * 768 * expected


MEGABYTE = "f32[512,512]{1,0:T(8,128)}"
IN_VMEM = "f32[512,512]{1,0:T(8,128)S(1)}"
HALF = "f32[256,512]{1,0:T(8,128)S(1)}"
ESTIMATE = 'backend_config={"window_config":{"estimated_cycles":"CYCLES"}}'


def branch(name: str, *lines: str) -> str:
    copies = "\n".join(f"  {line}" for line in lines)
    return f"%{name} (p: f32[512,512]) -> f32[512,512] {{\n{copies}\n}}"


def switch(*branches: str, loop: bool = False) -> str:
    """A program of one conditional, in a loop of three turns or not."""
    names = ", ".join(f"%{one[1 : one.index(' ')]}" for one in branches)
    conditional = f"conditional(%i, %x, %x), branch_computations={{{names}}}"
    main = f"""%main (i: s32[], x: f32[512,512]) -> f32[512,512] {{
  %i = s32[] parameter(0)
  %x = {MEGABYTE} parameter(1)
  %copy.9 = {IN_VMEM} copy(%x)
  ROOT %y = {IN_VMEM} {conditional}
}}"""
    return module(*branches, main, devices=1)


def test_copies_inside_branches_are_bounded():
    """One branch copies in from HBM, whole and in halves, and then within VMEM."""
    size = 512 * 512 * 4
    found = cost(
        switch(
            branch(
                "first",
                f"%p = {MEGABYTE} parameter(0)",
                f"%c = {IN_VMEM} copy(%p)",
                f"%s = (({MEGABYTE}), {HALF}, s32[]{{:S(2)}}) slice-start(%p)",
                f"%d = {HALF} slice-done(%s)",
                # Impossibly few cycles are no estimate; enough are.
                f"%e = {IN_VMEM} copy(%c), {ESTIMATE.replace('CYCLES', '20')}",
                f"ROOT %f = {IN_VMEM} copy(%e), {ESTIMATE.replace('CYCLES', '900')}",
            ),
            branch(
                "second",
                f"%p = {MEGABYTE} parameter(0)",
                f"%c = ({IN_VMEM}, {MEGABYTE}, u32[]{{:S(2)}}) copy-start(%p)",
                f"ROOT %d = {IN_VMEM} copy-done(%c)",
            ),
        )
    )
    assert found.copied == (1.5 * size, 2.5 * size)
    assert found.cycles == 920

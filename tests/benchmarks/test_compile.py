"""Size of the programs for trees in which every matrix has another shape."""

import functools

import pytest

from benchmarks.compile import Counts, counts, lowered, report, shapes

# 64x64, 96x96, 128x192 and 192x384.
NUMBER = 4


@functools.cache
def counted(name: str) -> Counts:
    return counts(lowered(name, NUMBER).compile().as_text() or "")


def test_shapes_are_different():
    assert len(set(shapes(40))) == 40
    assert shapes(1) == [(64, 64)]
    with pytest.raises(ValueError, match="41"):
        shapes(41)


TWO_KERNELS = """
HloModule jit_f

%fused_computation (param_0: f32[4]) -> f32[4] {
  %param_0 = f32[4]{0} parameter(0)
  ROOT %add.1 = f32[4]{0} add(%param_0, %param_0), metadata={op_name="a"}
}

%fused_computation.1 (param_0.1: f32[4]) -> f32[4] {
  %param_0.1 = f32[4]{0} parameter(0)
  ROOT %add.2 = f32[4]{0} add(%param_0.1, %param_0.1), metadata={op_name="b"}
}

%fused_computation.2 (param_0.2: f32[4]) -> f32[4] {
  %param_0.2 = f32[4]{0} parameter(0)
  ROOT %mul.1 = f32[4]{0} multiply(%param_0.2, %param_0.2), metadata={op_name="b"}
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %a = f32[4]{0} fusion(%x), kind=kLoop, calls=%fused_computation
  %b = f32[4]{0} fusion(%a), kind=kLoop, calls=%fused_computation.1
  %c = f32[4]{0} fusion(%b), kind=kLoop, calls=%fused_computation.2
  ROOT %d = f32[4]{0} custom-call(%c), custom_call_target="lapack_sgeqrf"
}
"""


def test_equal_kernels_count_once():
    assert counts(TWO_KERNELS) == Counts(instructions=11, kernels=2, lapack=1)


@pytest.mark.parametrize(
    ("name", "instructions", "kernels"),
    [("muon", 360, 14), ("normuon", 500, 19), ("root", 720, 21)],
)
def test_programs_for_different_shapes_stay_small(name, instructions, kernels):
    """Elementwise stages and row statistics add few kernels to a plain Muon."""
    size = counted(name)
    assert size.instructions <= instructions * NUMBER
    assert size.kernels <= kernels * NUMBER


def test_ratios_are_to_the_first_optimizer():
    result = {"trace_cpu_s": [2.0, 1.0], "compile_cpu_s": [4.0], "instructions": 300}
    half = {**result, "trace_cpu_s": [0.5], "kernels": 10}
    lines = report({"a": {**result, "kernels": 20}, "b": half}, 10).splitlines()
    assert lines[1].split() == "a 1 (1.00) 4 (1.00) 30 (1.00) 2 (1.00)".split()
    assert lines[2].split() == "b 0.5 (0.50) 4 (1.00) 30 (1.00) 1 (0.50)".split()

"""The cost of one run of a compiled program on a device, read from its text.

Loops count as often as they run. For a conditional the costliest branch counts, for
each metric separately. Cycles are the TPU compiler's own estimates, which it writes at
each fusion. They exclude collectives, asynchronous copies and Pallas kernels.

Copies between HBM and VMEM have no cycles. Usually they overlap with other work; inside
the branch of a conditional they cannot, and are a cost that the sum of cycles omits.
Two bounds of their bytes are reported: the copies that touch HBM, and all copies,
including the ones that only join pieces within VMEM.
"""

from collections import defaultdict
from typing import Any, NamedTuple

from benchmarks.aot.collectives import collective
from benchmarks.aot.hlo import Computation, Instruction, arrays, parse, size
from benchmarks.aot.loops import trips
from benchmarks.aot.products import flops

COPIES = ("copy", "copy-done", "slice-done")
REGISTER = 4096  # Bytes; no more can be stored in one cycle.

Tally = dict[Any, float]
"""Metrics by name, or by kind and name for collectives."""


class Traffic(NamedTuple):
    """The collectives of one kind."""

    count: int
    payload: float
    wire: float


class Cost(NamedTuple):
    """The cost for one device.

    Args:
      traffic: its collectives by kind, bytes.
      flops: operations of its matrix products.
      cycles: estimated cycles.
      copied: bytes copied inside conditional branches, both bounds.
      instructions: number of instructions in the program's text, including fusions.
      unknown_loops: loops counted once because their trip count is unknown.
    """

    traffic: dict[str, Traffic]
    flops: int
    cycles: int
    copied: tuple[float, float]
    instructions: int
    unknown_loops: tuple[str, ...]


def cost(text: str) -> Cost:
    """The cost of an optimized program, from ``compiled.as_text()``."""
    program = parse(text)
    seen: dict[tuple, Tally] = {}
    unknown: list[str] = []

    def run(name: str, fused: bool = False, branch: bool = False) -> Tally:
        """The cost of one run of a computation, which may be in a fusion or branch."""
        where = name, fused, branch
        if where not in seen:
            total = seen[where] = defaultdict(float)
            for i in program.computations[name].values():
                for part in (direct(i, *where), inner(i, *where)):
                    for metric, value in part.items():
                        total[metric] += value
        return seen[where]

    def direct(i: Instruction, name: str, fused: bool, branch: bool) -> Tally:
        computation = program.computations[name]
        metrics: Tally = {"flops": flops(i, computation)}
        crossing = collective(i, computation, name, program.devices)
        if crossing is not None:
            metrics[crossing.kind, "count"] = 1
            metrics[crossing.kind, "payload"] = crossing.payload
            metrics[crossing.kind, "wire"] = crossing.wire
        if not fused:
            cycles = metrics["cycles"] = estimated_cycles(i)
            moved = size(i.shape) if branch and i.opcode in COPIES else 0
            if cycles < moved / REGISTER:
                metrics["copied"] = moved
                metrics["copied in HBM"] = moved * touches_hbm(i, computation)
        return metrics

    def inner(i: Instruction, name: str, fused: bool, branch: bool) -> Tally:
        """The cost of the computations that an instruction calls."""
        match i.opcode:
            case "while":
                times = trips(program, program.computations[name], i)
                if times is None:
                    unknown.append(i.name)
                    times = 1
                body = run(i.called("body")[0], branch=branch)
                return {metric: times * value for metric, value in body.items()}
            case "conditional":
                keys = "branch_computations|true_computation|false_computation"
                parts = [run(called, branch=True) for called in i.called(keys)]
                return {
                    metric: max(part.get(metric, 0) for part in parts)
                    for metric in set().union(*parts)
                }
            case "fusion":
                return run(i.called("calls")[0], fused=True)
            case "call" | "async-start":
                return run(i.called("to_apply|calls")[0], branch=branch)
        return {}

    total = run(program.entry)
    kinds = sorted(key[0] for key in total if key[1:] == ("count",))
    return Cost(
        {
            kind: Traffic(
                int(total[kind, "count"]),
                *(total[kind, x] for x in ("payload", "wire")),
            )
            for kind in kinds
        },
        int(total["flops"]),
        int(total["cycles"]),
        (total["copied in HBM"], total["copied"]),
        sum(map(len, program.computations.values())),
        tuple(unknown),
    )


def estimated_cycles(i: Instruction) -> int:
    return int(i.attribute(r'"estimated_cycles":"(\d+)"') or 0)


def touches_hbm(i: Instruction, computation: Computation) -> bool:
    """Whether a copy reads or writes HBM, the memory space without a number."""
    source = computation[i.operands[0]].shape
    if i.opcode == "copy":
        ends = arrays(source)[:1] + arrays(i.shape)
    else:  # The operand is a start, whose shape begins with both ends.
        ends = arrays(source)[:2]
    return any("S(" not in layout for _, _, layout in ends)

"""The bytes that one collective moves, per participating device.

payload   the whole buffer of a group: the result of an all-gather, the input of others
wire      the bytes that a device sends in a bandwidth-optimal ring of n devices:

    all-gather, reduce-scatter, all-to-all     payload (n - 1) / n
    all-reduce                               2 payload (n - 1) / n
    collective-permute, collective-broadcast   payload
"""

import math
import re
from typing import NamedTuple

from benchmarks.aot.hlo import Computation, Instruction, size

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)


class Collective(NamedTuple):
    kind: str
    payload: float
    wire: float


def collective(
    i: Instruction, computation: Computation, name: str, devices: int
) -> Collective | None:
    """The collective of an instruction; None if it moves nothing.

    In a pair of start and done, the start counts. The TPU compiler has two more forms.
    An asynchronous fusion repeats one operation, with the same ``chain_id``, in each of
    the steps it overlaps with; the operand of ``AsyncCollectiveStart`` is the first. A
    fusion named ``all-reduce-scatter`` contains an all-reduce and a slice of it.
    """
    kind = i.opcode.removesuffix("-start")
    if kind not in KINDS or _continues(i, computation):
        return None
    n = group_size(i, devices)
    payload = sum(size(computation[operand].shape) for operand in i.operands)
    share = (n - 1) / n
    if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"
    match kind:
        case "all-gather":
            payload *= n
            wire = payload * share
        case "all-reduce":
            wire = 2 * payload * share
        case "collective-permute":
            wire = payload if _moves(i) else 0.0
        case "collective-broadcast":
            wire = payload
        case _:
            wire = payload * share
    return Collective(kind, payload, wire)


def group_size(i: Instruction, devices: int) -> int:
    """The number of devices in one group of a collective.

    Groups are listed as ``{{0,1},{2,3}}``, counted as ``[2,4]<=[8]``, or named by mesh
    axes as ``mesh['x'=4,'y'=2] {'y'}``. Without groups, all devices form one group.
    """
    groups = i.attribute(r"replica_groups=(\{\{[\d,]+\}|\[[\d,]+\]<=|mesh\[[^}]*\})")
    if groups is None:
        return devices
    if groups.startswith("{"):
        return groups.count(",") + 1
    if groups.startswith("["):
        return int(re.findall(r"\d+", groups)[1])
    sizes = {axis: int(n) for axis, n in re.findall(r"'(\w+)'=(\d+)", groups)}
    # Part of an axis is written 'x':(before)size.
    named = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", groups.split("{")[-1])
    return math.prod(int(part) if part else sizes[axis] for axis, part in named)


def _continues(i: Instruction, computation: Computation) -> bool:
    if "chain_id=" not in i.attributes:
        return False
    return not any(
        '"AsyncCollectiveStart"' in other.attributes and i.name in other.operands
        for other in computation.values()
    )


def _moves(i: Instruction) -> bool:
    """Whether a permutation has a pair of two different devices."""
    pairs = i.attribute(r"source_target_pairs=\{(\{.*?\})\}") or ""
    return any(a != b for a, b in re.findall(r"(\d+),(\d+)", pairs))

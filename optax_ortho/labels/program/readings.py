"""From the uses of a parameter to its role: the first rule that holds decides."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

from optax_ortho.labels.program.reader import Ledger, Use
from optax_ortho.labels.program.values import is_float
from optax_ortho.labels.roles import MATRIX, UNDECIDED
from optax_ortho.matrices import MatrixAxes, Split

# Notes that other parts of the library ask for.
UNUSED = "unused by this call"
INPUT_LAYER = "input layer"
CHOOSES = "chooses: a router, or a sampled code"


@dataclasses.dataclass(frozen=True)
class Reading:
    """The statement of a program about one parameter.

    Args:
      path: its path.
      shape: its shape.
      role: one of `optax_ortho.ROLES`.
      axes: the axes of a matrix, also of a head and of a router, which have a role of
        their own but are matrices all the same; None for others.
      split: the blocks of a fused leaf, where the program takes its result apart.
      heads: the axes of attention heads, or the split that separates them.
      ends: whether no other matrix stands between it and some output.
      notes: remarks for a table.
    """

    path: str
    shape: tuple[int, ...]
    role: str
    axes: MatrixAxes | None = None
    split: Split | None = None
    heads: tuple[int, ...] | Split | None = None
    ends: bool = False
    notes: tuple[str, ...] = ()


def reading(ledger: Ledger, index: int, path: str, leaf: Any) -> Reading:
    """The reading of one parameter.

    Args:
      ledger: everything that the program says.
      index: the position of the leaf among the parameters.
      path: its path.
      leaf: anything with its shape and dtype.
    """
    shape = tuple(leaf.shape)
    rank = sum(n > 1 for n in shape)
    uses = sorted(ledger.uses[index], key=repr)

    def read(role: str, *notes: str, **more: Any) -> Reading:
        ends = index in ledger.ends
        return Reading(path, shape, role, ends=ends, notes=notes, **more)

    if not is_float(leaf.dtype):
        return read("frozen", "no number to train")
    if not uses:
        return read(("scalar", "vector", UNDECIDED)[min(rank, 2)], UNUSED)
    if all("stopped" in use.marks for use in uses):
        return read("frozen", "reached through stop_gradient alone")
    kinds = collections.defaultdict(list)
    for use in uses:
        kinds[use.kind].append(use)
    products = sorted(
        kinds["product"], key=lambda use: not (use.fan_in and use.fan_out)
    )
    if kinds["lookup"] and not _is_stack_of_matrices(products, shape):
        return read("embedding" if rank > 1 else "vector")
    if kinds["grouped"]:
        return read("grouped_conv")
    if kinds["resized"] and all("constant" in use.marks for use in products):
        return read(UNDECIDED, "multiplied by a constant before it is a kernel")
    # Learned queries meet other parameters before they see an input: no matrix.
    is_table = kinds["activation"] and all("inputless" in u.marks for u in products)
    if products and not is_table:
        return _product(ledger, index, read, shape, products)
    if rank > 1:
        if kinds["mixed"]:
            return read(UNDECIDED, "contracted along a part of an axis")
        if kinds["unread"]:
            names = dict.fromkeys(use.primitive for use in kinds["unread"])
            return read(UNDECIDED, f"used inside {', '.join(names)}, which has no rule")
        if all(use.kind == "reduced" for use in uses):
            names = dict.fromkeys(use.primitive for use in uses)
            return read(UNDECIDED, f"used through {', '.join(names)} alone")
    return read(_small_role(kinds, rank))


def _product(
    ledger: Ledger,
    index: int,
    read: Any,
    shape: tuple[int, ...],
    products: Sequence[Use],
) -> Reading:
    """The reading of a parameter that is a factor of matrix products."""
    fan_in, fan_out = products[0].fan_in, products[0].fan_out
    notes = []
    if any("computed" in use.marks for use in products):
        notes.append("used as a function of it")
    if any("by hand" in use.marks for use in products):
        notes.append("a matrix product written as a sum")
    if index in ledger.inputs:
        notes.append(INPUT_LAYER)
    if any("complex" in use.marks for use in products):
        return read("vector", *notes, "a part of a complex matrix")
    if not (_longer(fan_in, shape) and _longer(fan_out, shape)):
        return read("vector", *notes, "one row or column")
    pairs = {
        frozenset((_longer(use.fan_in, shape), _longer(use.fan_out, shape)))
        for use in products
        if use.fan_in and use.fan_out
    }
    if len(pairs) > 1:
        ways = " and ".join(f"{use.fan_in} -> {use.fan_out}" for use in products)
        return read(UNDECIDED, f"contracted along several axes: {ways}")
    # An axis of experts that share their input is an output axis of the product alone;
    # whatever takes the experts apart again shows that it is a batch axis.
    stacked = [
        axis
        for axis in fan_out
        if axis < min(fan_in) and (index, axis) in ledger.stacked
    ]
    fan_out = tuple(axis for axis in fan_out if axis not in stacked) or fan_out
    fan_out, split, more = _blocks(ledger, index, shape, fan_in, fan_out)
    axes_and_blocks = {
        "axes": MatrixAxes(fan_in, fan_out),
        "split": split,
        "heads": _attention_heads(ledger, index, shape, fan_out),
    }
    notes += more
    if index in ledger.heads:
        return read("head", *notes, **axes_and_blocks)
    if index in ledger.choosers and index in ledger.consumed:
        return read("vector", *notes, CHOOSES, **axes_and_blocks)
    if index in ledger.outputs:
        notes.append("also an output")
    return read(MATRIX, *notes, **axes_and_blocks)


def _small_role(kinds: dict[str, list[Use]], rank: int) -> str:
    """The role of a parameter that is no factor of a matrix product."""
    if rank == 0:
        return "scalar"
    if kinds["norm"]:
        return "norm"
    if kinds["table"] or (rank > 1 and (kinds["token"] or kinds["activation"])):
        return "embedding"
    return "bias" if kinds["bias"] else "vector"


def _is_stack_of_matrices(products: Sequence[Use], shape: tuple[int, ...]) -> bool:
    """Whether the rows that a lookup takes are matrices by themselves.

    Tables of experts are looked up by the index of an expert.
    """
    if not products or not (products[0].fan_in and products[0].fan_out):
        return False
    rank = sum(n > 1 for n in shape)
    return any(
        len(_longer((*use.fan_in, *use.fan_out), shape)) < rank for use in products
    )


def _blocks(
    ledger: Ledger,
    index: int,
    shape: tuple[int, ...],
    fan_in: tuple[int, ...],
    fan_out: tuple[int, ...],
) -> tuple[tuple[int, ...], Split | None, list[str]]:
    """The fan-out without a stack that is taken apart, and a fused leaf's split.

    The parts that were cut off have to cover an axis: a slice alone is no block. An
    axis in front of the fan-in, of which every entry is cut off, stacks matrices, as
    the first of query, key and value in (3, width, heads, features).
    """
    split, notes = None, []
    for axis in fan_out:
        spans = {
            (atom.start * atom.stride, (atom.start + atom.size) * atom.stride)
            for atom in ledger.cuts[index]
            if atom.axis == axis and (index, atom) not in ledger.rejoined
        }
        edges = sorted({0, shape[axis], *(e for span in spans for e in span)})
        blocks = list(zip(edges, edges[1:], strict=False))
        sizes = tuple(end - start for start, end in blocks)
        is_covered = all(
            any(first <= start and end <= last for first, last in spans)
            for start, end in blocks
        )
        if len(sizes) < 2 or not is_covered or edges[-1] > shape[axis]:
            continue
        is_stack = axis < min(fan_in) and len(fan_out) > 1
        if max(sizes) == 1 and is_stack:
            fan_out = tuple(a for a in fan_out if a != axis)
        elif max(sizes) > 1 or axis < max(fan_out):
            split = Split(axis, sizes)
        else:
            notes.append(f"axis {axis} is taken apart")
    return fan_out, split, notes


def _attention_heads(
    ledger: Ledger, index: int, shape: tuple[int, ...], fan_out: tuple[int, ...]
) -> tuple[int, ...] | Split | None:
    """The axes that number attention heads, or the split of an axis that holds them."""
    atoms = [atom for atom in ledger.attention[index] if atom.axis in fan_out]
    whole = {atom.axis for atom in atoms if atom.size == shape[atom.axis]}
    if whole and whole < set(fan_out):
        return tuple(sorted(whole))
    for axis in fan_out:
        strides = [atom.stride for atom in atoms if atom.axis == axis]
        size = min(strides, default=1)
        if size > 1 and shape[axis] % size == 0:
            return Split(axis, (size,) * (shape[axis] // size))
    return None


def _longer(axes: Sequence[int], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes that are longer than one."""
    return tuple(axis for axis in axes if shape[axis] > 1)

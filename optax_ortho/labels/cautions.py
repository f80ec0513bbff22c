"""Warnings about matrices whose names or shapes say that they are something else."""

import collections
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from optax_ortho.labels.kinds import by_kind
from optax_ortho.labels.words import routers, said_role, words
from optax_ortho.matrices import MatrixAxes

# Names of fused leaves, and the number of matrices in each.
FUSED = {
    **dict.fromkeys(("qkv", "wqkv", "c_attn", "in_proj", "in_proj_weight"), 3),
    **dict.fromkeys(("kv", "gate_up", "gateup"), 2),
    **dict.fromkeys(("ih", "hh"), 4),  # The gates of weight_ih_l0.
}
# Layers whose leaves are fused if they are wide: the gates of recurrent cells, and what
# makes the scales and shifts of adaptive norms.
CELLS = {"lstm": 4, "gru": 3}
ONE_GATE = re.compile("[ih][ifgnorz]")  # A gate by itself: ii, hf, iz.
ADAPTIVE = {"ada", "adaln", "modulation"}
CHUNKS = (6, 4, 3, 2)


class Matrix(NamedTuple):
    """A leaf that is orthogonalized."""

    path: str
    shape: tuple[int, ...]
    axes: MatrixAxes


class Row(NamedTuple):
    """A leaf of an optimizer, matrix or not."""

    path: str
    shape: tuple[int, ...]
    role: str


def cautions(matrices: Sequence[Matrix], rows: Sequence[Row]) -> Iterator[str]:
    """Everything about the labels of an optimizer that a person should look at.

    A warning is about a kind of leaves, counts them, and names the first.

    Args:
      matrices: the leaves that are orthogonalized.
      rows: all leaves; none if they are not known.

    Examples:
      >>> qkv = Matrix("qkv/kernel", (4, 12), MatrixAxes((0,), (1,)))
      >>> [text.split(";")[0] for text in cautions([qkv], [])]
      ['qkv/kernel (4, 12) looks like several matrices in one']
    """
    routing = routers(row.path for row in rows)
    stacks = _stacks(rows)
    for kind in by_kind(leaf for leaf in matrices if leaf.path in routing):
        yield (
            f"{_look(kind)} like a router of experts, and is orthogonalized; "
            'labels=label(params) makes it a "vector".'
        )
    for kind in by_kind(leaf for leaf in matrices if is_fused(leaf)):
        yield (
            f"{_look(kind)} like several matrices in one; MatrixAxes(split=Split(axis, "
            "sizes)), or a batch axis of them, orthogonalizes each by itself."
        )
    for kind in by_kind(leaf for leaf in matrices if _is_vectors(leaf, stacks)):
        yield (
            f"{_look(kind)} like a stack of vectors, and is orthogonalized; "
            f'overrides={{{kind[0].path!r}: "vector"}} leaves it to the fallback.'
        )
    for kind in by_kind(_heads(matrices, rows)):
        yield (
            f"No leaf is a head. {_look(kind)} like one, and is orthogonalized; "
            f"labels=optax_ortho.label(model, inputs) tells, and "
            f'overrides={{{kind[0].path!r}: "head"}} says so.'
        )


def is_fused(leaf: Matrix) -> bool:
    """Whether the name of a matrix, or its name and width, say that it holds several.

    Blocks that are split, or told apart by a batch axis, are none.

    Examples:
      >>> is_fused(Matrix("lstm/linear/w", (128, 256), MatrixAxes((0,), (1,))))
      True
      >>> is_fused(Matrix("qkv/w", (3, 4, 64, 16), MatrixAxes((2,), (1, 3))))
      False
    """
    if leaf.axes.split is not None:
        return False
    fan_in, fan_out = leaf.axes.matrix_shape(leaf.shape)
    names = leaf.path.lower().split("/")
    said = set(names) | words(leaf.path)
    parts = max((FUSED[name] for name in said & FUSED.keys()), default=None)
    if parts is not None:
        batch = {leaf.shape[axis] for axis in leaf.axes.batch(len(leaf.shape))}
        # As many layers, of fused leaves, may be stacked.
        return parts not in batch or fan_out == parts * fan_in
    if any(ONE_GATE.fullmatch(name) for name in names):
        return False
    gates = max((CELLS[name] for name in said & CELLS.keys()), default=None)
    if gates is not None:
        return fan_out > fan_in and fan_out % gates == 0
    return bool(said & ADAPTIVE) and fan_out in (chunks * fan_in for chunks in CHUNKS)


def _stacks(rows: Sequence[Row]) -> dict[str, frozenset[int]]:
    """The containers all of whose leaves are stacked, with the widths of their layers.

    All have two axes or more, some have three, and the first is the same.
    """
    inside: dict[str, list[tuple[int, ...]]] = {}
    for row in rows:
        for container in _containers(row.path):
            inside.setdefault(container, []).append(row.shape)
    return {
        container: frozenset(n for shape in shapes if len(shape) > 2 for n in shape[1:])
        for container, shapes in inside.items()
        if min(map(len, shapes)) > 1 and len({shape[0] for shape in shapes}) == 1
    }


def _containers(path: str) -> list[str]:
    names = path.split("/")
    return ["/".join(names[:depth]) for depth in range(len(names))]


def _is_vectors(leaf: Matrix, stacks: Mapping[str, frozenset[int]]) -> bool:
    """Whether a leaf of two axes is vectors, by its name or by what is beside it."""
    if len(leaf.shape) != 2:
        return False
    name = leaf.path.split("/")[-1]
    if said_role(f"layer/{name}") in ("bias", "norm", "vector"):
        return True
    number, width = leaf.shape
    widths = (stacks.get(container, ()) for container in _containers(leaf.path))
    return number < width and any(width in those for those in widths)


def _heads(matrices: Sequence[Matrix], rows: Sequence[Row]) -> Iterator[Matrix]:
    """The matrices that look like a head, where no leaf is one.

    A head takes what another layer or a table makes, and no layer takes what it makes.
    Where keys and values are narrower than queries, this is true of both, so it has to
    be the only matrix of its shape.
    """
    if any(row.role == "head" or "lora" in words(row.path) for row in rows):
        return  # Adapters are trained without the head.
    shapes = [leaf.axes.matrix_shape(leaf.shape) for leaf in matrices]
    number = collections.Counter(shapes)
    made = {fan_out for _, fan_out in shapes}
    made |= {row.shape[-1] for row in rows if row.role == "embedding"}
    taken = {fan_in for fan_in, _ in shapes}
    taken |= {
        leaf.shape[leaf.axes.fan_in[-1]] for leaf in matrices
    }  # Of a convolution.
    for leaf, (fan_in, fan_out) in zip(matrices, shapes, strict=True):
        alone = number[fan_in, fan_out] == 1 and not leaf.axes.batch(len(leaf.shape))
        fused = leaf.axes.split is not None or is_fused(leaf)
        if alone and not fused and fan_in in made and fan_out not in taken:
            yield leaf


def _look(kind: Sequence[Matrix]) -> str:
    first, more = kind[0], len(kind) - 1
    named = f"{first.path} {first.shape}"
    return f"{named} and {more} like it look" if more else f"{named} looks"

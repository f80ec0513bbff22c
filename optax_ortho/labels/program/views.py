"""Axis bookkeeping: which axes of a parameter the axes of an intermediate array are.

Reshapes, transposes and slices regroup the axes of an array and compute nothing. An
`Atom` is a factor of one axis of a parameter, an axis of an array is a tuple of atoms,
the slowest-varying first, and a `View` is an array whose axes are described so. For a
kernel of shape (64, 192) that is reshaped to (64, 3, 8, 8), axis 1 of the result is the
atom ``(axis=1, stride=64, size=3)`` of axis 1 of the kernel.
"""

import dataclasses
import enum
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

FOREIGN = -1


class Atom(NamedTuple):
    """A factor of one axis of a parameter.

    Attributes:
      axis: the axis of the parameter; FOREIGN where an axis belongs to none.
      stride: the distance of two steps, in entries of that axis.
      size: the number of steps.
      start: the first step, after a slice.
    """

    axis: int
    stride: int
    size: int
    start: int = 0


Axis = tuple[Atom, ...]


class Kind(enum.Enum):
    """The relation of an array to a parameter."""

    WEIGHT = "the parameter, or what elementwise operations made of it"
    LOOKUP = "rows of it, taken by an index"
    PRODUCT = "its product with another parameter, in which an axis was contracted"
    SCALED = "its product, entry by entry, with an input that `inner` repeats"
    RESULT = "the result of a matrix product with it, along fan-out and batch axes"
    IOTA = "counting along an axis, of no parameter"
    ONE_HOT = "a comparison with such counting, of no parameter"


WEIGHTS = (Kind.WEIGHT, Kind.LOOKUP, Kind.PRODUCT)


@dataclasses.dataclass(frozen=True)
class View:
    """An array as axes of a parameter.

    Args:
      leaf: the index of the parameter; -1 for none.
      axes: for each axis of the array, its atoms.
      kind: the relation to the parameter.
      marks: "computed" (a function of the parameter) and "stopped" (a stop_gradient).
      inner: of a product, the axes of the parameter that were contracted; of a scaled
        view, those along which the input was repeated.
    """

    leaf: int
    axes: tuple[Axis, ...]
    kind: Kind = Kind.WEIGHT
    marks: frozenset[str] = frozenset()
    inner: tuple[int, ...] = ()

    def at(self, axes: Iterable[Axis], **changes) -> "View":
        """The same view with other axes."""
        return dataclasses.replace(self, axes=tuple(axes), **changes)

    def marked(self, *marks: str) -> "View":
        """The same view with more marks."""
        return dataclasses.replace(self, marks=self.marks.union(marks))


def parameter(leaf: int, shape: Sequence[int]) -> View:
    """The view of a whole parameter.

    Examples:
      >>> parameter(0, (6, 8)).axes[1]
      (Atom(axis=1, stride=1, size=8, start=0),)
    """
    return View(leaf, tuple((Atom(i, 1, n),) for i, n in enumerate(shape)))


def foreign(size: int) -> Axis:
    """An axis that belongs to no parameter: a batch axis, or one that was lost."""
    return (Atom(FOREIGN, 0, size),)


def leaf_axes(axes: Iterable[Axis]) -> tuple[int, ...]:
    """The axes of the parameter that some axes of a view hold, in order."""
    return tuple(sorted({a.axis for axis in axes for a in axis if a.axis != FOREIGN}))


def reshaped(
    axes: Sequence[Axis], shape: Sequence[int], target: Sequence[int]
) -> tuple[Axis, ...] | None:
    """The axes after a reshape, or None where atoms neither group nor factor.

    Examples:
      >>> reshaped(parameter(0, (6, 8)).axes, (6, 8), (6, 2, 4))[1]
      (Atom(axis=1, stride=4, size=2, start=0),)
      >>> reshaped(parameter(0, (6, 8)).axes, (6, 8), (4, 12)) is None
      True
    """
    sizes = (math.prod(atom.size for atom in axis) for axis in axes)
    if any(size != n for size, n in zip(sizes, shape, strict=True)):
        return None  # An axis that was padded, or of which atoms were lost.
    # Axes of length one that belong to the parameter go along with their neighbors.
    queue = [
        atom for axis in axes for atom in axis if atom.size > 1 or atom.axis != FOREIGN
    ]
    regrouped = []
    for length in target:
        axis = []
        while length > 1:
            atom = queue.pop(0)
            if length % atom.size:
                if atom.size % length:
                    return None
                minor = atom.size // length
                rest = atom.start % minor
                queue.insert(0, Atom(atom.axis, atom.stride, minor, rest))
                major = atom.stride * minor
                atom = Atom(atom.axis, major, length, atom.start // minor)
            axis.append(atom)
            length //= atom.size
        regrouped.append(tuple(sorted(axis, key=lambda atom: atom.size == 1)))
    if queue and regrouped:
        regrouped[-1] += tuple(queue)
    return tuple(regrouped)


def sliced(
    axis: Axis, start: int | None, size: int, length: int
) -> tuple[Axis, Atom | None]:
    """An axis after a slice, and the atom that was cut off; None for the whole axis.

    A slice through several atoms belongs to no parameter any more, and neither does a
    single entry of a longer axis. A part of one atom is its own wherever it starts.

    Args:
      axis: the axis before.
      start: the first entry; None where it is not known, or entries are skipped.
      size: the number of entries.
      length: the length of the axis before.

    Examples:
      >>> sliced((Atom(1, 1, 192),), 64, 64, 192)[1]
      Atom(axis=1, stride=1, size=64, start=64)
    """
    if size == length or not axis:
        return axis, None
    major, *minors = axis
    inner = math.prod(atom.size for atom in minors)
    if major.axis == FOREIGN or major.size * inner != length:
        return foreign(size), None
    if start is None and size > 1 and not minors:
        return (major._replace(size=size, start=0),), None
    if start is None or start % inner or size % inner:
        return foreign(size), None
    first = major.start + start // inner
    piece = Atom(major.axis, major.stride, size // inner, first)
    kept = (piece, *minors) if piece.size > 1 else tuple(minors)
    return kept or foreign(size), piece


def leads(atom: Atom, axes: Iterable[Axis]) -> bool:
    """Whether no atom of a view makes larger steps along the same parameter axis."""
    steps = [a.stride for axis in axes for a in axis if a.axis == atom.axis]
    return atom.axis != FOREIGN and atom.stride >= max(steps, default=0)


def resized(view: View, shape: Sequence[int]) -> View:
    """The view inside or outside of a shard_map, where axes have other lengths."""

    def axis(atoms, length):
        size = math.prod(atom.size for atom in atoms)
        if size == length or not atoms:
            return atoms or foreign(length)
        major = atoms[0]
        steps = max(1, major.size * length // size)
        return (major._replace(size=steps), *atoms[1:])

    return view.at(map(axis, view.axes, shape))

"""The labels of one model: a table that can be asked and printed."""

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp

from optax_ortho.labels.roles import MATRIX, Label, matrix_axes
from optax_ortho.matrices import MatrixAxes
from optax_ortho.tables import aligned, leaf_count, wrapped

Row = tuple[str, tuple[int, ...], Label]


class Remark(NamedTuple):
    """The origin of a label, and notes on its leaf.

    Attributes:
      how: "override", "metadata", "program", "module" or "name".
      notes: short phrases.
    """

    how: str
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, repr=False)
class Labels:
    """The label of every leaf of a model.

    It knows paths and shapes and refuses others, so labels of one model are not taken
    for labels of another. A tree may hold some of the leaves only.

    Args:
      rows: the path, the shape and the label of each leaf.
      remarks: the source of each label, and notes; one a row, or none.
      footnotes: notes on the model as a whole.

    Examples:
      >>> matrix = Label("matrix", MatrixAxes((0,), (1,)))
      >>> print(Labels((("up", (6, 8), matrix), ("bias", (8,), Label("bias")))))
      path  shape   role    axes
      ----  ------  ------  ------
      up    (6, 8)  matrix  0 -> 1
      bias  (8,)    bias
      <BLANKLINE>
      orthogonalized  1 leaf, 48 parameters: matrix 1 (48)
      fallback        1 leaf, 8 parameters: bias 1 (8)
    """

    rows: tuple[Row, ...]
    remarks: tuple[Remark, ...] = ()
    footnotes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def items(self) -> tuple[Row, ...]:
        """(path, shape, label) of every leaf."""
        return self.rows

    def label(self, path: str, leaf: Any) -> Label:
        """The label of a leaf.

        Args:
          path: its path; a leading ``params/``, of a whole dict of Linen variables, is
            ignored.
          leaf: an array, or anything with a shape.

        Raises:
          ValueError: no leaf of the model has this path, or it has another shape.
        """
        known = self._by_path.get(path)
        if known is None:
            known = self._by_path.get(path.removeprefix("params/"))
        if known is None:
            first = f", the first {self.rows[0][0]!r}" if self.rows else ""
            raise ValueError(
                f"The labels have no leaf {path!r} of shape {jnp.shape(leaf)}; they "
                f"know {len(self)} leaves{first}. Label the model that is trained: "
                "label(model)."
            )
        shape, label = known
        if shape != jnp.shape(leaf):
            raise ValueError(
                f"Leaf {path!r} has shape {jnp.shape(leaf)}, but was labelled with "
                f"shape {shape}. Label the model as it is trained, scanned or not: "
                "label(model)."
            )
        return label

    def axes(self, path: str, leaf: Any) -> MatrixAxes:
        """The axes of a leaf that is a matrix.

        Raises:
          ValueError: the leaf has another role, or is unknown.
        """
        return matrix_axes(self.label(path, leaf), path, leaf)

    def __str__(self) -> str:
        heading = ["path", "shape", "role", "axes"]
        rows = [
            [path, shape, label.role, _axes(label, len(shape))]
            for path, shape, label in self.rows
        ]
        if self.remarks:
            heading.append("how")
            for row, remark in zip(rows, self.remarks, strict=True):
                row.append(remark.how)
        if any(remark.notes for remark in self.remarks):
            heading.append("notes")
            for row, remark in zip(rows, self.remarks, strict=True):
                row.append("; ".join(remark.notes))
        notes = "\n".join(wrapped(f"! {note}", 2) for note in self.footnotes)
        return "\n\n".join(
            filter(None, [aligned(heading, rows), self._counts(), notes])
        )

    __repr__ = __str__

    @functools.cached_property
    def _by_path(self) -> dict[str, tuple[tuple[int, ...], Label]]:
        return {path: (shape, label) for path, shape, label in self.rows}

    def _counts(self) -> str:
        lines = []
        for group in ("orthogonalized", "fallback"):
            leaves, sizes = Counter(), Counter()
            for _, shape, label in self.rows:
                if _group(label) == group:
                    leaves[label.role] += 1
                    sizes[label.role] += math.prod(shape)
            line = f"{group:14}  {leaf_count(leaves.total())}, "
            line += f"{sizes.total():,} parameters"
            roles = ", ".join(
                f"{role} {leaves[role]} ({sizes[role]:,})" for role in sorted(leaves)
            )
            line = f"{line}: {roles}" if roles else line
            lines.append(wrapped(line, 16))
        return "\n".join(lines)


def _group(label: Label) -> str:
    return "orthogonalized" if label.role == MATRIX else "fallback"


def _axes(label: Label, ndim: int) -> str:
    """Axes as ``fan_in -> fan_out``, with batch axes in brackets in front."""
    if label.axes is None:
        return ""
    batch = ",".join(map(str, label.axes.batch(ndim)))
    fan_in, fan_out = (
        ",".join(map(str, axes)) for axes in (label.axes.fan_in, label.axes.fan_out)
    )
    text = f"{fan_in} -> {fan_out}"
    text = f"[{batch}] {text}" if batch else text
    split = label.axes.split
    return text if split is None else f"{text}, {len(split.sizes)} blocks"

"""Roles of leaves, and the label that states one."""

import dataclasses
import difflib
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp

from optax_ortho.labels.vocabulary import UNDECIDED as UNDECIDED
from optax_ortho.labels.words import says_out_first
from optax_ortho.matrices import MatrixAxes

MATRIX = "matrix"

ROLES = {
    MATRIX: "a hidden matrix, or a stack of them: orthogonalized",
    "embedding": "a table that is looked up: tokens, positions",
    "head": "the last projection, to logits or classes",
    "input": "a matrix that sees the inputs, where a policy leaves it to the fallback",
    "norm": "a parameter of a normalization layer",
    "bias": "a bias, with as many axes as its layer has outputs",
    "vector": "one value a feature, a matrix of one row or column, a router of experts",
    "scalar": "one number",
    "grouped_conv": "the kernel of a grouped or depthwise convolution",
    "frozen": "the base weight under a LoRA adapter",
    UNDECIDED: "nothing says whether it is a matrix, or along which axes",
}
"""Every role. All but the first go to the fallback optimizer, or to one of their own.

A depthwise kernel is a set of tiny matrices and a matrix with one row has only a
direction to normalize, so steps of constant size would never let them settle. A router
has a row for each expert, of which a step sees few. A frozen
leaf belongs in no optimizer (``wrt=nnx.LoRAParam``); if it is in one,
``fallback={"frozen": optax.set_to_zero()}`` keeps it as it is.
"""


@dataclasses.dataclass(frozen=True)
class Label:
    """The role of a leaf, and the axes of its matrices if it is to be orthogonalized.

    Args:
      role: one of `ROLES`.
      axes: which axes are fan-in and fan-out, for the role "matrix" and no other.

    Raises:
      ValueError: an unknown role, a matrix without axes, or another role with axes.

    Examples:
      >>> Label("embedding")
      Label(role='embedding', axes=None)
      >>> Label("matrix", MatrixAxes(fan_in=(0,), fan_out=(1, 2))).role
      'matrix'
    """

    role: str
    axes: MatrixAxes | None = None

    def __post_init__(self):
        if self.role not in ROLES:
            near = difflib.get_close_matches(str(self.role), ROLES, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"There is no role {self.role!r}; the roles are {', '.join(ROLES)}."
                f"{hint}"
            )
        if (self.axes is not None) != (self.role == MATRIX):
            raise ValueError(f"{self}: a matrix has axes and no other role has them.")


@runtime_checkable
class Labeller(Protocol):
    """The questions of a recipe about a leaf, given its path and its shape."""

    def label(self, path: str, leaf: Any) -> Label:
        """The label of a leaf."""
        ...

    def axes(self, path: str, leaf: Any) -> MatrixAxes:
        """The axes of a leaf that is a matrix; another raises a ValueError."""
        ...


def as_label(
    value: Any, path: str, shape: tuple[int, ...], axes: MatrixAxes | None = None
) -> Label:
    """The label of a leaf that someone described in short.

    Args:
      value: a role, the `MatrixAxes` of a matrix, or a `Label`.
      path: the leaf's path, for messages.
      shape: the leaf's shape.
      axes: the axes meant by the bare role "matrix"; None is
        for a leaf with two.

    Returns:
      The label, with axes counted from 0.

    Raises:
      TypeError: another kind of value.
      ValueError: an unknown role, or axes that do not fit the shape.
    """
    if isinstance(value, MatrixAxes):
        value = Label(MATRIX, value)
    elif isinstance(value, str):
        if value == MATRIX and axes is None and len(shape) != 2:
            raise ValueError(
                f"Leaf {path!r} of shape {shape} is labelled 'matrix', but which axes? "
                "Write MatrixAxes(fan_in=(...), fan_out=(...)) in its place; the axes "
                "it does not name are batch axes."
            )
        default = two_axes(path) if axes is None else axes
        try:
            value = Label(value, default if value == MATRIX else None)
        except ValueError as error:
            raise ValueError(f"Leaf {path!r}: {error}") from None
    elif not isinstance(value, Label):
        raise TypeError(
            f"Leaf {path!r} is labelled with a {type(value).__name__}; a label is a "
            f"role ({', '.join(ROLES)}), a MatrixAxes, or a Label."
        )
    if value.axes is None:
        return value
    try:
        return Label(MATRIX, value.axes.resolve(shape))
    except ValueError as error:
        raise ValueError(f"Leaf {path!r}: {error}") from None


def two_axes(path: str) -> MatrixAxes:
    """The axes of a leaf with two, which nothing but its name tells apart.

    Examples:
      >>> two_axes("up/weight")
      MatrixAxes(fan_in=(1,), fan_out=(0,), split=None)
    """
    return MatrixAxes((1,), (0,)) if says_out_first(path) else MatrixAxes((0,), (1,))


def matrix_axes(label: Label, path: str, leaf: Any) -> MatrixAxes:
    """The axes of a leaf that is a matrix.

    Raises:
      ValueError: the leaf has another role.
    """
    if label.axes is None:
        raise ValueError(
            f"Leaf {path!r} of shape {jnp.shape(leaf)} is labelled {label.role!r}, so "
            "it has no matrix axes. Send it to another optimizer, or label it with "
            "MatrixAxes(fan_in=(...), fan_out=(...))."
        )
    return label.axes

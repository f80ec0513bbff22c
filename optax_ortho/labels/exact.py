"""A parameter and what its layer declares, stacked or not."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from optax_ortho.labels.layers import Declared
from optax_ortho.labels.program import Reading
from optax_ortho.labels.stacks import added_axes, lift
from optax_ortho.matrices import MatrixAxes


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A parameter of a model, and what is known of it.

    Args:
      path: its path.
      shape: its shape, stacked or not.
      declared: what its layer says; None if no layer does.
      stated: a role in the parameter's own metadata, which outranks its layer.
      reading: what the program says.
      named: whether `declared` is read from names and not from the type of a layer.
      unit: the path of the attention or recurrent cell it is a part of. The parts of a
        unit are stacked alike, and none is the head of the model.
    """

    path: str
    shape: tuple[int, ...]
    declared: Declared | None = None
    stated: Any = None
    unit: str | None = None
    reading: Reading | None = None
    named: bool = False


def stacked_choices(leaf: Leaf) -> list[MatrixAxes]:
    """The axes that a layer declares, counted in the leaf, for every possible stack."""
    declared = leaf.declared
    if declared is None or declared.axes is None or declared.shape is None:
        return []
    stacks = added_axes(leaf.shape, declared.shape)
    return [lift(declared.axes, added) for added in stacks]


def stacked_axes(
    leaf: Leaf,
    leaves: Sequence[Leaf],
    scan_axis: int | Sequence[int] | None,
    call: str,
) -> MatrixAxes:
    """The axes that a layer declares, counted in the leaf as it is stacked.

    Args:
      leaf: a parameter whose layer declares axes.
      leaves: all parameters; the parts of one attention or cell are stacked alike.
      scan_axis: the axis of the stack, where the shapes allow several.
      call: the call of `label`, for messages.

    Raises:
      ValueError: a shape that is no stack of what the layer makes, or several axes that
        may be the stacked one.
    """
    declared = leaf.declared
    assert declared is not None
    assert declared.axes is not None and declared.shape is not None
    ndim = len(leaf.shape)
    stacks = added_axes(leaf.shape, declared.shape)
    if not stacks:
        raise ValueError(
            f"Leaf {leaf.path!r} has shape {leaf.shape}, but its layer makes "
            f"{declared.shape}. Say what it is: {call}, overrides={{{leaf.path!r}: "
            "MatrixAxes(fan_in=(...), fan_out=(...))})."
        )
    choices = stacks
    if len(stacks) > 1 and leaf.unit is not None:
        for peer in leaves:
            declared_shape = peer.declared.shape if peer.declared is not None else None
            if (
                peer.unit == leaf.unit
                and len(peer.shape) == ndim
                and declared_shape is not None
            ):
                theirs = added_axes(peer.shape, declared_shape)
                choices = [added for added in choices if added in theirs]
    if len(choices) != 1 and scan_axis is not None:
        given = (scan_axis,) if isinstance(scan_axis, int) else tuple(scan_axis)
        given = {axis % ndim for axis in given if -ndim <= axis < ndim}
        choices = [added for added in stacks if given.issuperset(added)]
    if len(choices) != 1:
        axes = " or ".join(str(a[0] if len(a) == 1 else a) for a in stacks)
        raise ValueError(
            f"Leaf {leaf.path!r} has shape {leaf.shape} and its layer makes "
            f"{declared.shape}, so axis {axes} may be the stacked one. Say which: "
            f"{call}, scan_axis={stacks[0][0] if len(stacks[0]) == 1 else stacks[0]}), "
            "or override this leaf with its MatrixAxes."
        )
    return lift(declared.axes, choices[0])

"""From what the layers of a model declare to its labels, asking where they do not."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from optax_ortho.labels.layers import Declared
from optax_ortho.labels.patterns import Patterns
from optax_ortho.labels.roles import MATRIX, Label, as_label
from optax_ortho.labels.stacks import added_axes, lift
from optax_ortho.labels.table import Labels
from optax_ortho.labels.words import routers, said_role, says_head
from optax_ortho.matrices import MatrixAxes

MESSAGE = 490  # An error is read in a terminal: at most so many characters.


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A parameter of a model, and what is known of it.

    Args:
      path: its path.
      shape: its shape, stacked or not.
      declared: what its layer says; None if no layer does.
      stated: a role in the parameter's own metadata, which outranks its layer.
      unit: the path of the attention or recurrent cell it is a part of. The parts of a
        unit are stacked alike, and none is the head of the model.
    """

    path: str
    shape: tuple[int, ...]
    declared: Declared | None = None
    stated: Any = None
    unit: str | None = None


def decide(
    leaves: Sequence[Leaf],
    overrides: Mapping[str, Any] | None,
    scan_axis: int | Sequence[int] | None,
    call: str,
) -> Labels:
    """The label of every leaf: by override, metadata, then layer, if not a router's.

    Args:
      leaves: the parameters.
      overrides: ordered patterns and what they say; the first that covers a path wins.
      scan_axis: the stack axis, where the shapes allow several.
      call: how the user called, for messages: "label(model" and an open bracket.

    Raises:
      ValueError: a leaf that nothing decides, or an override that covers no leaf.
    """
    rules = Patterns(tuple((overrides or {}).items()))
    rules.check_used(leaf.path for leaf in leaves)
    routing = routers(leaf.path for leaf in leaves)

    def answer(leaf):
        given = rules.find(leaf.path)
        given = leaf.stated if given is None else given
        might = leaf.declared is None or leaf.declared.role == MATRIX
        return "vector" if given is None and might and leaf.path in routing else given

    answers = [answer(leaf) for leaf in leaves]
    unknown = [
        leaf
        for leaf, answer in zip(leaves, answers, strict=True)
        if answer is None and leaf.declared is None
    ]
    if unknown:
        raise ValueError(_question(unknown, call))

    def label(leaf, answer):
        declared = leaf.declared
        bare = isinstance(answer, str) and answer == MATRIX
        if answer is None and declared.role != MATRIX:
            return Label(declared.role)
        if answer is None and leaf.unit is None and says_head(leaf.path):
            return Label("head")
        if answer is None or (bare and declared is not None and declared.axes):
            axes = _stacked_axes(leaf, declared, leaves, scan_axis, call)
            return as_label(axes, leaf.path, leaf.shape)
        return as_label(answer, leaf.path, leaf.shape)

    return Labels(
        tuple(
            (leaf.path, leaf.shape, label(leaf, answer))
            for leaf, answer in zip(leaves, answers, strict=True)
        )
    )


def _stacked_axes(
    leaf: Leaf,
    declared: Declared,
    leaves: Sequence[Leaf],
    scan_axis: int | Sequence[int] | None,
    call: str,
) -> MatrixAxes:
    """The declared axes, counted in the leaf as it is stacked."""
    assert declared.axes is not None and declared.shape is not None
    ndim = len(leaf.shape)
    found = added_axes(leaf.shape, declared.shape)
    if not found:
        raise ValueError(
            f"Leaf {leaf.path!r} has shape {leaf.shape}, but its layer makes "
            f"{declared.shape}. Say what it is: {call}, overrides={{{leaf.path!r}: "
            "MatrixAxes(fan_in=(...), fan_out=(...))})."
        )
    choices = found
    if len(found) > 1 and leaf.unit is not None:
        for peer in leaves:
            own = peer.declared.shape if peer.declared is not None else None
            if peer.unit == leaf.unit and len(peer.shape) == ndim and own is not None:
                theirs = added_axes(peer.shape, own)
                choices = [added for added in choices if added in theirs]
    if len(choices) != 1 and scan_axis is not None:
        given = (scan_axis,) if isinstance(scan_axis, int) else tuple(scan_axis)
        given = {axis % ndim for axis in given if -ndim <= axis < ndim}
        choices = [added for added in found if given.issuperset(added)]
    if len(choices) != 1:
        axes = " or ".join(str(a[0] if len(a) == 1 else a) for a in found)
        raise ValueError(
            f"Leaf {leaf.path!r} has shape {leaf.shape} and its layer makes "
            f"{declared.shape}, so axis {axes} may be that of the stack. Say which: "
            f"{call}, scan_axis={found[0][0] if len(found[0]) == 1 else found[0]}), "
            "or override this leaf with its MatrixAxes."
        )
    return lift(declared.axes, choices[0])


def _question(leaves: Sequence[Leaf], call: str) -> str:
    """What to ask, with the code of a possible answer, for as many leaves as fit."""
    text = ""
    for shown in (leaves[:3], leaves[:2], leaves[:1]):
        names = ", ".join(f"{leaf.path!r} {leaf.shape}" for leaf in shown)
        more = len(leaves) - len(shown)
        names += f" and {more} more" if more else ""
        code = ", ".join(f"{leaf.path!r}: {_guess(leaf)}" for leaf in shown)
        text = (
            f"No layer and no name says what this is: {names}. An embedding, vectors, "
            f"or matrices along which axes? Answer {call}, overrides={{{code}}}): a "
            "role leaves it to the fallback optimizer, MatrixAxes orthogonalizes it."
        )
        if len(text) <= MESSAGE:
            break
    return text


def _guess(leaf: Leaf) -> str:
    said = said_role(leaf.path)
    return repr(said) if said else "MatrixAxes(fan_in=(-2,), fan_out=(-1,))"

"""One label for every parameter, from all that is known of it.

Overrides come first, then a ``role`` in a parameter's metadata, the program, the type
of its layer, and last its name. The program decides axes wherever it knows them. Layers
and names answer for what a call does not use, and for what cannot be read.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from optax_ortho.labels.exact import Leaf, stacked_axes, stacked_choices
from optax_ortho.labels.patterns import Patterns, matches
from optax_ortho.labels.policy import Policy
from optax_ortho.labels.program import UNUSED
from optax_ortho.labels.refusals import question
from optax_ortho.labels.roles import MATRIX, UNDECIDED, Label, as_label
from optax_ortho.labels.table import Labels, Remark
from optax_ortho.labels.words import routers, said_role, says_head, words
from optax_ortho.matrices import MatrixAxes

FROZEN = {"freeze", "frozen"}
# Roles that differ in name alone: of these, a layer knows its own best. A vector is
# what it calls anything of one axis that it says nothing about.
SMALL = frozenset({"bias", "norm", "vector", "scalar"})
DECLARED = SMALL - {"vector"}


@dataclasses.dataclass(frozen=True)
class Request:
    """A call of `label`: its options, and its text for messages."""

    call: str
    overrides: Mapping[str, Any]
    optional: bool = False
    scan_axis: int | Sequence[int] | None = None
    split: bool | str | Sequence[str] = False
    strict: bool = False
    policy: Policy = Policy()

    def splits(self, path: str) -> bool:
        """Whether the blocks that a program shows are matrices of their own."""
        if isinstance(self.split, bool):
            return self.split
        patterns = (self.split,) if isinstance(self.split, str) else self.split
        return any(matches(pattern, path) for pattern in patterns)


@dataclasses.dataclass(frozen=True)
class Decision:
    """A label, the source it is from, and notes for its row of the table."""

    label: Label
    how: str
    notes: tuple[str, ...] = ()


def decide(leaves: Sequence[Leaf], request: Request) -> Labels:
    """The label of every parameter.

    Args:
      leaves: the parameters, and what layers and the program say of them.
      request: the options of the call.

    Raises:
      ValueError: parameters that nothing decides, an override that covers none, or,
        where the call is strict, layers that contradict the program.
    """
    overrides = Patterns(tuple(request.overrides.items()))
    overrides.check_used((leaf.path for leaf in leaves), request.optional)
    routing = routers(leaf.path for leaf in leaves)
    decisions = [
        _stated(leaf, overrides, leaves, request)
        or _by_program(leaf, leaf.path in routing, leaves, request)
        or _by_layer(leaf, leaf.path in routing, leaves, request)
        or _last_resort(leaf, leaf.path in routing)
        for leaf in leaves
    ]
    asked = [leaf for leaf, each in zip(leaves, decisions, strict=True) if each is None]
    if asked:
        raise ValueError(question(asked, request.call))
    known = [decision for decision in decisions if decision is not None]
    rows = tuple(
        (leaf.path, leaf.shape, decision.label)
        for leaf, decision in zip(leaves, known, strict=True)
    )
    remarks = tuple(Remark(decision.how, decision.notes) for decision in known)
    return Labels(rows, remarks, _footnotes(leaves, known))


def _stated(
    leaf: Leaf, overrides: Patterns, leaves: Sequence[Leaf], request: Request
) -> Decision | None:
    """The label that an override or the metadata of a parameter states."""
    stated, how = overrides.find(leaf.path), "override"
    if stated is None:
        stated, how = leaf.stated, "metadata"
    if stated is None:
        return None
    axes = None
    if isinstance(stated, str) and stated == MATRIX:
        if leaf.reading is not None and leaf.reading.axes is not None:
            axes = _with_split(leaf, leaf.reading.axes, request)
        elif leaf.declared is not None and leaf.declared.axes is not None:
            axes = stacked_axes(leaf, leaves, request.scan_axis, request.call)
    label, notes = as_label(stated, leaf.path, leaf.shape, axes), ()
    if leaf.reading is not None and leaf.reading.role not in (label.role, UNDECIDED):
        notes = (f"the program says {leaf.reading.role}",)
    return Decision(label, how, notes)


def _by_program(
    leaf: Leaf, names_router: bool, leaves: Sequence[Leaf], request: Request
) -> Decision | None:
    """The label from the forward pass, if it uses the parameter and could be read."""
    reading = leaf.reading
    if reading is None or reading.role == UNDECIDED or UNUSED in reading.notes:
        return None
    if leaf.declared is not None and leaf.declared.role == "frozen":
        return None  # Who trains a parameter is not part of the program.
    label, notes = request.policy.label(reading), list(reading.notes)
    is_projection = label.role in (MATRIX, "head")
    if is_projection and names_router and not request.policy.routers:
        label = Label("vector")
        notes.append("a router by its name")
    if label.role == MATRIX and words(leaf.path.split("/")[-1]) & FROZEN:
        notes.append("frozen, by its name: override it if it is")
    if label.axes is not None and label.axes.split is None:
        same = _declared_axes(leaf, label.axes)
        axes = same if same is not None else label.axes
        axes = _with_split(leaf, axes, request)
        label = Label(MATRIX, axes)
        if reading.split is not None and axes.split is None:
            notes.append(f"{len(reading.split.sizes)} blocks found")
    declared = leaf.declared.role if leaf.declared is not None else None
    if declared in DECLARED and label.role in SMALL | {"embedding"}:
        label = Label(declared)
    is_choice = request.policy.label(reading) != Policy().label(reading)
    difference = "" if is_choice else _difference(leaf, label, names_router)
    if difference and request.strict:
        raise ValueError(
            f"Leaf {leaf.path!r} of shape {leaf.shape}: the program says "
            f"{_described(label.role, label.axes)}, but {difference}. The program "
            "is right unless the call is not the one that is trained; strict=False "
            "takes its answer, and an override settles it."
        )
    notes += [difference] if difference else []
    return Decision(label, "program", tuple(notes))


def _by_layer(
    leaf: Leaf, names_router: bool, leaves: Sequence[Leaf], request: Request
) -> Decision | None:
    """The label that the type of a layer declares, or a name in a plain tree."""
    declared = leaf.declared
    if declared is None:
        return None
    how = "name" if leaf.named else "module"
    notes = leaf.reading.notes if leaf.reading is not None else ()
    if declared.role != MATRIX:
        return Decision(Label(declared.role), how, notes)
    if names_router and not request.policy.routers:
        return Decision(Label("vector"), how, (*notes, "a router by its name"))
    if leaf.unit is None and says_head(leaf.path) and not request.policy.heads:
        return Decision(Label("head"), how, notes)
    axes = stacked_axes(leaf, leaves, request.scan_axis, request.call)
    return Decision(as_label(axes, leaf.path, leaf.shape), how, notes)


def _last_resort(leaf: Leaf, names_router: bool) -> Decision | None:
    """The role that a name says, where neither a program nor a layer answers."""
    reading = leaf.reading
    if reading is None:
        return Decision(Label("vector"), "name") if names_router else None
    role = said_role(leaf.path)
    if role is not None:
        return Decision(Label(role), "name", reading.notes)
    if reading.role == UNDECIDED:
        return None
    return Decision(Label(reading.role), "program", reading.notes)


def _with_split(leaf: Leaf, axes: MatrixAxes, request: Request) -> MatrixAxes:
    """The axes, with the blocks that the program shows where they are asked for."""
    split = leaf.reading.split if leaf.reading is not None else None
    if split is None or axes.split is not None or not request.splits(leaf.path):
        return axes
    return dataclasses.replace(axes, split=split)


def _declared_axes(leaf: Leaf, axes: MatrixAxes) -> MatrixAxes | None:
    """The axes that the layer declares, if they make the same matrices.

    A layer also counts axes of length one, and knows the gates of a recurrent cell.
    """
    for declared in stacked_choices(leaf):
        if _matrix_of(declared, leaf.shape) == _matrix_of(axes, leaf.shape):
            return declared
    return None


def _matrix_of(axes: MatrixAxes, shape: tuple[int, ...]) -> tuple[set[int], set[int]]:
    """The longer axes on each side."""
    fan_in, fan_out = (
        {axis for axis in group if shape[axis] > 1}
        for group in (axes.fan_in, axes.fan_out)
    )
    return fan_in, fan_out


def _difference(leaf: Leaf, label: Label, names_router: bool) -> str:
    """The contradiction between a layer and the program, or nothing."""
    declared = leaf.declared
    if declared is None or leaf.named:
        return ""
    role = declared.role
    if role == MATRIX and names_router:
        role = "vector"
    elif role == MATRIX and leaf.unit is None and says_head(leaf.path):
        role = "head"
    if role == MATRIX and label.role == "head":
        return ""  # A layer does not know that it is the last.
    if role == MATRIX and label.axes is not None:
        if _declared_axes(leaf, label.axes) is not None:
            return ""
    elif MATRIX not in (role, label.role):
        return ""
    choices = stacked_choices(leaf) if role == MATRIX else []
    return f"its layer says {_described(role, choices[0] if choices else None)}"


def _described(role: str, axes: MatrixAxes | None) -> str:
    if role != MATRIX or axes is None:
        return role
    return f"{role} {axes.fan_in} -> {axes.fan_out}"


def _footnotes(
    leaves: Sequence[Leaf], decisions: Sequence[Decision]
) -> tuple[str, ...]:
    """Remarks on the model as a whole."""
    readings = [leaf.reading for leaf in leaves if leaf.reading is not None]
    roles = {decision.label.role for decision in decisions}
    if not readings or "head" in roles or any(r.role == "head" for r in readings):
        return ()
    # A table that is the head too, or a value of one column, is left out as it is.
    ends = [
        leaf.path
        for leaf, decision in zip(leaves, decisions, strict=True)
        if leaf.reading is not None
        and leaf.reading.ends
        and decision.label.role == MATRIX
    ]
    if not ends:
        return ()
    shown = " and ".join(ends[:2]) + (f" and {len(ends) - 2} more" * (len(ends) > 2))
    return (
        f"No head was found: the outputs depend on {shown}. If the model has one, "
        "label the forward pass that ends in it.",
    )

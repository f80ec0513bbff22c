"""Rules of primitives that join arrays along an axis."""

import math
from collections.abc import Sequence

from optax_ortho.labels.program.movement import broadcast
from optax_ortho.labels.program.reader import Reader
from optax_ortho.labels.program.values import Value, merged
from optax_ortho.labels.program.views import Atom, Axis, Kind, View, foreign, leads


def stack(reader, equation, values):
    """Arrays joined along a new axis."""
    along, shape = equation.params["axis"], equation.invars[0].aval.shape
    places = [i + (i >= along) for i in range(len(shape))]
    target = equation.outvars[0].aval.shape
    values = [broadcast(reader, v, shape, target, places) for v in values]
    return [merged(values, (view for value in values for view in value.views))]


def concatenate(reader, equation, values):
    """Arrays joined along an axis; parts of one result are one again."""
    along = equation.params["dimension"]
    target = equation.outvars[0].aval.shape
    joined = merged(values)
    # Rotary embeddings cut each head in halves and join them: no fused leaf.
    whole = _joined(reader, values, along)
    reader.ledger.rejoined |= whole
    views = []
    for view in (view for value in values for view in value.views):
        if view.kind is Kind.RESULT:
            axes = list(view.axes)
            axes[along] = _rejoined(view, along, target[along], whole)
            views.append(view.at(axes))
        elif view.kind is Kind.WEIGHT and joined.data:
            reader.use(view, "token")
        elif view.kind is Kind.WEIGHT:
            views.append(view)
    return [joined.replace(views=tuple(dict.fromkeys(views)))]


def _rejoined(view: View, along: int, length: int, whole: set) -> Axis:
    """The axis of a concatenation: the parameter's again where all its parts meet."""
    if view.axes[along]:
        major, *minors = view.axes[along]
        inner = math.prod(atom.size for atom in minors)
        place = (view.leaf, major.axis)
        parts = [atom for leaf, atom in whole if (leaf, atom.axis) == place]
        strides = {atom.stride for atom in parts}
        # Pairs of entries that were rotated apart make other steps than the rest.
        if strides == {major.stride} and length % inner == 0:
            start = min(atom.start for atom in parts)
            return (Atom(major.axis, major.stride, length // inner, start), *minors)
    return foreign(length)


def _joined(reader: Reader, values: Sequence[Value], along: int) -> set:
    """The parts (leaf, atom) of a parameter axis of which some are in every value.

    Nothing else may be mixed in: a shift and a scale that were cut from one result, and
    applied to two arrays which are then concatenated, stay apart.
    """
    parts = [
        {
            (view.leaf, atom)
            for view in value.of(Kind.RESULT)
            for atom in view.axes[along][:1]
            if leads(atom, view.axes)
            and atom.stride * atom.size < reader.leaves[view.leaf].shape[atom.axis]
        }
        for value in values
    ]
    common = set.intersection(
        *({(leaf, atom.axis) for leaf, atom in each} for each in parts)
    )
    if len(values) < 2 or merged(values).last - {leaf for leaf, _ in common}:
        return set()
    return {
        (leaf, atom)
        for each in parts
        for leaf, atom in each
        if (leaf, atom.axis) in common
    }

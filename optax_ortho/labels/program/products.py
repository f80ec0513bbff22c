"""Rules of matrix products, whose axes make a parameter a matrix."""

import dataclasses
from collections.abc import Iterable, Sequence

import jax.numpy as jnp

from optax_ortho.labels.program.lookups import mark_stacked
from optax_ortho.labels.program.reader import Equation, Reader
from optax_ortho.labels.program.values import Value, merged
from optax_ortho.labels.program.views import (
    FOREIGN,
    WEIGHTS,
    Axis,
    Kind,
    View,
    foreign,
    leads,
    leaf_axes,
)

Sides = tuple[Sequence[int], Sequence[int]]


@dataclasses.dataclass(frozen=True)
class Factor:
    """A parameter on one side of a product.

    Args:
      side: 0 for the left operand, 1 for the right.
      view: the parameter as that operand.
      rest: the axes of the operand that are neither contracted nor batch axes.
      fan_in, fan_out, batch: axes of the parameter.
    """

    side: int
    view: View
    rest: tuple[int, ...]
    fan_in: tuple[int, ...]
    fan_out: tuple[int, ...]
    batch: tuple[int, ...]

    @property
    def is_mixed(self) -> bool:
        """Whether parts of one parameter axis are contracted, and parts are not."""
        fan_in, fan_out, batch = set(self.fan_in), set(self.fan_out), set(self.batch)
        return bool(fan_in & fan_out or batch & (fan_in | fan_out))

    @property
    def activation_like(self) -> tuple[bool, bool, bool]:
        """A key that is larger for the operand that is more likely an activation.

        Of two parameters, that is one repeated for a batch, then one computed from
        parameters, then the right one, since weights stand on the right in JAX.
        """
        repeated = any(
            atom.axis == FOREIGN and atom.size > 1
            for i in self.rest
            for atom in self.view.axes[i]
        )
        computed = self.view.kind is Kind.LOOKUP or "computed" in self.view.marks
        return repeated, computed, self.side == 0


def dot_general(reader, equation, values):
    """A product of two arrays over any axes."""
    contracted, batch = equation.params["dimension_numbers"]
    return product(reader, equation, values, contracted, batch)


def ragged_dot_general(reader, equation, values):
    """Rows times the matrix of their group: the group axis is a batch axis."""
    numbers = equation.params["ragged_dot_dimension_numbers"]
    contracted, batch = numbers.dot_dimension_numbers
    groups = numbers.rhs_group_dimensions

    def axes(view):
        return [axis for i, axis in enumerate(view.axes) if i not in groups]

    def shifted(sides):
        right = (i - sum(group < i for group in groups) for i in sides[1])
        return sides[0], tuple(right)

    rows = values[0].replace(chosen_by=merged(values).chosen_by)
    kernel = reader.moved(values[1], axes, "ragged_dot_general")
    return product(
        reader, equation, [rows, kernel], shifted(contracted), shifted(batch)
    )


def product(
    reader: Reader,
    equation: Equation,
    values: Sequence[Value],
    contracted: Sides,
    batch: Sides,
) -> list[Value]:
    """The value of a product; `contracted` and `batch` are axes of both operands."""
    factors = [
        factor
        for side in (0, 1)
        for view in values[side].of(*WEIGHTS)
        if (factor := _factor(values, side, view, contracted[side], batch[side]))
    ]
    if not factors:
        _two_activations(reader, values, contracted, batch)
        return [merged(values, _encodings(equation, values, contracted, batch))]
    side = min(factors, key=lambda factor: factor.activation_like).side
    activation = values[1 - side]
    factored = {factor.view.leaf for factor in factors if factor.side == side}
    for view in activation.of(Kind.WEIGHT):
        if view.leaf not in factored:  # W @ W says nothing of W.
            reader.use(view, "activation")
    mark_stacked(reader, activation, batch[1 - side])
    hot = _one_hot_places(activation, contracted[1 - side])
    one_hot = 0 < len(hot) == len(contracted[1 - side])
    shape = equation.outvars[0].aval.shape
    # Axes of a product: batch axes, the rest of the left operand, and of the right.
    left = equation.invars[0].aval.ndim - len(contracted[0])

    def placed(view, rest, on):
        axes = [foreign(n) for n in shape]
        for place, i in enumerate(batch[on]):
            axes[place] = view.axes[i]
        for place, i in enumerate(rest, len(batch[0]) if on == 0 else left):
            axes[place] = view.axes[i]
        return axes

    views, last = [], set()
    for factor in (factor for factor in factors if factor.side == side):
        view, axes = factor.view, placed(factor.view, factor.rest, side)
        last.add(view.leaf)
        if one_hot:
            reader.use(view, "lookup")
            views.append(view.at(axes, kind=Kind.LOOKUP))
            continue
        is_part = _is_part(reader, view, equation.invars[side].aval.dtype)
        kind = "mixed" if factor.is_mixed else "product"
        marks = frozenset(
            mark
            for mark, holds in (
                ("complex", is_part),
                ("inputless", not activation.data),
                ("constant", not (activation.data or activation.param)),
            )
            if holds
        )
        # Entries that a one-hot encoding selects are experts: a batch, and no fan-in.
        chosen = leaf_axes([view.axes[contracted[side][place]] for place in hot])
        fan_in = tuple(axis for axis in factor.fan_in if axis not in chosen)
        reader.use(view, kind, fan_in, factor.fan_out, marks=marks)
        _note_cut_weight(reader, view, axes)
        views.append(View(view.leaf, tuple(axes), Kind.RESULT))
    if not activation.data and not one_hot:
        for view in activation.of(Kind.WEIGHT):
            gone = {*contracted[1 - side], *batch[1 - side]}
            rest = [i for i in range(len(view.axes)) if i not in gone]
            inner = leaf_axes([view.axes[i] for i in contracted[1 - side]])
            axes = placed(view, rest, 1 - side)
            views.append(view.at(axes, kind=Kind.PRODUCT, inner=inner))
    return [after(reader, values, activation, last, views)]


def _factor(
    values: Sequence[Value],
    side: int,
    view: View,
    contracted: Sequence[int],
    batch: Sequence[int],
) -> Factor | None:
    """A parameter as a factor, or None where it acts as an activation."""
    gone = {*contracted, *batch}
    rest = tuple(i for i in range(len(view.axes)) if i not in gone)
    fan_in, fan_out, stack = (
        leaf_axes([view.axes[i] for i in group]) for group in (contracted, rest, batch)
    )
    if view.kind is Kind.PRODUCT:  # x @ (A @ B), where A is the inner factor.
        if not fan_in or fan_out or stack or not values[1 - side].data:
            return None
        fan_out = view.inner
    if view.kind is Kind.LOOKUP and not (fan_in and fan_out):
        return None
    return Factor(side, view, rest, fan_in, fan_out, stack)


def _two_activations(
    reader: Reader, values: Sequence[Value], contracted: Sides, batch: Sides
) -> None:
    """Notes what a product without parameters says of those behind its operands."""
    for side in (0, 1):
        if values[1 - side].chosen_by:  # Weighed by a router.
            mark_stacked(reader, values[side], contracted[side])
        for view in values[side].of(Kind.RESULT):
            # The scores of attention have batch axes for heads and contract the
            # features of a head; of its values, the features remain.
            gone = {*contracted[side], *batch[side]}
            features = leaf_axes([view.axes[i] for i in contracted[side]])
            rest = [i for i in range(len(view.axes)) if i not in gone]
            heads = [*batch[side], *(rest if features else ())]
            reader.ledger.attention[view.leaf].update(
                atom
                for i in heads
                for atom in view.axes[i]
                if atom.axis != FOREIGN and atom.size > 1
            )


def _encodings(
    equation: Equation, values: Sequence[Value], contracted: Sides, batch: Sides
) -> list[View]:
    """The one-hot encodings in a product without parameters."""
    shape = equation.outvars[0].aval.shape
    left = equation.invars[0].aval.ndim - len(contracted[0])
    views = []
    for side, start in enumerate((len(batch[0]), left)):
        for view in values[side].of(Kind.ONE_HOT):
            gone = {*contracted[side], *batch[side]}
            rest = [i for i in range(len(view.axes)) if i not in gone]
            axes = [view.axes[i] for i in batch[side]]
            axes += [foreign(n) for n in shape[len(axes) :]]
            axes[start : start + len(rest)] = [view.axes[i] for i in rest]
            views.append(view.at(axes))
    return views


def _one_hot_places(activation: Value, contracted: Sequence[int]) -> list[int]:
    """The places, among contracted axes, where an encoding selects entries."""
    return [
        place
        for place, i in enumerate(contracted)
        if any(leaf_axes([view.axes[i]]) for view in activation.of(Kind.ONE_HOT))
    ]


def _is_part(reader: Reader, view: View, dtype) -> bool:
    """Whether a real parameter is a part of a complex matrix."""
    stored = reader.leaves[view.leaf].dtype
    is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
    return is_complex and not jnp.issubdtype(stored, jnp.complexfloating)


def _note_cut_weight(reader: Reader, view: View, axes: Iterable[Axis]) -> None:
    """Records the part of a parameter that was sliced before its product."""
    axes = list(axes)
    shape = reader.leaves[view.leaf].shape
    for atom in (axis[0] for axis in axes if axis):
        if leads(atom, axes) and atom.stride * atom.size < shape[atom.axis]:
            reader.ledger.cuts[view.leaf].add(atom)


def after(
    reader: Reader,
    values: Sequence[Value],
    activation: Value,
    last: Iterable[int],
    views: Sequence[View],
) -> Value:
    """The result of a matrix, by which everything before is consumed.

    A power iteration, which multiplies a matrix with its own results and sees no input,
    consumes nothing.
    """
    last = frozenset(last)
    if activation.data:
        reader.ledger.consumed |= activation.last
    reader.ledger.choosers |= activation.chosen_by
    if activation.data and not activation.param:
        reader.ledger.inputs |= last
    none = frozenset[int]()
    return merged(values, views, last=last, param=True, chosen_by=none)

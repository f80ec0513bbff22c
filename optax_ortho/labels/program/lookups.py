"""Rules of primitives that take entries by an index, and of those that choose."""

import math
from collections.abc import Sequence

from jax.extend import core

from optax_ortho.labels.program.movement import cut, opaque
from optax_ortho.labels.program.reader import Reader
from optax_ortho.labels.program.values import Value, merged, smooth
from optax_ortho.labels.program.views import Atom, Kind, View, foreign, leaf_axes


def gather(reader, equation, values):
    """Rows of a table by an index; by the counter of a loop, a matrix of a stack."""
    value, index = values
    numbers, sizes = (
        equation.params["dimension_numbers"],
        equation.params["slice_sizes"],
    )
    shape, target = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    kept = [i for i in range(len(shape)) if i not in gone]

    def axes(view):
        placed = [foreign(n) for n in target]
        for place, i in zip(numbers.offset_dims, kept, strict=True):
            if sizes[i] == shape[i]:
                placed[place] = view.axes[i]
        return placed

    if index.chosen_by:  # Experts were run on all tokens, and the chosen ones taken.
        mark_stacked(reader, value, numbers.start_index_map)
    taken = merged(values, reader.moved(value, axes, "gather").views)
    by_counter = math.prod(equation.invars[1].aval.shape[:-1]) == 1 and not index.data
    return [taken if by_counter else looked_up(reader, taken)]


def dynamic_slice(reader, equation, values):
    """A slice from a start that is computed: an entry by an input is a lookup."""
    value, *index = values
    shape, sizes = equation.invars[0].aval.shape, equation.params["slice_sizes"]
    starts = [
        int(start.val) if isinstance(start, core.Literal) else None
        for start in equation.invars[1:]
    ]
    part = cut(reader, value, starts, sizes, shape, "dynamic_slice")
    part = merged(values, part.views)
    by_data = any(
        start.data and size == 1 < n
        for start, size, n in zip(index, sizes, shape, strict=True)
    )
    return [looked_up(reader, part) if by_data else part]


def looked_up(reader: Reader, value: Value) -> Value:
    """The value as rows of a table."""
    weights = value.of(Kind.WEIGHT)
    for view in weights:
        reader.use(view, "lookup")

    def as_rows(view):
        is_weight = view.kind is Kind.WEIGHT
        return view.at(view.axes, kind=Kind.LOOKUP) if is_weight else view

    last = value.last | {view.leaf for view in weights}
    return value.map(as_rows).replace(last=last)


def mark_stacked(reader: Reader, value: Value, places) -> None:
    """Records that these axes of a result number experts: a batch axis of its leaf."""
    for view in value.of(Kind.RESULT):
        axes = leaf_axes([view.axes[i] for i in places])
        reader.ledger.stacked |= {(view.leaf, axis) for axis in axes}


def iota(reader, equation, values):
    """Counting along an axis, which a comparison makes a one-hot encoding."""
    along, shape = equation.params["dimension"], equation.outvars[0].aval.shape
    axes = [(Atom(0, 1, n),) if i == along else foreign(n) for i, n in enumerate(shape)]
    return [Value(views=(View(-1, tuple(axes), Kind.IOTA),))]


def noise(reader, equation, values):
    """Random bits, which depend on neither inputs nor parameters."""
    return [Value() for _ in equation.outvars]


def choose(reader, equation, values):
    """Indices of the largest entries, or a sort: whoever made the scores, chose."""
    chosen = _scorer(values)
    return [
        value.replace(chosen_by=value.chosen_by | chosen)
        for value in opaque(reader, equation, values)
    ]


def reduce(reader, equation, values):
    """A sum, maximum or product over axes, of which the others remain."""
    gone = equation.params["axes"]
    for value in values:
        for view in value.of(Kind.WEIGHT):
            reader.use(view, "reduced", primitive=equation.primitive.name)
    moved = [
        view.at(axis for i, axis in enumerate(view.axes) if i not in gone)
        for view in values[0].of(Kind.WEIGHT, Kind.RESULT, Kind.ONE_HOT)
    ]
    views = [
        view.marked("computed") if view.kind is Kind.WEIGHT else view
        for view in moved
        if view.kind is Kind.RESULT or leaf_axes(view.axes)
    ]
    summed = (
        values[0].of(Kind.SCALED) if equation.primitive.name == "reduce_sum" else []
    )
    for view in summed:
        kept = [axis for i, axis in enumerate(view.axes) if i not in gone]
        contracted = leaf_axes([view.axes[i] for i in gone])
        fan_in = tuple(axis for axis in contracted if axis not in view.inner)
        fan_out = tuple(axis for axis in leaf_axes(kept) if axis in view.inner)
        if fan_in and fan_out:
            is_mixed = bool({*fan_in} & {*leaf_axes(kept)})
            kind = "mixed" if is_mixed else "product"
            reader.use(view, kind, fan_in, fan_out, marks=frozenset({"by hand"}))
            views.append(view.at(kept, kind=Kind.RESULT))
    return [smooth(merged(values, views), equation.outvars[0].aval.dtype)]


def choose_along(reader, equation, values):
    """Argmax and argmin: a reduction that chooses."""
    (index,) = reduce(reader, equation, values)
    return [index.replace(views=(), chosen_by=index.chosen_by | _scorer(values))]


def _scorer(values: Sequence[Value]) -> frozenset[int]:
    """The leaf whose outputs are scores by themselves, not summed to a distance."""
    last = merged(values).last
    made = {
        view.leaf
        for value in values
        for view in value.of(Kind.RESULT)
        if leaf_axes(view.axes)
    }
    return last & made if len(last) == 1 else frozenset()

"""Rules of primitives that move, cut and join axes, and compute nothing."""

from collections.abc import Sequence

from optax_ortho.labels.program.reader import Equation, Reader
from optax_ortho.labels.program.values import (
    Value,
    broadcast_axes,
    merged,
    refitted,
    smooth,
)
from optax_ortho.labels.program.views import (
    Kind,
    View,
    foreign,
    leads,
    leaf_axes,
    reshaped,
    sliced,
)


def identity(reader: Reader, equation: Equation, values: list[Value]) -> list[Value]:
    """Casts, copies, names, shardings and barriers."""
    return values[: len(equation.outvars)]


def stop_gradient(reader, equation, values):
    """The same values, marked; nothing behind is a last layer."""
    marked = (value.map(lambda view: view.marked("stopped")) for value in values)
    return [value.replace(last=frozenset()) for value in marked]


def transpose(reader, equation, values):
    """Axes in another order."""
    order = equation.params["permutation"]
    return [reader.moved(values[0], lambda v: [v.axes[i] for i in order], "transpose")]


def reshape(reader, equation, values):
    """Axes grouped or factored; of a vmapped convolution, transposed before."""
    shape, target = _shapes(equation)
    order = equation.params.get("dimensions") or range(len(shape))

    def axes(view):
        before = [view.axes[i] for i in order]
        return reshaped(before, [shape[i] for i in order], target)

    return [reader.moved(values[0], axes, "reshape")]


def squeeze(reader, equation, values):
    """Axes of length one removed."""
    gone = equation.params["dimensions"]

    def axes(view):
        return [axis for i, axis in enumerate(view.axes) if i not in gone]

    return [reader.moved(values[0], axes, "squeeze")]


def broadcast_in_dim(reader, equation, values):
    """Axes added, and axes of length one repeated."""
    shape, target = _shapes(equation)
    places = equation.params["broadcast_dimensions"]
    return [broadcast(reader, values[0], shape, target, places)]


def broadcast(
    reader: Reader,
    value: Value,
    shape: Sequence[int],
    target: Sequence[int],
    places: Sequence[int] | None = None,
) -> Value:
    """The value in a larger shape; without `places`, its axes are all there."""
    order = range(len(shape)) if places is None else places

    def axes(view):
        return broadcast_axes(view, shape, target, order)

    kept = {place for i, place in enumerate(order) if shape[i] == target[place]}
    carried = {place for i, place in enumerate(order) if i in value.repeated}
    repeated = carried | {i for i, n in enumerate(target) if n > 1 and i not in kept}
    moved = reader.moved(value, axes, "broadcast_in_dim")
    return moved.replace(repeated=frozenset(repeated))


def tile(reader, equation, values):
    """Axes repeated as blocks: the number of blocks is a new, slower atom."""
    repeats = equation.params["reps"]

    def axes(view):
        pairs = zip(repeats, view.axes, strict=True)
        return [(foreign(n) if n > 1 else ()) + axis for n, axis in pairs]

    return [reader.moved(values[0], axes, "tile")]


def pad(reader, equation, values):
    """Padded axes of a parameter stay its own; axes of a result are lost."""
    target = equation.outvars[0].aval.shape
    padded = [any(each) for each in equation.params["padding_config"]]

    def axes(view):
        keep = view.kind is Kind.WEIGHT
        return [
            axis if keep or not changed else foreign(n)
            for axis, changed, n in zip(view.axes, padded, target, strict=True)
        ]

    moved = reader.moved(values[0], axes, "pad")
    return [merged(values, moved.views)]


def slice_(reader, equation, values):
    """A part of some axes, from a start that is known."""
    shape, target = _shapes(equation)
    starts = equation.params["start_indices"]
    steps = equation.params["strides"] or (1,) * len(shape)
    known = [
        start if step == 1 else None for start, step in zip(starts, steps, strict=True)
    ]
    return [cut(reader, values[0], known, target, shape, "slice")]


def cut(
    reader: Reader,
    value: Value,
    starts: Sequence[int | None],
    sizes: Sequence[int],
    shape: Sequence[int],
    primitive: str,
) -> Value:
    """The value after a slice; a part of a result is a cut of its parameter."""

    def axes(view):
        remaining = []
        for i, axis in enumerate(view.axes):
            kept, piece = sliced(axis, starts[i], sizes[i], shape[i])
            is_result = view.kind is Kind.RESULT
            if is_result and piece is not None and leads(piece, view.axes):
                reader.ledger.cuts[view.leaf].add(piece)
            if sizes[i] > 1 and leaf_axes([axis]) and not leaf_axes([kept]):
                if view.kind is Kind.WEIGHT:
                    return None  # An unknown part of its axis: the parameter is lost.
            remaining.append(kept)
        return remaining

    return reader.moved(value, axes, primitive)


def split(reader, equation, values):
    """Consecutive parts of one axis."""
    shape, along = equation.invars[0].aval.shape, equation.params["axis"]
    start, parts = 0, []
    for size in map(int, equation.params["sizes"]):
        sizes = [size if i == along else n for i, n in enumerate(shape)]
        starts = [start if i == along else 0 for i in range(len(shape))]
        parts.append(cut(reader, values[0], starts, sizes, shape, "split"))
        start += size
    return parts


def unstack(reader, equation, values):
    """Every entry of one axis by itself."""
    shape, along = equation.invars[0].aval.shape, equation.params["axis"]

    def axes(view):
        return [axis for i, axis in enumerate(view.axes) if i != along]

    parts = []
    for start in range(shape[along]):
        sizes = [1 if i == along else n for i, n in enumerate(shape)]
        starts = [start if i == along else 0 for i in range(len(shape))]
        part = cut(reader, values[0], starts, sizes, shape, "unstack")
        parts.append(reader.moved(part, axes, "unstack"))
    return parts


def update(reader, equation, values):
    """Entries written into an array: the operand and the updates."""
    operand, *others = values
    result = merged(values, operand.of(Kind.RESULT))
    for value in (operand, *others):
        for view in value.of(Kind.WEIGHT):
            if result.data or result.last:
                reader.use(view, "token")
            else:
                reader.use(view, "unread", primitive=equation.primitive.name)
    return [result]


def resize(reader, equation, values):
    """A part, or all parts, of a sharded axis: gathers and scatters over a mesh."""
    shapes = [variable.aval.shape for variable in equation.outvars]
    if any(
        len(variable.aval.shape) != len(shape)
        for variable, shape in zip(equation.invars, shapes, strict=True)
    ):
        return opaque(reader, equation, values)
    return [refitted(value, shape) for value, shape in zip(values, shapes, strict=True)]


def opaque(reader, equation, values):
    """Anything without a rule: parameters are lost, results pass in the same shape."""
    for value in values:
        reader.lose(value, equation.primitive.name)
    return [
        smooth(
            merged(values, _results_of_shape(equation, values, variable.aval.shape)),
            variable.aval.dtype,
        )
        for variable in equation.outvars
    ]


def _results_of_shape(
    equation: Equation, values: list[Value], shape: Sequence[int]
) -> list[View]:
    pairs = zip(values, equation.invars, strict=True)
    return [
        view
        for value, operand in pairs
        if operand.aval.shape == shape
        for view in value.of(Kind.RESULT)
    ]


def _shapes(equation: Equation) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return equation.invars[0].aval.shape, equation.outvars[0].aval.shape

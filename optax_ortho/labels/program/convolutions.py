"""The rule of convolutions, one matrix over all taps."""

from optax_ortho.labels.program.movement import opaque
from optax_ortho.labels.program.products import after
from optax_ortho.labels.program.views import WEIGHTS, Kind, View, foreign, leaf_axes


def convolution(reader, equation, values):
    """A convolution: fan-in over all taps and the input channels."""
    activation, kernel = values
    params, shape = equation.params, equation.outvars[0].aval.shape
    out, inner, *taps = params["dimension_numbers"].rhs_spec
    groups, channels = (
        params["feature_group_count"],
        params["dimension_numbers"].out_spec[1],
    )
    if params["batch_group_count"] > 1:
        return opaque(reader, equation, values)

    def placed(axis):
        return [axis if i == channels else foreign(n) for i, n in enumerate(shape)]

    views, last = [], set()
    for view in kernel.of(*WEIGHTS):
        made, kind = view.axes[out], "product"
        fan_in = leaf_axes([view.axes[i] for i in (*taps, inner)])
        if groups > 1:
            # A vmap of a convolution merges its stack into the output channels.
            is_stack = made[0].size == groups and bool(leaf_axes([made[1:]]))
            kind, made = ("product", made[1:]) if is_stack else ("grouped", made)
        reader.use(view, kind, fan_in, leaf_axes([made]))
        last.add(view.leaf)
        if kind == "product":
            views.append(View(view.leaf, tuple(placed(view.axes[out])), Kind.RESULT))
    if not last:
        # A kernel that was resized by a constant matrix before it is used.
        for view in kernel.of(Kind.RESULT) if not kernel.data else ():
            reader.use(view, "resized")
        return opaque(reader, equation, values)
    if groups == shape[channels] > 1:  # Depthwise: the channels stay what they were.
        source = params["dimension_numbers"].lhs_spec[1]
        views += [
            view.at(placed(view.axes[source])) for view in activation.of(Kind.RESULT)
        ]
    return [after(reader, values, activation, last, views)]

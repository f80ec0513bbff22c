"""Statistics of a Flax Linen model: its layers are intercepted while the loss runs.

The probes of a layer are stored beside its kernel in the tree of parameters, so that
`flax.linen.scan` and other lifts hand each layer its own.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from optax_ortho.labels import Labeller
from optax_ortho.labels.roles import MATRIX
from optax_ortho.matrices import path_of
from optax_ortho.statistics.dependence import used
from optax_ortho.statistics.passes import through_conv, through_dense
from optax_ortho.statistics.taps import Probes, probes_of, read

# The clip and the path of the layer follow. With another clip, the parameters of a
# jitted part of a model have another structure, so that the part is traced again.
TAG = "statistics "


def value_and_grad(
    loss_fn: Callable, labels: Labeller, has_aux: bool, clip: Any
) -> Callable:
    """The loss, its gradient and the statistics, of a function of parameters."""

    def wrapped(params, *args, **kwargs):
        probes, axes = {}, {}
        for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
            path = path_of(keys)
            layer, _, name = path.rpartition("/")
            if name == "kernel" and labels.label(path, leaf).role == MATRIX:
                axes[layer] = labels.axes(path, leaf).resolve(jnp.shape(leaf))
                probes[layer] = probes_of(jnp.shape(leaf), axes[layer])
        tags = {layer: f"{TAG}{clip} {layer}" for layer in probes}

        called: set[str] = set()

        def probed(params, probes):
            probed = _with_probes(params, probes, tags)
            with nn.intercept_methods(_interceptor(clip, called)):
                return loss_fn(probed, *args, **kwargs)

        def loss(probes):
            value = probed(params, probes)
            return value[0] if has_aux else value

        value, (gradient, sums) = jax.value_and_grad(probed, (0, 1), has_aux)(
            params, probes
        )
        if called != set(tags.values()):
            # No layer of a jitted part that was traced before is intercepted.
            reached = used(loss, probes)
            called |= {tag for layer, tag in tags.items() if any(reached[layer])}
        layers = [layer for layer, tag in tags.items() if tag in called]
        return value, gradient, read({key: (sums[key], axes[key]) for key in layers})

    return wrapped


def _with_probes(
    params: Any,
    probes: Mapping[str, Probes],
    tags: Mapping[str, str],
    path: str = "",
) -> Any:
    """The tree with the probes of each layer in its folder."""
    if not isinstance(params, Mapping):
        return params
    tree = {
        name: _with_probes(branch, probes, tags, f"{path}/{name}" if path else name)
        for name, branch in params.items()
    }
    return {**tree, tags[path]: probes[path]} if path in probes else tree


def _interceptor(clip: Any, called: set[str]) -> Callable:
    """Taps the calls of layers that have probes, and adds their tags to `called`."""
    inside: list[str] = []

    def intercept(method, args, kwargs, context):
        layer = context.module
        made = layer.variables.get("params", {}) if _rank(layer) else {}
        tags = [name for name in made if name.startswith(TAG)]
        # A lifted class calls the class that it lifts, with all or part of its arrays.
        whole = tags and made[tags[0]].a.ndim == _rank(layer)
        if context.method_name != "__call__" or not whole or tags[0] in inside:
            return method(*args, **kwargs)
        called.add(tags[0])
        args = (*args, kwargs.pop("inputs")) if "inputs" in kwargs else args

        def call(x):
            return method(x, *args[1:], **kwargs)

        inside.append(tags[0])
        try:
            return _through(layer, call, jnp.asarray(args[0]), made[tags[0]], clip)
        finally:
            inside.pop()

    return intercept


def _rank(layer: Any) -> int:
    """The number of axes of the layer's kernel; 0 for a layer that is not read."""
    if isinstance(layer, nn.Dense):
        return 2
    if isinstance(layer, nn.DenseGeneral):
        parts = (layer.batch_dims, layer.axis, layer.features)
        return sum(1 if isinstance(part, int) else len(part) for part in parts)
    if isinstance(layer, nn.Conv) and layer.feature_group_count == 1:
        window = layer.kernel_size
        return 2 + (1 if isinstance(window, int) else len(window))
    return 0


def _through(layer: Any, call: Callable, x: Any, probes: Probes, clip: Any) -> Any:
    if isinstance(layer, nn.Conv):
        return through_conv(call, x, probes, clip, layer)
    if isinstance(layer, nn.Dense):
        return through_dense(call, x, probes, clip, (-1,), ())
    inputs = (layer.axis,) if isinstance(layer.axis, int) else tuple(layer.axis)
    return through_dense(call, x, probes, clip, inputs, tuple(layer.batch_dims))

"""The statistics of layers, from the tree that an update is given.

    a    mean input, (*batch, fan_in), without the 1 of a bias
    g    sum over samples of the loss gradient in the output, (*batch, fan_out)

stand in a dict ``{"a": a, "g": g}`` at the layer, ``{"up": {"a": ..., "g": ...}}`` for
a kernel ``up/kernel``, or at the kernel itself. Entries of other layers are ignored.
"""

from typing import Any

import jax
import jax.numpy as jnp

from optax_ortho.kronecker.layers import Layers, parent_of, paths_and_leaves
from optax_ortho.matrices import MatrixAxes, axes_at, fold, path_of, unfold
from optax_ortho.states import FusedState


def of_layers(layers: Layers, tree: Any, statistics: Any, clip: Any) -> dict[str, Any]:
    """The statistics (a, g) of every kernel by its path, as vectors for `Layers.map`.

    Raises:
      ValueError: there are none, or the statistics of a kernel are missing or do not
        fit it.
    """
    keyed = jax.tree_util.tree_leaves_with_path(layers.kernels(tree))
    if keyed and statistics is None:
        raise ValueError(
            "mkor needs the statistics of each step: update(gradient, state, params, "
            "statistics=statistics). optax_ortho.value_and_grad_with_statistics("
            "loss_fn)(model, ...) gives them with the loss and the gradient."
        )
    given = paths_and_leaves(statistics)
    pairs = {}
    for keys, kernel in keyed:
        path = path_of(keys)
        axes = axes_at(layers.axes, path, kernel)
        a, g = (_entry(given, path, name) for name in ("a", "g"))
        pairs[path] = _blocks(path, jnp.shape(kernel), axes, a, g, clip)
    return pairs


def _entry(given: dict[str, Any], path: str, name: str) -> jax.Array:
    layer = parent_of(path)
    for place in (f"{path}/{name}", f"{layer}/{name}" if layer else name):
        if place in given:
            return given[place]
    seen = sorted({parent_of(place) for place in given})[:3]
    raise ValueError(
        f"Leaf {path!r} has no statistic {name!r}; statistics were given for {seen}. "
        "Dense layers and convolutions are read where they are called. Give it "
        "yourself, as {'a': ..., 'g': ...} in the place of its layer, or leave the "
        "leaf to the "
        f"fallback: label(model, overrides={{{path!r}: 'vector'}})."
    )


def _blocks(
    path: str, shape: tuple[int, ...], axes: MatrixAxes, a: Any, g: Any, clip: Any
) -> Any:
    """The pair (a, g) of a kernel; a `FusedState` of pairs for a fused one."""
    batch = tuple(shape[axis] for axis in axes.batch(len(shape)))
    whole = MatrixAxes(axes.fan_in, axes.fan_out)
    for name, x, size in zip("ag", (a, g), whole.matrix_shape(shape), strict=True):
        if jnp.shape(x) != (*batch, size):
            raise ValueError(
                f"Statistic {name!r} of leaf {path!r} {shape} has shape "
                f"{jnp.shape(x)}, not {(*batch, size)}: (*batch, "
                f"fan_{'in' if name == 'a' else 'out'})."
            )
    a, g = (_clipped(x, clip) for x in (a, g))
    split = axes.split
    if split is None:
        return a, g

    def blocks(x, side, other):
        # As a kernel that has one row or column, it is cut as a kernel is.
        thin = tuple(1 if i in other else size for i, size in enumerate(shape))
        x = x[..., None] if side == axes.fan_in else x[..., None, :]
        leaf = unfold([x], whole, thin)
        if split.axis not in side:
            return fold(leaf, whole) * len(split.sizes)
        return fold(leaf, axes)

    pairs = zip(
        blocks(a, axes.fan_in, axes.fan_out),
        blocks(g, axes.fan_out, axes.fan_in),
        strict=True,
    )
    return FusedState(tuple((a[..., 0], g[..., 0, :]) for a, g in pairs))


def _clipped(x: Any, clip: Any) -> jax.Array:
    x = jnp.asarray(x)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    # What is not finite stays so, and skips the step of its factors.
    return (
        x if clip is None else jnp.where(jnp.isfinite(x), jnp.clip(x, -clip, clip), x)
    )

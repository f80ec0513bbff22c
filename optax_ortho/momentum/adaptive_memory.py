"""Momentum whose decay follows the gradients: adaptive memory.

The loss is modelled by two planes, one through the gradient g and one through the
memory d of earlier ones. The step that is best for the larger of them, with a penalty
lam for leaving the memory, mixes both, by a weight beta that has a closed form:

    beta <- (|g|^2 + 2 lam <g, d> - lam |d|^2) / |d - g|^2, clipped to [0, beta_max]
    d <- ((beta + lam) d + (1 - beta) g) / (1 + lam)

The first d is the first g. Where g and d agree beta is large and the momentum is long;
where they differ it is short. The decay that `ema` has is (beta + lam) / (1 + lam).

The closed form takes -<g, d> for the change of the loss, which is right for a step of
SGD at a constant rate. After an orthogonalizer it is an estimate of sign and size only.

References:
  Topollai and Choromanska, `Adaptive Memory Momentum via a Model-Based Framework for
  Deep Learning Optimization <https://arxiv.org/abs/2510.04988>`_, 2025
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from optax_ortho.blocks import init_blocks, map_blocks, quotient
from optax_ortho.checks import check_number, refuse_one_owner
from optax_ortho.matrices import AxesOf, last_two

Sums = tuple[jax.Array, ...]
"""The inner products <g, g>, <g, d>, <d, d> and <d - g, d - g>."""


class AdaptiveMemoryState(NamedTuple):
    """State of `adaptive_memory`.

    Attributes:
      remembered: number of gradients in the memory.
      memory: the momentum d, shaped like the parameters.
      memory_beta: the last beta in float32. For the scope "global" one scalar; for
        "leaf" a tree of scalars; for "matrix" a tree of arrays with the axes of each
        leaf, in which fan-in and fan-out axes have length 1.
    """

    remembered: jax.typing.ArrayLike
    memory: Any
    memory_beta: Any


def adaptive_memory(
    lam: Any = 0.1,
    beta_max: Any = 0.9,
    scope: str = "global",
    mu_dtype: Any = None,
    axes: AxesOf = last_two,
) -> optax.GradientTransformationExtraArgs:
    """Averages gradients with a decay that adapts to them.

    beta is scale-invariant: the inner products are taken of gradients over the largest
    entry, and summed in float32, so 1e30 does not overflow and 1e-30 does not vanish.

    Args:
      lam: the penalty for leaving the memory, at least 0.
      beta_max: the largest beta, in [0, 1).
      scope: the group that shares one beta: "global" is all leaves together, as
        published for SGD; "leaf" is one leaf, whatever its shape; "matrix" is one
        matrix of a stack or of a fused leaf.
      mu_dtype: dtype of the memory; None is the parameter's dtype.
      axes: the `MatrixAxes` of a leaf, from its path and the leaf, for "matrix".

    Returns:
      A transformation from gradients to d, in the gradients' dtype.

    Raises:
      ValueError: a number out of range, or another `scope`.

    Examples:
      >>> tx = adaptive_memory(lam=0.0)
      >>> state = tx.init(jnp.zeros(2))
      >>> first, state = tx.update(jnp.array([1.0, 0.0]), state)
      >>> second, state = tx.update(jnp.array([0.0, 1.0]), state)
      >>> print(first, second, state.memory_beta)
      [1. 0.] [0.5 0.5] 0.5
    """
    check_number("lam", lam)
    check_number("beta_max", beta_max, below=1.0)
    scopes = {
        "global": _for_all_leaves,
        "leaf": _for_each_leaf,
        "matrix": _for_each_matrix,
    }
    if scope not in scopes:
        raise ValueError(f"scope must be one of {', '.join(scopes)}; got {scope!r}.")

    def init(params):
        beta = _zero()
        if scope == "leaf":
            beta = jax.tree.map(lambda x: _zero(), params)
        if scope == "matrix":
            kept = functools.partial(jnp.max, keepdims=True, initial=0)
            beta = init_blocks(
                lambda a, x: kept(x, a.fan_in + a.fan_out).astype(jnp.float32),
                axes,
                params,
            )
        memory = optax.tree.zeros_like(params, dtype=mu_dtype)
        return AdaptiveMemoryState(jnp.zeros([], jnp.int32), memory, beta)

    def update(updates, state, params=None, **extra):
        del params
        if scope != "matrix":
            refuse_one_owner(f"adaptive_memory(scope={scope!r})", extra)
        is_first = state.remembered == 0

        def weigh(sums: Sums) -> jax.Array:
            gg, gd, dd, apart = sums
            beta = quotient(gg + 2 * lam * gd - lam * dd, apart)
            return jnp.where(is_first, 0, jnp.clip(beta, 0, beta_max))

        def mix(g, d, beta):
            keep = jnp.where(is_first, 0, (beta + lam) / (1 + lam))
            new = jnp.where(is_first, 1, (1 - beta) / (1 + lam))
            g, d = _wide(g), _wide(d)
            return keep.astype(_real(d)) * d + new.astype(_real(g)) * g

        mixed, beta = scopes[scope](weigh, mix, axes, updates, state)
        memory = jax.tree.map(lambda d, old: d.astype(old.dtype), mixed, state.memory)
        mixed = jax.tree.map(lambda d, g: d.astype(g.dtype), mixed, updates)
        count = optax.safe_increment(state.remembered)
        return mixed, AdaptiveMemoryState(count, memory, beta)

    return optax.GradientTransformationExtraArgs(init, update)


def _for_all_leaves(weigh, mix, axes, updates, state):
    del axes
    pairs = list(
        zip(jax.tree.leaves(updates), jax.tree.leaves(state.memory), strict=True)
    )
    if not pairs:
        return updates, state.memory_beta
    largest = jnp.max(jnp.stack([_largest(*pair, None) for pair in pairs]))
    sums = [_sums(*pair, largest, None) for pair in pairs]
    beta = weigh(
        tuple(jnp.sum(jnp.stack(column)) for column in zip(*sums, strict=True))
    )
    return jax.tree.map(lambda g, d: mix(g, d, beta), updates, state.memory), beta


def _for_each_leaf(weigh, mix, axes, updates, state):
    del axes
    beta = jax.tree.map(
        lambda g, d: weigh(_sums(g, d, _largest(g, d, None), None)),
        updates,
        state.memory,
    )
    return jax.tree.map(mix, updates, state.memory, beta), beta


def _for_each_matrix(weigh, mix, axes, updates, state):
    def on_block(block_axes, factor, g, d, old):
        del factor, old
        over = block_axes.fan_in + block_axes.fan_out
        beta = weigh(_sums(g, d, _largest(g, d, over), over))
        return mix(g, d, beta), beta

    return map_blocks(on_block, axes, state.memory_beta, updates, state.memory)


def _largest(g: jax.Array, d: jax.Array, over: Sequence[int] | None) -> jax.Array:
    """The largest magnitude over some axes, which stay; over all, a scalar."""

    def largest(x):
        keep = over is not None
        return jnp.max(jnp.abs(_wide(x)), over, keepdims=keep, initial=0)

    return jnp.maximum(largest(g), largest(d)).astype(jnp.float32)


def _sums(
    g: jax.Array, d: jax.Array, largest: jax.Array, over: Sequence[int] | None
) -> Sums:
    """Inner products of g and d, both divided by the largest magnitude."""
    inverse = 1 / jnp.maximum(largest, jnp.finfo(jnp.float32).tiny)
    inverse = lax.stop_gradient(inverse)  # beta does not depend on it.
    g, d = (_wide(x) * inverse.astype(_real(_wide(x))) for x in (g, d))

    def inner(x, y):
        products = jnp.real(x * y.conj())
        return jnp.sum(products, over, jnp.float32, keepdims=over is not None)

    return inner(g, g), inner(g, d), inner(d, d), inner(d - g, d - g)


def _zero() -> jax.Array:
    return jnp.zeros([], jnp.float32)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _real(x: jax.Array) -> Any:
    return jnp.finfo(x.dtype).dtype

"""Attention logits kept below a threshold by scaling queries and keys (MuonClip).

With S_h the largest logit of head h before the softmax, observed in the forward pass,
and W the weights after the optimizer's step:

    gamma_h = tau / S_h    where S_h > tau, else 1
    W_query,h <- gamma_h^alpha W_query,h
    W_key,h   <- gamma_h^(1 - alpha) W_key,h

so the head's logits are multiplied by gamma_h. A key head k that serves a group of
query heads takes the factor common to all of them, and each query takes the rest:

    kappa_k = max_h gamma_h    over the heads h of the group
    W_key,k   <- kappa_k^(1 - alpha) W_key,k
    W_query,h <- gamma_h / kappa_k^(1 - alpha) W_query,h

Nothing grows, each head's logits are multiplied by its own gamma_h, and a head below
the threshold keeps its query and its key. The paper's rule for the rotary key that all
heads share is a special case: the key stays as it is and the queries take all of
gamma_h.

References:
  Kimi Team, `Kimi K2 <https://arxiv.org/abs/2507.20534>`_, 2025, algorithm 1
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_ortho.checks import check_number, is_zero
from optax_ortho.constraints.attention import Attention, Heads, leaves_by_path
from optax_ortho.matrices import path_of


class QkClipState(NamedTuple):
    """Statistics of the last step.

    Attributes:
      smallest_gamma: the smallest factor of a head's logits; 1 if none was clipped.
      clipped_heads: number of heads that were clipped.
      unread_heads: number of heads that were left alone because their largest logit
        was not finite.
    """

    smallest_gamma: jax.Array
    clipped_heads: jax.Array
    unread_heads: jax.Array


def qk_clip(
    layers: Mapping[str, Attention], tau: Any = 100.0, alpha: Any = 0.5
) -> optax.GradientTransformationExtraArgs:
    """Scales queries and keys down where their logits exceed a threshold.

    Put it last in a chain, where the updates are added to the parameters as they are.
    Its ``update`` needs ``params`` and ``max_logits=``: for each layer, an array
    ``(..., heads)`` of the largest logit of each query head before the softmax, over
    the batch and all pairs of positions that are not masked. With `optax.MultiSteps`,
    take the largest over all batches of a step. The logits belong to the weights before
    the step, so logits may exceed the threshold by as much as one step changes them.

    A head whose largest logit is not finite is not clipped. Query head h uses key head
    ``h // (heads / key heads)``. If logits are not linear in a query, for example
    because queries and keys are normalized, clipping has no effect.

    Args:
      layers: the leaves of each layer, by its path in ``max_logits``, which is a tree
        or a dict of paths; `flax_attention` finds the layers of a Flax model.
      tau: the threshold, above 0.
      alpha: the exponent of gamma for the query, from 0 to 1; the key takes the rest.

    Returns:
      The transformation; updates of heads below the threshold are unchanged.

    Raises:
      ValueError: an argument out of range, or a leaf named twice; in ``update``, leaves
        or logits that are missing or do not fit.
      TypeError: a layer that does not name its leaves by `Heads`.

    Examples:
      >>> params = {"query": jnp.ones((3, 2, 4)), "key": jnp.ones((3, 2, 4))}
      >>> layers = {"attention": Attention((Heads("query"),), (Heads("key"),))}
      >>> tx = optax.chain(optax.sgd(0.1), qk_clip(layers))
      >>> gradient, state = optax.tree.zeros_like(params), tx.init(params)
      >>> logits = {"attention": jnp.array([50.0, 400.0])}
      >>> updates, _ = tx.update(gradient, state, params, max_logits=logits)
      >>> print(optax.apply_updates(params, updates)["query"][0, :, 0])
      [1.  0.5]
    """
    check_number("tau", tau)
    if is_zero(tau):
        raise ValueError("tau must be above zero.")
    check_number("alpha", alpha)
    check_number("1 - alpha", 1 - alpha)
    _check_layers(layers)

    def init(params):
        del params
        zero = jnp.zeros([], jnp.int32)
        return QkClipState(jnp.ones([], jnp.float32), zero, zero)

    def update(updates, state, params=None, *, max_logits: Any = None, **extra):
        del state, extra
        if params is None:
            raise ValueError("qk_clip needs params in update.")
        weights = _find_all(layers, params, "parameters")
        steps = _find_all(layers, updates, "updates")
        observed, gammas, unread, new = leaves_by_path(max_logits), [], [], {}
        for layer, attention in layers.items():
            logits = _logits(observed, layer)
            finite = jnp.isfinite(logits)
            exceeds = finite & (logits > tau)
            gamma = jnp.where(exceeds, tau / jnp.where(exceeds, logits, 1), 1)
            gamma = gamma.astype(jnp.float32)
            for heads, factor in _factors(layer, attention, gamma, alpha, weights):
                path = heads.path
                new[path] = _scaled(steps[path], weights[path], factor)
            gammas.append(gamma.ravel())
            unread.append(~finite.ravel())
        updates = jax.tree_util.tree_map_with_path(
            lambda keys, u: new.get(path_of(keys), u), updates
        )
        all_gammas = jnp.concatenate(gammas)
        clipped = jnp.sum(all_gammas < 1, dtype=jnp.int32)
        number = jnp.sum(jnp.concatenate(unread), dtype=jnp.int32)
        return updates, QkClipState(all_gammas.min(initial=1), clipped, number)

    return optax.GradientTransformationExtraArgs(init, update)


def _factors(
    layer: str,
    attention: Attention,
    gamma: jax.Array,
    alpha: Any,
    weights: Mapping[str, jax.Array],
) -> list[tuple[Heads, jax.Array]]:
    """The factor of each leaf of a layer, broadcastable to the leaf."""
    *stack, number = gamma.shape
    first = attention.key[0]
    axis = _axes(layer, first, weights[first.path], len(stack))[-1]
    keys = weights[first.path].shape[axis] // first.head_dim
    if keys == 0 or number % keys:
        raise ValueError(
            f"Attention layer {layer!r}: key {first.path!r} has {keys} heads, and "
            f"max_logits has {number}, which is not a multiple of that."
        )
    shared = gamma.reshape(*stack, keys, number // keys).max(-1)
    key = (shared ** (1 - alpha)).astype(gamma.dtype)
    query = gamma / jnp.repeat(key, number // keys, axis=-1)
    return [
        (heads, _spread(layer, heads, weights[heads.path], factor))
        for side, factor in ((attention.query, query), (attention.key, key))
        for heads in side
    ]


def _spread(layer: str, heads: Heads, leaf: jax.Array, factor: jax.Array) -> jax.Array:
    """The factors of the heads, reshaped to broadcast to a leaf."""
    axes = _axes(layer, heads, leaf, factor.ndim - 1)
    factor = jnp.repeat(factor, heads.head_dim, axis=-1)
    sizes = tuple(leaf.shape[axis] for axis in axes)
    if sizes != factor.shape:
        raise ValueError(
            f"Attention layer {layer!r}: leaf {heads.path!r} of shape {leaf.shape} has "
            f"{sizes} along axes {axes} (stacked layers and heads), but max_logits "
            f"gives {factor.shape}."
        )
    order = sorted(range(len(axes)), key=axes.__getitem__)
    shape = [size if i in axes else 1 for i, size in enumerate(leaf.shape)]
    return factor.transpose(order).reshape(shape)


def _axes(layer: str, heads: Heads, leaf: jax.Array, stacked: int) -> tuple[int, ...]:
    """The axes of stacked layers and the axis of heads, counted from 0."""
    batch = tuple(range(stacked)) if heads.batch is None else tuple(heads.batch)
    axes, ndim = (*batch, heads.axis), leaf.ndim
    inside = all(-ndim <= axis < ndim for axis in axes)
    counted = tuple(axis % ndim for axis in axes) if inside else ()
    if len(batch) != stacked or len(set(counted)) < len(axes):
        raise ValueError(
            f"Attention layer {layer!r}: leaf {heads.path!r} of shape {leaf.shape} "
            f"cannot have heads along axis {heads.axis} and stacked layers along "
            f"{batch}, with max_logits of {stacked + 1} axes."
        )
    return counted


def _scaled(step: jax.Array, weight: jax.Array, factor: jax.Array) -> jax.Array:
    """The step that ends at the scaled weights; the step itself if factor is 1."""
    dtype = jnp.promote_types(jnp.promote_types(step.dtype, weight.dtype), factor.dtype)
    weight, wide = weight.astype(dtype), step.astype(dtype)
    new = factor.astype(dtype) * (weight + wide) - weight
    return jnp.where(factor < 1, new, wide).astype(step.dtype)


def _logits(observed: Mapping[str, Any], layer: str) -> jax.Array:
    if layer not in observed:
        raise ValueError(
            "qk_clip needs max_logits= in update, the largest logit of each head of "
            f"each attention layer. It has {[*observed]}, but not {layer!r}."
        )
    logits = jnp.asarray(observed[layer])
    if logits.ndim == 0:
        raise ValueError(
            f"max_logits of {layer!r} is a scalar; it has to have an entry a head."
        )
    return logits.astype(jnp.float32)


def _find_all(layers: Mapping[str, Attention], tree: Any, what: str) -> dict[str, Any]:
    """The leaves of a tree by path, checked to include all that the layers name."""
    leaves = leaves_by_path(tree)
    for layer, attention in layers.items():
        for heads in (*attention.query, *attention.key):
            if heads.path not in leaves:
                raise ValueError(
                    f"Attention layer {layer!r}: leaf {heads.path!r} is not in the "
                    f"{what}. A masked leaf cannot be clipped either."
                )
    return leaves


def _check_layers(layers: Mapping[str, Attention]) -> None:
    if not layers:
        raise ValueError("qk_clip needs at least one attention layer.")
    paths = set()
    for layer, attention in layers.items():
        for side in attention:
            if not side or not all(isinstance(heads, Heads) for heads in side):
                raise TypeError(
                    f"Attention layer {layer!r}: query and key have to be tuples of "
                    f"Heads, got {side!r}."
                )
            for heads in side:
                if heads.path in paths:
                    raise ValueError(
                        f"Attention layer {layer!r}: leaf {heads.path!r} is named "
                        "twice, and would be scaled twice."
                    )
                paths.add(heads.path)

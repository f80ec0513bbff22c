"""The step that cross-entropy allows: no longer than the radius of its Taylor series.

The softmax has singularities at complex parameters. For a step p, and J p the change of
the logits that it means to first order,

    spread          d(x) = max_k (J p)_k - min_k (J p)_k, for each sample x
    radius ratio    r = max_x d(x) / pi
    trust region    p <- min(1, r_target / r) p

At r = 1 the step is as long as the distance to the nearest singularity that is
possible. It is one forward-mode product J p with the step as it will be taken, so this
stage comes last: after the learning rate, the sign and the decay.

References:
  Sao, `Ghosts of Softmax <https://arxiv.org/abs/2603.13552>`_, 2026, proposition 5.2
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_ortho.checks import check_number, refuse_array


class SoftmaxRadiusState(NamedTuple):
    """Ratio of the last step to its convergence radius, and the scale applied.

    Attributes:
      radius_ratio: r of the step that came in; infinite if it was not finite.
      radius_scale: the factor that the step was multiplied by.
    """

    radius_ratio: jax.Array
    radius_scale: jax.Array


def softmax_radius(
    r_target: Any = 1.0,
    *,
    mode: str = "cap",
    reduce: str | float = "max",
    stride: int = 1,
    difference: float | None = None,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Shortens the step of the whole model to a multiple of its convergence radius.

    It is the last link of a chain, and its ``update`` needs ``params`` and
    ``logits_fn=``, a function from parameters to the logits ``(..., K)`` of the current
    batch, as in evaluation (no dropout, batch statistics frozen). `flax.nnx.Optimizer`
    passes both: ``optimizer.update(model, grads, logits_fn=logits_fn)``; a Linen
    ``TrainState`` passes nothing, so call ``state.tx.update`` there. It costs about
    one forward and one forward-mode pass more.

    ``logits_where=``, optional, is true for the samples or tokens that count and
    broadcasts to the logits without their last axis. Classes whose logits are minus
    infinity do not count. A maximum over part of the batch is smaller than over all of
    it, so it lets longer steps pass: of 1,024 tokens with normal changes of ten logits,
    every 2nd finds 0.97 of the largest spread on average and 0.69 at worst, every 32nd
    0.79 and 0.51. A function of fewer samples costs less, which a `stride` does not:
    ``logits_fn=lambda p: apply(p, x[::4])``.

    Args:
      r_target: the largest r that passes; 1 is the boundary, and the authors advise 0.5
        to begin with.
      mode: "cap" only shortens steps; "set" gives every step this r, so that only the
        direction of what came before matters (the paper's rho-set).
      reduce: "max", or a quantile of the samples' spreads in (0, 1], which one outlier
        does not rule. It forgives the samples above it.
      stride: only every `stride`-th entry of the first axis of the logits is looked at.
      difference: None is the exact derivative. A number h is a difference quotient over
        a distance h along the step, for models without a forward mode; the authors
        take 1e-4 and float32.
      axis_name: the axis of a `jax.pmap` or `jax.shard_map` over which the batch is
        split. Under plain `jax.jit` the batch is whole and this stays None.

    Returns:
      The transformation. Its state shows in `optax_ortho.diagnostics`. A step that is
      not finite, or whose J p is not, becomes zero.

    Raises:
      ValueError: an argument out of range; in ``update``, no ``logits_fn`` or params.

    Examples:
      A rate a thousand times too high:

      >>> tx = optax.chain(optax.sgd(1000.0), softmax_radius())
      >>> x, w = jnp.eye(3), jnp.zeros((3, 3))
      >>> loss = lambda w: -jax.nn.log_softmax(x @ w)[:, 0].mean()
      >>> updates, state = tx.update(
      ...     jax.grad(loss)(w), tx.init(w), w, logits_fn=lambda w: x @ w
      ... )
      >>> print((updates[0].max() - updates[0].min()).round(4))
      3.1416
    """
    check_number("r_target", r_target)
    if mode not in ("cap", "set"):
        raise ValueError(f"mode must be 'cap' or 'set', got {mode!r}.")
    if isinstance(reduce, str) and reduce != "max":
        raise ValueError(f"reduce must be 'max' or a quantile, got {reduce!r}.")
    if not isinstance(reduce, str):
        check_number("reduce", reduce)
        check_number("1 - reduce", 1 - reduce)
    refuse_array("stride", stride)
    check_number("stride", stride, at_least=1)
    if difference is not None:
        check_number("difference", difference)

    def init(params):
        del params
        return SoftmaxRadiusState(jnp.zeros([], jnp.float32), jnp.ones([], jnp.float32))

    def update(
        updates,
        state,
        params=None,
        *,
        logits_fn: Any = None,
        logits_where=None,
        **extra,
    ):
        del state, extra
        check_given(logits_fn, params, "softmax_radius")
        with jax.named_scope("softmax_radius"):
            step = jax.tree.map(_wide, updates)
            # J p is linear in p: with entries up to one it does not overflow, not even
            # in half precision.
            length = _largest(step)
            unit = jax.tree.map(lambda u: u / jnp.where(length > 0, length, 1), step)
            spreads = _spreads(logits_fn, params, unit, stride, difference)
            spreads = _counted(spreads, logits_where, stride)
            spread = _reduced(spreads, reduce, axis_name)

            good = jnp.isfinite(spread) & jnp.isfinite(length)
            limit = r_target * jnp.pi / jnp.where(spread > 0, spread, 1)
            moves = good & (spread > 0) & jnp.isfinite(limit)
            changed = moves & ((limit < length) | (mode == "set"))
            scale = jnp.where(changed, limit / jnp.where(moves, length, 1), 1)

            def scaled(u, v):
                v = jnp.where(changed, limit * v, _wide(u))
                return jnp.where(good, v, 0).astype(u.dtype)

            updates = jax.tree.map(scaled, updates, unit)
            ratio = jnp.where(good, length * (spread / jnp.pi), jnp.inf)
            scale = jnp.where(good, scale, 0)
        return updates, SoftmaxRadiusState(
            ratio.astype(jnp.float32), scale.astype(jnp.float32)
        )

    return optax.GradientTransformationExtraArgs(init, update)


def check_given(logits_fn: Any, params: Any, name: str) -> None:
    """Refuses an update without a function of the logits, or without parameters.

    Raises:
      ValueError: there is no `logits_fn`, or there are no `params`.
    """
    if logits_fn is None or params is None:
        raise ValueError(
            f"{name} needs the parameters and logits_fn=, a function from them to the "
            "logits (..., K) of the current batch: tx.update(grads, state, params, "
            "logits_fn=logits_fn)."
        )


def _spreads(
    logits_fn: Callable, params: Any, unit: Any, stride: int, difference: float | None
) -> jax.Array:
    """Range of the step's change of the logits, largest minus smallest, a sample."""

    def every(params):
        logits = logits_fn(params)
        return logits[::stride] if stride > 1 else logits

    if difference is None:
        tangent = jax.tree.map(lambda p, u: u.astype(jnp.result_type(p)), params, unit)
        logits, change = jax.jvp(every, (params,), (tangent,))
        change = change.astype(jnp.float32)
    else:
        norm = optax.tree.norm(unit)
        far = difference / jnp.where(norm > 0, norm, 1)
        moved = jax.tree.map(
            lambda p, u: (p + far * u).astype(jnp.result_type(p)), params, unit
        )
        logits, logits_after = every(params), every(moved)
        change = (logits_after.astype(jnp.float32) - logits.astype(jnp.float32)) / far
    never = jnp.isneginf(logits)
    top = jnp.max(jnp.where(never, -jnp.inf, change), -1)
    bottom = jnp.min(jnp.where(never, jnp.inf, change), -1)
    return jnp.where(jnp.isneginf(logits).all(-1), 0, top - bottom)


def _counted(spreads: jax.Array, where: Any, stride: int) -> jax.Array:
    """NaN where a sample does not count, and infinity for what was not a number."""
    spreads = jnp.where(jnp.isnan(spreads), jnp.inf, spreads)
    if where is None:
        return spreads
    where = jnp.asarray(where)
    if stride > 1 and where.ndim == spreads.ndim and where.shape[0] > 1:
        where = where[::stride]
    return jnp.where(jnp.broadcast_to(where, spreads.shape), spreads, jnp.nan)


def _reduced(
    spreads: jax.Array, reduce: str | float, axis_name: str | None
) -> jax.Array:
    """The largest spread or a quantile, of all devices; zero where nothing counts."""
    if isinstance(reduce, str):
        spread = jnp.max(jnp.where(jnp.isnan(spreads), 0, spreads), initial=0)
        return spread if axis_name is None else jax.lax.pmax(spread, axis_name)
    if axis_name is not None:
        spreads = jax.lax.all_gather(spreads, axis_name)
    ordered = jnp.where(jnp.isposinf(spreads), jnp.finfo(jnp.float32).max, spreads)
    spread = jnp.nanquantile(ordered, jnp.asarray(reduce, jnp.float32))
    spread = jnp.where(jnp.isposinf(spreads).any(), jnp.inf, spread)
    return jnp.where(jnp.isnan(spread), 0, spread)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _largest(tree: Any) -> jax.Array:
    """The largest magnitude of a tree, NaN if there is one."""
    sizes = [jnp.max(jnp.abs(x), initial=0) for x in jax.tree.leaves(tree)]
    return jnp.max(jnp.stack(sizes), initial=0) if sizes else jnp.zeros([], jnp.float32)

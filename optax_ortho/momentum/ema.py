"""Exponential momentum in the forms that the Muon family uses.

With gradient G and decay beta, and M = 0 at the start:

    ema           M <- beta M + (1 - beta) G       gives M
    nesterov      the same M                       gives beta M + (1 - beta) G
    heavy_ball    M <- beta M + G                  gives M, or G + beta M

A heavy ball's M is the M of `ema` over (1 - beta), so a scale-invariant stage after it
takes the same step, as long as beta is constant.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_ortho.checks import check_number


class MomentumState(NamedTuple):
    """The momentum M, shaped like the parameters."""

    mu: Any


class BiasCorrectedState(NamedTuple):
    """The momentum M and the number of gradients in it."""

    count: jax.typing.ArrayLike
    mu: Any


def ema(beta: Any, mu_dtype: Any = None) -> optax.GradientTransformationExtraArgs:
    """Exponential moving average of gradients, without bias correction.

    Args:
      beta: decay, in [0, 1).
      mu_dtype: dtype of M; None is the parameter's dtype.

    Returns:
      A transformation from gradients to M, in the gradients' dtype.

    Raises:
      ValueError: `beta` outside [0, 1).

    Examples:
      >>> tx = ema(0.9)
      >>> updates, state = tx.update(jnp.ones(2), tx.init(jnp.zeros(2)))
      >>> print(updates)
      [0.1 0.1]
    """
    return _momentum(beta, lambda b: 1 - b, False, mu_dtype)


def nesterov(beta: Any, mu_dtype: Any = None) -> optax.GradientTransformationExtraArgs:
    """`ema`, looking one step ahead (Keller Jordan's Muon).

    Args:
      beta: decay, in [0, 1).
      mu_dtype: dtype of M; None is the parameter's dtype.

    Returns:
      A transformation from gradients to ``beta M + (1 - beta) G``.

    Raises:
      ValueError: `beta` outside [0, 1).

    Examples:
      >>> tx = nesterov(0.9)
      >>> updates, state = tx.update(jnp.ones(2), tx.init(jnp.zeros(2)))
      >>> print(updates)
      [0.19 0.19]
    """
    return _momentum(beta, lambda b: 1 - b, True, mu_dtype)


def heavy_ball(
    beta: Any, nesterov: bool = False, mu_dtype: Any = None
) -> optax.GradientTransformationExtraArgs:
    """A decaying sum of gradients (Moonlight, dion, ROOT).

    Args:
      beta: decay, in [0, 1).
      nesterov: whether to look one step ahead, ``G + beta M`` instead of ``M``.
      mu_dtype: dtype of M; None is the parameter's dtype.

    Returns:
      A transformation from gradients to the momentum.

    Raises:
      ValueError: `beta` outside [0, 1).

    Examples:
      >>> tx = heavy_ball(0.5, nesterov=True)
      >>> updates, state = tx.update(jnp.ones(2), tx.init(jnp.zeros(2)))
      >>> print(updates)
      [1.5 1.5]
    """
    return _momentum(beta, lambda b: 1.0, nesterov, mu_dtype)


def bias_corrected(
    beta: Any, nesterov: bool = True, mu_dtype: Any = None
) -> optax.GradientTransformationExtraArgs:
    """Bias-corrected momentum, as in `optax.contrib.muon` and NAdam.

    After t steps it gives ``beta M / (1 - beta^(t+1)) + (1 - beta) G / (1 -
    beta^t)``. The correction changes the ratio of M to G in early steps, and so the
    direction: the result is not a rescaled `nesterov`.

    Args:
      beta: decay, in [0, 1).
      nesterov: whether to look one step ahead; False gives ``M / (1 - beta^t)``.
      mu_dtype: dtype of M; None is the parameter's dtype.

    Returns:
      A transformation from gradients to the momentum.

    Raises:
      ValueError: `beta` outside [0, 1).

    Examples:
      >>> tx = bias_corrected(0.5, nesterov=False)
      >>> updates, state = tx.update(jnp.ones(2), tx.init(jnp.zeros(2)))
      >>> print(updates)
      [1. 1.]
    """
    average = ema(beta, mu_dtype)

    def init(params):
        return BiasCorrectedState(
            jnp.zeros([], jnp.int32),
            optax.tree.zeros_like(params, dtype=mu_dtype),
        )

    def update(updates, state, params=None, **extra):
        del extra
        new: Any
        _, new = average.update(updates, MomentumState(state.mu), params)
        t = optax.safe_increment(state.count)

        def look(mu, g):
            dtype = jnp.promote_types(mu.dtype, g.dtype)
            b = jnp.asarray(beta, jnp.finfo(dtype).dtype)
            mu, now = mu.astype(dtype), 1 - b**t
            if nesterov:
                mu_hat = b * mu / (1 - b ** (t + 1))
                return (mu_hat + (1 - b) * g.astype(dtype) / now).astype(g.dtype)
            return (mu / now).astype(g.dtype)

        return jax.tree.map(look, new.mu, updates), BiasCorrectedState(t, new.mu)

    return optax.GradientTransformationExtraArgs(init, update)


def _momentum(
    beta: Any, gain: Callable, nesterov: bool, mu_dtype: Any
) -> optax.GradientTransformationExtraArgs:
    """``M <- gain(beta) G + beta M``; Nesterov returns the next M, and stores this."""
    check_number("beta", beta, below=1.0)

    def init(params):
        return MomentumState(optax.tree.zeros_like(params, dtype=mu_dtype))

    def update(updates, state, params=None, **extra):
        del params, extra

        def added(mu, g):
            dtype = jnp.promote_types(mu.dtype, g.dtype)
            # An array, so that strict dtype promotion has nothing to object to.
            b = beta if isinstance(beta, float) else jnp.asarray(beta, dtype)
            return gain(b) * g.astype(dtype) + b * mu.astype(dtype)

        def accumulate(mu, g):
            return added(mu, g).astype(mu.dtype)

        def output(mu, g):
            return (added(mu, g) if nesterov else mu).astype(g.dtype)

        mu = jax.tree.map(accumulate, state.mu, updates)
        return jax.tree.map(output, mu, updates), MomentumState(mu)

    return optax.GradientTransformationExtraArgs(init, update)

"""Checks of optimizers: training, wrappers, checkpoints and non-finite gradients."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from optax_ortho.matrices import path_of
from optax_ortho.testing.trees import assert_close, check, random_like, spoil


def check_decreases(
    tx: optax.GradientTransformation, params: Any, steps: int = 100
) -> None:
    """Checks that the distance to a nearby target is at least halved."""
    target = jax.tree.map(jnp.add, params, random_like(params))

    def body(carry, _):
        params, state = carry
        updates, state = tx.update(optax.tree.sub(params, target), state, params)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def train(params):
        (params, _), _ = lax.scan(body, (params, tx.init(params)), length=steps)
        return params

    before = optax.tree.norm(optax.tree.sub(params, target))
    after = optax.tree.norm(optax.tree.sub(train(params), target))
    check(bool(after < before / 2), f"{steps} steps: from {before:.3g} to {after:.3g}.")


def check_scale_free(
    tx: optax.GradientTransformation,
    params: Any,
    factors: Sequence[float],
    tolerance: float = 1e-4,
    leaves: Collection[str] | None = None,
) -> None:
    """Checks that the first update is invariant to the scale of the gradient.

    Args:
      tx: the transformation.
      params: its parameters.
      factors: the factors by which the gradient is multiplied.
      tolerance: largest difference, over the largest entry of a leaf.
      leaves: the paths of the scale-invariant leaves; None is all.
    """

    def promised(tree):
        keyed = jax.tree_util.tree_leaves_with_path(tree)
        named = {path_of(keys): leaf for keys, leaf in keyed}
        return {k: x for k, x in named.items() if leaves is None or k in leaves}

    gradient, state = random_like(params), tx.init(params)
    step = jax.jit(tx.update)
    expected, _ = step(gradient, state, params)
    for factor in factors:
        scaled = jax.tree.map(lambda x, c=factor: x * jnp.asarray(c, x.dtype), gradient)
        updates, _ = step(scaled, state, params)
        what = f"{factor:.1e} times the gradient"
        assert_close(promised(updates), promised(expected), tolerance, what)


def check_injected(
    injected: optax.GradientTransformation,
    tx: optax.GradientTransformation,
    params: Any,
    tolerance: float = 1e-5,
) -> None:
    """Checks that `optax.inject_hyperparams` changes nothing by itself.

    Args:
      injected: ``inject_hyperparams(factory)(**arguments)``.
      tx: ``factory(**arguments)``.
      params: its parameters.
      tolerance: between two ways to compute one thing.
    """
    gradient = random_like(params)
    expected, state = jax.jit(tx.update)(gradient, tx.init(params), params)
    updates, new = jax.jit(injected.update)(gradient, injected.init(params), params)
    assert_close(updates, expected, tolerance, "an injected step")
    assert_close(new.inner_state, state, tolerance, "an injected step's state")


def check_round_trip(
    tx: optax.GradientTransformation,
    params: Any,
    save_and_load: Callable[[Any], Any],
) -> None:
    """Checks that training continues from a saved state, bit for bit.

    Args:
      tx: the optimizer.
      params: its parameters.
      save_and_load: saves a state and returns the loaded one.

    Examples:
      >>> import pickle
      >>> params = {"kernel": jnp.ones((4, 3))}
      >>> check_round_trip(
      ...     optax.adam(0.1), params, lambda x: pickle.loads(pickle.dumps(x))
      ... )
    """
    _, state = _run(tx, params, steps=2)
    step, gradient = jax.jit(tx.update), random_like(params, seed=2)
    loaded = jax.device_get(save_and_load(state))  # Shardings are not compared.
    after = step(gradient, loaded, params)
    assert_close(after, step(gradient, state, params), 0, "a step after loading")


def check_skips(
    tx: optax.GradientTransformation, params: Any, skipped: Any, bad: float = np.nan
) -> None:
    """Checks that a bad gradient entry gives a zero update and acts as a zero gradient.

    Args:
      tx: a guarded optimizer.
      params: its parameters.
      skipped: a tree of boolean arrays that are true for the entries to be skipped. The
        gradient's first such entry is set to `bad`.
      bad: NaN, or plus or minus infinity.
    """

    def zeroed(tree):
        return jax.tree.map(lambda x, skip: jnp.where(skip, 0, x), tree, skipped)

    _, state = _run(tx, params, steps=2)
    step, gradient = jax.jit(tx.update), random_like(params, seed=2)
    updates, new_state = step(spoil(gradient, skipped, bad), state, params)
    expected, expected_state = step(zeroed(gradient), state, params)
    assert_close(updates, zeroed(expected), 0, f"the update for {bad}")
    assert_close(new_state, expected_state, 0, f"the state after {bad}", but="skipped")


def check_recovers(
    tx: optax.GradientTransformation, params: Any, bad_steps: int
) -> None:
    """Checks that consecutive bad steps leave a finite state and training continues."""
    everywhere = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params)
    step, (_, state) = jax.jit(tx.update), _run(tx, params, steps=2)
    for _ in range(bad_steps):
        _, state = step(everywhere, state, params)
    updates, state = step(random_like(params), state, params)
    for leaf in jax.tree.leaves((updates, state)):
        check(bool(jnp.isfinite(leaf).all()), f"{bad_steps} bad steps are remembered.")
    for leaf in jax.tree.leaves(updates):
        check(bool(jnp.any(leaf != 0)), f"{bad_steps} bad steps ended the training.")


def _run(tx: optax.GradientTransformation, params: Any, steps: int) -> tuple[Any, Any]:
    """The last update and the state after some steps with random gradients."""
    step, state, updates = jax.jit(tx.update), tx.init(params), None
    for seed in range(steps):
        updates, state = step(random_like(params, seed), state, params)
    return updates, state

"""FISMO: the box in float64, its special cases, and what was published."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ortho
from optax_ortho import fismo, scale_by_fismo
from optax_ortho.bases import Eigh, NewtonRoot
from optax_ortho.momentum import ema
from optax_ortho.orthogonalizers import Exact
from optax_ortho.testing import assert_close, random_like
from optax_ortho.trust_region import UNSCALED
from tests.reference import fismo as reference
from tests.rows import ONE_STEP, new_params

SHAPES = {"square": (5, 5), "tall": (7, 3), "wide": (4, 6)}
PUBLISHED = {"normalize_stats": False, "trust_region": UNSCALED}


def gradients_of(params, steps=10, size=1.0):
    trees = [random_like(params, seed) for seed in range(steps)]
    return [optax.tree.scale(size * 3.0 ** (i % 3), x) for i, x in enumerate(trees)]


def run(tx, params, gradients) -> Any:
    """The parameters, and the last update and state."""
    state, step, updates = tx.init(params), jax.jit(tx.update), None
    for gradient in gradients:
        updates, state = step(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params, updates, state


def factors_of(tx, gradient, steps=1):
    _, _, state = run(tx, gradient, [gradient] * steps)
    return optax.tree.get(state, "factors")


# The algorithm box


@pytest.mark.parametrize("root", [Eigh(), NewtonRoot()], ids=["eigh", "newton"])
@pytest.mark.parametrize("published", [True, False], ids=["published", "default"])
def test_ten_steps_are_the_box(published, root):
    params = new_params(SHAPES)
    gradients = gradients_of(params)
    variant = PUBLISHED if published else {}
    tx = fismo(0.1, mu=0.1, orthogonalizer=Exact(), inverse_root=root, **variant)
    actual, _, _ = run(tx, params, gradients)
    for name, w in params.items():
        expected = reference.fismo(
            np.asarray(w, np.float64),
            [np.asarray(g[name], np.float64) for g in gradients],
            learning_rate=0.1,
            mu=0.1,
            published=published,
        )
        # Newton adds 1e-6 of the mean eigenvalue, of which the least is a hundredth.
        tolerance = 1e-5 if root == Eigh() else 1e-4
        assert_close(actual[name], expected, tolerance, name)


def test_frozen_factors_are_muon():
    params = new_params(SHAPES)
    gradients = gradients_of(params, steps=3)
    exact = {"orthogonalizer": Exact(), "trust_region": UNSCALED}
    _, actual, _ = run(scale_by_fismo(gamma=1.0, **exact), params, gradients)
    muon = optax_ortho.scale_by_muon(momentum=ema(0.95), **exact)
    _, expected, _ = run(muon, params, gradients)
    assert_close(actual, expected, 1e-5, "gamma = 1")  # The SVD rounds.


@pytest.mark.parametrize("normalize_stats", [True, False])
def test_factors_are_positive_with_a_mean_eigenvalue_of_one(normalize_stats):
    gradient = random_like(jnp.zeros((7, 3)))
    factors = factors_of(scale_by_fismo(normalize_stats=normalize_stats), gradient, 5)
    for factor in (factors.p, factors.q):
        assert float(jnp.trace(factor)) == pytest.approx(len(factor), rel=1e-5)
        assert_close(factor, factor.T, 1e-6, "a factor transposed")
        assert float(jnp.linalg.eigvalsh(factor)[0]) > 1e-3


def test_the_update_has_the_promised_rms():
    params = new_params(SHAPES)
    _, updates, _ = run(fismo(0.5), params, [params])
    for u in updates.values():
        assert float(jnp.sqrt(jnp.mean(u**2))) == pytest.approx(0.1, rel=1e-5)


# What was published, and what is wrong with it


def test_the_published_factors_depend_on_the_size_of_the_gradient():
    x = random_like(jnp.zeros((32, 8)))

    def condition(size, **kwargs):
        return float(
            jnp.linalg.cond(factors_of(scale_by_fismo(**kwargs), size * x, 20).q)
        )

    assert condition(1e-4, mu=1e-2, **PUBLISHED) < 1.01  # It is Muon.
    assert condition(1e2, mu=1e-2, **PUBLISHED) > 1e4
    small, large = condition(1e-4), condition(1e2)
    assert small == pytest.approx(large, rel=1e-3) and 1.2 < small < 10


def test_small_damping_stalls_and_the_default_does_not():
    target = jnp.array([[3.0, -2.0], [1.0, 4.0]])

    def error(tx):
        def body(carry, _):
            x, state = carry
            updates, state = tx.update(2 * (x - target), state, x)
            return (x + updates, state), None

        start = jnp.zeros((2, 2)), tx.init(target)
        (x, _), _ = jax.jit(lambda c: jax.lax.scan(body, c, length=10_000))(start)
        return float(jnp.abs(x - target).max())

    labels = lambda path, leaf: "matrix"  # noqa: E731
    assert error(fismo(0.01, labels=labels)) < 0.02
    assert error(fismo(0.01, mu=0.01, labels=labels)) > 1


# Seldom renewed, and one-sided


@pytest.mark.parametrize("k", [3, np.int32(3)], ids=["int", "array"])
def test_factors_are_renewed_every_so_many_steps(k):
    params = new_params(SHAPES)
    tx = scale_by_fismo(update_every=k, orthogonalizer=ONE_STEP)
    state, step = tx.init(params), jax.jit(tx.update)
    changes = []
    for seed in range(7):
        before = optax.tree.get(state, "factors")
        _, state = step(random_like(params, seed), state)
        after = optax.tree.get(state, "factors")
        changes.append(not jnp.array_equal(before.p["tall"], after.p["tall"]))
    assert changes == [True, False, False, True, False, False, True]


def test_what_is_not_due_is_not_computed():
    params = new_params({"kernel": (4, 6), "stack": (3, 4, 6)})
    tx = scale_by_fismo(update_every=3)
    program = jax.make_jaxpr(tx.update)(params, tx.init(params))
    branches = [eqn for eqn in program.eqns if "eigh" in str(eqn)]
    assert {eqn.primitive.name for eqn in branches} == {"cond"}


def test_vmap_over_states_of_different_steps():
    x = random_like(jnp.zeros((4, 6)))
    tx = scale_by_fismo(update_every=2, orthogonalizer=ONE_STEP)
    first = tx.init(x)
    _, second = jax.jit(tx.update)(x, first)
    both = jax.tree.map(lambda *s: jnp.stack(s), first, second)
    together = jax.jit(jax.vmap(tx.update, in_axes=(None, 0)))(x, both)
    alone = [jax.jit(tx.update)(x, state) for state in (first, second)]
    expected = jax.tree.map(lambda *s: jnp.stack(s), *alone)
    assert_close(together, expected, 2e-5, "two states")  # Roundings, enlarged.


def test_a_long_side_keeps_the_identity():
    gradient = random_like(jnp.zeros((7, 3)))
    factors = factors_of(scale_by_fismo(max_dim=5), gradient)
    assert factors.q.shape == factors.q_root.shape == (1, 1)
    assert factors.p.shape == (3, 3) and float(jnp.linalg.cond(factors.p)) > 1.01


# Hard matrices


@pytest.mark.parametrize("root", [Eigh(), NewtonRoot()], ids=["eigh", "newton"])
@pytest.mark.parametrize("variant", [{}, {"mu": 0.0}, PUBLISHED], ids=str)
def test_low_rank_and_extreme_gradients_are_finite(variant, root):
    one = jnp.outer(jnp.arange(1.0, 5), jnp.arange(-2.0, 4))
    tx = scale_by_fismo(inverse_root=root, **variant)
    state, step = tx.init(one), jax.jit(tx.update)
    u, state = step(0 * one, state)
    assert not (u != 0).any()
    for gradient in 3 * [one] + [1e30 * one, 0 * one, 1e-30 * one]:
        u, state = step(gradient, state)
        for leaf in jax.tree.leaves((u, state)):
            assert bool(jnp.isfinite(leaf).all())
        assert bool((u != 0).any())


@pytest.mark.parametrize("root, error", [(Eigh(), 1e-3), (NewtonRoot(), 2e-3)])
def test_inverse_roots_are_as_exact_as_they_say(root, error):
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.normal(size=(32, 32)))
    for condition, limit in ((1e2, 3e-5), (1e4, error)):
        w = np.geomspace(1 / condition, 1, 32)
        actual = root.inverse_root(jnp.asarray((q * w) @ q.T, jnp.float32))
        assert_close(actual, (q / np.sqrt(w)) @ q.T, limit, f"{condition:.0e}")
    assert bool(jnp.isfinite(root.inverse_root(jnp.ones((4, 4)))).all())


# Misuse


@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        ({"beta": 1.0}, ValueError, "beta"),
        ({"gamma": 1.1}, ValueError, "gamma"),
        ({"mu": -1.0}, ValueError, "mu"),
        ({"update_every": 0}, ValueError, "update_every"),
        ({"inverse_root": 3}, TypeError, "inverse_root"),
    ],
)
def test_impossible_values_are_refused_at_once(kwargs, error, message):
    with pytest.raises(error, match=message):
        fismo(0.1, **kwargs)

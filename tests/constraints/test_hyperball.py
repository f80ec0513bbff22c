"""Matrices that stay on the sphere they began on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_ortho import MatrixAxes, Split, scale_by_muon
from optax_ortho.constraints import hyperball
from optax_ortho.states import FusedState
from optax_ortho.testing import assert_close, check_transformation, random_like
from optax_ortho.trust_region import normalized
from tests.reference import hyperball as reference

TREE = {"kernel": jnp.zeros((6, 4)), "stack": jnp.zeros((3, 4, 5))}
CONV = MatrixAxes((0, 1, 2), (3,))
FUSED = MatrixAxes(split=Split(1, (4, 2)))


def norms(x, axis=(-2, -1)):
    return np.linalg.norm(np.asarray(x, np.float64), axis=axis)


def train(tx, params, steps=10, gradient_of=random_like):
    """The parameters after some jitted steps."""
    state, step = tx.init(params), jax.jit(tx.update)
    for seed in range(steps):
        updates, state = step(gradient_of(params, seed), state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("rate", [1e-3, 0.1, 10.0])
def test_each_matrix_keeps_its_norm(rate):
    params = random_like(TREE)
    params["stack"] *= jnp.array([1e-3, 1.0, 1e3])[:, None, None]
    tx = optax.chain(
        normalized("matrix"), optax.scale_by_learning_rate(rate), hyperball()
    )
    after = train(tx, params)
    for key in TREE:
        # One rounding of float32: the norm at the start is in the state.
        np.testing.assert_allclose(norms(after[key]), norms(params[key]), rtol=5e-7)
        assert np.all(norms(after[key] - params[key]) > 1e-4 * norms(params[key]))


def test_muon_hyperball_keeps_norms():
    params = random_like(TREE)
    direction = scale_by_muon(trust_region=normalized("matrix"))
    tx = optax.chain(direction, optax.scale_by_learning_rate(0.1), hyperball())
    after = train(tx, params)
    for key in TREE:
        np.testing.assert_allclose(norms(after[key]), norms(params[key]), rtol=5e-7)


def test_the_learning_rate_is_the_length_of_the_step_over_that_of_the_weights():
    params = {"small": 1e-3 * random_like(TREE["kernel"])}
    params["large"] = 1e3 * random_like(jnp.zeros((50, 40)), seed=1)
    tx = optax.chain(
        normalized("matrix"), optax.scale_by_learning_rate(1e-2), hyperball()
    )
    gradient = random_like(params, seed=2)
    updates, _ = tx.update(gradient, tx.init(params), params)
    for key, w in params.items():
        u, along = np.asarray(gradient[key], float), np.asarray(w, float)
        u, along = u / norms(u), along / norms(along)
        # What points along the weights is projected away.
        across = 1e-2 * np.sqrt(1 - np.sum(u * along) ** 2)
        # The next power of the rate, and float32 roundings over the rate.
        assert norms(updates[key]) / norms(w) == pytest.approx(across, rel=1e-2)


def test_ten_steps_are_those_of_the_paper():
    params = random_like(TREE)
    rates = [0.3 / (1 + t) for t in range(10)]
    tx = optax.chain(
        normalized("matrix"),
        optax.scale_by_learning_rate(lambda t: 0.3 / (1 + t)),
        hyperball(),
    )
    actual = train(tx, params)

    def expected(pick):
        us = [np.asarray(pick(random_like(TREE, seed)), float) for seed in range(10)]
        return reference.hyperball(np.asarray(pick(params), float), us, rates)

    wanted = {
        "kernel": expected(lambda tree: tree["kernel"]),
        "stack": np.stack([expected(lambda t, i=i: t["stack"][i]) for i in range(3)]),
    }
    assert_close(actual, wanted, 2e-6, "ten steps")  # Ten roundings of float32.


def test_axes_say_what_a_matrix_is():
    params = {"conv": random_like(jnp.zeros((2, 2, 3, 5))), "fused": jnp.ones((4, 6))}
    params["fused"] = random_like(params["fused"]) * jnp.array([[1] * 4 + [100] * 2])
    tx = hyperball(lambda path, leaf: CONV if path == "conv" else FUSED)
    state = tx.init(params)
    shapes = jax.tree.map(jnp.shape, state.radius)
    assert shapes == {"conv": (), "fused": FusedState(((), ()))}
    after = train(tx, params)

    def parts(tree):
        return tree["conv"], tree["fused"][:, :4], tree["fused"][:, 4:]

    for new, old in zip(parts(after), parts(params), strict=True):
        np.testing.assert_allclose(
            *(norms(x, None) for x in (new, old)), rtol=5e-7
        )  # One rounding of float32.


def test_the_state_is_one_number_a_matrix():
    params = random_like(jax.tree.map(lambda x: x.astype(jnp.bfloat16), TREE))
    radius = hyperball().init(params).radius
    assert {k: (v.shape, v.dtype) for k, v in radius.items()} == {
        "kernel": ((), jnp.float32),
        "stack": ((3,), jnp.float32),
    }
    np.testing.assert_allclose(radius["stack"], norms(params["stack"]), rtol=1e-6)


def test_a_step_of_zero_changes_nothing():
    params = random_like(TREE)
    tx = hyperball()
    state = tx.init(optax.tree.scale(1.01, params))  # Not on their sphere.
    gradient = random_like(TREE, seed=1)
    gradient["stack"] = gradient["stack"].at[1].set(0)
    gradient["kernel"] = jnp.zeros_like(gradient["kernel"])
    updates, _ = jax.jit(tx.update)(gradient, state, params)
    moved = [bool(jnp.any(u != 0)) for u in (updates["kernel"], *updates["stack"])]
    assert moved == [False, True, False, True]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_a_step_that_is_not_finite_leaves_its_matrix(bad):
    params = optax.tree.scale(100.0, random_like(TREE))  # 3e38 overflows with them.
    steps = optax.tree.scale(0.01, random_like(TREE, seed=1))
    steps["stack"] = steps["stack"].at[1, 2, 3].set(bad)
    tx = hyperball()
    updates, state = jax.jit(tx.update)(steps, tx.init(params), params)
    assert jax.tree.all(jax.tree.map(lambda x: jnp.isfinite(x).all(), (updates, state)))
    moved = [bool(jnp.any(u != 0)) for u in (updates["kernel"], *updates["stack"])]
    assert moved == [True, True, False, True]


def test_a_step_whose_norm_is_too_large_for_float32_leaves_its_matrix():
    params, tx = {"kernel": jnp.eye(16) / 4}, hyperball()
    steps = {"kernel": jnp.full((16, 16), 5e37)}
    updates, _ = jax.jit(tx.update)(steps, tx.init(params), params)
    assert not updates["kernel"].any()


def test_zero_matrices_and_steps_to_the_center_are_safe():
    params = {"zero": jnp.zeros((3, 4)), "one": jnp.eye(4)}
    tx = hyperball()
    state = tx.init(params)
    steps = {"zero": jnp.ones((3, 4)), "one": -jnp.eye(4) / 2}  # A norm of 2.
    updates, _ = jax.jit(tx.update)(steps, state, params)
    assert_close(updates, optax.tree.zeros_like(params), 0, "nowhere to go")
    # Weights that ended at the origin are brought back.
    center = {"zero": jnp.zeros((3, 4)), "one": jnp.zeros((4, 4))}
    updates, _ = jax.jit(tx.update)(steps, state, center)
    np.testing.assert_allclose(norms(updates["one"]), 2, rtol=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_sizes_at_the_ends_of_float32(size):
    params = optax.tree.scale(size, random_like(TREE))
    updates, _ = hyperball().update(
        optax.tree.scale(0.1, random_like(TREE, seed=1)),
        hyperball().init(params),
        params,
    )
    after = optax.apply_updates(params, updates)
    for key in TREE:
        np.testing.assert_allclose(norms(after[key]), norms(params[key]), rtol=1e-6)


def test_bfloat16_keeps_norms_to_its_rounding():
    params = random_like({"kernel": jnp.zeros((64, 64), jnp.bfloat16)})
    tx = optax.chain(
        normalized("matrix"), optax.scale_by_learning_rate(0.05), hyperball()
    )
    after = train(tx, params, 50)
    # Unbiased roundings of 4096 entries; 50 steps without a memory of R gave 2e-3.
    np.testing.assert_allclose(
        norms(after["kernel"]), norms(params["kernel"]), rtol=1e-3
    )


def test_double_precision(float64):
    params = {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)))}
    tx = optax.chain(optax.scale_by_learning_rate(0.1), hyperball())
    after = train(tx, params)
    np.testing.assert_allclose(
        norms(after["kernel"]), norms(params["kernel"]), rtol=1e-15
    )


def test_vectors_are_left_out_by_a_mask():
    params = {"kernel": random_like(TREE["kernel"]), "bias": jnp.ones(4)}
    tx = optax.masked(hyperball(), {"kernel": True, "bias": False})
    step = {"kernel": jnp.ones((6, 4)), "bias": jnp.ones(4)}
    updates, _ = jax.jit(tx.update)(step, tx.init(params), params)
    np.testing.assert_array_equal(updates["bias"], 1)
    assert norms(params["kernel"] + updates["kernel"]) == pytest.approx(
        norms(params["kernel"])
    )


def test_the_contract():
    # Steps are of other seeds: one along the weights goes nowhere but by rounding.
    check_transformation(hyperball(), random_like(TREE, seed=9))


def test_a_leaf_that_is_no_matrix_is_named():
    with pytest.raises(ValueError, match="'bias'"):
        hyperball().init({"bias": jnp.ones(3)})


def test_parameters_are_needed():
    params = random_like(TREE)
    with pytest.raises(ValueError, match="params"):
        hyperball().update(params, hyperball().init(params))

"""Momentum with a decay that follows the gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optax_ortho import MatrixAxes, Split
from optax_ortho.momentum import adaptive_memory
from optax_ortho.testing import assert_close, random_like
from tests.reference import adaptive_memory as reference

PARAMS = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
STACK = {"stack": jnp.ones((2, 4, 3)), "kernel": jnp.ones((4, 3))}


def gradients(params, steps=8):
    """Gradients that agree in part, so that beta is neither 0 nor at its bound."""
    drift = random_like(params, 100)
    noise = [random_like(params, seed) for seed in range(steps)]
    return [jax.tree.map(lambda x, y: 0.3 * x + y, drift, n) for n in noise]


def run(tx, gradients) -> tuple[list, list]:
    """The memory and the beta after each gradient."""
    state, step, out, betas = tx.init(gradients[0]), jax.jit(tx.update), [], []
    for gradient in gradients:
        update, state = step(gradient, state)
        out.append(update)
        betas.append(state.memory_beta)
    return out, betas


def flat(tree) -> np.ndarray:
    leaves = [np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)]
    return np.concatenate(leaves)


@pytest.mark.parametrize("lam, beta_max", [(0.0, 0.9), (0.1, 0.9), (1.0, 0.5)])
def test_eight_steps_are_the_formula(lam, beta_max):
    gs = gradients(PARAMS)
    out, betas = run(adaptive_memory(lam, beta_max), gs)
    expected = reference.memories([flat(g) for g in gs], lam, beta_max)
    for i, (d, beta) in enumerate(expected):
        # Float32, and a beta that divides two differences.
        assert_close(flat(out[i]), d, 1e-5, f"d after step {i}")
        assert float(betas[i]) == pytest.approx(beta, abs=1e-5)
    assert any(0 < beta < beta_max for _, beta in expected)


@pytest.mark.parametrize("scope, parts", [("leaf", 2), ("matrix", 3)])
def test_a_scope_has_a_beta_of_its_own(scope, parts):
    gs = gradients(STACK)
    out, betas = run(adaptive_memory(scope=scope), gs)

    def cut(tree) -> list[Any]:
        layers = list(tree["stack"]) if scope == "matrix" else [tree["stack"]]
        return [tree["kernel"], *layers]

    assert sum(beta.size for beta in jax.tree.leaves(betas[-1])) == parts
    for i in range(parts):
        alone, _ = run(adaptive_memory(), [cut(g)[i] for g in gs])
        assert_close(cut(out[-1])[i], alone[-1], 1e-5, f"part {i}")


def test_blocks_of_a_fused_leaf_have_their_own():
    axes = MatrixAxes(split=Split(axis=1, sizes=(2, 4)))
    gs = gradients(jnp.ones((3, 6)))
    out, betas = run(adaptive_memory(scope="matrix", axes=lambda path, leaf: axes), gs)
    assert any(first != second for first, second in (beta.blocks for beta in betas))
    alone, _ = run(adaptive_memory(), [g[:, 2:] for g in gs])
    assert_close(out[-1][:, 2:], alone[-1], 1e-5, "the second block")


@settings(deadline=None, max_examples=10)
@given(st.floats(0, 5), st.floats(0, 0.99), st.integers(0, 1000))
def test_the_memory_is_a_mean_of_gradients(lam, beta_max, seed):
    gs = [jnp.asarray(g) for g in np.random.default_rng(seed).normal(size=(4, 5))]
    out, betas = run(TRACED(lam, beta_max), gs)
    low, high = np.min(gs, axis=0), np.max(gs, axis=0)
    assert (out[-1] >= low - 1e-5).all() and (out[-1] <= high + 1e-5).all()
    assert all(0 <= float(beta) <= beta_max + 1e-6 for beta in betas)


def TRACED(lam, beta_max):  # One compiled step for all examples.
    class Transformation:
        init = staticmethod(adaptive_memory().init)
        update = staticmethod(
            lambda g, s: STEP(jnp.float32(lam), jnp.float32(beta_max), g, s)
        )

    return Transformation


STEP = jax.jit(lambda lam, beta_max, g, s: adaptive_memory(lam, beta_max).update(g, s))


@pytest.mark.parametrize("scope", ["global", "leaf", "matrix"])
@pytest.mark.parametrize("factor", [1e-30, 1e-10, 1e10, 1e37])
def test_beta_is_free_of_scale(scope, factor):
    gs = gradients(STACK, steps=4)
    scaled = [jax.tree.map(lambda x: x * jnp.float32(factor / 10), g) for g in gs]
    expected, betas = run(adaptive_memory(scope=scope), gs)
    actual, scaled_betas = run(adaptive_memory(scope=scope), scaled)
    # A factor rounds the gradients.
    assert_close(scaled_betas[-1], betas[-1], 1e-5, "beta")
    back = jax.tree.map(lambda x: x / jnp.float32(factor / 10), actual[-1])
    assert_close(back, expected[-1], 1e-5, "the memory")


@pytest.mark.parametrize(
    "gs, expected",
    [
        ([[1.0, 2.0]] * 2, [1.0, 2.0]),  # d - g is zero.
        ([[0.0, 0.0]] * 3, [0.0, 0.0]),
        ([[1.0, 1.0], [0.0, 0.0]], [0.1 / 1.1, 0.1 / 1.1]),  # beta is 0, lam is not.
    ],
    ids=["the same", "zero", "then zero"],
)
def test_zero_denominators(gs, expected):
    out, betas = run(adaptive_memory(), [jnp.array(g) for g in gs])
    assert_close(out[-1], jnp.array(expected), 1e-6, "the memory")
    assert float(betas[-1]) == 0


def test_agreement_keeps_the_memory_and_reversal_drops_it():
    g = jnp.array([1.0, 0.0])
    _, agreeing = run(adaptive_memory(0.0), [g, 0.6 * g])
    _, reversed_ = run(adaptive_memory(0.0), [g, -0.6 * g])
    assert float(agreeing[-1]) == pytest.approx(0.9)
    assert float(reversed_[-1]) == pytest.approx(0.36 / 2.56)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_mu_dtype_is_that_of_the_memory(dtype):
    tx = adaptive_memory(mu_dtype=dtype)
    update, state = tx.update(jnp.ones(3), tx.init(jnp.ones(3)))
    assert state.memory.dtype == dtype and update.dtype == jnp.float32
    assert tx.init(jnp.ones(3)).memory_beta.dtype == jnp.float32


def test_half_precision_sums_do_not_saturate():
    # 2^12 ones add up to 256 in bfloat16.
    g = jnp.ones(2**12, jnp.bfloat16)
    _, betas = run(adaptive_memory(0.0), [g, -3 * g])
    assert float(betas[-1]) == pytest.approx(9 / 16)


def test_complex_gradients():
    gs = [jnp.array([1 + 1j, 2.0]), jnp.array([1 - 1j, 1.0])]
    _, betas = run(adaptive_memory(0.0), gs)
    # |g|^2 = 3 and |d - g|^2 = 4 + 1.
    assert float(betas[-1]) == pytest.approx(3 / 5)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"lam": -0.1}, "lam"),
        ({"beta_max": 1.0}, "beta_max"),
        ({"scope": "label"}, "scope must be one of global, leaf, matrix"),
    ],
    ids=str,
)
def test_impossible_values_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        adaptive_memory(**kwargs)

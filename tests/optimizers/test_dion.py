"""Dion: the box in float64, its error feedback, its ranks, and every argument."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ortho
from optax_ortho import MatrixAxes, Split, dion, scale_by_dion
from optax_ortho.orthogonalizers import (
    Householder,
    PowerIteration,
    ShiftedCholesky,
    svd_polar,
)
from optax_ortho.testing import assert_close, random_like
from optax_ortho.trust_region import SPECTRAL, UNSCALED
from tests.optimizers.training import gradients_of, trained
from tests.reference import dion as reference
from tests.rows import new_params

SHAPES = {"wide": (4, 6), "tall": (7, 3), "square": (5, 5)}


def float64(x):
    return np.asarray(x, np.float64)


def powers(state):
    """M and V of all matrices."""
    return optax.tree.get(state, "orthogonalize")


# The algorithm box


@pytest.mark.parametrize(
    "given, told",
    [
        ({}, {}),
        ({"rank_fraction": 0.5, "eps": 1e-2, "beta": 0.8}, {"eps": 1e-2, "beta": 0.8}),
        ({"weight_decay": 0.1, "rank_fraction": 0.3}, {"weight_decay": 0.1}),
    ],
    ids=["full rank", "half", "decay"],
)
def test_ten_steps_are_the_box(given, told):
    params = new_params(SHAPES)
    tx = dion(0.1, **given)
    first = powers(tx.init(params))
    actual = trained(tx, params)
    for name, w in params.items():
        gradients = gradients_of(params, name)
        v = float64(first.basis[name])
        expected = reference.dion(float64(w), gradients, v, 0.1, **told)
        # Float32 in ten QR decompositions.
        assert_close(actual[name], expected, 1e-5, name)


@pytest.mark.parametrize(
    "qr, fraction",
    [(None, 0.5), (ShiftedCholesky(), 0.5), (ShiftedCholesky(2, 0.0), 1.0)],
)
def test_every_qr_gives_one_step(qr, fraction):
    # Taller than the sketch of the randomized method has rows.
    params = new_params({"wide": (4, 6), "tall": (140, 8)})
    one = trained(scale_by_dion(rank_fraction=fraction, qr=qr), params, steps=3)
    two = trained(scale_by_dion(rank_fraction=fraction, qr=Householder()), params, 3)
    assert_close(one, two, 1e-4, "another QR")  # The first V makes a condition of 1e2.


def test_full_rank_becomes_the_polar_factor():
    u, s, vt = np.linalg.svd(np.random.default_rng(0).normal(size=(6, 4)), False)
    g = jnp.asarray(u * (s[0] * 2.0 ** -np.arange(4)) @ vt, jnp.float32)
    tx = scale_by_dion(trust_region=UNSCALED)
    step, state = jax.jit(tx.update), tx.init(g)
    first, state = step(g, state)
    for _ in range(20):
        last, state = step(g, state)
    # The angles fall by the ratio of the squares, 4, each step: 4^-20 = 1e-12.
    assert_close(last, svd_polar(g), 1e-5, "twenty steps with one gradient")
    assert float(jnp.abs(first - svd_polar(g)).max()) > 0.1


def test_at_full_rank_the_momentum_is_a_heavy_ball():
    params = new_params(SHAPES)
    tx = scale_by_dion(0.9)
    heavy = optax.trace(0.9)
    state, theirs = tx.init(params), heavy.init(params)
    step = jax.jit(tx.update)
    for seed in range(4):
        _, state = step(random_like(params, seed), state)
        _, theirs = heavy.update(random_like(params, seed), theirs)
    ours = powers(state).mu
    decayed = optax.tree.scale(0.9, theirs.trace)
    assert_close(ours, decayed, 1e-5, "M after the feedback is beta times M before")


def test_what_is_not_applied_stays_in_the_momentum():
    """The gradients' sum is M and what was taken out, in the space of each update."""
    beta, w = 0.9, new_params({"w": (6, 5)})["w"]
    tx = scale_by_dion(beta, rank_fraction=0.4, trust_region=UNSCALED)
    state, step = tx.init(w), jax.jit(tx.update)
    seen, taken = np.zeros(w.shape), np.zeros(w.shape)
    for seed in range(10):
        before, g = float64(powers(state).mu), random_like(w, seed)
        u, state = step(g, state)
        p, s, _ = np.linalg.svd(float64(u))
        p = p[:, :2]  # P spans the columns of the update.
        assert s[1] > 1e-3 and s[2] < 1e-5
        seen += float64(g)
        taken += (1 - beta) * p @ p.T @ (before + float64(g))
    # Float32 sums of ten matrices of order one.
    assert_close(taken + powers(state).mu, seen, 1e-5, "all gradients")
    assert np.abs(taken).max() > 0.1


# Ranks and shapes


@pytest.mark.parametrize(
    "fraction, multiple, shape, rank",
    [
        (1.0, 1, (4, 6), 4),
        (0.25, 1, (100, 400), 25),
        (0.3, 1, (4, 6), 2),  # Rounded up.
        (0.25, 16, (400, 100), 32),
        (0.9, 16, (20, 20), 20),  # Not above the shorter side.
        (1e-9, 1, (5, 7), 1),
    ],
)
def test_the_rank_is_a_part_of_the_shorter_side(fraction, multiple, shape, rank):
    assert PowerIteration(fraction, multiple).rank(*shape) == rank
    tx = scale_by_dion(rank_fraction=fraction, rank_multiple_of=multiple)
    state = powers(jax.eval_shape(tx.init, jnp.zeros(shape)))
    assert state.basis.shape == (min(shape), rank) and state.mu.shape == shape


@pytest.mark.parametrize("fraction, rms", [(None, 0.2), (0.25, 0.1)])
def test_the_update_has_the_promised_rms(fraction, rms):
    params = new_params({"a": (8, 16), "b": (24, 4)})
    tx = dion(0.5, rank_fraction=fraction)
    updates, _ = jax.jit(tx.update)(random_like(params), tx.init(params))
    for u in updates.values():
        assert float(jnp.sqrt(jnp.mean(u**2))) == pytest.approx(rms * 0.5, rel=1e-5)


def test_the_authors_scale():
    params = new_params({"w": (4, 16)})
    ours = trained(scale_by_dion(trust_region=SPECTRAL), params, 1)["w"] - params["w"]
    plain = trained(scale_by_dion(trust_region=UNSCALED), params, 1)["w"] - params["w"]
    assert_close(ours, 2 * plain, 1e-6, "sqrt(fan_out / fan_in)")


def test_two_power_iterations_come_nearer():
    g = random_like(jnp.zeros((12, 9)))

    def left_out(iterations):
        tx = scale_by_dion(rank_fraction=0.3, power_iterations=iterations)
        _, state = jax.jit(tx.update)(g, tx.init(g))
        return float(jnp.linalg.norm(powers(state).mu))

    best = np.linalg.svd(float64(g), compute_uv=False)
    # Rank 3, of which beta = 0.95 stays.
    best = np.hypot(0.95 * np.linalg.norm(best[:3]), np.linalg.norm(best[3:]))
    assert best * (1 - 1e-6) < left_out(3) < left_out(1)


def test_a_stack_is_its_matrices():
    stack = random_like(jnp.zeros((3, 4, 6)))
    tx = scale_by_dion(rank_fraction=0.5)
    together, _ = jax.jit(tx.update)(stack, tx.init(stack))
    for i in range(3):
        alone, _ = jax.jit(tx.update)(stack[i], tx.init(stack[i]))
        assert_close(together[i], alone, 1e-5, "one of a stack")  # Two programs.


def test_a_fused_leaf_is_its_blocks():
    fused = random_like(jnp.zeros((5, 9)))
    split = MatrixAxes(split=Split(axis=1, sizes=(6, 3)))
    tx = scale_by_dion(rank_fraction=0.5, axes=lambda path, leaf: split)
    step, state = jax.jit(tx.update), tx.init(fused)
    blocks, alone = (fused[:, :6], fused[:, 6:]), scale_by_dion(rank_fraction=0.5)
    theirs = alone.init(blocks)
    for _ in range(2):
        together, state = step(fused, state)
        apart, theirs = jax.jit(alone.update)(blocks, theirs)
    assert_close(together, jnp.concatenate(apart, 1), 1e-5, "blocks")  # Two programs.


# Accidents


def test_a_matrix_of_low_rank_gets_no_noise():
    """In the published form the other columns of P V^T consist of rounding errors."""
    rng = np.random.default_rng(0)
    g = np.outer(rng.normal(size=64), rng.normal(size=32))
    g = jnp.asarray(g, jnp.float32)

    def third_update(**arguments):
        tx = scale_by_dion(trust_region=UNSCALED, **arguments)
        state, step = tx.init(g), jax.jit(tx.update)
        for _ in range(3):
            u, state = step(g, state)
        return u

    g_unit = g / jnp.linalg.norm(g)
    assert_close(third_update(), g_unit, 1e-5, "a gradient of rank one")
    published = third_update(eps=1e-8, cutoff=0.0)
    assert float(jnp.linalg.norm(published)) > 3  # 5.6 in the authors' arithmetic.


def test_rows_without_a_gradient_do_not_move():
    g = random_like(jnp.zeros((8, 5))).at[2:6].set(0)
    tx = scale_by_dion()
    updates, _ = jax.jit(tx.update)(g, tx.init(g))
    # Roundings of the QR, of order 1e-7 times the other entries.
    assert float(jnp.abs(updates[2:6]).max()) < 1e-5 < float(jnp.abs(updates).max())


def test_zero_then_a_gradient():
    g = random_like(jnp.zeros((4, 6)))
    tx = scale_by_dion(rank_fraction=0.5)
    step, state = jax.jit(tx.update), tx.init(g)
    fresh, _ = step(g, state)
    for _ in range(3):
        zero, state = step(jnp.zeros_like(g), state)
        assert not zero.any()
    late, _ = step(g, state)
    assert_close(late, fresh, 0, "after steps with zero")


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_16_bit_parameters(dtype):
    params = new_params(SHAPES, dtype)
    tx = dion(0.1, rank_fraction=0.5, mu_dtype=jnp.float32)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    step, state, wide_state = jax.jit(tx.update), tx.init(params), tx.init(wide)
    for seed in range(5):
        # The same gradients, exactly.
        g = random_like(params, seed)
        exact = jax.tree.map(lambda x: x.astype(jnp.float32), g)
        updates, state = step(g, state, params)
        expected, wide_state = step(exact, wide_state, wide)
    assert jax.tree.leaves(updates)[0].dtype == dtype
    # Three roundings by eps / 2, of the factor and two scales: M and V are float32.
    assert_close(
        jax.tree.map(lambda x: x.astype(jnp.float32), updates),
        expected,
        1.5 * float(jnp.finfo(dtype).eps),
        "a 16-bit update",
    )
    assert powers(tx.init(params)).basis["wide"].dtype == jnp.float32


# Construction


def test_the_start_is_of_the_seed():
    w = jnp.zeros((4, 6))
    one, same, other = (
        powers(scale_by_dion(seed=s).init(w)).basis for s in (None, 0, 1)
    )
    assert_close(one, same, 0, "the default seed")
    assert float(jnp.abs(one - other).max()) > 0.1


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"rank_fraction": 0.0}, "rank_fraction"),
        ({"rank_fraction": 1.5}, "rank_fraction"),
        ({"rank_multiple_of": 0}, "rank_multiple_of"),
        ({"power_iterations": 0}, "power_iterations"),
        ({"beta": 1.0}, "beta"),
        ({"eps": -1.0}, "eps"),
        ({"cutoff": -1.0}, "cutoff"),
        ({"learning_rate": -1.0}, "learning_rate"),
    ],
)
def test_impossible_numbers_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        dion(**{"learning_rate": 0.1, **arguments}).init({"kernel": jnp.ones((2, 3))})


def test_a_rank_that_was_injected_is_refused():
    tx = optax.inject_hyperparams(dion)(0.1, rank_fraction=0.5)
    with pytest.raises(TypeError, match="static_args"):
        tx.init({"kernel": jnp.ones((2, 3))})


def test_a_qr_without_a_method_is_refused():
    with pytest.raises(TypeError, match="method `qr`"):
        dion(0.1, qr=jnp.linalg.qr)


def test_a_summary_knows_it():
    params = {"kernel": jnp.ones((8, 4)), "bias": jnp.ones(4)}
    said = str(optax_ortho.summary(dion(0.1, rank_fraction=0.5), params))
    assert "8x4" in said and "PowerIteration(rank_fraction=0.5" in said
    assert "No leaf" not in said

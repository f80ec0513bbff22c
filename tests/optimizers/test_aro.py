"""ARO: the box in float64, its special cases, and what was published."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ortho
from optax_ortho import MatrixAxes, Split, aro, scale_by_aro
from optax_ortho.bases import ResidualStream, in_rotation
from optax_ortho.momentum import ema
from optax_ortho.normalizers import row_norm, second_moment, sinkhorn
from optax_ortho.orthogonalizers import Exact, Householder, ShiftedCholesky
from optax_ortho.testing import assert_close, random_like
from optax_ortho.trust_region import match_rms
from tests.optimizers.training import gradient_at, gradients_of, trained
from tests.reference import aro as reference
from tests.rows import new_params

SHAPES = {"square": (5, 5), "tall": (7, 3), "wide": (4, 6)}


def first_step(tx, gradient) -> Any:
    return jax.jit(tx.update)(gradient, tx.init(gradient))


# The algorithm box


@pytest.mark.parametrize(
    "base, f",
    [
        (None, reference.sinkhorn),
        (sinkhorn(4, simultaneous=True), lambda x: reference.simultaneous(x, 4)),
        (row_norm(), reference.row_norm),
        (optax.scale_by_sign(), np.sign),
    ],
    ids=["sinkhorn", "simultaneous", "row_norm", "sign"],
)
def test_ten_steps_are_the_box(base, f):
    params = new_params(SHAPES)
    if f is np.sign:  # Rows of few signs are often equal, and then Q is free.
        params = new_params({"long": (3, 24)})
    tx = aro(0.1, base=base, weight_decay=0.1)
    actual = trained(tx, params)
    for name, w in params.items():
        expected = reference.aro(
            np.asarray(w, np.float64),
            gradients_of(params, name),
            learning_rate=0.1,
            f=f,
            weight_decay=0.1,
        )
        # The last column of a square Q has the condition number of M f(M)^T.
        tolerance = 1e-4 if name == "square" else 1e-5
        assert_close(actual[name], expected, tolerance, name)


def test_adam_is_the_box():
    gradients = [gradient_at({"w": jnp.zeros((3, 5))}, step) for step in range(4)]
    tx = scale_by_aro(0.9, base=second_moment(0.8))
    state, step = tx.init(gradients[0]), jax.jit(tx.update)
    m, v, r = np.zeros((3, 5)), np.zeros((3, 5)), np.eye(3)
    for gradient in gradients:
        updates, state = step(gradient, state)
        m = 0.9 * m + 0.1 * np.asarray(gradient["w"], np.float64)
        x = r.T @ m
        r, _ = np.linalg.qr(m @ (x / np.sqrt(0.8 * v + 0.2 * x**2)).T)
        # V has no say in the signs of columns, and belongs to those that R has here.
        r = r * np.sign((r * optax.tree.get(state, "rotation")["w"]).sum(0))
        v = 0.8 * v + 0.2 * (r.T @ m) ** 2
        o = r @ (r.T @ m / np.sqrt(v))
        expected = 0.2 * o / np.sqrt(np.mean(o**2))
        assert_close(updates["w"], expected, 1e-5, "ARO-Adam")  # Float32 roundings.


def test_the_update_has_the_promised_rms():
    params = new_params(SHAPES)
    updates, _ = first_step(aro(0.5), params)
    for u in updates.values():
        assert float(jnp.sqrt(jnp.mean(u**2))) == pytest.approx(0.1, rel=1e-5)


# Special cases


def test_rotating_what_knows_no_basis_is_muon():
    params = new_params(SHAPES)
    rotated = scale_by_aro(base=optax_ortho.orthogonalize(Exact()), trust_region=None)
    muon = optax_ortho.scale_by_muon(momentum=ema(0.95), orthogonalizer=Exact())
    actual, _ = first_step(rotated, params)
    expected, _ = first_step(muon, params)
    assert_close(actual, expected, 1e-5, "ARO of an orthogonalizer")


def test_row_norm_iterates_towards_muon():
    x = new_params({"w": (4, 6)})["w"]
    tx = in_rotation(row_norm())
    state, step = tx.init(x), jax.jit(tx.update)
    for _ in range(300):
        u, state = step(x, state)
    polar = Exact().orthogonalize(x)
    # U has rows of RMS 1 in the basis, and power iteration has converged.
    assert_close(u / jnp.sqrt(6), polar, 1e-4, "the fixed point")


# What was published, and what is wrong with it


def parabola(tx, steps=10_000):
    target = jnp.array([[3.0, -2.0], [1.0, 4.0]])

    def body(carry, _):
        x, state = carry
        updates, state = tx.update(2 * (x - target), state, x)
        return (x + updates, state), None

    x = jnp.zeros((2, 2))
    (x, _), _ = jax.jit(lambda c: jax.lax.scan(body, c, length=steps))((x, tx.init(x)))
    return float(jnp.abs(x - target).max())


def test_odd_simultaneous_rounds_stall_and_the_default_does_not():
    labels = lambda path, leaf: "matrix"  # noqa: E731
    base = sinkhorn(5, simultaneous=True)
    published = aro(0.01, base=base, cutoff=0.0, labels=labels)
    assert parabola(published) > 1
    assert parabola(aro(0.01, labels=labels)) < 0.02


def test_one_simultaneous_round_inverts_a_diagonal():
    x = jnp.diag(jnp.array([1.0, 4.0]))
    y, _ = first_step(sinkhorn(1, simultaneous=True), x)
    assert float(y[0, 0] / y[1, 1]) == pytest.approx(4)
    y, _ = first_step(sinkhorn(1), x)
    assert float(y[0, 0] / y[1, 1]) == pytest.approx(1)


@pytest.mark.parametrize("cutoff, lower, upper", [(0.0, 0.1, 9), (1e-5, 0, 1e-3)])
def test_the_longer_side_needs_the_cutoff(cutoff, lower, upper):
    # Rounding alone, here of a tiny perturbation, moves the update by its own size.
    x = random_like(jnp.zeros((32, 4)))
    tx = scale_by_aro(side="fan_in", cutoff=cutoff)
    one, _ = first_step(tx, x)
    two, _ = first_step(tx, x * (1 + 1e-6 * random_like(x, seed=1)))
    difference = jnp.linalg.norm(one - two) / jnp.linalg.norm(one)
    assert lower <= difference <= upper


def test_dion_scales_an_rms_of_one_like_a_spectral_norm_of_one():
    x = random_like(jnp.zeros((4, 9)))
    u, _ = first_step(scale_by_aro(trust_region=match_rms(0.2)), x)
    assert float(jnp.sqrt(jnp.mean(u**2))) == pytest.approx(0.2 * 3, rel=1e-3)


# Sides


def test_the_short_side_is_rotated():
    params = {**new_params(SHAPES), "fused": jnp.ones((4, 10))}
    axes = lambda path, leaf: MatrixAxes(  # noqa: E731
        split=Split(1, (4, 3, 3)) if path == "fused" else None
    )
    state = scale_by_aro(axes=axes).init(params)
    r = optax.tree.get(state, "rotation")
    assert r["square"].shape == (5, 5) and r["tall"].shape == (3, 3)
    assert [x.shape for x in r["fused"].blocks] == [(4, 4), (3, 3), (3, 3)]


def test_a_transposed_matrix_has_the_transposed_update():
    x = random_like(jnp.zeros((3, 5)))
    for side, other in (("short", "short"), ("fan_in", "fan_out")):
        u, _ = first_step(scale_by_aro(side=side), x)
        v, _ = first_step(scale_by_aro(side=other), x.T)
        assert_close(v.T, u, 1e-5, side)


def test_the_residual_stream_is_rotated():
    params = {"q": jnp.ones((4, 6)), "o_proj": jnp.ones((6, 4)), "up": jnp.ones((4, 2))}
    state = scale_by_aro(side=ResidualStream()).init(params)
    shapes = {x.shape for x in jax.tree.leaves(optax.tree.get(state, "rotation"))}
    assert shapes == {(4, 4)}


# Hard matrices


BASES = ("sinkhorn", "row_norm", "second_moment")


@pytest.mark.parametrize("qr", [Householder(), ShiftedCholesky()], ids=repr)
@pytest.mark.parametrize("base", [None, row_norm(), second_moment()], ids=BASES)
def test_low_rank_and_extreme_gradients_are_finite(qr, base):
    one = jnp.outer(jnp.arange(1.0, 5), jnp.arange(-2.0, 4))
    tx = scale_by_aro(base=base, qr=qr)
    state, step = tx.init(one), jax.jit(tx.update)
    for gradient in (0 * one, one, 1e30 * one, 0 * one, 1e-30 * one):
        u, state = step(gradient, state)
        assert bool(jnp.isfinite(u).all())
        size = float(jnp.sqrt(jnp.mean(u**2)))
        assert size == pytest.approx(0.2, rel=1e-4) or not (gradient != 0).any()
    r = optax.tree.get(state, "rotation")
    assert bool(jnp.isfinite(r).all())


def test_cholesky_is_householder():
    params = new_params(SHAPES)
    one, _ = first_step(scale_by_aro(qr=Householder()), params)
    two, _ = first_step(scale_by_aro(qr=ShiftedCholesky(passes=3)), params)
    # The shift is 1e-7, and a column of a square matrix has a hundred times the error.
    assert_close(two, one, 1e-3, "Cholesky")


# Misuse


@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        ({"beta": 1.0}, ValueError, "beta"),
        ({"cutoff": 1.0}, ValueError, "cutoff"),
        ({"side": "long"}, ValueError, "side"),
        ({"side": 3}, TypeError, "side"),
        ({"base": abs}, TypeError, "base"),
        ({"qr": 3}, TypeError, "qr"),
    ],
)
def test_impossible_values_are_refused_at_once(kwargs, error, message):
    with pytest.raises(error, match=message):
        aro(0.1, **kwargs)
    with pytest.raises(ValueError, match="rounds"):
        sinkhorn(0)


def test_a_summary_names_the_rotation():
    summary = optax_ortho.summary(aro(0.1), {"kernel": jnp.ones((4, 6))})
    assert summary.orthogonalized == 1 and "Rotation" in str(summary)

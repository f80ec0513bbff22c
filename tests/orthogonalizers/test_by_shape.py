"""Coefficients by shape: the fit, the committed table, and the authors' own."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from optax_ortho.orthogonalizers import (
    COEFFICIENTS,
    FITTED,
    PUBLISHED,
    NewtonSchulz,
    ShapeCoefficients,
    ShapedNewtonSchulz,
)
from optax_ortho.orthogonalizers.coefficients import apply_rows
from optax_ortho.orthogonalizers.fit import fit, momentum, noise, relative_error, room
from optax_ortho.orthogonalizers.tables import KELLER_JORDAN
from optax_ortho.testing import check_orthogonalizer

TABLED = list(FITTED.tables)


@pytest.mark.parametrize("shape", TABLED, ids=str)
def test_the_table_is_stable_and_better_than_one_triple_for_all(shape):
    table = FITTED.of(*shape)
    assert room(table.rows[0]) >= 0.02
    assert table.certificate().bounded
    for spectrum in (noise(*shape), momentum(shape[0])):
        ours, theirs = (
            relative_error(rows, spectrum) for rows in (table, KELLER_JORDAN)
        )
        assert ours < 0.9 * theirs


@pytest.mark.parametrize("shape", [(768, 768), (768, 3072), (4096, 14336)], ids=str)
def test_the_table_is_what_the_fit_gives(shape):
    # Four decimals were kept.
    np.testing.assert_allclose(fit(*shape).rows, FITTED.of(*shape).rows, atol=2e-3)


@pytest.mark.parametrize(
    "shape", [(64, 64), (96, 160), (100, 5000), (256, 1024), (8192, 8192)], ids=str
)
def test_any_other_shape_is_fitted(shape):
    table = ShapedNewtonSchulz().at(*reversed(shape)).coefficients
    assert table is fit(*shape) and table is not KELLER_JORDAN
    assert room(table.rows[0]) >= 0.02 and table.certificate().bounded


def test_small_shapes_keep_keller_jordans():
    assert FITTED.of(63, 1000) is KELLER_JORDAN


def test_the_noise_is_that_of_random_matrices():
    values, weights = noise(96, 384)
    random = np.random.default_rng(0).standard_normal((96, 384))
    found = np.linalg.svd(random / np.linalg.norm(random), compute_uv=False)
    assert weights.sum() == pytest.approx(1)
    for power in (1, 2, 4):
        # One matrix of 96 values.
        assert weights @ values**power == pytest.approx(np.mean(found**power), rel=0.02)


def test_a_random_matrix_comes_out_as_the_fit_says():
    random = np.random.default_rng(1).standard_normal((96, 384))
    for table in (fit(96, 384), KELLER_JORDAN):
        y = NewtonSchulz(table).orthogonalize(jnp.asarray(random, jnp.float32))
        values = np.linalg.svd(y, compute_uv=False)
        error = np.sqrt(np.mean((values - 1) ** 2))
        # A single matrix does not have the extreme singular values of the law.
        assert error == pytest.approx(
            relative_error(table, noise(96, 384)), rel=0.3, abs=5e-3
        )


@pytest.mark.parametrize(
    "name, expected",
    [
        ("root_2048x2048", -0.00104),
        ("root_2048x3072", 0.01075),
        ("root_2048x8192", 0.05024),
        ("root_2048x16384", 0.05401),
    ],
)
def test_the_room_of_the_published_triples(name, expected):
    assert room(COEFFICIENTS[name].rows[0]) == pytest.approx(expected, abs=2e-5)


def test_the_published_square_triple_diverges():
    row = COEFFICIENTS["root_2048x2048"].rows[0]
    s = np.linspace(0, 1, 100_001)
    most = [apply_rows([row] * steps, s).max() for steps in (5, 6, 8)]
    assert most[0] == pytest.approx(3.31, abs=0.01)
    assert most[1] > 600 and most[2] > 1e70
    with pytest.raises(ValueError, match="not safe"):
        ShapedNewtonSchulz(PUBLISHED).at(2048, 2048)


def test_a_shape_may_have_coefficients_of_ones_own():
    mine = COEFFICIENTS["polar_express_8"]
    shapes = ShapeCoefficients("mine", {(4, 6): mine}, lambda m, n: KELLER_JORDAN)
    method = ShapedNewtonSchulz(shapes, NewtonSchulz)
    assert method.at(6, 4) == NewtonSchulz(mine)
    assert method.method((5, 5), jnp.float32, "cpu") == NewtonSchulz()
    check_orthogonalizer(method, shapes=[(4, 6)])


def test_it_hashes_compares_and_prints():
    method = ShapedNewtonSchulz()
    assert (
        hash(method) == hash(dataclasses.replace(method))
        and method == ShapedNewtonSchulz()
    )
    assert "FITTED" in repr(method)


def test_a_name_is_not_a_table_of_shapes():
    with pytest.raises(TypeError, match="ShapeCoefficients"):
        ShapedNewtonSchulz("keller_jordan")  # type: ignore

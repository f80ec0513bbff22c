"""Divisors: large enough, and computed without overflow."""

import jax.numpy as jnp
import numpy as np
import pytest

from optax_ortho.orthogonalizers import (
    NewtonSchulz,
    aol,
    clamped_frobenius,
    frobenius,
    schatten4,
)
from optax_ortho.orthogonalizers.prescale import normalized, to_unit
from tests.orthogonalizers.methods import SPECTRA, normal, with_spectrum

PRESCALINGS = [frobenius, clamped_frobenius, schatten4, aol]


@pytest.mark.parametrize("prescale", PRESCALINGS)
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", [(6, 18), (18, 6)])
def test_brings_singular_values_to_one_or_below(prescale, spectrum, shape):
    x = with_spectrum(shape, SPECTRA[spectrum](6)).astype(np.float32)
    y = normalized(jnp.asarray(x), prescale, 0.0, 1.0, jnp.float32)
    assert np.linalg.norm(np.asarray(y, np.float64), 2) < 1 + 1e-6  # Rounding.


def test_schatten4_is_between_the_spectral_and_the_frobenius_norm():
    x = normal((6, 18))
    spectral = np.linalg.norm(np.asarray(x), 2)
    assert spectral <= float(schatten4(x)[0, 0]) <= float(frobenius(x)[0, 0])


@pytest.mark.parametrize(
    ("prescale", "eps", "divisor"),
    [(frobenius, 2, 7), (clamped_frobenius, 2, 5), (clamped_frobenius, 8, 8)],
)
def test_eps(prescale, eps, divisor):
    assert prescale(jnp.array([[3.0, 4.0]]), eps)[0, 0] == divisor


@pytest.mark.parametrize("size", [1.0, 1e-7, 1e-20, 1e20])
def test_eps_is_in_the_units_of_the_matrix(size):
    x = size * jnp.array([[3.0, 4.0]])
    y = normalized(x, frobenius, size, 1.0, jnp.float32)
    np.testing.assert_allclose(y, [[0.5, 4 / 6]], rtol=1e-6)  # A few roundings.


def test_bound_multiplies_the_norm_alone():
    y = normalized(jnp.array([[3.0, 4.0]]), frobenius, 2.0, 1.2, jnp.float32)
    np.testing.assert_allclose(y, [[3 / 8, 0.5]], rtol=1e-6)  # A few roundings.


@pytest.mark.parametrize("exponent", [-126, -125, -60, -1, 0, 1, 60, 126, 127])
def test_to_unit_changes_no_digit(exponent):
    digits = np.array([[1.1, -1.9], [1.3, 1.0]], np.float32)
    scaled = jnp.asarray(np.ldexp(digits, exponent))
    y, power = to_unit(scaled)
    assert np.frexp(float(power[0, 0]))[0] == 0.5  # A power of two.
    assert float(power[0, 0]) >= np.finfo(np.float32).tiny
    assert 1 <= jnp.abs(y).max() < 4
    np.testing.assert_array_equal(np.frexp(y)[0], np.frexp(digits)[0])


@pytest.mark.parametrize("value", [0.0, 1e-45, np.inf])
def test_to_unit_takes_anything(value):
    _, power = to_unit(jnp.full((2, 3), value, jnp.float32))
    assert jnp.isfinite(power).all() and (power > 0).all()


def test_to_unit_of_each_matrix(float64):
    x = jnp.ones((2, 3, 4)) * jnp.array([2.0**-900, 2.0**900])[:, None, None]
    y, power = to_unit(x)
    assert power.shape == (2, 1, 1)
    np.testing.assert_array_equal(y, 1)


def test_norms_of_half_precision_are_in_float32():
    x = jnp.full((256, 256), 300, jnp.float16)  # Its sum of squares is 5.9e9.
    y = NewtonSchulz().orthogonalize(x).astype(jnp.float32)
    # Rank one: every entry of the polar factor is 1/256, times at most 1.21.
    assert 0.6 / 256 < y.min() <= y.max() < 1.21 / 256


def test_aol_changes_the_polar_factor():
    x = jnp.array([[1.0, 0.0], [1.0, 1.0]])
    polar = NewtonSchulz("polar_express_8").orthogonalize(x)
    other = NewtonSchulz("polar_express_8", prescale=aol).orthogonalize(x)
    assert 0.02 < jnp.abs(polar - other).max() < 0.5

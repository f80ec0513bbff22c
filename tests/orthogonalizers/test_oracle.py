"""Against the iterations in float64 NumPy, as the papers write them."""

import jax.numpy as jnp
import numpy as np
import pytest

from optax_ortho.orthogonalizers import (
    COEFFICIENTS,
    Exact,
    GramNewtonSchulz,
    NewtonSchulz,
    clamped_frobenius,
    qdwh_polar,
)
from tests.orthogonalizers.methods import SPECTRA, difference, with_spectrum
from tests.reference import newton_schulz as reference

SAFE = [name for name, table in COEFFICIENTS.items() if table.certificate().bounded]


# A float32 rounding, 6e-8, is multiplied by the derivative of the steps that follow, at
# most 90 at these matrices, and by the terms of one step, below 10; but 25 for "cans",
# whose largest singular value moreover meets its divergence, as for "root_2048x2048".
TOLERANCE = {name: 2e-5 for name in COEFFICIENTS} | {
    "cans": 3e-4,
    "root_2048x2048": 3e-4,
}


def matrix(shape, spectrum):
    return with_spectrum(shape, SPECTRA[spectrum](min(shape)))


def float32(x):
    return jnp.asarray(x.astype(np.float32))


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_newton_schulz_in_float32(name):
    method = NewtonSchulz(name, unsafe=True)
    table = method.coefficients
    x = matrix((6, 18), "harmonic")
    expected = reference.newton_schulz(x, table.for_steps(method.steps), table.bound)
    assert difference(method.orthogonalize(float32(x)), expected) < TOLERANCE[name]


@pytest.mark.parametrize("name", ["keller_jordan", "polar_express", "cubic5"])
@pytest.mark.parametrize("shape", [(6, 18), (18, 6)])
def test_newton_schulz_in_float64(name, shape, float64):
    method = NewtonSchulz(name, eps=1e-7)
    table = method.coefficients
    x = 1e-6 * matrix(shape, "condition_1e4")
    rows = table.for_steps(method.steps)
    expected = reference.newton_schulz(x, rows, table.bound, 1e-7)
    # The same arithmetic in another order: 1e-16 times a slope of 1e3.
    assert difference(method.orthogonalize(jnp.asarray(x)), expected) < 1e-12


def test_complex_newton_schulz(float64):
    x = matrix((6, 18), "harmonic") + 1j * matrix((6, 18), "condition_1e2")
    method = NewtonSchulz()
    rows = method.coefficients.for_steps(5)
    expected = reference.newton_schulz(x, rows)
    # As in float64.
    assert difference(method.orthogonalize(jnp.asarray(x)), expected) < 1e-12


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_other_numbers_of_steps(steps):
    method = NewtonSchulz("you5", steps)
    rows = COEFFICIENTS["you5"].rows
    expected_rows = (rows + (rows[-1],) * 2)[:steps]
    x = matrix((6, 18), "harmonic")
    expected = reference.newton_schulz(x, expected_rows)
    assert difference(method.orthogonalize(float32(x)), expected) < TOLERANCE["you5"]


def test_clamped_norm():
    """torch.optim.Muon divides by max(|X|, eps): a small matrix stays small."""
    x = matrix((6, 18), "harmonic")
    method = NewtonSchulz(prescale=clamped_frobenius, eps=float(2 * np.linalg.norm(x)))
    rows = COEFFICIENTS["keller_jordan"].for_steps(5)
    expected = reference.newton_schulz(x, rows, bound=2.0)
    assert difference(method.orthogonalize(float32(x)), expected) < 2e-5  # As for you5.


@pytest.mark.parametrize("name", SAFE)
def test_gram_is_newton_schulz(name):
    x = float32(matrix((6, 18), "harmonic"))
    gram = GramNewtonSchulz(name).orthogonalize(x)
    # R is rounded as X is, and the condition is 6.
    assert difference(gram, NewtonSchulz(name).orthogonalize(x)) < TOLERANCE[name]


@pytest.mark.parametrize("name", ["keller_jordan", "deepseek_v4", "polar_express_10"])
def test_gram_of_a_bad_condition(name):
    x = matrix((24, 72), "condition_1e4")
    table = COEFFICIENTS[name]
    expected = reference.newton_schulz(x, table.for_steps(table.steps), table.bound)
    # Values at 1e-4 are at 1e-8 in R, below its rounding. One restart in ten steps
    # would give 1e-2.
    gram = GramNewtonSchulz(name).orthogonalize(float32(x))
    assert difference(gram, expected) < 2e-3


@pytest.mark.parametrize("restarts", [(), (2,), (1, 3), (0, 1, 2, 3, 4)])
def test_gram_in_float64(restarts, float64):
    table = COEFFICIENTS["polar_express"]
    x = matrix((6, 18), "harmonic")
    method = GramNewtonSchulz(table, restarts=restarts)
    expected = reference.gram_newton_schulz(x, table.rows, restarts, table.bound)
    plain = reference.newton_schulz(x, table.rows, table.bound)
    # 1e-16 times a slope of 1e3, with R squared once more.
    assert difference(expected, plain) < 1e-11
    assert difference(method.orthogonalize(jnp.asarray(x)), expected) < 1e-11


@pytest.mark.parametrize("shape", [(6, 18), (18, 6), (6, 6)])
@pytest.mark.parametrize("method", [Exact(), Exact(qdwh_polar)], ids=["svd", "qdwh"])
def test_exact(method, shape):
    x = matrix(shape, "condition_1e2")
    # A float32 rounding times the condition.
    got = method.orthogonalize(float32(x))
    assert difference(got, reference.polar(x)) < 5e-5


def test_exact_keeps_a_null_space():
    x = matrix((6, 18), "flat")
    x[3:] = x[:3]
    got = Exact().orthogonalize(float32(x))
    assert difference(got, reference.polar(x)) < 1e-5  # A few float32 roundings.


def test_many_steps_reach_the_polar_factor():
    x = matrix((6, 18), "condition_1e2")
    got = NewtonSchulz("deepseek_v4").orthogonalize(float32(x))
    assert difference(got, reference.polar(x)) < 2e-3  # Its last rows leave 1e-3.

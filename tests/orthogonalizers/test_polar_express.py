"""The recipe gives the tables that its users have published."""

import numpy as np
import pytest

from optax_ortho.orthogonalizers import COEFFICIENTS, polar_express
from optax_ortho.orthogonalizers.polar_express import best_quintic

# The first rows of NoahAmsel/PolarExpress by default, in twelve digits.
DEFAULT = [
    (8.237312490496, -23.157747414558, 16.680568411446),
    (4.082441999065, -2.893047735333, 0.525284925698),
    (3.926347992255, -2.854746803477, 0.531802242289),
    (3.298218713309, -2.424541981027, 0.486320083588),
    (2.297036943455, -1.636625581259, 0.400262845595),
    (1.876380535144, -1.234789657772, 0.358918875017),
    (1.856442348556, -1.213244988082, 0.356800348777),
]


def test_five_rows_of_dion():
    rows = polar_express(1e-3, 5, safety=1.02, cushion=0.02).rows
    # They are published in all digits.
    np.testing.assert_allclose(rows, COEFFICIENTS["polar_express"].rows, rtol=1e-9)


def test_the_default_of_the_authors():
    rows = polar_express(1e-3, 10, safety=1.01, cushion=0.02).rows
    np.testing.assert_allclose(rows[:7], DEFAULT, rtol=1e-9)


def test_five_rows_of_gram_newton_schulz():
    rows = np.array(
        polar_express(1e-3, 5, safety=1.0, cushion=0.02407327424182761).rows
    )
    shrunk = rows / 1.05 ** np.array([1, 3, 5])
    published = COEFFICIENTS["polar_express_dao"].rows
    # They are published in all digits.
    np.testing.assert_allclose(shrunk, published, rtol=1e-9)


def test_cans_is_polar_express_without_precautions():
    rows = polar_express(1e-3, 5, safety=1.0, cushion=0.0).rows
    # It is published in four decimals.
    np.testing.assert_allclose(rows, COEFFICIENTS["cans"].rows, atol=6e-5)


@pytest.mark.parametrize(
    ("lower", "steps", "error"),
    [(1e-1, 2, 0.063), (1e-2, 3, 0.269), (1e-3, 5, 0.113), (1e-4, 6, 0.353)],
)
def test_the_least_worst_error(lower, steps, error):
    table = polar_express(lower, steps, safety=1.0, cushion=0.0)
    certificate = table.certificate(lower=lower)
    worst = max(certificate.maximum - 1, 1 - certificate.minimum)
    assert worst == pytest.approx(error, abs=6e-4)  # Its last digit.


def test_a_quintic_of_equal_ripple():
    a, b, c = best_quintic(0.1, 1.0)
    s = np.linspace(0.1, 1, 100_001)
    after = a * s + b * s**3 + c * s**5
    # Four extrema of one size, as Chebyshev asks; the grid resolves 1e-9.
    assert after.max() - 1 == pytest.approx(1 - after.min(), abs=1e-7)
    assert after[0] == pytest.approx(after.min(), abs=1e-7)
    assert after[-1] == pytest.approx(after.max(), abs=1e-7)


@pytest.mark.parametrize(
    "arguments", [{"lower": 0}, {"lower": 1}, {"steps": 0}, {"safety": 0.9}]
)
def test_refuses_numbers_out_of_range(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        polar_express(**arguments)

"""The tables, their certificates, and how a table is read."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from optax_ortho.orthogonalizers import COEFFICIENTS, Coefficients, NewtonSchulz
from optax_ortho.orthogonalizers.coefficients import apply_rows
from tests.orthogonalizers.methods import normal

# name: slope, worst error on [1e-2, 1] and on [1e-3, 1], first s > 1 that diverges; as
# computed for the tables by others, to the digits given.
FIGURES = {
    "keller_jordan": (485, 0.318, 0.529, 1.264),
    "you5": (493, 0.032, 0.525, 1.325),
    "you6": (1137, 0.004, 0.134, 1.083),
    "polar_express": (989, 0.141, 0.141, 1.0218),
    "polar_express_dao": (804, 0.154, 0.271, 1.0547),
    "polar_express_8": (6363, 0.0, 0.0, 1.0109),
    "cans": (1049, 0.120, 0.120, 1.00001),
    "deepseek_v4": (79263, 0.001, 0.001, 1.264),
    "cubic5": (119, 0.30, 0.88, 1.0035),
    "aol_4_flash": (147, 0.059, 0.853, 1.104),
    "aol_4": (104, 2.08, 2.08, None),
    "bernstein": (243, 0.188, 0.76, None),
    "taylor_5": (23, 0.772, 0.977, None),
    "taylor_3": (8, 0.924, 0.992, None),
}
UNSAFE = {"root_2048x2048", "aol_4"}
SAFE = [name for name in COEFFICIENTS if name not in UNSAFE]


def last_digit(figure):
    """Half a unit of the last digit, and a little for the grids."""
    digits = str(figure).partition(".")[2]
    return 0.6 * 10.0 ** -len(digits)


@pytest.mark.parametrize("name", FIGURES)
def test_certificates_have_the_published_figures(name):
    slope, error, far_error, diverges_at = FIGURES[name]
    table = COEFFICIENTS[name]
    for lower, expected in ((1e-2, error), (1e-3, far_error)):
        certificate = table.certificate(lower=lower)
        worst = max(certificate.maximum - 1, 1 - certificate.minimum)
        assert worst == pytest.approx(expected, abs=last_digit(expected))
    assert certificate.slope == pytest.approx(slope, abs=0.6)
    if diverges_at:
        tolerance = last_digit(diverges_at)
        assert certificate.diverges_at == pytest.approx(diverges_at, abs=tolerance)


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_which_tables_are_safe(name):
    assert COEFFICIENTS[name].certificate().bounded == (name not in UNSAFE)


@pytest.mark.parametrize("steps", [5, 12, 100])
def test_keller_jordan_is_bounded_for_any_number_of_steps(steps):
    certificate = COEFFICIENTS["keller_jordan"].certificate(steps)
    assert certificate.bounded
    # The local maximum is below the repelling fixed point 1.2637.
    assert certificate.maximum < 1.2025


def test_root_grows_without_bound():
    table = COEFFICIENTS["root_2048x2048"]
    assert table.certificate(5).maximum == pytest.approx(3.3, abs=0.05)
    assert table.certificate(6).maximum == pytest.approx(679, abs=0.6)
    assert not table.certificate(2).bounded  # Not yet, but after more steps.


def test_overflow_is_a_certificate_and_not_a_warning():
    assert not COEFFICIENTS["root_2048x2048"].certificate(12).bounded


def test_aol_4_is_negative_near_one():
    s = np.linspace(0.8, 1, 20_001)
    after = apply_rows(COEFFICIENTS["aol_4"].rows, s)
    assert s[after < 0].min() == pytest.approx(0.8837, abs=6e-5)  # Its last digit.


@pytest.mark.parametrize("steps", range(1, 13))
@pytest.mark.parametrize("name", SAFE)
def test_safe_tables_stay_positive_and_bounded(name, steps):
    s = np.linspace(1e-4, 1, 5001)
    after = apply_rows(COEFFICIENTS[name].for_steps(steps), s)
    assert after.min() > 0
    # The first rows of Polar Express alone have a ripple of one, around one.
    assert after.max() < (2 if steps < len(COEFFICIENTS[name].rows) else 1.31)


@pytest.mark.parametrize("name", SAFE)
def test_matrices_point_where_they_did(name):
    x = normal((4, 6))
    for steps in range(1, 13):
        y = NewtonSchulz(name, steps).orthogonalize(x)
        # Holds for any positive function of the singular values, which are within a
        # factor of ten here.
        assert (x * y).sum() > 0.5 * jnp.linalg.norm(x) * jnp.linalg.norm(y)


def test_rows_are_cut_from_the_end_and_the_last_is_repeated():
    table = Coefficients("three", [(3, 0, 0), (2, 0, 0), (1, 0, 0)])
    first, second, third = table.rows
    assert table.for_steps(2) == (first, second)
    assert table.for_steps(5) == (first, second, third, third, third)


def test_a_table_prints_hashes_and_compares():
    one = Coefficients("one", ((2, -1.5, 0.5),), "here")
    other = Coefficients("one", [[2.0, -1.5, 0.5]], "there")
    assert one == other and hash(one) == hash(other)
    assert repr(one).startswith("Coefficients(name='one', rows=((2.0, -1.5, 0.5),)")


@pytest.mark.parametrize("rows", [[], [(1.0, 2.0)], [(math.nan, 0, 0)]])
def test_refuses_rows_that_are_not_triples_of_numbers(rows):
    with pytest.raises(ValueError, match="bad: rows must be"):
        Coefficients("bad", rows)


def test_every_table_has_its_name_and_source():
    for name, table in COEFFICIENTS.items():
        assert table.name == name and table.source
        assert name.startswith("aol") == ("prescaling `aol`" in table.source)

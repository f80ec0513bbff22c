"""Coefficients fitted to the singular values that matrices of a shape have.

A random matrix has no singular value far below the largest unless it is nearly square,
and after division by its norm all of them are near 1 / sqrt(min(m, n)). Coefficients
for that interval can be more accurate there than coefficients for every matrix. With p
the polynomial, the fit is

    minimize over (a, b, c)    mean of (p(p(p(p(p(s))))) - 1)^2
    subject to                 p(s_peak) <= s_upper - 0.025,  p(1) >= 0.65

where p has its local maximum at s_peak and its upper fixed point at s_upper,
beyond which it diverges. The mean is over two spectra with equal weights:

    noise       the Marchenko-Pastur law, singular values of a matrix of random entries
                as it grows with its shape kept
    momentum    s ~ (u + 0.1)^(-3/2) for the share u of larger ones, which describes
                clipped momenta of a small GPT after 200 steps to about a fifth

Both are scaled to norm 1. Noise alone gives coefficients that leave the small singular
values of a real momentum behind.

References:
  Marchenko and Pastur, `Distribution of eigenvalues for some sets of random matrices
  <https://doi.org/10.1070/SM1967v001n04ABEH001994>`_, 1967
"""

import functools
import math

import numpy as np

from optax_ortho.orthogonalizers.coefficients import Coefficients, Row, apply_rows
from optax_ortho.orthogonalizers.tables import KELLER_JORDAN

STEPS = 5
MARGIN = 0.025  # The result, rounded to four digits, keeps 0.02.
LEAST_AT_ONE = 0.65
POINTS = 128
# Below it the spectra of single matrices vary too much for one fit.
LEAST_SIDE = 64
# The problem has more than one minimum.
STARTS = (KELLER_JORDAN.rows[0], (3.0, -3.9, 1.8), (2.6, -3.1, 1.55))

Spectrum = tuple[np.ndarray, np.ndarray]
"""Singular values of a matrix of norm 1, and their weights, which add up to 1."""


@functools.lru_cache
def fit(short: int, long: int) -> Coefficients:
    """Fits the coefficients of five equal steps to matrices of a shape.

    It takes about a tenth of a second of NumPy, once for a shape and process.

    Args:
      short: the shorter side.
      long: the longer side.

    Returns:
      One triple, rounded to four decimals. Keller Jordan's if the shorter side is
      below 64, or if the fit is not safe (see `Coefficients.certificate`).

    Examples:
      >>> table = fit(96, 384)
      >>> table.certificate().bounded
      True
      >>> relative_error(table, noise(96, 384)) < 0.02
      True
    """
    if short < LEAST_SIDE:
        return KELLER_JORDAN
    spectra = noise(short, long), momentum(short)
    s = np.concatenate([values for values, _ in spectra])
    weights = np.concatenate([w for _, w in spectra]) / len(spectra)

    def residuals(row: np.ndarray) -> np.ndarray:
        """Misses and violated bounds; the sum of their squares is minimized."""
        misses = np.sqrt(weights) * (apply_rows([tuple(row)] * STEPS, s) - 1)
        # A constraint is a residual with a large weight; a fit that violates it is
        # refused.
        bounds = 30 * np.maximum([MARGIN - room(row), LEAST_AT_ONE - row.sum()], 0)
        residuals = np.concatenate([misses, bounds])
        return np.clip(np.nan_to_num(residuals, nan=1e3), -1e3, 1e3)

    candidates = [_least_squares(residuals, np.array(start)) for start in STARTS]
    best = min(candidates, key=lambda row: float(np.sum(residuals(row) ** 2)))
    row = tuple(float(x) for x in best.round(4))
    table = Coefficients(f"fit_{short}x{long}", (row,), "optax_ortho", STEPS)
    safe = table.certificate().bounded and room(best) >= MARGIN - 5e-3
    return table if safe else KELLER_JORDAN


def noise(short: int, long: int) -> Spectrum:
    """The singular values of a random matrix of a shape, over its norm."""
    ratio = short / long
    angle = (np.arange(POINTS) + 0.5) * np.pi / POINTS
    squares = 1 + ratio + 2 * math.sqrt(ratio) * np.cos(angle)
    weights = np.sin(angle) ** 2 / squares
    return np.minimum(np.sqrt(squares / short), 1), weights / weights.sum()


def momentum(short: int) -> Spectrum:
    """The singular values of a typical momentum with that shorter side."""
    values = ((np.arange(POINTS) + 0.5) / POINTS + 0.1) ** -1.5
    values /= math.sqrt(short * np.mean(values**2))
    return np.minimum(values, 1), np.full(POINTS, 1 / POINTS)


def relative_error(table: Coefficients, spectrum: Spectrum) -> float:
    """The RMS distance from 1 of singular values after a table's steps."""
    values, weights = spectrum
    misses = apply_rows(table.for_steps(table.steps), values) - 1
    return float(np.sqrt(weights @ misses**2))


def room(row: Row | np.ndarray) -> float:
    """The distance of the local maximum of a step to its diverging fixed point.

    NaN if it has none.

    Examples:
      >>> round(room((3.4445, -4.7750, 2.0315)), 3)
      0.061
      >>> round(room((3.4916, -4.8224, 2.1095)), 3)  # ROOT's for 2048 x 2048
      -0.001
    """
    a, b, c = (np.float64(x) for x in row)
    with np.errstate(divide="ignore", invalid="ignore"):
        peak = np.sqrt((-3 * b - np.sqrt(9 * b * b - 20 * a * c)) / (10 * c))
        upper = np.sqrt((-b + np.sqrt(b * b - 4 * c * (a - 1))) / (2 * c))
        return float(upper - peak * (a + peak**2 * (b + c * peak**2)))


def _least_squares(residuals, row: np.ndarray, iterations: int = 150) -> np.ndarray:
    """Levenberg and Marquardt's method, with differences for derivatives."""
    misses, damping = residuals(row), 1e-3
    for _ in range(iterations):
        moves = 1e-6 * np.eye(row.size)
        slopes = [residuals(row + d) - residuals(row - d) for d in moves]
        slope = np.stack(slopes, axis=1) / 2e-6
        square = slope.T @ slope
        square += damping * np.diag(np.diag(square) + 1e-12)
        trial = row - np.linalg.solve(square, slope.T @ misses)
        after = residuals(trial)
        gain = 1 - (after @ after) / max(misses @ misses, 1e-300)
        if gain <= 0:
            damping *= 4
            continue
        row, misses, damping = trial, after, damping / 3
        if gain < 1e-10:
            break
    return row

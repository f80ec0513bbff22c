"""Polar Express: the composition of odd quintics with the least worst error.

Each step takes the best odd quintic for the interval that the steps before it have
left, found by equal ripple (Remez). Two precautions of its authors make it fit for low
precision: a cushion, which keeps the interval from being too wide for the early
steps, and a safety factor, which shrinks every step but the last so that a singular
value pushed above the interval by rounding comes back.

References:
  Amsel, Persson, Musco and Gower, `The Polar Express
  <https://arxiv.org/abs/2505.16932>`_, 2025, and its repository
  NoahAmsel/PolarExpress, polar_express.py
"""

import numpy as np

from optax_ortho.checks import check_number
from optax_ortho.orthogonalizers.coefficients import Coefficients, Row


def polar_express(
    lower: float = 1e-3, steps: int = 5, safety: float = 1.02, cushion: float = 0.02
) -> Coefficients:
    """Coefficients made for singular values in [lower, 1].

    Args:
      lower: the smallest singular value, relative to the norm, that should reach 1.
      steps: the number of rows.
      safety: at least 1; row k is divided by its powers 1, 3 and 5, the last row
        excepted.
      cushion: the lower end of an interval is not taken below this part of its upper
        end. 0 is none.

    Returns:
      The table.

    Raises:
      ValueError: a number out of range.

    Examples:
      >>> certificate = polar_express(lower=1e-3, steps=8).certificate()
      >>> print(f"{certificate.minimum:.4f} to {certificate.maximum:.4f}")
      1.0000 to 1.0000
    """
    check_number("lower", lower, at_least=np.finfo(float).tiny, below=1.0)
    check_number("steps", steps, at_least=1)
    check_number("safety", safety, at_least=1.0)
    check_number("cushion", cushion, below=1.0)
    rows: list[Row] = []
    low, high = lower, 1.0
    for step in range(steps):
        a, b, c = best_quintic(max(low, cushion * high), high)
        if cushion * high > low:
            # The true ends are centred on 1, instead of the cushion's.
            centre = 2 / (_odd((a, b, c), low) + _odd((a, b, c), high))
            a, b, c = a * centre, b * centre, c * centre
        if step < steps - 1:
            a, b, c = a / safety, b / safety**3, c / safety**5
        rows.append((a, b, c))
        low = _odd((a, b, c), low)
        high = 2 - low
    name = f"polar_express({lower:g}, {steps}, {safety:g}, {cushion:g})"
    return Coefficients(name, tuple(rows), "Amsel et al. 2025, algorithm 1")


def best_quintic(low: float, high: float) -> Row:
    """The odd quintic closest to 1 on [low, high], in the largest error."""
    if low / high >= 1 - 5e-6:
        # The interval is a point, to rounding: the Taylor quintic at it.
        return 15 / 8 / high, -10 / 8 / high**3, 3 / 8 / high**5
    q, r = (3 * low + high) / 4, (low + 3 * high) / 4
    error = np.inf
    for _ in range(100):  # A handful is enough; rounding may keep it from settling.
        previous = error
        nodes = np.array([low, q, r, high])
        signs = np.array([1.0, -1.0, 1.0, -1.0])
        system = np.stack([nodes, nodes**3, nodes**5, signs], axis=1)
        a, b, c, error = np.linalg.solve(system, np.ones(4))
        # The inner nodes move to the extrema: a + 3 b s^2 + 5 c s^4 = 0.
        root = np.sqrt(9 * b**2 - 20 * a * c)
        q, r = np.sqrt((-3 * b + np.array([-1, 1]) * root) / (10 * c))
        if abs(error - previous) < 1e-15:
            break
    return float(a), float(b), float(c)


def _odd(row: Row, s: float) -> float:
    a, b, c = row
    return a * s + b * s**3 + c * s**5

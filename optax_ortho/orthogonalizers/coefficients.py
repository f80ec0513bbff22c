"""Coefficients of Newton-Schulz iterations, and their certificates.

A step maps every singular value s of a matrix to ``a s + b s^3 + c s^5`` and leaves the
singular vectors alone. A table is one triple (a, b, c) a step.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Row = tuple[float, float, float]

# Steps for which a table is certified, whatever its length.
MOST_STEPS = 20


class Certificate(NamedTuple):
    """The effect of a table on singular values in [lower, 1], computed in float64.

    Attributes:
      lower: the smallest singular value of the certificate.
      steps: the number of steps behind `minimum`, `maximum` and `slope`.
      minimum: the smallest result.
      maximum: the largest result.
      slope: the growth of the smallest singular values.
      diverges_at: the first singular value above 1 that leaves (0, 2), now or after
        more steps.
      bounded: whether [0, 1] stays inside (0, 2) after any number of steps from the
        table's length to `MOST_STEPS`.
    """

    lower: float
    steps: int
    minimum: float
    maximum: float
    slope: float
    diverges_at: float
    bounded: bool


@dataclasses.dataclass(frozen=True)
class Coefficients:
    """A table of coefficients: one (a, b, c) a step.

    Steps beyond the table repeat its last row; fewer steps than rows use the first
    ones. A table is never cycled: the first rows are steep, and a second round of them
    throws singular values near 1 far away.

    Args:
      name: its name in tables.
      rows: the triples.
      source: their publication.
      steps: the number of steps that its authors take; None is the number of rows.
      bound: a factor of the norm before the first step, which keeps rounding from
        pushing a singular value over the edge.

    Raises:
      ValueError: no rows, or rows that are not triples of finite numbers.

    Examples:
      >>> table = Coefficients("mine", [(2.0, -1.5, 0.5)], "an example")
      >>> table.for_steps(2)
      ((2.0, -1.5, 0.5), (2.0, -1.5, 0.5))
      >>> table.certificate().bounded
      True
    """

    name: str
    rows: tuple[Row, ...] | Any
    source: str = dataclasses.field(default="", compare=False, repr=False)
    steps: int | Any = None
    bound: float = 1.0

    def __post_init__(self):
        rows = tuple(tuple(map(float, row)) for row in self.rows)
        if not rows or any(len(row) != 3 for row in rows):
            raise ValueError(f"{self.name}: rows must be triples (a, b, c).")
        if not np.isfinite(rows).all():
            raise ValueError(f"{self.name}: rows must be finite numbers.")
        object.__setattr__(self, "rows", rows)
        if self.steps is None:
            object.__setattr__(self, "steps", len(rows))

    def for_steps(self, steps: int) -> tuple[Row, ...]:
        """One row a step: the first ones, then the last one again and again."""
        return (self.rows + self.rows[-1:] * steps)[:steps]

    def certificate(self, steps: int | None = None, lower: float = 1e-3) -> Certificate:
        """The effect of the table on singular values."""
        return _certify(self, self.steps if steps is None else steps, lower)


def apply_rows(rows: Sequence[Row], s: np.ndarray) -> np.ndarray:
    """The scalar map of a sequence of steps; it may end in inf or NaN."""
    with np.errstate(over="ignore", invalid="ignore"):
        for a, b, c in rows:
            s = s * (a + s**2 * (b + c * s**2))
    return s


@functools.lru_cache
def _certify(table: Coefficients, steps: int, lower: float) -> Certificate:
    # Evenly in both senses: tables ripple near 0 and near 1.
    s = np.concatenate([np.geomspace(lower, 1, 20_001), np.linspace(lower, 1, 20_001)])
    after = apply_rows(table.for_steps(steps), s)
    return Certificate(
        lower,
        steps,
        float(after.min()),
        float(after.max()),
        math.prod(row[0] for row in table.for_steps(steps)),
        _diverges_at(table, steps),
        bool(_stays(table, steps, np.linspace(1e-4, 1, 20_001)).all()),
    )


def _stays(table: Coefficients, steps: int, s: np.ndarray) -> np.ndarray:
    """Whether each value is in (0, 2) from `steps` steps on."""
    rows = table.for_steps(max(steps, MOST_STEPS))
    inside = np.ones(s.shape, bool)
    for i, row in enumerate(rows, start=1):
        s = apply_rows([row], s)
        if i >= min(steps, len(table.rows)):
            inside &= (s > 0) & (s < 2)
    return inside


def _diverges_at(table: Coefficients, steps: int) -> float:
    s = np.linspace(1, 2, 100_001)
    outside = ~_stays(table, steps, s)
    return float(s[outside.argmax()]) if outside.any() else math.inf

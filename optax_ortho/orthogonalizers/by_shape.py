"""Newton-Schulz with coefficients of its own for every shape (ROOT).

The shape of a matrix says much of its spectrum: random entries in a wide matrix give
singular values that differ by a factor of two or three, and in a square one they reach
down to zero. `FITTED` has coefficients for each, `PUBLISHED` has ROOT's own
coefficients for four shapes.

The authors' triple for 2048 x 2048 is not stable. The peak of its polynomial, 1.22459,
is above the point beyond which it diverges, 1.22355, so singular values of a matrix of
norm 1 in [0.163, 0.170] and [0.544, 0.574] come out of five steps at up to 3.31, of six
at 7e2 and of eight at 6e72. A random matrix of that shape has none above 0.044; a
momentum of low rank has. `NewtonSchulz` takes it with ``unsafe=True`` alone.

References:
  He et al., `ROOT <https://arxiv.org/abs/2511.20626>`_, 2025
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from optax_ortho.orthogonalizers.auto import Auto
from optax_ortho.orthogonalizers.coefficients import Coefficients, Row
from optax_ortho.orthogonalizers.fit import STEPS, fit
from optax_ortho.orthogonalizers.method import Method, check_matrix, flops_of, method_of
from optax_ortho.orthogonalizers.tables import COEFFICIENTS, KELLER_JORDAN
from optax_ortho.orthogonalizers.transform import as_function

Shape = tuple[int, int]
"""The shorter and the longer side."""


@dataclasses.dataclass(frozen=True)
class ShapeCoefficients:
    """Coefficients by shape: a table, and a rule for other shapes.

    Args:
      name: its name in tables.
      tables: the coefficients of some shapes, by (shorter side, longer side).
      otherwise: makes the coefficients of any other shape, from its shorter and its
        longer side.

    Examples:
      >>> PUBLISHED.of(8192, 2048).rows
      ((2.9794, -3.6674, 1.6207),)
      >>> PUBLISHED.of(64, 64).name
      'keller_jordan'
    """

    name: str
    tables: Mapping[Shape, Coefficients] = dataclasses.field(repr=False, hash=False)
    otherwise: Callable[[int, int], Coefficients] = dataclasses.field(repr=False)

    def of(self, m: int, n: int) -> Coefficients:
        """The coefficients of an m x n matrix."""
        shape = min(m, n), max(m, n)
        return self.tables[shape] if shape in self.tables else self.otherwise(*shape)


# By `python -m benchmarks.root_fit`: GPT-2 (124M to 1.5B), ViT-B and ViT-L, Llama (1B
# and 8B), and the shapes of ROOT's authors.
_FITTED: dict[Shape, Row] = {
    (512, 2048): (2.8626, -3.5529, 1.6603),
    (588, 1024): (2.8953, -3.6175, 1.6855),
    (768, 768): (3.0395, -3.9049, 1.7923),
    (768, 2304): (2.9465, -3.7106, 1.7165),
    (768, 3072): (2.9448, -3.7172, 1.7244),
    (1024, 1024): (3.089, -3.9871, 1.8114),
    (1024, 3072): (3.008, -3.8256, 1.7548),
    (1024, 4096): (3.0075, -3.8443, 1.7725),
    (1280, 1280): (3.1314, -4.0641, 1.8328),
    (1280, 3840): (3.0558, -3.9155, 1.7837),
    (1280, 5120): (3.0559, -3.9411, 1.8069),
    (1600, 1600): (3.1788, -4.1604, 1.8648),
    (1600, 4800): (3.101, -3.9958, 1.8058),
    (1600, 6400): (3.1021, -4.0291, 1.8345),
    (2048, 2048): (3.2337, -4.2848, 1.9119),
    (2048, 3072): (3.158, -4.1504, 1.8799),
    (2048, 8192): (3.1507, -4.1162, 1.8575),
    (2048, 16384): (3.1477, -4.1989, 1.9357),
    (4096, 4096): (3.3594, -4.5344, 1.9824),
    (4096, 14336): (3.2938, -4.3423, 1.8925),
}
_PUBLISHED = ((2048, 2048), (2048, 3072), (2048, 8192), (2048, 16384))


def _jordan(short: int, long: int) -> Coefficients:
    return KELLER_JORDAN


FITTED = ShapeCoefficients(
    "FITTED",
    {
        (m, n): Coefficients(f"fit_{m}x{n}", (row,), "optax_ortho", STEPS)
        for (m, n), row in _FITTED.items()
    },
    fit,
)
"""Coefficients by `optax_ortho.orthogonalizers.fit`, of any shape."""

PUBLISHED = ShapeCoefficients(
    "PUBLISHED",
    {(m, n): COEFFICIENTS[f"root_{m}x{n}"] for m, n in _PUBLISHED},
    _jordan,
)
"""ROOT's own for four shapes, and Keller Jordan's for any other, as in its code."""


@dataclasses.dataclass(frozen=True)
class ShapedNewtonSchulz(Method):
    """Newton-Schulz with the coefficients of the matrix's shape.

    With `FITTED`, the relative error on random matrices against Keller Jordan's
    coefficients is 0.05 against 0.16 at 768 x 3072, 0.07 against 0.18 at 2048 x 8192
    and 0.19 against 0.22 at 2048 x 2048. On momenta recorded from a small GPT, brought
    to the side 768, it is 0.08 against 0.19 after 200 steps and 0.17 against 0.19 after
    50; after 10 steps, where few directions have nearly all of the norm, it is 0.40
    against 0.24, because a fit is less steep at zero.

    Args:
      coefficients: `FITTED`, `PUBLISHED`, or a `ShapeCoefficients` of your own.
      how: makes the orthogonalizer from the coefficients of a shape.

    Raises:
      TypeError: `coefficients` is not a `ShapeCoefficients`.

    Examples:
      >>> ShapedNewtonSchulz().at(3072, 768).coefficients.rows
      ((2.9448, -3.7172, 1.7244),)

      The authors' own:

      >>> import functools
      >>> from optax_ortho.orthogonalizers import NewtonSchulz
      >>> published = ShapedNewtonSchulz(
      ...     PUBLISHED, functools.partial(NewtonSchulz, eps=1e-7, unsafe=True)
      ... )
      >>> published.at(2048, 2048).coefficients.name
      'root_2048x2048'
    """

    coefficients: ShapeCoefficients = FITTED
    how: Callable[[Coefficients], Any] = Auto

    def __post_init__(self):
        if not isinstance(self.coefficients, ShapeCoefficients):
            raise TypeError(
                "ShapedNewtonSchulz takes a ShapeCoefficients, such as FITTED, got "
                f"{self.coefficients!r}."
            )

    def at(self, m: int, n: int) -> Any:
        """The orthogonalizer of m x n matrices."""
        return self.how(self.coefficients.of(m, n))

    def method(self, shape: tuple[int, int], dtype: Any, platform: str) -> Any:
        """The method for matrices of a shape and dtype on a platform."""
        return method_of(self.at(*shape), shape, dtype, platform)

    def flops(self, m: int, n: int) -> int | None:
        """FLOPs for one m x n matrix."""
        return flops_of(self.at(m, n), m, n)

    def orthogonalize(self, x: jax.Array) -> jax.Array:
        """Orthogonalizes ``(..., m, n)`` matrices, keeping shape and dtype.

        Raises:
          ValueError: fewer than two axes.
        """
        check_matrix(x)
        return as_function(self.at(*x.shape[-2:]))(x)

"""ROOT, as its authors wrote it."""

import ast
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optax

import optax_ortho
from optax_ortho.orthogonalizers import (
    PUBLISHED,
    Coefficients,
    NewtonSchulz,
    ShapeCoefficients,
    ShapedNewtonSchulz,
    frobenius,
)
from optax_ortho.orthogonalizers.prescale import Prescale
from tests.golden.sources.common import last_two, matrices
from tests.golden.sources.muon import moonlight_adamw

THRESHOLD_EPS = 1e-9  # Added to the quantile.


def orthogonalizer(
    dtype: Any,
    steps: int = 5,
    table: Mapping[str, Sequence[float]] | None = None,
    prescale: Prescale = frobenius,
) -> ShapedNewtonSchulz:
    """The source's iteration: it computes in the parameter's dtype.

    Args:
      dtype: of the parameters.
      steps: how many.
      table: coefficients by "(shorter side, longer side)"; None are the published ones.
      prescale: what the matrix is divided by.
    """
    shapes = PUBLISHED
    if table is not None:
        rows = {
            ast.literal_eval(shape): Coefficients(shape, [row], steps=steps)
            for shape, row in table.items()
        }
        shapes = ShapeCoefficients("recorded", rows, PUBLISHED.otherwise)
    return ShapedNewtonSchulz(
        shapes,
        functools.partial(
            NewtonSchulz,
            steps=steps,
            dtype=dtype,
            eps=1e-7,
            prescale=prescale,
            unsafe=True,
        ),
    )


def root(
    dtype: Any,
    *,
    lr: float = 1e-3,
    wd: float = 0.1,
    momentum: float = 0.95,
    nesterov: bool = True,
    root_steps: int = 5,
    adamw_betas: tuple[float, float] = (0.9, 0.95),
    adamw_eps: float = 1e-8,
    coeff_table: Mapping[str, Sequence[float]] | None = None,
) -> optax.GradientTransformation:
    """huawei-noah/noah-research, ROOT/examples/example_train.py."""
    return optax_ortho.root(
        lr,
        momentum,
        nesterov=nesterov,
        eps=THRESHOLD_EPS,
        orthogonalizer=orthogonalizer(dtype, root_steps, coeff_table),
        weight_decay=wd,
        labels=matrices(last_two),
        fallback=moonlight_adamw(lr, *adamw_betas, adamw_eps, wd),
    )


BUILDERS: dict[tuple[str, str], Callable[..., optax.GradientTransformation]] = {
    ("huawei-noah/noah-research", "ROOT"): root,
}
"""By repository and class."""

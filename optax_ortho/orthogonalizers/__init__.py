"""Stage 2: from a momentum to the orthogonal matrix nearest to it."""

from optax_ortho.orthogonalizers.auto import Auto as Auto
from optax_ortho.orthogonalizers.block_periodic import BlockPeriodic as BlockPeriodic
from optax_ortho.orthogonalizers.by_shape import FITTED as FITTED
from optax_ortho.orthogonalizers.by_shape import PUBLISHED as PUBLISHED
from optax_ortho.orthogonalizers.by_shape import ShapeCoefficients as ShapeCoefficients
from optax_ortho.orthogonalizers.by_shape import (
    ShapedNewtonSchulz as ShapedNewtonSchulz,
)
from optax_ortho.orthogonalizers.coefficients import Certificate as Certificate
from optax_ortho.orthogonalizers.coefficients import Coefficients as Coefficients
from optax_ortho.orthogonalizers.exact import Exact as Exact
from optax_ortho.orthogonalizers.exact import qdwh_polar as qdwh_polar
from optax_ortho.orthogonalizers.exact import svd_polar as svd_polar
from optax_ortho.orthogonalizers.gram import GramNewtonSchulz as GramNewtonSchulz
from optax_ortho.orthogonalizers.iteration import Iteration as Iteration
from optax_ortho.orthogonalizers.low_rank import PowerIteration as PowerIteration
from optax_ortho.orthogonalizers.low_rank import PowerState as PowerState
from optax_ortho.orthogonalizers.low_rank import low_rank as low_rank
from optax_ortho.orthogonalizers.method import Method as Method
from optax_ortho.orthogonalizers.newton_schulz import NewtonSchulz as NewtonSchulz
from optax_ortho.orthogonalizers.outliers import Clipped as Clipped
from optax_ortho.orthogonalizers.polar_express import polar_express as polar_express
from optax_ortho.orthogonalizers.prescale import aol as aol
from optax_ortho.orthogonalizers.prescale import clamped_frobenius as clamped_frobenius
from optax_ortho.orthogonalizers.prescale import frobenius as frobenius
from optax_ortho.orthogonalizers.prescale import schatten4 as schatten4
from optax_ortho.orthogonalizers.qr import QR as QR
from optax_ortho.orthogonalizers.qr import Householder as Householder
from optax_ortho.orthogonalizers.qr import RandomizedCholesky as RandomizedCholesky
from optax_ortho.orthogonalizers.qr import ShiftedCholesky as ShiftedCholesky
from optax_ortho.orthogonalizers.tables import COEFFICIENTS as COEFFICIENTS
from optax_ortho.orthogonalizers.transform import orthogonalize as orthogonalize

__all__ = [
    "Auto",
    "BlockPeriodic",
    "COEFFICIENTS",
    "Certificate",
    "Clipped",
    "Coefficients",
    "Exact",
    "FITTED",
    "GramNewtonSchulz",
    "Householder",
    "Iteration",
    "Method",
    "NewtonSchulz",
    "PUBLISHED",
    "PowerIteration",
    "PowerState",
    "QR",
    "RandomizedCholesky",
    "ShapeCoefficients",
    "ShapedNewtonSchulz",
    "ShiftedCholesky",
    "aol",
    "clamped_frobenius",
    "frobenius",
    "low_rank",
    "orthogonalize",
    "polar_express",
    "qdwh_polar",
    "schatten4",
    "svd_polar",
]

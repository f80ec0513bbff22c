"""Stage 2: from a momentum to the orthogonal matrix nearest to it."""

from optax_ortho.orthogonalizers.auto import Auto as Auto
from optax_ortho.orthogonalizers.coefficients import Certificate as Certificate
from optax_ortho.orthogonalizers.coefficients import Coefficients as Coefficients
from optax_ortho.orthogonalizers.exact import Exact as Exact
from optax_ortho.orthogonalizers.exact import qdwh_polar as qdwh_polar
from optax_ortho.orthogonalizers.exact import svd_polar as svd_polar
from optax_ortho.orthogonalizers.gram import GramNewtonSchulz as GramNewtonSchulz
from optax_ortho.orthogonalizers.newton_schulz import NewtonSchulz as NewtonSchulz
from optax_ortho.orthogonalizers.polar_express import polar_express as polar_express
from optax_ortho.orthogonalizers.prescale import aol as aol
from optax_ortho.orthogonalizers.prescale import clamped_frobenius as clamped_frobenius
from optax_ortho.orthogonalizers.prescale import frobenius as frobenius
from optax_ortho.orthogonalizers.prescale import schatten4 as schatten4
from optax_ortho.orthogonalizers.tables import COEFFICIENTS as COEFFICIENTS
from optax_ortho.orthogonalizers.transform import orthogonalize as orthogonalize

__all__ = [
    "Auto",
    "COEFFICIENTS",
    "Certificate",
    "Coefficients",
    "Exact",
    "GramNewtonSchulz",
    "NewtonSchulz",
    "aol",
    "clamped_frobenius",
    "frobenius",
    "orthogonalize",
    "polar_express",
    "qdwh_polar",
    "schatten4",
    "svd_polar",
]

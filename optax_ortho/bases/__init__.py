"""Rotated and whitened bases for optimizers to step in."""

from optax_ortho.bases.inverse_roots import Eigh as Eigh
from optax_ortho.bases.inverse_roots import InverseRoot as InverseRoot
from optax_ortho.bases.inverse_roots import NewtonRoot as NewtonRoot
from optax_ortho.bases.rotation import RotationState as RotationState
from optax_ortho.bases.rotation import in_rotation as in_rotation
from optax_ortho.bases.rotation import rotation as rotation
from optax_ortho.bases.sides import ResidualStream as ResidualStream
from optax_ortho.bases.whitening import Factors as Factors
from optax_ortho.bases.whitening import WhiteningState as WhiteningState
from optax_ortho.bases.whitening import whitening as whitening

__all__ = [
    "Eigh",
    "Factors",
    "InverseRoot",
    "NewtonRoot",
    "ResidualStream",
    "RotationState",
    "WhiteningState",
    "in_rotation",
    "rotation",
    "whitening",
]

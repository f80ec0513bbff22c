"""Orthogonalized optimizers for JAX, every one the same four-stage Optax chain.

gradient -> momentum -> orthogonalize -> normalize / clamp -> trust-region scale
"""

from optax_ortho import layouts as layouts
from optax_ortho import momentum as momentum
from optax_ortho import normalizers as normalizers
from optax_ortho import orthogonalizers as orthogonalizers
from optax_ortho import trust_region as trust_region
from optax_ortho.chain import OrthoState as OrthoState
from optax_ortho.chain import ortho_chain as ortho_chain
from optax_ortho.frames import Frame as Frame
from optax_ortho.frames import in_frame as in_frame
from optax_ortho.guard import guard as guard
from optax_ortho.labels import Label as Label
from optax_ortho.labels import Labels as Labels
from optax_ortho.labels import label as label
from optax_ortho.matrices import MatrixAxes as MatrixAxes
from optax_ortho.matrices import Orthogonalizer as Orthogonalizer
from optax_ortho.matrices import Split as Split
from optax_ortho.optimizers.muon import muon as muon
from optax_ortho.optimizers.muon import scale_by_muon as scale_by_muon
from optax_ortho.orthogonalizers import orthogonalize as orthogonalize
from optax_ortho.report import diagnostics as diagnostics
from optax_ortho.report import summary as summary

__all__ = [
    "Frame",
    "Label",
    "Labels",
    "MatrixAxes",
    "OrthoState",
    "Orthogonalizer",
    "Split",
    "diagnostics",
    "guard",
    "in_frame",
    "label",
    "layouts",
    "momentum",
    "muon",
    "normalizers",
    "ortho_chain",
    "orthogonalize",
    "orthogonalizers",
    "scale_by_muon",
    "summary",
    "trust_region",
]

__version__ = "0.1.0"

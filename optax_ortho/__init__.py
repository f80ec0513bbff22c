"""Orthogonalized optimizers for JAX, every one the same four-stage Optax chain.

gradient -> momentum -> orthogonalize -> normalize / clamp -> trust-region scale
"""

from optax_ortho import bases as bases
from optax_ortho import checkpoints as checkpoints
from optax_ortho import constraints as constraints
from optax_ortho import kronecker as kronecker
from optax_ortho import layouts as layouts
from optax_ortho import momentum as momentum
from optax_ortho import normalizers as normalizers
from optax_ortho import orthogonalizers as orthogonalizers
from optax_ortho import trust_region as trust_region
from optax_ortho import wrappers as wrappers
from optax_ortho.chain import OrthoState as OrthoState
from optax_ortho.chain import ortho_chain as ortho_chain
from optax_ortho.frames import Frame as Frame
from optax_ortho.frames import in_frame as in_frame
from optax_ortho.guard import guard as guard
from optax_ortho.labels import Label as Label
from optax_ortho.labels import Labels as Labels
from optax_ortho.labels import Policy as Policy
from optax_ortho.labels import label as label
from optax_ortho.matrices import MatrixAxes as MatrixAxes
from optax_ortho.matrices import Orthogonalizer as Orthogonalizer
from optax_ortho.matrices import Split as Split
from optax_ortho.optimizers.adaptive_memory_muon import (
    adaptive_memory_muon as adaptive_memory_muon,
)
from optax_ortho.optimizers.adaptive_memory_muon import (
    scale_by_adaptive_memory_muon as scale_by_adaptive_memory_muon,
)
from optax_ortho.optimizers.am_adamw import am_adamw as am_adamw
from optax_ortho.optimizers.am_adamw import scale_by_am_adamw as scale_by_am_adamw
from optax_ortho.optimizers.am_sgd import am_sgd as am_sgd
from optax_ortho.optimizers.am_sgd import scale_by_am_sgd as scale_by_am_sgd
from optax_ortho.optimizers.aro import aro as aro
from optax_ortho.optimizers.aro import scale_by_aro as scale_by_aro
from optax_ortho.optimizers.auon import auon as auon
from optax_ortho.optimizers.auon import scale_by_auon as scale_by_auon
from optax_ortho.optimizers.dion import dion as dion
from optax_ortho.optimizers.dion import scale_by_dion as scale_by_dion
from optax_ortho.optimizers.fismo import fismo as fismo
from optax_ortho.optimizers.fismo import scale_by_fismo as scale_by_fismo
from optax_ortho.optimizers.hybrid_auon import hybrid_auon as hybrid_auon
from optax_ortho.optimizers.hybrid_auon import (
    scale_by_hybrid_auon as scale_by_hybrid_auon,
)
from optax_ortho.optimizers.mkor import mkor as mkor
from optax_ortho.optimizers.mkor import scale_by_mkor as scale_by_mkor
from optax_ortho.optimizers.muon import muon as muon
from optax_ortho.optimizers.muon import scale_by_muon as scale_by_muon
from optax_ortho.optimizers.namo import namo as namo
from optax_ortho.optimizers.namo import scale_by_namo as scale_by_namo
from optax_ortho.optimizers.namo_d import namo_d as namo_d
from optax_ortho.optimizers.namo_d import scale_by_namo_d as scale_by_namo_d
from optax_ortho.optimizers.normuon import normuon as normuon
from optax_ortho.optimizers.normuon import scale_by_normuon as scale_by_normuon
from optax_ortho.optimizers.root import root as root
from optax_ortho.optimizers.root import scale_by_root as scale_by_root
from optax_ortho.orthogonalizers import orthogonalize as orthogonalize
from optax_ortho.planning import plan as plan
from optax_ortho.report import diagnostics as diagnostics
from optax_ortho.report import summary as summary
from optax_ortho.stages import stage_outputs as stage_outputs
from optax_ortho.statistics import (
    value_and_grad_with_statistics as value_and_grad_with_statistics,
)

__all__ = [
    "Frame",
    "Label",
    "Labels",
    "MatrixAxes",
    "OrthoState",
    "Orthogonalizer",
    "Policy",
    "Split",
    "adaptive_memory_muon",
    "am_adamw",
    "am_sgd",
    "aro",
    "auon",
    "bases",
    "checkpoints",
    "constraints",
    "diagnostics",
    "dion",
    "fismo",
    "guard",
    "hybrid_auon",
    "in_frame",
    "kronecker",
    "label",
    "layouts",
    "mkor",
    "momentum",
    "muon",
    "namo",
    "namo_d",
    "normalizers",
    "normuon",
    "ortho_chain",
    "orthogonalize",
    "orthogonalizers",
    "plan",
    "root",
    "scale_by_adaptive_memory_muon",
    "scale_by_am_adamw",
    "scale_by_am_sgd",
    "scale_by_aro",
    "scale_by_auon",
    "scale_by_dion",
    "scale_by_fismo",
    "scale_by_hybrid_auon",
    "scale_by_mkor",
    "scale_by_muon",
    "scale_by_namo",
    "scale_by_namo_d",
    "scale_by_normuon",
    "scale_by_root",
    "stage_outputs",
    "summary",
    "trust_region",
    "value_and_grad_with_statistics",
    "wrappers",
]

__version__ = "0.1.0"

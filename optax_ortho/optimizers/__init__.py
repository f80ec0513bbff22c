"""Every optimizer is one file that reads like its algorithm box."""

from optax_ortho.optimizers.muon import muon as muon
from optax_ortho.optimizers.muon import scale_by_muon as scale_by_muon

__all__ = ["muon", "scale_by_muon"]

"""Kronecker factors: gradients between the inverse moments of inputs and outputs."""

from optax_ortho.kronecker.factors import Blend as Blend
from optax_ortho.kronecker.factors import Reset as Reset
from optax_ortho.kronecker.factors import Stabilizer as Stabilizer
from optax_ortho.kronecker.labels import with_biases as with_biases
from optax_ortho.kronecker.layers import layers_of as layers_of
from optax_ortho.kronecker.precondition import KroneckerState as KroneckerState
from optax_ortho.kronecker.precondition import precondition as precondition
from optax_ortho.kronecker.rank_one import Damped as Damped
from optax_ortho.kronecker.rank_one import MovingAverage as MovingAverage
from optax_ortho.kronecker.rank_one import Printed as Printed
from optax_ortho.kronecker.rank_one import Rule as Rule
from optax_ortho.kronecker.rank_one import sherman_morrison as sherman_morrison
from optax_ortho.kronecker.rescale import to_rms as to_rms
from optax_ortho.kronecker.switch import LossRate as LossRate

__all__ = [
    "Blend",
    "Damped",
    "KroneckerState",
    "LossRate",
    "MovingAverage",
    "Printed",
    "Reset",
    "Rule",
    "Stabilizer",
    "layers_of",
    "precondition",
    "sherman_morrison",
    "to_rms",
    "with_biases",
]

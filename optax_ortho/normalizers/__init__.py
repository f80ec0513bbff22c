"""Stage 3: from an orthogonal update to a normalized or clamped one."""

from optax_ortho.normalizers.cosh_rms import cosh_rms as cosh_rms
from optax_ortho.normalizers.descent_maps import SecondMomentState as SecondMomentState
from optax_ortho.normalizers.descent_maps import row_norm as row_norm
from optax_ortho.normalizers.descent_maps import second_moment as second_moment
from optax_ortho.normalizers.descent_maps import sinkhorn as sinkhorn
from optax_ortho.normalizers.dual_norm import by_dual_norm as by_dual_norm
from optax_ortho.normalizers.moment_norm import MomentNormState as MomentNormState
from optax_ortho.normalizers.moment_norm import moment_norm as moment_norm
from optax_ortho.normalizers.neuron_rms import NeuronRmsState as NeuronRmsState
from optax_ortho.normalizers.neuron_rms import neuron_rms as neuron_rms

__all__ = [
    "MomentNormState",
    "NeuronRmsState",
    "SecondMomentState",
    "by_dual_norm",
    "cosh_rms",
    "moment_norm",
    "neuron_rms",
    "row_norm",
    "second_moment",
    "sinkhorn",
]

"""Stage 1: from a gradient to a momentum."""

from optax_ortho.momentum.adaptive_memory import (
    AdaptiveMemoryState as AdaptiveMemoryState,
)
from optax_ortho.momentum.adaptive_memory import adaptive_memory as adaptive_memory
from optax_ortho.momentum.ema import BiasCorrectedState as BiasCorrectedState
from optax_ortho.momentum.ema import MomentumState as MomentumState
from optax_ortho.momentum.ema import bias_corrected as bias_corrected
from optax_ortho.momentum.ema import ema as ema
from optax_ortho.momentum.ema import heavy_ball as heavy_ball
from optax_ortho.momentum.ema import nesterov as nesterov

__all__ = [
    "AdaptiveMemoryState",
    "BiasCorrectedState",
    "MomentumState",
    "adaptive_memory",
    "bias_corrected",
    "ema",
    "heavy_ball",
    "nesterov",
]

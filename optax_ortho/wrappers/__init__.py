"""Wrappers of a whole optimizer, for parameters in narrow floating dtypes.

At a rate of 1e-3 a bfloat16 weight near 1 does not move: its neighbours are at least
4e-3 away, and an update of 5.6e-4 is rounded off. Each wrapper makes it count.
"""

from optax_ortho.wrappers.compensated import CompensatedState as CompensatedState
from optax_ortho.wrappers.compensated import compensated as compensated
from optax_ortho.wrappers.stochastic_rounding import (
    StochasticRoundingState as StochasticRoundingState,
)
from optax_ortho.wrappers.stochastic_rounding import (
    stochastic_rounding as stochastic_rounding,
)

__all__ = [
    "CompensatedState",
    "StochasticRoundingState",
    "compensated",
    "stochastic_rounding",
]

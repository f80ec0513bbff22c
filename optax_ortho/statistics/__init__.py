"""Statistics of the layers of a model, which some optimizers need."""

from optax_ortho.statistics.collect import (
    value_and_grad_with_statistics as value_and_grad_with_statistics,
)

__all__ = ["value_and_grad_with_statistics"]

"""What the layers of a model tell an optimizer, besides their gradients."""

from optax_ortho.statistics.collect import (
    value_and_grad_with_statistics as value_and_grad_with_statistics,
)

__all__ = ["value_and_grad_with_statistics"]

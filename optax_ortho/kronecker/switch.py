"""When second-order steps no longer pay: MKOR-H's way back to first order.

The paper says that MKOR-H switches by the rate at which the loss decreases, and gives
no formula, window or threshold. This rule is our own:

    mean     average of the loss over `window` steps
    rate     (mean of the last window - mean of this one) / window
    slow     rate <= fraction * the largest rate so far
    switch   for good, after `patience` slow windows in a row
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from optax_ortho.checks import check_number


class SwitchState(NamedTuple):
    """Averages of the loss, and whether steps are still of second order."""

    second_order: jax.Array
    mean_loss: jax.Array
    losses: jax.Array
    last_mean: jax.Array
    windows: jax.Array
    largest_rate: jax.Array
    slow_windows: jax.Array


@dataclasses.dataclass(frozen=True)
class LossRate:
    """Switches to first order when the loss decreases slowly (see the module).

    Args:
      window: how many steps make one average.
      fraction: of the largest rate of decrease; at or below it a window is slow.
      patience: how many slow windows in a row make the switch.

    Raises:
      ValueError: a number out of range.

    Examples:
      >>> switch = LossRate(window=1, fraction=0.5, patience=1)
      >>> state = switch.init()
      >>> for loss in (4.0, 2.0, 1.9):
      ...     state = switch.update(state, loss)
      ...     print(state.second_order)
      True
      True
      False
    """

    window: int = 100
    fraction: float = 0.1
    patience: int = 3

    def __post_init__(self):
        check_number("window", self.window, at_least=1)
        check_number("fraction", self.fraction)
        check_number("patience", self.patience, at_least=1)

    def init(self) -> SwitchState:
        """The state before the first loss."""
        zero, none = jnp.zeros([], jnp.float32), jnp.zeros([], jnp.int32)
        return SwitchState(jnp.array(True), zero, none, zero, none, zero, none)

    def update(self, state: SwitchState, value: jax.typing.ArrayLike) -> SwitchState:
        """The state after a loss; one that is not finite is left out."""
        value = jnp.asarray(value, jnp.float32)
        finite = jnp.isfinite(value)
        losses = state.losses + finite
        share = jnp.where(finite, value - state.mean_loss, 0) / jnp.maximum(losses, 1)
        mean = state.mean_loss + share
        full = losses >= self.window
        rate = (state.last_mean - mean) / self.window
        compared = full & (state.windows > 0)
        largest = jnp.where(
            compared, jnp.maximum(state.largest_rate, rate), state.largest_rate
        )
        slow = jnp.where(rate <= self.fraction * largest, state.slow_windows + 1, 0)
        slow = jnp.where(compared, slow, state.slow_windows)
        return SwitchState(
            second_order=state.second_order & (slow < self.patience),
            mean_loss=jnp.where(full, 0, mean),
            losses=jnp.where(full, 0, losses),
            last_mean=jnp.where(full, mean, state.last_mean),
            windows=jnp.minimum(state.windows + full, 2),
            largest_rate=largest,
            slow_windows=jnp.minimum(slow, self.patience).astype(jnp.int32),
        )

"""Checks of arguments, made where the argument is given and not at step 40,000."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.core
import numpy as np


def check_number(
    name: str, value: Any, at_least: float = 0.0, below: float = math.inf
) -> None:
    """Refuses a number outside ``[at_least, below)``; a traced one passes.

    Raises:
      ValueError: the number is out of range or not a number.

    Examples:
      >>> check_number("beta", 0.95, below=1.0)
      >>> check_number("beta", 1.5, below=1.0)
      Traceback (most recent call last):
      ValueError: beta must be at least 0.0 and below 1.0, got 1.5.
    """
    if isinstance(value, jax.core.Tracer) or np.ndim(value) > 0:
        return
    if not at_least <= float(value) < below:
        upper = "" if below == math.inf else f" and below {below}"
        raise ValueError(f"{name} must be at least {at_least}{upper}, got {value}.")


def is_zero(value: Any) -> bool:
    """Whether a number is known to be zero now; a traced one is not."""
    return isinstance(value, (int, float)) and value == 0


def refuse_array(name: str, value: Any) -> None:
    """Refuses an array where a function or a choice is expected.

    `optax.inject_hyperparams` calls every callable argument with the step count and
    hands over the result.

    Raises:
      TypeError: the value is an array; the message names ``static_args``.
    """
    if isinstance(value, (jax.Array, np.ndarray)):
        raise TypeError(
            f"{name} is an array. If it comes from optax.inject_hyperparams, which "
            f"takes every function for a schedule, name it there: "
            f"inject_hyperparams(..., static_args=({name!r},))."
        )


def refuse_one_owner(name: str, extra: Mapping[str, Any]) -> None:
    """Refuses the matrices of one device, where all are needed.

    Args:
      name: the name of the stage.
      extra: the extra arguments of its update; ``one_owner`` among them says that the
        tree has the matrices of one device.

    Raises:
      ValueError: ``one_owner`` is set.
    """
    if extra.get("one_owner"):
        raise ValueError(
            f"{name} couples several matrices, and with layouts.owned each device has "
            "its own. Use layouts.sharded, or a scope of one matrix."
        )

"""Sets that store a matrix at each step by itself, in the paper's (m, n).

init/p{i}                one parameter at the start
grads/g{i}               its gradients, with a leading axis of steps
{case}/step{t}/p{i}      after step t, from 1 on
{case}/final/{name}{i}   states after the last step

A linear layer of the papers is (fan_out, fan_in), so everything is transposed.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.golden.compare import Comparison, largest
from tests.golden.sets import GoldenSet

States = Callable[[Any], Mapping[str, Any]]
"""The stored names and values of a state, one tree of parameters each."""


def has_keys(golden: GoldenSet, *keys: str) -> bool:
    """Whether a set says that it stores such arrays."""
    return set(keys) <= set(golden.facts.get("keys", {}))


def compare(
    golden: GoldenSet,
    case: str,
    tx: optax.GradientTransformation,
    numbers: Iterable[int],
    states: Callable[[Any, int], Mapping[str, tuple[np.ndarray, float]]],
    tolerance: Callable[[int], float],
) -> Comparison:
    """Trains as a case says; the worst array of all decides.

    Args:
      golden: the set.
      case: its case.
      tx: the optimizer.
      numbers: which parameters to compare.
      states: what the final state of the optimizer holds for a parameter, by the name
        under which the set stores it, and the tolerance of it.
      tolerance: of a parameter, by its number.
    """
    arrays, numbers = golden.arrays, list(numbers)
    params: Any = {f"p{i}": jnp.asarray(arrays[f"init/p{i}"].T) for i in numbers}
    state, step = tx.init(params), jax.jit(tx.update)
    found = []
    for t in range(1, len(arrays[f"grads/g{numbers[0]}"]) + 1):
        grads = {f"p{i}": jnp.asarray(arrays[f"grads/g{i}"][t - 1].T) for i in numbers}
        updates, state = step(grads, state, params)
        params = optax.apply_updates(params, updates)
        for i in numbers:
            error = largest(params[f"p{i}"].T - arrays[f"{case}/step{t}/p{i}"])
            found.append(Comparison(error, tolerance(i), f"worst: p{i}, step {t}"))
    for i in numbers:
        for name, (value, limit) in states(state, i).items():
            key = f"{case}/final/{name}{i}"
            if key in arrays:
                error = largest(np.asarray(value) - arrays[key])
                found.append(Comparison(error, limit, f"worst: {name}{i}"))
    return max(found, key=lambda one: one.closeness)

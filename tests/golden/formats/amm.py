"""Adaptive-memory momentum: one key a step, and what the optimizer remembers.

init/p<i>, grads/g<i>               parameters, and gradients with a leading step axis
<case>/step<t>/p<i>, beta           after step t = 1, 2, ...; one beta, or one a leaf
<case>/final/d<i>, v<i>, beta_product<i>    the state after the last step

There is no code of the authors; the class says which algorithm was transcribed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_ortho
from tests.golden.compare import Comparison, arrays_under, largest, to_flax
from tests.golden.sets import GoldenSet, cases_of, source_of, tolerance
from tests.golden.sources import Unsupported, call

# Stored names of the state, and ours.
STATE = {"d": "memory", "v": "moment", "beta_product": "beta_product"}


def am_msgd(
    *,
    lr_per_step: Sequence[float],
    beta_max: float = 0.9,
    model_lambda: float = 0.1,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    return optax_ortho.am_sgd(
        each_step(lr_per_step), model_lambda, beta_max, weight_decay=weight_decay
    )


def am_adamw(
    *,
    lr_per_step: Sequence[float],
    betas: tuple[float, float] = (0.89, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    model_lambda: float = 0.1,
) -> optax.GradientTransformation:
    return optax_ortho.am_adamw(
        each_step(lr_per_step), *betas, eps, model_lambda, weight_decay=weight_decay
    )


CLASSES = {"AM_MSGD": am_msgd, "AM_AdamW": am_adamw}


def each_step(rates: Sequence[float]) -> optax.Schedule:
    return lambda count: jnp.asarray(rates, jnp.float32)[count]


def reads(golden: GoldenSet) -> bool:
    return "2510.04988" in source_of(golden.facts, {}).text


def comparisons(golden: GoldenSet) -> Iterator[tuple[str, Callable[[], Comparison]]]:
    for name, case in cases_of(golden.facts).items():
        yield name, partial(compare, golden, name, case)


def compare(golden: GoldenSet, name: str, case: Mapping[str, Any]) -> Comparison:
    """Parameters and betas after every step, and the state after the last.

    The state's error is relative where its entries are larger than 1.
    """
    case = dict(case)
    cls, tol = case.pop("class"), case.pop("tol", case.pop("err32", None))
    if cls not in CLASSES:
        raise Unsupported(f"optax_ortho has no counterpart of {cls}")
    tx = call(CLASSES[cls], **case)

    def each_leaf(prefix: str, lead: int) -> list[np.ndarray]:
        stored = arrays_under(golden.arrays, prefix)
        return [to_flax(stored[str(i)], lead) for i in range(len(stored))]

    if not each_leaf(f"{name}/step1/p", 0):
        raise Unsupported("no parameters are stored")
    params = [jnp.asarray(p) for p in each_leaf("init/p", 0)]
    gradients = [jnp.asarray(g) for g in each_leaf("grads/g", 1)]
    state, step, errors = tx.init(params), jax.jit(tx.update), {}
    for t in range(1, len(case["lr_per_step"]) + 1):
        updates, state = step([g[t - 1] for g in gradients], state, params)
        params = optax.apply_updates(params, updates)
        for i, expected in enumerate(each_leaf(f"{name}/step{t}/p", 0)):
            errors[f"p{i} after step {t}"] = largest(params[i] - expected)
        beta = np.array(optax.tree.get(state, "memory_beta"))
        expected = golden.arrays[f"{name}/step{t}/beta"]
        errors[f"beta at step {t}"] = largest(beta - expected)
    for stored, ours in STATE.items():
        found = optax.tree.get(state, ours)
        for i, expected in enumerate(each_leaf(f"{name}/final/{stored}", 0)):
            # Sums of squares of gradients are as large as those, and rounded so.
            size = max(1.0, largest(expected))
            errors[f"{stored}{i}"] = largest(found[i] - expected) / size
    worst = max(errors, key=lambda key: np.nan_to_num(errors[key], nan=np.inf))
    limit = tolerance(jnp.float32, tol, None, 0.0)
    return Comparison(errors[worst], limit, f"worst: {worst}")

"""Stages of different papers go together: any first with any second, third and fourth.

All combinations are built and traced. Some of them, so that any two stages meet at
least once, are compiled and take two steps.
"""

import inspect
import itertools

import jax
import jax.numpy as jnp
import optax
import pytest

from optax_ortho import momentum, normalizers, ortho_chain, orthogonalize, trust_region
from optax_ortho.orthogonalizers import Exact, PowerIteration, low_rank
from optax_ortho.testing import assert_same_types, random_like
from tests.rows import ONE_STEP

PARAMS = random_like({"kernel": jnp.zeros((4, 3)), "stack": jnp.zeros((2, 3, 4))})
SHAPES = jax.eval_shape(lambda: PARAMS)
X = random_like(jnp.zeros((5, 4)), seed=9)


def logits_fn(params):
    return X @ params["kernel"]


def stages_of(package, **arguments):
    """Every stage of a sub-package by name, made with arguments if it needs some."""
    found = {}
    for name in package.__all__:
        stage = getattr(package, name)
        if inspect.isfunction(stage) and "GradientTransformation" in str(
            inspect.signature(stage).return_annotation
        ):
            found[name] = stage(*arguments.get(name, ()))
    return found


BETA = (0.9,)
SLOTS = {
    "momentum": {
        "nothing": None,
        **stages_of(
            momentum, ema=BETA, nesterov=BETA, heavy_ball=BETA, bias_corrected=BETA
        ),
    },
    "orthogonalize": {
        "nothing": None,
        "newton_schulz": orthogonalize(ONE_STEP),
        "exact": orthogonalize(Exact()),
        "low_rank": low_rank(0.9, PowerIteration(rank_fraction=0.5)),
    },
    "normalize": {"nothing": None, **stages_of(normalizers)},
    "trust_region": {"nothing": None, **stages_of(trust_region)},
}
ALL = list(itertools.product(*SLOTS.values()))


def some():
    """Combinations in which each stage meets each stage of the other slots."""
    missing = {pair for one in ALL for pair in pairs(one)}
    while missing:
        one = max(ALL, key=lambda one: len(missing & pairs(one)))
        missing -= pairs(one)
        yield one


def pairs(combination):
    return set(itertools.combinations(zip(SLOTS, combination, strict=True), 2))


def chain(names):
    chosen = zip(SLOTS.items(), names, strict=True)
    return ortho_chain(**{slot: stages[name] for (slot, stages), name in chosen})


def step(tx, gradient, state, params):
    return tx.update(gradient, state, params, logits_fn=logits_fn, learning_rate=0.1)


@pytest.mark.parametrize("names", list(some()), ids="-".join)
def test_any_two_stages_step_together(names):
    tx, params = chain(names), PARAMS
    jitted, state = jax.jit(lambda *args: step(tx, *args)), tx.init(PARAMS)
    for seed in range(2):
        updates, state = jitted(random_like(PARAMS, seed), state, params)
        params = optax.apply_updates(params, updates)
    for leaf in jax.tree.leaves((updates, state)):
        assert jnp.isfinite(leaf).all()
    for leaf in jax.tree.leaves(updates):
        assert jnp.any(leaf != 0)


@pytest.mark.slow
@pytest.mark.parametrize("first", SLOTS["momentum"])
def test_all_combinations_keep_shapes_and_dtypes(first):
    for names in ALL:
        if names[0] == first:
            tx = chain(names)
            state = jax.eval_shape(tx.init, SHAPES)
            updates, new = jax.eval_shape(
                lambda *args, tx=tx: step(tx, *args), SHAPES, state, SHAPES
            )
            assert_same_types(updates, SHAPES, f"the update of {names}")
            assert_same_types(new, state, f"the state of {names}")


def test_every_stage_is_among_them():
    assert {"ema", "nesterov"} <= set(SLOTS["momentum"])
    assert {"by_dual_norm"} <= set(SLOTS["normalize"])
    assert {"by_shape", "normalized", "softmax_radius"} <= set(SLOTS["trust_region"])

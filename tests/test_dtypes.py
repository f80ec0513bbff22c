"""Dtypes that stay what they were."""

import jax.numpy as jnp
import optax
import pytest

from optax_ortho.dtypes import keep_dtypes
from optax_ortho.testing import assert_close, check_dtypes, random_like

PARAMS = {"a": jnp.ones((2, 3)), "b": jnp.ones(())}


@pytest.mark.parametrize(
    "tx",
    [optax.adamw(0.1), optax.nadamw(0.1), optax.lion(0.1), optax.sgd(0.1, 0.9)],
    ids=["adamw", "nadamw", "lion", "sgd"],
)
def test_types_are_kept(tx):
    check_dtypes(keep_dtypes(tx), PARAMS)


def test_the_check_finds_what_adamw_does_without():
    with pytest.raises(AssertionError, match="bfloat16 parameters, float32"):
        check_dtypes(optax.adamw(0.1), PARAMS, [(jnp.bfloat16, jnp.float32)])


def test_one_dtype_is_not_changed():
    plain, kept = optax.adamw(0.1), keep_dtypes(optax.adamw(0.1))
    gradient = random_like(PARAMS)
    expected = plain.update(gradient, plain.init(PARAMS), PARAMS)
    actual = kept.update(gradient, kept.init(PARAMS), PARAMS)
    assert_close(actual, expected, 0, "float32 throughout")


def test_integers_of_the_state_stay_integers():
    tx = keep_dtypes(optax.adamw(0.1))
    _, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    assert optax.tree.get(state, "count").dtype == jnp.int32


def test_extra_arguments_reach_the_transformation():
    seen = {}

    def update(updates, state, params=None, **extra):
        seen.update(extra)
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda params: (), update)
    keep_dtypes(inner).update(PARAMS, (), PARAMS, loss=1.0)
    assert seen == {"loss": 1.0}


def test_float64_is_kept(float64):
    pairs = [(jnp.float64, jnp.float64), (jnp.float32, jnp.float64)]
    check_dtypes(keep_dtypes(optax.adamw(0.1)), PARAMS, pairs)

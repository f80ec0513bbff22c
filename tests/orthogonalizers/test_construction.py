"""Errors in the construction of methods, and their messages."""

import dataclasses

import jax.numpy as jnp
import optax
import pytest

from optax_ortho.orthogonalizers import (
    COEFFICIENTS,
    Auto,
    GramNewtonSchulz,
    NewtonSchulz,
    orthogonalize,
)
from tests.orthogonalizers.methods import METHODS

iterations = pytest.mark.parametrize("method", [NewtonSchulz, GramNewtonSchulz, Auto])


@iterations
def test_a_name_is_its_table(method):
    assert method("you5") == method(COEFFICIENTS["you5"])
    assert hash(method([[2.0, -1.5, 0.5]])) == hash(method(((2.0, -1.5, 0.5),)))


@pytest.mark.parametrize("method", [NewtonSchulz, GramNewtonSchulz])
def test_what_follows_is_filled_in(method):
    made = method([(2.0, -1.5, 0.5)] * 3, dtype="float64")
    assert made.coefficients.name == "custom"
    assert (made.steps, made.dtype) == (3, jnp.float64)
    assert method().steps == 5


@pytest.mark.parametrize("name", METHODS)
def test_is_frozen_hashes_compares_and_prints(name):
    method = METHODS[name]
    copy = dataclasses.replace(method)
    assert copy == method and hash(copy) == hash(method)
    assert repr(method).startswith(type(method).__name__ + "(")
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(method, dataclasses.fields(method)[0].name, None)


@iterations
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coefficients": "jordan"}, "no table 'jordan'; there are keller_jordan"),
        ({"coefficients": "root_2048x2048"}, "'root_2048x2048' is not safe"),
        ({"coefficients": "root_2048x2048", "steps": 12}, "is not safe"),
        ({"coefficients": "aol_4"}, "'aol_4' is not safe: .* unsafe=True"),
        ({"coefficients": [(9.0, 0.0, 0.0)]}, "'custom' is not safe"),
        ({"steps": 0}, "steps must be at least 1"),
    ],
)
def test_refuses(method, arguments, message):
    with pytest.raises(ValueError, match=message):
        method(**arguments)


@pytest.mark.parametrize("method", [NewtonSchulz, GramNewtonSchulz])
def test_refuses_a_negative_eps(method):
    with pytest.raises(ValueError, match="eps must be at least 0"):
        method(eps=-1e-8)


@iterations
def test_refuses_what_inject_hyperparams_makes_of_a_function(method):
    with pytest.raises(TypeError, match="static_args"):
        method(coefficients=jnp.ones(3))


def test_unsafe_takes_it_all_the_same():
    method = NewtonSchulz("aol_4", unsafe=True)
    assert method.coefficients is COEFFICIENTS["aol_4"]


@pytest.mark.parametrize("name", ["cans", "cubic5"])
def test_a_table_without_room_for_rounding_is_for_float32(name):
    NewtonSchulz(name)
    with pytest.raises(ValueError, match="Compute in float32"):
        NewtonSchulz(name, dtype=jnp.bfloat16)


@pytest.mark.parametrize("restarts", [(), (2,), (1, 4)])
def test_gram_in_half_precision_restarts_often(restarts):
    with pytest.raises(ValueError, match="restart every two steps"):
        GramNewtonSchulz(restarts=restarts, dtype=jnp.bfloat16)
    GramNewtonSchulz(restarts=restarts, dtype=jnp.bfloat16, unsafe=True)


def test_gram_in_float32_is_of_high_precision():
    assert GramNewtonSchulz().precision.name == "HIGHEST"
    with pytest.raises(ValueError, match="products of high precision"):
        GramNewtonSchulz(precision="default")


@pytest.mark.parametrize(
    ("name", "dtype", "restarts"),
    [
        ("keller_jordan", None, (2,)),
        ("keller_jordan", jnp.bfloat16, (2, 4)),
        ("deepseek_v4", None, (2, 5, 8)),
        ("deepseek_v4", jnp.bfloat16, (2, 4, 6, 8)),
    ],
)
def test_restarts_follow_from_steps_and_dtype(name, dtype, restarts):
    assert GramNewtonSchulz(name, dtype=dtype).restarts == restarts


def test_inject_hyperparams_leaves_a_method_alone():
    """It would take anything callable for a schedule."""
    make = optax.inject_hyperparams(
        lambda orthogonalizer, scale: optax.chain(
            orthogonalize(orthogonalizer), optax.scale(scale)
        )
    )
    tx = make(NewtonSchulz(), 0.5)
    x = jnp.ones((2, 3))
    updates = jnp.asarray(tx.update(x, tx.init(x))[0])
    expected = 0.5 * NewtonSchulz().orthogonalize(x)
    # Fusion moves roundings.
    assert jnp.abs(updates - expected).max() < 1e-6

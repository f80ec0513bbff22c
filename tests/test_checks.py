"""Arguments that are refused where they are given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_ortho.checks import check_number, refuse_array


@pytest.mark.parametrize("value", [0.0, 0, 0.999, np.float32(0.5), jnp.float32(0.5)])
def test_numbers_inside_pass(value):
    check_number("beta", value, below=1.0)


@pytest.mark.parametrize("value", [-1e-9, 1.0, 1, np.nan, np.inf, jnp.float32(-1)])
def test_numbers_outside_are_refused_by_name(value):
    with pytest.raises(ValueError, match="beta must be at least 0.0 and below 1.0"):
        check_number("beta", value, below=1.0)


def test_without_an_upper_limit_none_is_named():
    with pytest.raises(ValueError, match=r"rate must be at least 0.0, got -1\.$"):
        check_number("rate", -1)


def test_infinity_is_refused_without_an_upper_limit():
    with pytest.raises(ValueError, match="rate"):
        check_number("rate", np.inf)


def test_traced_numbers_pass():
    jax.jit(lambda x: check_number("beta", x, below=1.0))(2.0)


@pytest.mark.parametrize("value", [jnp.zeros(()), np.zeros(3)])
def test_arrays_are_refused_with_the_way_out(value):
    with pytest.raises(TypeError, match=r"static_args=\('layout',\)"):
        refuse_array("layout", value)


def test_traced_arrays_are_refused_too():
    with pytest.raises(TypeError, match="static_args"):
        jax.jit(lambda x: refuse_array("layout", x))(1.0)


@pytest.mark.parametrize("value", [None, jnp.sign, "name", 3])
def test_everything_else_passes(value):
    refuse_array("layout", value)

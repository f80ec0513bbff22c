"""Stage 4: constant factors of a matrix's shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optax_ortho import MatrixAxes, Split
from optax_ortho.testing import assert_close, check_transformation, random_like
from optax_ortho.trust_region import (
    JORDAN,
    SPECTRAL,
    UNSCALED,
    ShapeFactor,
    by_shape,
    match_rms,
)

sizes = st.integers(1, 4096)


def scaled(factor, shape, axes=None):
    axes_of = None if axes is None else (lambda path, leaf: axes)
    tx = by_shape(factor) if axes_of is None else by_shape(factor, axes_of)
    ones = jnp.ones(shape)
    return jax.jit(tx.update)(ones, tx.init(ones))[0]


def orthogonal(fan_in, fan_out):
    """A matrix whose singular values are all one."""
    normal = np.random.default_rng(0).standard_normal((fan_in, fan_out))
    left, _, right = np.linalg.svd(normal, full_matrices=False)
    return left @ right


@given(sizes, sizes)
def test_match_rms_gives_every_shape_one_rms(fan_in, fan_out):
    rms_of_orthogonal = 1 / np.sqrt(max(fan_in, fan_out))
    assert match_rms(0.3).of(fan_in, fan_out) * rms_of_orthogonal == pytest.approx(0.3)


@given(sizes, sizes)
def test_spectral_gives_a_unit_map_between_rms_norms(fan_in, fan_out):
    # |y|_rms / |x|_rms for singular value s is s sqrt(fan_in / fan_out).
    assert SPECTRAL.of(fan_in, fan_out) * np.sqrt(fan_in / fan_out) == pytest.approx(1)


@given(sizes, sizes)
def test_jordan_is_spectral_where_that_is_above_one(fan_in, fan_out):
    assert JORDAN.of(fan_in, fan_out) == max(1, SPECTRAL.of(fan_in, fan_out))


def test_unscaled_changes_nothing():
    np.testing.assert_array_equal(scaled(UNSCALED, (4, 6)), jnp.ones((4, 6)))


@pytest.mark.parametrize("shape", [(16, 4), (4, 16), (8, 8)])
def test_an_orthogonal_matrix_gets_the_promised_rms(shape):
    tx = by_shape(match_rms(0.2))
    x = jnp.asarray(orthogonal(*shape), jnp.float32)
    updates, _ = jax.jit(tx.update)(x, tx.init(x))
    assert float(jnp.sqrt(jnp.mean(updates**2))) == pytest.approx(0.2, rel=1e-5)


@pytest.mark.parametrize(
    "shape, axes, fans",
    [
        ((2, 8), None, (2, 8)),
        ((3, 2, 8), None, (2, 8)),
        ((3, 3, 2, 8), MatrixAxes((0, 1, 2), (3,)), (18, 8)),
        ((2, 4, 5), MatrixAxes((0,), (1, 2)), (2, 20)),
    ],
    ids=["kernel", "stack", "convolution", "heads"],
)
def test_the_factor_is_that_of_one_matrix(shape, axes, fans):
    expected = np.full(shape, SPECTRAL.of(*fans), np.float32)
    np.testing.assert_array_equal(scaled(SPECTRAL, shape, axes), expected)


def test_blocks_of_a_fused_leaf_get_factors_and_scales_of_their_own():
    split = Split(1, (8, 2, 2), scales=(1.0, 1.0, 3.0))
    actual = scaled(SPECTRAL, (2, 12), MatrixAxes((0,), (1,), split))
    expected = np.repeat([SPECTRAL.of(2, 8), 1.0, 3.0], [8, 2, 2])
    np.testing.assert_allclose(actual[1], expected, rtol=1e-6)


def test_blocks_along_fan_in():
    split = Split(-2, (1, 3))
    actual = scaled(SPECTRAL, (5, 4, 3), MatrixAxes((-2,), (-1,), split))
    expected = np.repeat([np.sqrt(3), 1.0], [1, 3])
    np.testing.assert_allclose(actual[2, :, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_empty_matrices_pass(shape):
    assert scaled(JORDAN, shape).shape == shape


@pytest.mark.parametrize("factor", [JORDAN, SPECTRAL, UNSCALED, match_rms()], ids=repr)
def test_the_contract(factor):
    check_transformation(
        by_shape(factor), {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 2))}
    )


def test_a_factor_of_your_own():
    tenth = ShapeFactor("tenth", lambda fan_in, fan_out: 0.1)
    assert_close(scaled(tenth, (2, 3)), jnp.full((2, 3), 0.1), 0, "a tenth")


def test_factors_print_and_compare_by_name():
    assert repr(match_rms(0.25)) == "match_rms(0.25)"
    assert match_rms(0.25) == match_rms(0.25) != match_rms(0.2)


def test_a_negative_rms_is_refused():
    with pytest.raises(ValueError, match="rms"):
        match_rms(-0.2)


@pytest.mark.parametrize("factor", [0.2, lambda *fans: 1.0, None])
def test_anything_but_a_factor_is_refused(factor):
    with pytest.raises(TypeError, match="ShapeFactor"):
        by_shape(factor)


def test_an_array_is_refused_with_the_way_out():
    with pytest.raises(TypeError, match="static_args"):
        by_shape(jnp.zeros(()))  # pyright: ignore[reportArgumentType]


def test_a_leaf_that_is_no_matrix_is_named():
    tx, bias = by_shape(), {"bias": random_like(jnp.zeros(3))}
    with pytest.raises(ValueError, match="'bias'"):
        jax.jit(tx.update)(bias, tx.init(bias))

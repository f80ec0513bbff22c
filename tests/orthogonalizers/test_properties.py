"""Promises of all orthogonalizers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_ortho.matrices import Orthogonalizer
from tests.orthogonalizers.methods import (
    DTYPES,
    EXACT,
    HALF,
    METHODS,
    PRECISE,
    PRODUCTS,
    SPECTRA,
    TOLERANCE,
    difference,
    normal,
    rotation,
    with_spectrum,
)

WITHOUT_AOL = [name for name in METHODS if name != "aol"]
# Few shapes, because every shape is compiled anew.
WIDE, TALL, BATCH = (4, 6), (6, 4), (2, 4, 6)
every_method = pytest.mark.parametrize("name", METHODS)
every_method_and_dtype = pytest.mark.parametrize(
    ("name", "dtype"),
    # The decompositions see float32 whatever the input.
    [(name, dtype) for name in PRODUCTS for dtype in DTYPES]
    + [(name, jnp.float32) for name in EXACT],
)


@functools.cache
def call(name):
    """Operation by operation, which shares its small programs between the methods."""
    f = METHODS[name].orthogonalize
    # A branch on the platform is a new program each time unless it is kept.
    return jax.jit(f) if name == "auto" else f


@every_method
def test_is_an_orthogonalizer_and_no_schedule(name):
    assert isinstance(METHODS[name], Orthogonalizer)
    assert not callable(METHODS[name])


@every_method
def test_keeps_shape_and_dtype(name):
    shapes = [(0, 3), (3, 0), (0, 0), (0, 2, 3), (1, 4), (4, 1), (2, 2, 5, 3)]
    for shape, dtype in [(s, jnp.float32) for s in shapes] + [
        (BATCH, d) for d in DTYPES
    ]:
        x = jax.ShapeDtypeStruct(shape, dtype)
        y = jax.eval_shape(METHODS[name].orthogonalize, x)
        assert (y.shape, y.dtype) == (shape, dtype)


@pytest.mark.parametrize("name", ["newton_schulz", "gram", "aol", *EXACT])
def test_empty_matrices_stay_empty(name):
    for shape in [(0, 3), (3, 0), (0, 2, 3)]:
        assert call(name)(jnp.zeros(shape)).shape == shape


@pytest.mark.parametrize("name", ["newton_schulz", "gram", "aol", "svd"])
def test_vectors_are_normalized(name):
    f = call(name)
    row = normal((1, 6))
    y = f(row)
    assert difference(f(row.T), y.T) < TOLERANCE[name]
    # One singular value, 1; the tables take it to 0.6 (cubic5) .. 1.2.
    assert 0.5 < jnp.linalg.norm(y) < 1.3
    cosine = (row * y).sum() / jnp.linalg.norm(row) / jnp.linalg.norm(y)
    assert cosine > 1 - TOLERANCE[name]


@pytest.mark.parametrize("shape", [(), (3,)])
@every_method
def test_refuses_what_is_no_matrix(name, shape):
    with pytest.raises(ValueError, match="takes .* arrays"):
        METHODS[name].orthogonalize(jnp.ones(shape))


@every_method_and_dtype
def test_zero_stays_exactly_zero(name, dtype):
    y = call(name)(jnp.zeros(WIDE, dtype))
    np.testing.assert_array_equal(y, jnp.zeros(WIDE, dtype))


@every_method
def test_zero_in_a_batch_stays_exactly_zero(name):
    y = call(name)(normal(BATCH).at[1].set(0))
    np.testing.assert_array_equal(y[1], 0)
    assert jnp.isfinite(y).all()


@every_method
def test_scale_of_float32_does_not_matter(name):
    x = np.asarray(normal(WIDE), np.float64)
    x /= abs(x).max()
    f = call(name)
    y = f(jnp.asarray(x.astype(np.float32)))
    for exponent in (-30, -17, 3, 20, 37):
        scaled = jnp.asarray((x * 10.0**exponent).astype(np.float32))
        # The scaled entries are rounded anew, to 6e-8; half precision rounds them to
        # 4e-3 on other edges.
        assert difference(f(scaled), y) < TOLERANCE[name]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@every_method
def test_powers_of_two_of_half_precision_do_not_matter(name, dtype):
    x = (1 + jnp.abs(normal(WIDE)) % 1).astype(dtype) * jnp.asarray(
        [[1, -1, 1, 1, -1, 1]], dtype
    )
    info = jnp.finfo(dtype)
    f = call(name)
    for exponent in (int(info.minexp), -5, 5, int(info.maxexp) - 2):
        scaled = (x.astype(jnp.float32) * 2.0**exponent).astype(dtype)
        # A power of two changes no digit, hence nothing at all.
        np.testing.assert_array_equal(
            np.asarray(f(scaled), np.float32), np.asarray(f(x), np.float32)
        )


@every_method
def test_denormal_and_largest_entries_are_finite(name):
    largest = float(np.finfo(np.float32).max)
    for size in (1e-45, 1e-40, largest):
        y = call(name)(jnp.full(WIDE, size, jnp.float32))
        assert jnp.isfinite(y).all()


@every_method_and_dtype
def test_commutes_with_transposition(name, dtype):
    f = call(name)
    x = normal(WIDE, dtype)
    # Half precision results are rounded once more, to 4e-3 in bfloat16.
    tolerance = max(TOLERANCE[name], 2 * float(jnp.finfo(dtype).eps))
    assert difference(f(x.mT), f(x).mT) < tolerance
    if jnp.iscomplexobj(x):
        assert difference(f(x.conj()), f(x).conj()) < tolerance


@every_method
def test_a_batch_is_a_loop(name):
    f = call(name)
    x = normal(BATCH)
    loop = jnp.stack([f(one) for one in x])
    # The same products in another order of sums.
    assert difference(f(x), loop) < TOLERANCE[name]
    assert difference(jax.vmap(f)(x), loop) < TOLERANCE[name]


@pytest.mark.parametrize("name", ["newton_schulz", "gram_bfloat16", "svd"])
def test_jit_and_scan_change_nothing(name):
    f = METHODS[name].orthogonalize
    x = normal(BATCH)
    y = jnp.stack([f(one) for one in x])
    # Fusion moves roundings.
    assert difference(jax.jit(f)(x), y) < TOLERANCE[name]
    assert difference(jax.lax.map(f, x), y) < TOLERANCE[name]


@pytest.mark.parametrize("shape", [WIDE, TALL])
@pytest.mark.parametrize("name", WITHOUT_AOL)
def test_commutes_with_rotations(name, shape):
    m, n = shape
    x = with_spectrum(shape, np.linspace(1, 0.3, min(m, n)))
    left, right = rotation(m, seed=7), rotation(n, seed=8)
    f = call(name)
    y = np.asarray(f(jnp.asarray(x.astype(np.float32))), np.float64)
    rotated = f(jnp.asarray((left @ x @ right).astype(np.float32)))
    assert difference(rotated, left @ y @ right) < TOLERANCE[name]


@pytest.mark.parametrize("name", ["newton_schulz", "gram", "bfloat16", "svd"])
def test_commutes_with_unitary_matrices(name):
    x = normal(WIDE, jnp.complex64)
    left, right = rotation(4, np.complex128, 7), rotation(6, np.complex128, 8)
    f = call(name)
    rotated = f(jnp.asarray((left @ np.asarray(x) @ right).astype(np.complex64)))
    assert difference(rotated, left @ np.asarray(f(x)) @ right) < TOLERANCE[name]


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_real_matrix_is_a_complex_one(name):
    x = normal(WIDE)
    f = call(name)
    assert difference(f(x.astype(jnp.complex64)), f(x)) < TOLERANCE[name]


@pytest.mark.parametrize("name", [*PRECISE, "svd"])
def test_keeps_the_null_space_in_float32(name):
    x = normal((24, 5)) @ normal((5, 72), seed=1)
    s = np.linalg.svd(np.asarray(call(name)(x)), compute_uv=False)
    # Rounding, 6e-8, times the steepest slope here, 989, and room for 20 of them.
    assert s[5] / s[0] < 1e-3
    assert s[4] / s[0] > 0.3


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("name", PRODUCTS)
def test_singular_values_stay_bounded(name, spectrum):
    x = with_spectrum((24, 72), SPECTRA[spectrum](24)).astype(np.float32)
    y = np.asarray(call(name)(jnp.asarray(x)), np.float64)
    # The largest of all tables is 1.30 (cubic5); bfloat16 adds a few roundings.
    assert np.linalg.norm(y, 2) < (1.35 if name in HALF else 1.301)
    assert (x * y).sum() > 0


@pytest.mark.parametrize("seed", range(5))
def test_gram_in_bfloat16_stays_bounded(seed):
    x = with_spectrum((24, 72), SPECTRA["condition_1e2"](24), seed)
    y = call("gram_bfloat16")(jnp.asarray(x.astype(np.float32)))
    # You's table goes to 1.145.
    assert np.linalg.norm(np.asarray(y, np.float64), 2) < 1.3


@pytest.mark.parametrize("name", ["newton_schulz", "schatten4", "aol", "gram", "auto"])
def test_gradients_are_finite(name):
    weights = normal(WIDE, seed=1)
    x = normal(WIDE)

    @jax.grad
    def gradient(x):
        return (call(name)(x) * weights).sum()

    for point in (x, jnp.zeros(WIDE), x.at[1].set(0), 1e-30 * x, 1e30 * x):
        assert jnp.isfinite(gradient(point)).all()
    np.testing.assert_array_equal(gradient(jnp.zeros(WIDE)), 0)


@pytest.mark.parametrize("name", ["newton_schulz", "gram", "aol", "svd"])
def test_gradients_are_orthogonal_to_the_matrix(name):
    """The derivative of a scale-invariant function along its argument."""
    x = normal(WIDE)
    _, along = jax.jvp(call(name), (x,), (x,))
    assert jnp.abs(along).max() < 1e-4  # A rounding times the slopes.


@pytest.mark.parametrize("name", EXACT)
def test_exact_methods_give_orthonormal_rows(name):
    y = call(name)(normal(WIDE))
    assert jnp.abs(y @ y.T - jnp.eye(4)).max() < 1e-5  # A few float32 roundings.

"""Clipping, and the quantile that it needs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optax_ortho.orthogonalizers import Clipped, NewtonSchulz
from optax_ortho.orthogonalizers.outliers import clip
from optax_ortho.orthogonalizers.quantile import SORTED, quantile_of_magnitudes
from optax_ortho.testing import assert_close, check_orthogonalizer
from tests.reference import root as reference

RANDOM = np.random.default_rng(0)
LARGE = (48, 40)  # Too many entries to sort.
normal = RANDOM.standard_normal(LARGE)
SPREAD = {
    "normal": normal,
    "uniform": RANDOM.random(LARGE),
    "heavy tails": RANDOM.standard_t(2, LARGE),
    "wide range": np.exp(8 * normal),
    "two sizes": np.where(RANDOM.random(LARGE) < 0.1, 1e6, 1) * normal,
    "mostly zero": np.where(RANDOM.random(LARGE) < 0.95, 0, normal),
    "ties": RANDOM.integers(0, 5, LARGE),
    "all the same": np.full(LARGE, 3.0),
    "zero": np.zeros(LARGE),
    "one large": np.where(np.arange(1920).reshape(LARGE) == 77, 1e30, normal),
    "tiny": 1e-30 * normal,
    "huge": 1e37 * normal,
}
quantile = jax.jit(quantile_of_magnitudes, static_argnums=1)
traced_quantile = jax.jit(quantile_of_magnitudes)


@pytest.mark.parametrize("name", SPREAD)
@pytest.mark.parametrize("q", [0.0, 0.5, 0.9, 0.999, 1.0])
def test_the_quantile_is_that_of_numpy(name, q):
    x = jnp.asarray(SPREAD[name], jnp.float32)
    assert x.size > SORTED
    expected = np.quantile(np.abs(np.asarray(x, np.float64)), q)
    # The entry itself; only the interpolation rounds.
    assert_close(quantile(x, q), expected, 2e-7, name)
    # The rank is rounded to float32, to 1e-4 of a step between neighbours.
    neighbours = np.sort(np.abs(np.asarray(x, np.float64)).ravel())
    rank = int(q * (x.size - 1))
    step = neighbours[min(rank + 1, x.size - 1)] - neighbours[max(rank - 1, 0)]
    difference = abs(float(traced_quantile(x, q)) - expected)
    assert difference <= 2e-7 * expected + 2e-4 * step


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.floats(0.01, 1))
def test_small_matrices_have_it_too(seed, q):
    x = np.random.default_rng(seed).standard_normal((5, 7)).astype(np.float32)
    expected = np.quantile(np.abs(x.astype(np.float64)), q)
    assert_close(traced_quantile(x, q), expected, 1e-5, "a sorted quantile")


def test_a_batch_of_quantiles():
    x = jnp.asarray([SPREAD[name] for name in ("normal", "ties", "zero")], jnp.float32)
    together = jax.jit(jax.vmap(lambda x: quantile_of_magnitudes(x, 0.9)))(x)
    assert_close(together, jnp.stack([quantile(y, 0.9) for y in x]), 0, "a batch")


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.complex64])
def test_the_quantile_of_other_dtypes(dtype):
    x = jnp.asarray(
        normal + (1j * normal.T.reshape(LARGE) if dtype == jnp.complex64 else 0), dtype
    )
    expected = np.quantile(np.abs(np.asarray(x, np.complex128)), 0.9)
    assert_close(quantile(x, 0.9), expected, 1e-6, "float32 magnitudes")


def test_clipping_takes_out_the_soft_threshold():
    x = np.asarray(SPREAD["heavy tails"], np.float32)
    expected = reference.clip(x.astype(np.float64), 0.9)
    actual = Clipped(lambda x: x).orthogonalize(jnp.asarray(x))
    assert_close(actual, expected, 1e-6, "what is left")
    assert np.mean(np.abs(actual) < np.abs(x)) == pytest.approx(0.1, abs=1e-3)


def test_clipping_keeps_the_phase():
    x = jnp.asarray([3 + 4j, 0.3 - 0.4j, 0])
    np.testing.assert_allclose(clip(x, 1.0), [0.6 + 0.8j, 0.3 - 0.4j, 0], rtol=1e-6)


def test_a_clipped_orthogonalizer_is_an_orthogonalizer():
    check_orthogonalizer(Clipped(NewtonSchulz()), shapes=[(6, 4)], scales=(1e-30, 1e36))


def test_a_matrix_that_is_mostly_zero_is_not_clipped():
    x = jnp.zeros((4, 6)).at[1, 2].set(5.0)
    assert_close(Clipped(lambda x: x).orthogonalize(x), x, 0, "unclipped")
    # The authors' code leaves the sign, times 1e-9.
    signs = Clipped(lambda x: x, eps=1e-9).orthogonalize(x)
    assert_close(signs, 1e-9 * jnp.sign(x), 1e-6, "with eps")


def test_a_constant_threshold():
    x = jnp.asarray([[0.5, -3.0], [2.0, 0.0]])
    clipped = Clipped(lambda x: x, threshold=1.0).orthogonalize(x)
    assert_close(clipped, jnp.asarray([[0.5, -1.0], [1.0, 0.0]]), 0, "a constant")


@pytest.mark.parametrize(
    "arguments",
    [{"quantile": 1.0}, {"quantile": -0.1}, {"threshold": -1.0}, {"eps": -1.0}],
)
def test_impossible_numbers_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Clipped(NewtonSchulz(), **arguments)


def test_what_is_no_orthogonalizer_is_refused():
    with pytest.raises(TypeError, match="orthogonalizer"):
        Clipped(3)

"""AuON's brake: the identity, the promised bounds, and extreme arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_ortho.normalizers import cosh_rms
from optax_ortho.testing import random_like


def brake(x, gamma):
    """1 / r - 1, of what remains of the unit norm, in float64."""
    tx = cosh_rms(gamma)
    update, _ = jax.jit(tx.update)(x, tx.init(x))
    return float(1 / np.linalg.norm(np.asarray(update, np.float64)) - 1)


def spike(shape):
    return jnp.zeros(shape).at[0, 0].set(1.0)


@pytest.mark.parametrize("gamma", [0.5, 1.5, 8.0, 30.0, 80.0])
def test_it_is_the_rms_of_cosh(gamma):
    x = np.array([[0.9, 0.1, -0.3], [0.0, 0.2, 0.2]])
    x = x / np.linalg.norm(x)
    expected = x / np.sqrt(np.mean(np.cosh(gamma * x) ** 2))
    tx = cosh_rms(gamma)
    update, _ = jax.jit(tx.update)(jnp.asarray(1e30 * x, jnp.float32), tx.init(x))
    # The exponential of gamma enlarges the rounding of its argument by gamma.
    np.testing.assert_allclose(update, expected, rtol=1e-6 * max(gamma, 1), atol=1e-42)


@pytest.mark.parametrize(
    "shape, normal, worst", [((64, 64), 2.75e-4, 5.53e-4), ((512, 512), 4.3e-6, 8.7e-6)]
)
def test_the_published_gamma_hardly_brakes(shape, normal, worst):
    # The roundings of float32 in a norm are 1e-7.
    assert brake(random_like(jnp.zeros(shape)), 1.5) == pytest.approx(
        normal, rel=0.02, abs=3e-7
    )
    assert brake(spike(shape), 1.5) == pytest.approx(worst, rel=0.02, abs=3e-7)


def test_a_gamma_that_brakes():
    # For one spike in 64 x 64 entries r is 1.1 at 4.07.
    assert brake(spike((64, 64)), 4.07) == pytest.approx(0.1, abs=0.005)


@pytest.mark.parametrize("size", [1e-30, 1e30])
@pytest.mark.parametrize("of_unit", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
def test_no_size_and_no_gamma_gives_a_nan(size, of_unit, normalize):
    x = size * random_like(jnp.zeros((4, 6)))
    for gamma in (0.0, 1.5, 1e3, 1e30):
        tx = cosh_rms(gamma, normalize=normalize, of_unit=of_unit)
        update, _ = jax.jit(tx.update)(x, tx.init(x))
        assert bool(jnp.isfinite(update).all())


def test_without_axes_a_leaf_has_one_norm():
    tree = {"stack": random_like(jnp.zeros((3, 4, 6))), "bias": jnp.ones(5)}
    tx = cosh_rms(axes=None)
    updates, _ = jax.jit(tx.update)(tree, tx.init(tree))
    for u in updates.values():
        assert 0.9 < float(jnp.linalg.norm(u)) < 1

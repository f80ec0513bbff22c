"""NorMuon's normalization: norm kept, neurons even, and its choices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_ortho import MatrixAxes
from optax_ortho.normalizers import neuron_rms
from optax_ortho.testing import assert_close, random_like


def run(stage, x, steps=1):
    state, update = stage.init(x), None
    for seed in range(steps):
        update, state = jax.jit(stage.update)(random_like(x, seed), state)
    return update, state.neuron_variance


@pytest.mark.parametrize("shape", [(4, 6), (7, 3), (2, 5, 5)], ids=str)
@pytest.mark.parametrize("over", ["fan_in", "short"])
def test_the_norm_of_each_matrix_is_kept(shape, over):
    x = jnp.zeros(shape)
    update, _ = run(neuron_rms(over=over), x, steps=3)
    norms = (jnp.linalg.norm(u, axis=(-2, -1)) for u in (update, random_like(x, 2)))
    np.testing.assert_allclose(*norms, rtol=1e-6)  # Float32 roundings.


@pytest.mark.parametrize("shape, over", [((4, 6), (4,)), ((7, 3), (3,))], ids=str)
def test_short_averages_over_the_shorter_side(shape, over):
    (short,) = over
    _, v = run(neuron_rms(over="short"), jnp.zeros(shape))
    assert v.shape == (max(shape),)
    squares = np.asarray(random_like(jnp.zeros(shape)), np.float64) ** 2
    expected = 0.05 * squares.mean(shape.index(short))
    assert_close(v, expected, 1e-6, "v")  # Float32 roundings.


def test_a_floor_keeps_small_neurons_small():
    x = jnp.array([[1.0, 1e-4], [1.0, 1e-4]])

    def second(**kwargs):
        stage = neuron_rms(0.0, 0.0, **kwargs)
        update, _ = jax.jit(stage.update)(x, stage.init(x))
        return float(update[0, 1] / update[0, 0])

    assert second() == pytest.approx(1.0)
    assert second(floor=1e-2) == pytest.approx(1e-2, rel=1e-5)


def test_it_may_have_axes_of_its_own():
    # A kernel's neurons in the authors' code: each row of each window.
    x = jnp.zeros((3, 2, 4, 5))  # (window, window, in, out)
    rows = MatrixAxes(fan_in=(1,), fan_out=(0,))
    update, v = run(neuron_rms(axes=lambda path, leaf: rows), x)
    assert v.shape == (3, 4, 5)
    squares = jnp.sum(update**2, axis=1)
    first = jnp.broadcast_to(squares[:1], squares.shape)
    np.testing.assert_allclose(squares, first, rtol=1e-5)  # Float32 roundings.


def test_half_precision_keeps_its_statistics_in_float32():
    x = random_like(jnp.zeros((4, 6), jnp.bfloat16))
    stage = neuron_rms()
    update, state = jax.jit(stage.update)(x, stage.init(x))
    assert update.dtype == jnp.bfloat16
    assert state.neuron_variance.dtype == jnp.float32


@pytest.mark.parametrize(
    "kwargs", [{"beta2": 1.0}, {"eps": -1.0}, {"floor": -1.0}, {"over": "rows"}]
)
def test_impossible_values_are_refused(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        neuron_rms(**kwargs)

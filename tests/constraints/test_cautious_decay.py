"""Weight decay that waits for the update to agree."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_ortho.constraints import cautious_decay
from optax_ortho.testing import assert_close, check_transformation, random_like

TREE = {"bias": jnp.zeros(5), "kernel": jnp.zeros((4, 6))}


def decayed(u, w, *arguments, **kwargs):
    tx = cautious_decay(*arguments, **kwargs)
    return jax.jit(tx.update)(u, tx.init(w), w)[0]


@pytest.mark.parametrize(
    "u, w, expected",
    [
        (2.0, 1.0, 2.5),
        (-2.0, -1.0, -2.5),
        (2.0, -1.0, 2.0),
        (-2.0, 1.0, -2.0),
        (0.0, -1.0, -0.5),
        (2.0, 0.0, 2.0),
    ],
)
def test_it_decays_where_the_direction_has_the_sign_of_the_weight(u, w, expected):
    assert float(decayed(jnp.array([u]), jnp.array([w]), 0.5)[0]) == expected


def test_a_weight_is_never_taken_from_where_the_step_brings_it():
    w, u = random_like(TREE), random_like(TREE, seed=1)
    tx = optax.chain(cautious_decay(0.3), optax.scale_by_learning_rate(0.1))
    step, _ = tx.update(u, tx.init(w), w)
    for key in TREE:
        away = w[key] * step[key] > 0  # The step makes the weight larger.
        assert away.any() and not away.all()
        np.testing.assert_array_equal(step[key][away], -0.1 * u[key][away])


def test_ten_steps_by_hand():
    """x <- x - rate (u + decay [u x >= 0] x), in float64."""
    w = random_like(TREE)
    tx = optax.chain(cautious_decay(0.3), optax.scale_by_learning_rate(0.1))
    state, step = tx.init(w), jax.jit(tx.update)
    expected = {key: np.asarray(x, np.float64) for key, x in w.items()}
    for seed in range(10):
        u = random_like(TREE, seed + 1)
        for key, x in expected.items():
            ours = np.asarray(u[key], np.float64)
            expected[key] = x - 0.1 * (ours + 0.3 * (ours * x >= 0) * x)
        updates, state = step(u, state, w)
        w = optax.apply_updates(w, updates)
    assert_close(w, expected, 1e-6, "ten steps")  # Ten roundings of float32.


def test_signs_of_small_float16_numbers_count():
    u, w = jnp.array([1e-4, -1e-4], jnp.float16), jnp.array([-1e-4, -1e-4], jnp.float16)
    assert [bool(x) for x in decayed(u, w, 1.0) == u] == [True, False]


def test_a_mask_says_what_decays():
    w, u = random_like(TREE), random_like(TREE, seed=1)
    masked = decayed(u, w, 0.5, {"bias": False, "kernel": True})
    np.testing.assert_array_equal(masked["bias"], u["bias"])
    np.testing.assert_array_equal(masked["kernel"], decayed(u, w, 0.5)["kernel"])


def test_the_contract():
    check_transformation(cautious_decay(0.0), random_like(TREE))


def test_a_negative_decay_is_refused():
    with pytest.raises(ValueError, match="weight_decay"):
        cautious_decay(-0.1)


def test_parameters_are_needed():
    with pytest.raises(ValueError, match="params"):
        cautious_decay(0.1).update(TREE, optax.EmptyState())

"""Steps of one length, of the whole tree or of each matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_ortho import MatrixAxes, Split, testing
from optax_ortho.momentum import ema
from optax_ortho.testing import assert_close, random_like
from optax_ortho.trust_region import normalized

TREE = {
    "bias": jnp.zeros(3),
    "kernel": jnp.zeros((4, 3)),
    "stack": jnp.zeros((2, 3, 5)),
}


def divided(x, **arguments):
    tx = normalized(**arguments)
    return tx.update(x, tx.init(x))[0]


def norm(x, axis=None):
    return np.linalg.norm(
        np.asarray(x, np.float64).ravel() if axis is None else x, axis=axis
    )


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_all_leaves_have_one_norm(size):
    x = random_like(TREE)
    updates = divided(optax.tree.scale(size, x))
    length = np.sqrt(sum(norm(leaf) ** 2 for leaf in x.values()))
    # Float32 sums, and the factor's rounding.
    assert_close(updates, optax.tree.scale(1 / length, x), 1e-5, "x / |x|")


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_each_matrix_has_its_own_norm(size):
    x = {"kernel": random_like(TREE["kernel"]), "stack": random_like(TREE["stack"])}
    updates = divided(optax.tree.scale(size, x), scope="matrix")
    lengths = {"kernel": norm(x["kernel"], (0, 1)), "stack": norm(x["stack"], (1, 2))}
    expected = jax.tree.map(
        lambda x, n: x / n[..., None, None], x, jax.tree.map(jnp.asarray, lengths)
    )
    assert_close(updates, expected, 1e-5, "x / |x|")


@pytest.mark.parametrize("scope", ["global", "matrix"])
def test_the_rms_is_the_one_asked_for(scope):
    x = {"kernel": random_like(jnp.zeros((40, 30)))}
    updates = divided(x, scope=scope, target_rms=0.2)
    rms = float(jnp.sqrt(jnp.mean(updates["kernel"] ** 2)))
    assert rms == pytest.approx(0.2, rel=1e-5)


@pytest.mark.parametrize("scope", ["global", "matrix"])
@pytest.mark.parametrize("eps", [0.0, 1e-10])
def test_zero_stays_zero(scope, eps):
    zeros = {"kernel": jnp.zeros((4, 3)), "stack": jnp.zeros((2, 3, 5))}
    assert_close(divided(zeros, scope=scope, eps=eps), zeros, 0, "zero")


def test_a_zero_matrix_of_a_stack_stays_zero():
    x = random_like(TREE["stack"]).at[0].set(0)
    updates = divided(x, scope="matrix")
    assert not updates[0].any() and norm(updates[1]) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("scope", ["global", "matrix"])
def test_eps_is_added_to_the_norm(scope):
    x = random_like(TREE["kernel"])
    updates = divided(x, scope=scope, eps=0.5)
    assert_close(updates, x / (norm(x) + 0.5), 1e-6, "x / (|x| + eps)")


def test_blocks_and_convolutions_have_their_own_norms():
    fused = random_like(jnp.zeros((4, 6)))
    split = MatrixAxes(split=Split(1, (4, 2), scales=(1.0, 3.0)))
    updates = divided(fused, scope="matrix", axes=lambda path, leaf: split)
    assert norm(updates[:, :4]) == pytest.approx(1, rel=1e-5)
    assert norm(updates[:, 4:]) == pytest.approx(3, rel=1e-5)
    kernel, axes = random_like(jnp.zeros((3, 3, 2, 5))), MatrixAxes((0, 1, 2), (3,))
    updates = divided(kernel, scope="matrix", axes=lambda path, leaf: axes)
    assert norm(updates) == pytest.approx(1, rel=1e-5)


def test_bo_rep_by_hand():
    """m <- 0.9 m + 0.1 h, x <- x - 0.01 m / (1e-10 + |m|), in float64."""
    x = random_like(TREE)
    tx = optax.chain(
        ema(0.9), normalized(eps=1e-10), optax.scale_by_learning_rate(0.01)
    )
    state, step = tx.init(x), jax.jit(tx.update)
    flat = np.concatenate([np.ravel(leaf) for leaf in x.values()]).astype(float)
    m = np.zeros_like(flat)
    for seed in range(10):
        h = optax.tree.scale(10.0 ** (seed % 3), random_like(TREE, seed))
        m = 0.9 * m + 0.1 * np.concatenate([np.ravel(leaf) for leaf in h.values()])
        flat = flat - 0.01 * m / (1e-10 + np.linalg.norm(m))
        updates, state = step(h, state)
        x = optax.apply_updates(x, updates)
    actual = np.concatenate([np.ravel(leaf) for leaf in x.values()])
    np.testing.assert_allclose(actual, flat, atol=1e-6)  # Ten roundings of float32.


def test_the_global_scope_keeps_the_promises_of_a_stage():
    tx, params = optax.chain(ema(0.9), normalized()), random_like(TREE)
    testing.check_one_trace(tx, params, steps=2)
    testing.check_dtypes(tx, params, [(jnp.float32, jnp.bfloat16)])
    testing.check_unexpected_arguments(tx, params)
    testing.check_vmap(tx, params)


def test_no_leaves():
    assert divided({}) == {}


@pytest.mark.parametrize(
    "arguments, match",
    [({"scope": "leaf"}, "scope"), ({"eps": -1.0}, "eps"), ({"target_rms": -1}, "rms")],
)
def test_what_cannot_be_is_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        normalized(**arguments)

"""Running a transformation in another basis."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_ortho import Frame, in_frame
from optax_ortho.testing import assert_close, random_like

PARAMS = {"kernel": jnp.zeros((4, 3))}
ROTATION = jnp.asarray(
    np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0], jnp.float32
)


def rotated_by(matrix):
    """A basis that does not change."""
    return Frame(
        init=lambda params: (),
        update=lambda updates, state, params, **extra: state,
        enter=lambda tree, state: jax.tree.map(lambda x: matrix.T @ x, tree),
        leave=lambda tree, state: jax.tree.map(lambda x: matrix @ x, tree),
    )


def trajectory(tx, steps=3):
    state, out = tx.init(PARAMS), []
    for seed in range(steps):
        updates, state = jax.jit(tx.update)(random_like(PARAMS, seed), state, PARAMS)
        out.append(updates)
    return out


def test_linear_maps_do_not_notice_a_fixed_rotation():
    # Two products with a rotation round each entry a few times.
    rotated = trajectory(in_frame(rotated_by(ROTATION), optax.trace(0.9)))
    assert_close(rotated, trajectory(optax.trace(0.9)), 1e-6, "momentum in a frame")


def test_entrywise_maps_do_notice():
    rotated = trajectory(in_frame(rotated_by(ROTATION), optax.scale_by_sign()))
    with pytest.raises(AssertionError):
        assert_close(rotated, trajectory(optax.scale_by_sign()), 1e-2, "signs")


def test_a_sign_in_a_frame_is_a_sign_of_what_enters():
    frame = rotated_by(ROTATION)
    tx = in_frame(frame, optax.scale_by_sign())
    gradient = random_like(PARAMS)
    updates, _ = jax.jit(tx.update)(gradient, tx.init(PARAMS))
    expected = jax.tree.map(lambda x: ROTATION @ jnp.sign(ROTATION.T @ x), gradient)
    assert_close(updates, expected, 1e-6, "a rotated sign")


@pytest.fixture
def leading_rows():
    """The first two rows of four."""
    return Frame(
        init=lambda params: (),
        update=lambda updates, state, params, **extra: state,
        enter=lambda tree, state: jax.tree.map(lambda x: x[:2], tree),
        leave=lambda tree, state: jax.tree.map(
            lambda x: jnp.pad(x, ((0, 2), (0, 0))), tree
        ),
    )


def test_state_is_born_in_the_shapes_of_the_frame(leading_rows):
    state = jax.jit(in_frame(leading_rows, optax.trace(0.9)).init)(PARAMS)
    assert state.inner.trace["kernel"].shape == (2, 3)


def test_updates_leave_in_their_own_shape(leading_rows):
    updates = trajectory(in_frame(leading_rows, optax.trace(0.9)))[-1]
    assert updates["kernel"].shape == (4, 3)
    np.testing.assert_array_equal(updates["kernel"][2:], 0)


def test_init_of_a_frame_computes_nothing_of_the_size_of_the_parameters(leading_rows):
    shapes = jax.eval_shape(lambda: PARAMS)
    state = jax.eval_shape(in_frame(leading_rows, optax.trace(0.9)).init, shapes)
    assert state.inner.trace["kernel"].shape == (2, 3)


def test_the_frame_is_updated_before_it_is_entered():
    doubling = Frame(
        init=lambda params: jnp.ones(()),
        update=lambda updates, state, params, **extra: 2 * state,
        enter=lambda tree, state: optax.tree.scale(state, tree),
        leave=lambda tree, state: tree,
    )
    tx = in_frame(doubling, optax.identity())
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    state = tx.init(PARAMS)
    for factor in (2.0, 4.0):
        updates, state = jax.jit(tx.update)(ones, state)
        assert_close(updates, optax.tree.scale(factor, ones), 0, "a doubled frame")


def test_frame_and_inner_see_the_extra_arguments():
    seen = []

    def note(updates, state, params=None, **extra):
        seen.append(extra["loss"])
        return state

    frame = rotated_by(ROTATION)._replace(update=note)
    inner = optax.GradientTransformationExtraArgs(
        lambda params: (),
        lambda updates, state, params=None, **extra: (
            updates,
            note(updates, state, params, **extra),
        ),
    )
    tx = in_frame(frame, inner)
    tx.update(PARAMS, tx.init(PARAMS), PARAMS, loss=3.0)
    assert seen == [3.0, 3.0]

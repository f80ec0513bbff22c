"""Non-finite gradients: what is skipped, and what is counted."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_ortho import MatrixAxes, Split, guard
from optax_ortho.guard import stacked_axes
from optax_ortho.testing import assert_close, check_recovers, check_skips, random_like

SHAPES = {"a": (3, 2), "b": (4,), "stack": (3, 2, 2)}
PARAMS = {name: jnp.ones(shape) for name, shape in SHAPES.items()}


def first_axis_of_stack(path, leaf):
    return (0,) if path == "stack" else ()


SKIP_MATRIX = guard(optax.adam(0.1), "skip_matrix", first_axis_of_stack)
SKIP_STEP = guard(optax.adam(0.1), "skip_step", first_axis_of_stack)


def masks(**where):
    """The entries that are skipped: all of a leaf, or at an index of it."""
    trees = {name: np.zeros(shape, bool) for name, shape in SHAPES.items()}
    for name, index in where.items():
        trees[name][index] = True
    return trees


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "skipped",
    [masks(a=...), masks(b=...), masks(stack=1), masks(stack=2)],
    ids=["matrix", "vector", "layer 1", "layer 2"],
)
def test_only_the_bad_matrix_is_skipped(skipped, bad):
    check_skips(SKIP_MATRIX, PARAMS, skipped, bad)


def test_without_batch_axes_a_leaf_is_skipped_whole():
    check_skips(guard(optax.adam(0.1), "skip_matrix"), PARAMS, masks(stack=...))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_skip_step_skips_everything(bad):
    check_skips(SKIP_STEP, PARAMS, masks(a=..., b=..., stack=...), bad)


@pytest.mark.parametrize("tx", [SKIP_MATRIX, SKIP_STEP], ids=["matrix", "step"])
def test_a_hundred_bad_steps_are_forgotten(tx):
    check_recovers(tx, PARAMS, bad_steps=100)


@pytest.mark.parametrize("nonfinite", ["skip_matrix", "skip_step"])
def test_a_finite_gradient_passes_untouched(nonfinite):
    tx = guard(optax.trace(0.9), nonfinite, first_axis_of_stack)
    gradient = random_like(PARAMS)
    updates, state = jax.jit(tx.update)(gradient, tx.init(PARAMS))
    assert_close(updates, gradient, 0, "a finite gradient")
    assert state.skipped == 0


@pytest.mark.parametrize(
    "nonfinite, bad, number",
    [
        ("skip_matrix", {"a": (0, 0)}, 1),
        ("skip_matrix", {"stack": (slice(0, 2), 0, 0)}, 2),
        ("skip_matrix", {"a": (0, 0), "b": 0, "stack": 1}, 3),
        ("skip_step", {"b": 0}, 5),
    ],
)
def test_the_number_of_skipped_matrices(nonfinite, bad, number):
    tx = guard(optax.identity(), nonfinite, first_axis_of_stack)
    gradient = dict(PARAMS)
    for name, index in bad.items():
        gradient[name] = gradient[name].at[index].set(np.nan)
    _, state = jax.jit(tx.update)(gradient, tx.init(PARAMS))
    assert state.skipped == number


def test_the_count_stops_at_the_largest_integer():
    tx = guard(optax.identity(), "skip_matrix")
    full = jax.jit(tx.init)(PARAMS)._replace(
        skipped=jnp.array(np.iinfo(np.int32).max - 1)
    )
    nothing_finite = jax.tree.map(lambda x: x * np.nan, PARAMS)
    _, state = jax.jit(tx.update)(nothing_finite, full)
    assert state.skipped == np.iinfo(np.int32).max


def test_off_lets_everything_pass():
    tx = guard(optax.trace(0.9), "off")
    bad = jnp.array([jnp.nan, jnp.inf, 1.0])
    updates, state = tx.update(bad, tx.init(bad), bad)
    np.testing.assert_array_equal(updates, bad)
    assert isinstance(state, optax.TraceState)


def test_a_decayed_matrix_is_not_decayed_when_skipped():
    tx = guard(optax.add_decayed_weights(0.5), "skip_matrix")
    gradient = {**PARAMS, "a": PARAMS["a"] * np.nan}
    updates, _ = jax.jit(tx.update)(gradient, tx.init(PARAMS), PARAMS)
    np.testing.assert_array_equal(updates["a"], 0)


def test_an_unknown_choice_is_refused():
    with pytest.raises(ValueError, match="'skip_matrix', 'skip_step' or 'off'.*'skip'"):
        guard(optax.identity(), "skip")


def test_an_empty_tree_passes():
    for nonfinite in ("skip_matrix", "skip_step"):
        tx = guard(optax.identity(), nonfinite)
        updates, state = jax.jit(tx.update)({}, tx.init({}))
        assert updates == {} and state.skipped == 0


def test_an_empty_leaf_passes():
    tx = guard(optax.identity(), "skip_matrix")
    _, state = jax.jit(tx.update)(jnp.zeros((0, 3)), tx.init(jnp.zeros((0, 3))))
    assert state.skipped == 0


def test_batch_axes_are_those_the_matrices_do_not_name():
    axes = MatrixAxes(fan_in=(-2,), fan_out=(-1,), split=Split(-1, (1, 1)))
    assert stacked_axes(lambda path, leaf: axes)("a", jnp.ones((5, 3, 4, 2))) == (0, 1)


def test_whether_a_matrix_is_finite_is_asked_of_one_number():
    tx = guard(optax.identity(), "skip_matrix", first_axis_of_stack)
    program = str(jax.make_jaxpr(tx.update)(PARAMS, tx.init(PARAMS)))
    asked = re.findall(r":bool\[([\d,]*)\] = is_finite", program)
    # Of each, for its update; of those that are alone together, and of the stack's.
    assert sorted(asked) == sorted(["1,1", "1", "2", "3,1,1", "3,1,1"])

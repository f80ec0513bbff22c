"""Every promise of `optax_ortho.testing`, kept by every row of `tests.rows`.

Variants of a row are asked less: what depends on their own arithmetic.
"""

import functools
import pickle

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from optax.contrib import _common_test

import optax_ortho
from optax_ortho import testing
from optax_ortho.testing import assert_close, check_round_trip, random_like
from tests.rows import RATE, RECIPES, ROWS, new_params


def each(rows, essential=False):
    """One test a row, in the quick part if the row is, or if the test is essential."""

    def mark(row):
        quick = row.quick or (essential and not row.variant)
        return () if quick else pytest.mark.slow

    # With module scope the tests of one row are neighbours and share its compiled step.
    params = [pytest.param(row, marks=mark(row)) for row in rows]
    return pytest.mark.parametrize("row", params, ids=map(str, rows), scope="module")


OPTIMIZERS = [row for row in ROWS if row.is_optimizer]
every_row = each(ROWS)
every_main_row = each([row for row in ROWS if not row.variant])
every_main_optimizer = each([row for row in OPTIMIZERS if not row.variant])
every_row_essentially = each(ROWS, essential=True)
every_optimizer = each(OPTIMIZERS)
GUARDED = [row for row in ROWS if row.nonfinite != "off"]
every_main_guarded_row = each([row for row in GUARDED if not row.variant])
SCALE_FREE = [row for row in ROWS if row.matrices]
every_scale_free_row = each(SCALE_FREE)
every_main_scale_free_row = each([row for row in SCALE_FREE if not row.variant])


@every_row_essentially
def test_ten_steps_are_traced_once(row):
    testing.check_one_trace(row.tx, row.params)


@every_row
def test_types_stay_what_they_were_at_init(row):
    testing.check_dtypes(row.tx, row.params)


@every_main_row
def test_state_is_planned_from_shapes(row):
    testing.check_abstract_init(row.tx, row.params)


@every_main_row
def test_unexpected_arguments_pass(row):
    testing.check_unexpected_arguments(row.tx, row.params)


@every_main_row
def test_map_params_finds_its_way(row):
    testing.check_map_params(row.tx, row.params)


@every_row_essentially
def test_zero_gradient_gives_zero(row):
    params = jax.tree.map(jnp.zeros_like, row.params) if row.decays else row.params
    testing.check_zero_gradient(row.tx, params)


@every_main_row
def test_jit_changes_nothing(row):
    testing.check_jit(row.tx, row.params, row.tolerance)


@every_main_row
def test_vmap_changes_nothing(row):
    testing.check_vmap(row.tx, row.params, row.tolerance)


@every_main_row
def test_multi_steps(row):
    testing.check_multi_steps(row.tx, row.params, row.tolerance)


@every_main_row
def test_partition(row):
    testing.check_partition(row.tx, row.params, row.tolerance)


@every_main_row
def test_masked_leaves_pass_unchanged(row):
    kernel = jax.tree.map(np.any, row.only("dense/kernel"))
    masked = optax.masked(row.tx, kernel)
    gradient = random_like(row.params)
    updates, _ = jax.jit(masked.update)(gradient, masked.init(row.params), row.params)
    whole, _ = jax.jit(row.tx.update)(gradient, row.tx.init(row.params), row.params)
    expected = jax.tree.map(lambda u, g, k: u if k else g, whole, gradient, kernel)
    assert_close(updates, expected, row.tolerance, "a masked tree")


@every_main_row
def test_decreases_a_quadratic(row):
    testing.check_decreases(row.optimizer, row.params)


@every_main_row
def test_pickled_state_continues(row):
    check_round_trip(row.tx, row.params, lambda x: pickle.loads(pickle.dumps(x)))


@every_main_row
def test_flax_bytes_continue(row):
    def save_and_load(state):
        saved = flax.serialization.to_bytes(state)
        return flax.serialization.from_bytes(row.tx.init(row.params), saved)

    check_round_trip(row.tx, row.params, save_and_load)


@every_main_row
def test_orbax_checkpoint_continues(row, tmp_path):
    def save_and_load(state):
        with orbax.checkpoint.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / "state", state)
            checkpointer.wait_until_finished()
            target = jax.eval_shape(row.tx.init, row.params)
            return checkpointer.restore(tmp_path / "state", target)

    check_round_trip(row.tx, row.params, save_and_load)


@every_optimizer
def test_hyperparameters_can_be_injected(row):
    jax.eval_shape(
        lambda p: row.injected.update(p, row.injected.init(p), p), row.params
    )


@every_main_optimizer
def test_injected_hyperparameters_change_nothing(row):
    testing.check_injected(row.injected, row.tx, row.params, row.tolerance)


@every_main_optimizer
def test_injected_learning_rate_takes_effect(row):
    gradient, state = random_like(row.params), row.injected.init(row.params)
    step = jax.jit(row.injected.update)
    once, _ = step(gradient, state, row.params)
    # Of the type it has already, so that nothing is compiled again.
    doubled = optax.tree.set(state, learning_rate=jnp.float32(2 * RATE))
    twice, _ = step(gradient, doubled, row.params)
    for name in row.matrices:
        leaf = name.split("/")[-1]
        one, two = optax.tree.get(once, leaf), optax.tree.get(twice, leaf)
        assert_close(two, 2 * one, row.tolerance, f"{name} at twice the rate")


class Leaves(nnx.Module):
    """A model that is nothing but a tree of parameters."""

    def __init__(self, tree):
        for name, value in tree.items():
            branch = isinstance(value, dict)
            setattr(self, name, Leaves(value) if branch else nnx.Param(value))


@every_main_optimizer
def test_trains_under_nnx_as_without(row):
    model = Leaves(row.params)
    tx = optax.GradientTransformation(row.tx.init, jax.jit(row.tx.update))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    gradient = random_like(row.params)
    for _ in range(2):
        optimizer.update(model, nnx.state(Leaves(gradient), nnx.Param))
    trained = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    expected = train(row.params, row.tx, gradient, steps=2)
    assert_close(trained, expected, row.tolerance, "parameters after two steps")


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jitted"])
@each([row for row in OPTIMIZERS if "labels" in row.arguments and not row.variant])
def test_a_fused_leaf_trains_under_nnx_as_without(row, jit):
    model, gradient = Leaves(row.params), random_like(row.params)
    optimizer = nnx.Optimizer(model, row.fused, wrt=nnx.Param)
    traces = []

    def step(model, optimizer, gradient):
        traces.append(1)
        optimizer.update(model, gradient)

    step = nnx.jit(step) if jit else step
    for _ in range(3):
        step(model, optimizer, nnx.state(Leaves(gradient), nnx.Param))
    trained = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    expected = train(row.params, row.fused, gradient, steps=3)
    assert_close(trained, expected, row.tolerance, "parameters after three steps")
    # A state that nnx gives back in other containers is traced a second time.
    assert len(traces) == (1 if jit else 3)


@every_main_optimizer
def test_trains_in_a_linen_train_state_as_without(row):
    tx = optax.GradientTransformation(row.tx.init, jax.jit(row.tx.update))
    state = TrainState.create(apply_fn=None, params=row.params, tx=tx)
    gradient = random_like(row.params)
    for _ in range(2):
        state = state.apply_gradients(grads=gradient)
    expected = train(row.params, row.tx, gradient, steps=2)
    assert_close(state.params, expected, row.tolerance, "parameters after two steps")


def train(params, tx, gradient, steps):
    state = tx.init(params)
    for _ in range(steps):
        updates, state = jax.jit(tx.update)(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def skipped_with(row, name):
    """The entries that are skipped when the first one of a leaf is bad."""
    if row.nonfinite == "skip_step":
        return row.only(*LEAVES)
    one_leaf = row.only(name)
    if name == "stack" and name in row.matrices:
        one_leaf["stack"][1:] = False  # The other layers step.
    return one_leaf


LEAVES = ("conv", "dense/bias", "dense/kernel", "gain", "stack", "table")


@each(GUARDED, essential=True)
def test_a_nan_is_skipped(row):
    check_skips(row, np.nan)


@every_main_guarded_row
@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_an_infinity_is_skipped(row, bad):
    check_skips(row, bad)


def check_skips(row, bad):
    for name in LEAVES:
        skipped = skipped_with(row, name)
        if any(mask.any() for mask in jax.tree.leaves(skipped)):
            testing.check_skips(row.tx, row.params, skipped, bad)


@every_main_guarded_row
def test_skipped_matrices_are_counted(row):
    gradient, state = random_like(row.params), row.tx.init(row.params)
    spoilt = testing.spoil(gradient, row.only("dense/kernel"))
    for _ in range(3):
        _, state = jax.jit(row.tx.update)(spoilt, state, row.params)
    _, state = jax.jit(row.tx.update)(gradient, state, row.params)
    each_time = 1 if row.nonfinite == "skip_matrix" else number_of_matrices(row)
    assert optax_ortho.diagnostics(state)["skipped"] == 3 * each_time


def number_of_matrices(row):
    stacked = len(row.params["stack"]) if "stack" in row.matrices else 1
    return len(jax.tree.leaves(row.params)) - 1 + stacked


@every_main_guarded_row
@pytest.mark.parametrize("bad_steps", [3, 20])
def test_bad_steps_are_forgotten(row, bad_steps):
    testing.check_recovers(row.tx, row.params, bad_steps)


def check_scale_free(row, dtype, factors, tolerance):
    params = new_params(row.shapes, dtype)
    params = optax.tree.zeros_like(params) if row.decays else params
    testing.check_scale_free(row.tx, params, factors, tolerance, row.matrices)


@every_scale_free_row
def test_float32_gradient_of_any_size_gives_one_update(row):
    factors = [float(f"1e{exponent}") for exponent in range(-30, 38)]
    check_scale_free(row, jnp.float32, factors, row.scale_tolerance)


@every_main_scale_free_row
@pytest.mark.parametrize(
    "dtype, exponents",
    # Between them all entries are normal numbers and nothing is rounded.
    [
        pytest.param(
            jnp.bfloat16, range(-110, 121, 10), id="bfloat16", marks=pytest.mark.slow
        ),
        pytest.param(jnp.float16, range(-5, 14), id="float16"),
    ],
)
def test_half_precision_gradient_of_any_size_gives_one_update(row, dtype, exponents):
    factors = [2.0**exponent for exponent in exponents]
    check_scale_free(row, dtype, factors, tolerance=1e-3)


# The tests that Optax ships for its own contributed optimizers.

SHIPPED = {
    name: method.__x_params_repr__
    for name, method in vars(_common_test.ContribTest).items()
    if "opt_name='muon'" in getattr(method, "__x_params_repr__", "")
}


@pytest.mark.parametrize("factory", RECIPES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("case", SHIPPED)
def test_what_optax_asks_of_its_own(factory, case, monkeypatch):
    """With ``learning_rate=1e-2`` and no other argument, as Optax tests its Muon."""
    if factory is optax_ortho.aro and "inject_hyperparams" in case:
        # A gradient of ones has rank one, which leaves half of ARO's basis to rounding.
        # 1 - 0.95 rounds otherwise where beta is an array, and 1 - 0.5 does not.
        factory = functools.partial(factory, beta=0.5)
    monkeypatch.setattr(_common_test, "_get_opt_factory", lambda name: factory)
    _common_test.ContribTest(case).debug()

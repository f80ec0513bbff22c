"""Conversion of states under wrappers: their numbers are kept, or refused by name."""

from typing import Any, NamedTuple

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from optax.contrib import reduce_on_plateau, schedule_free

import optax_ortho
from optax_ortho import checkpoints
from optax_ortho.testing import assert_close, random_like

# Every name that a field of a state has too.
PARAMS = {
    "count": jnp.asarray(900.5),
    "mu": {"nu": jnp.ones((3, 4)), "count": jnp.ones(2)},
    "nu": jnp.ones((4, 6)),
    "value": {"kernel": jnp.ones((4, 6)), "scale": jnp.ones(6)},
}
DECAY = optax.linear_schedule(1.0, 0.0, 100)


class CallsState(NamedTuple):
    calls: jax.Array
    largest: Any
    inner: Any


def counted(inner):
    """A wrapper of a user's own: the number of calls, and the largest gradients."""

    def init(params):
        largest = jax.tree.map(jnp.zeros_like, params)
        return CallsState(jnp.zeros([], jnp.int32), largest, inner.init(params))

    def update(updates, state, params=None):
        largest = jax.tree.map(
            lambda old, g: jnp.maximum(old, jnp.abs(g)), state.largest, updates
        )
        updates, new = inner.update(updates, state.inner, params)
        return updates, CallsState(state.calls + 1, largest, new)

    return optax.GradientTransformation(init, update)


def groups(inner):
    labels = {"count": "b", "mu": "a", "nu": "b", "value": "a"}
    both = {name: optax.chain(optax.ema(0.9), inner(0.1)) for name in "ab"}
    return optax.partition(both, labels)


class Case(NamedTuple):
    """A wrapper, and the numbers that it keeps, read from its state."""

    wrap: Any
    numbers: Any
    extra: Any = {}


CASES = {
    "inject_hyperparams": Case(
        lambda inner: optax.inject_hyperparams(inner)(DECAY),
        lambda s: (s.count, s.hyperparams["learning_rate"], s.hyperparams_states),
    ),
    "MultiSteps": Case(
        lambda inner: optax.MultiSteps(inner(0.1), 4),
        lambda s: (s.mini_step, s.gradient_step, s.acc_grads),
    ),
    "MultiSteps that skips": Case(
        lambda inner: optax.MultiSteps(
            inner(DECAY), 4, should_skip_update_fn=optax.skip_not_finite
        ),
        lambda s: (s.mini_step, s.gradient_step, s.acc_grads, s.skip_state),
    ),
    "reduce_on_plateau": Case(
        lambda inner: optax.chain(inner(0.1), reduce_on_plateau(patience=1)),
        lambda s: s[1],
        {"value": jnp.asarray(1.0)},
    ),
    "ema": Case(
        lambda inner: optax.chain(optax.ema(0.9), inner(DECAY)), lambda s: s[0]
    ),
    "schedule_free": Case(
        lambda inner: schedule_free(inner(0.1), 0.1),
        lambda s: (s.b1, s.weight_sum, s.step_count, s.max_lr, s.z),
    ),
    "apply_if_finite": Case(
        lambda inner: optax.apply_if_finite(inner(0.1), 3), lambda s: s[:3]
    ),
    "apply_every": Case(
        lambda inner: optax.chain(inner(DECAY), optax.apply_every(4)), lambda s: s[1]
    ),
    "a user's own": Case(lambda inner: counted(inner(0.1)), lambda s: s[:2]),
    "partition": Case(
        groups, lambda s: [s.inner_states[name].inner_state[0] for name in "ab"]
    ),
}
STEPS = 6


def trained(tx: Any, steps: int = STEPS, params: Any = PARAMS, **extra: Any) -> Any:
    state = tx.init(params)
    for i in range(steps):
        _, state = tx.update(random_like(params, i), state, params, **extra)
    return state


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """A wrapper's case, and the state that AdamW has in it."""
    found = CASES[request.param]
    return found, trained(found.wrap(optax.adamw), **found.extra)


def test_a_wrapper_keeps_its_numbers(case):
    (wrap, numbers, extra), old = case
    tx: Any = wrap(optax_ortho.muon)
    new: Any = checkpoints.from_optax(tx, PARAMS, old)
    assert jax.tree.leaves(numbers(old))
    assert_close(numbers(new), numbers(old), 0, "the numbers of the wrapper")
    steps = int(old.gradient_step) if hasattr(old, "gradient_step") else STEPS
    assert optax_ortho.diagnostics(new)["steps"] == steps
    tx.update(random_like(PARAMS), new, PARAMS, **extra)


def test_a_state_without_classes_is_converted_alike(case):
    (wrap, _, _), old = case
    tx: Any = wrap(optax_ortho.muon)
    plain = flax.serialization.to_state_dict(old)
    found, expected = (checkpoints.from_optax(tx, PARAMS, s) for s in (plain, old))
    assert_close(found, expected, 0, "converted from plain dictionaries")


def test_numbers_without_a_place_are_refused_by_name(case):
    _, old = case
    tx: Any = optax_ortho.muon(0.1)
    with pytest.raises(
        ValueError, match=r"has (\w+State|ApplyEvery)\.\w+ at "
    ) as error:
        checkpoints.from_optax(tx, PARAMS, old)
    kind = str(error.value).split("leave_out=('")[1].split("'")[0]
    new: Any = checkpoints.from_optax(tx, PARAMS, old, leave_out=(kind, "skip_state"))
    assert optax_ortho.diagnostics(new)["steps"] > 0


def test_a_schedule_under_inject_hyperparams_continues():
    tx: Any = optax.inject_hyperparams(optax_ortho.muon)(DECAY)
    for old in (
        optax.inject_hyperparams(optax.contrib.muon)(DECAY),
        optax.contrib.muon(DECAY),
    ):
        state = checkpoints.from_optax(tx, PARAMS, trained(old))
        _, state = tx.update(PARAMS, state, PARAMS)
        # One operation in float32.
        assert float(state.hyperparams["learning_rate"]) == pytest.approx(0.94, 1e-6)


def test_a_rate_that_was_set_by_hand_is_kept():
    state: Any = trained(optax.inject_hyperparams(optax.adamw)(0.1))
    state.hyperparams["learning_rate"] = jnp.asarray(0.003)
    tx: Any = optax.inject_hyperparams(optax_ortho.muon)(0.1, weight_decay=0.5)
    new: Any = checkpoints.from_optax(
        tx, PARAMS, state, leave_out=("hyperparams/weight_decay",)
    )
    assert float(new.hyperparams["learning_rate"]) == pytest.approx(0.003)
    assert float(new.hyperparams["weight_decay"]) == 0.5


def test_two_groups_that_are_joined_have_to_agree():
    old: Any = groups(optax.adamw)
    tx: Any = optax.chain(optax.ema(0.9), optax_ortho.muon(0.1))
    state: Any = trained(old)
    joined = checkpoints.from_optax(tx, PARAMS, state)[0]
    assert int(joined.count) == STEPS
    assert jax.tree.structure(joined.ema) == jax.tree.structure(PARAMS)
    b = state.inner_states["b"].inner_state
    other = (b[0]._replace(count=b[0].count + 1), *b[1:])
    state.inner_states["b"] = state.inner_states["b"]._replace(inner_state=other)
    with pytest.raises(ValueError, match="'count' differ"):
        checkpoints.from_optax(tx, PARAMS, state)


def test_a_wrapper_of_other_parameters_is_refused():
    wider = {**PARAMS, "nu": jnp.ones((5, 6))}
    old: Any = trained(
        optax.chain(optax.adamw(0.1), optax.apply_every(4)), params=wider
    )
    tx: Any = optax.chain(optax_ortho.muon(0.1), optax.apply_every(4))
    with pytest.raises(ValueError, match=r"Leaf 'nu' needs a '\w+' of shape \(4, 6\)"):
        checkpoints.from_optax(tx, PARAMS, old)


def test_the_state_of_an_nnx_optimizer_is_converted():
    model = nnx.Linear(4, 6, rngs=nnx.Rngs(0))
    tx: Any = optax.MultiSteps(optax_ortho.muon(0.1), 4)
    old: Any = nnx.Optimizer(
        model, optax.MultiSteps(optax.adamw(0.1), 4), wrt=nnx.Param
    )
    for _ in range(STEPS):
        old.update(model, nnx.state(model, nnx.Param))
    params = nnx.state(model, nnx.Param)
    new: Any = checkpoints.from_optax(tx, params, old.opt_state)
    assert int(new.mini_step) == 2 and int(new.gradient_step) == 1
    acc = nnx.to_pure_dict(new.acc_grads)
    assert_close(acc, nnx.to_pure_dict(params), 1e-6, "the mean of equal gradients")


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_a_state_on_a_mesh_is_converted(kind):
    mesh = jax.make_mesh((4,), ("x",), axis_types=(kind,))
    shards = NamedSharding(mesh, P("x"))
    params = {"kernel": jax.device_put(jnp.ones((4, 6)), shards)}
    old: Any = optax.MultiSteps(optax.adamw(0.1), 2)
    tx: Any = optax.MultiSteps(optax_ortho.muon(0.1), 2)
    with jax.set_mesh(mesh):
        state = trained(old, 3, params)
        new = checkpoints.from_optax(tx, params, state, momentum_scale=2.0)
        assert np.array_equal(new.acc_grads["kernel"], state.acc_grads["kernel"])
        assert new.acc_grads["kernel"].sharding.is_equivalent_to(shards, 2)
        jax.jit(tx.update, donate_argnums=1)(params, new, params)

"""The four stages: their order, their states, and what each is told."""

import jax
import jax.numpy as jnp
import optax
import pytest

from optax_ortho import OrthoState, momentum, ortho_chain
from optax_ortho.testing import assert_close

STAGES = OrthoState._fields
PARAMS = {"kernel": jnp.ones((2, 3))}


def spying(seen, name, factor):
    """A stage that notes what it is told, counts, and scales."""

    def update(updates, state, params=None, **extra):
        seen[name] = {"updates": updates, "params": params, **extra}
        return optax.tree.scale(factor, updates), state + 1

    return optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(()), update)


@pytest.fixture
def told():
    """The arguments of each stage of one chain in one step."""
    seen = {}
    chain = ortho_chain(
        **{name: spying(seen, name, i + 2.0) for i, name in enumerate(STAGES)}
    )
    seen["result"] = chain.update(PARAMS, chain.init(PARAMS), PARAMS, learning_rate=0.5)
    return seen


def test_stages_run_in_order(told):
    entered = [float(told[name]["updates"]["kernel"][0, 0]) for name in STAGES]
    assert entered == [1.0, 2.0, 6.0, 24.0]


def test_result_is_what_the_last_stage_gives(told):
    updates, _ = told["result"]
    assert_close(updates, optax.tree.scale(120.0, PARAMS), 0, "all four stages")


def test_each_stage_keeps_its_own_state(told):
    _, state = told["result"]
    assert state == OrthoState(1, 1, 1, 1)


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_sees_the_gradient_the_parameters_and_the_rate(told, name):
    assert told[name]["gradient"] is PARAMS
    assert told[name]["params"] is PARAMS
    assert told[name]["learning_rate"] == 0.5


@pytest.mark.parametrize("name", STAGES[1:])
def test_later_stages_see_the_momentum(told, name):
    assert_close(told[name]["momentum"], optax.tree.scale(2.0, PARAMS), 0, name)


def test_momentum_does_not_see_itself(told):
    assert "momentum" not in told["momentum"]


def test_a_stage_left_out_is_the_identity():
    chain = ortho_chain()
    updates, state = chain.update(PARAMS, chain.init(PARAMS))
    assert_close(updates, PARAMS, 0, "an empty chain")
    assert not jax.tree.leaves(state)


def test_stages_of_plain_optax_need_no_extra_arguments():
    chain = ortho_chain(momentum=optax.trace(0.9), normalize=optax.clip(1.0))
    updates, _ = chain.update(PARAMS, chain.init(PARAMS), PARAMS, value=1.0)
    assert_close(updates, PARAMS, 0, "a first trace")


def test_state_paths_name_the_stage():
    state = ortho_chain(momentum=momentum.ema(0.9)).init(PARAMS)
    ((keys, _),) = jax.tree_util.tree_leaves_with_path(state)
    assert jax.tree_util.keystr(keys) == ".momentum.mu['kernel']"


def test_compiled_operations_name_their_stage():
    chain = ortho_chain(momentum=optax.trace(0.9), trust_region=optax.scale(3.0))
    lowered = jax.jit(chain.update).lower(PARAMS, chain.init(PARAMS))
    text = lowered.as_text(debug_info=True)
    assert "momentum" in text and "trust_region" in text

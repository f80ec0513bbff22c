"""States that are converted: from Optax's optimizers, and between layers."""

import chex
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import optax_ortho
from optax_ortho import checkpoints, momentum
from optax_ortho.orthogonalizers import NewtonSchulz
from optax_ortho.testing import assert_close, random_like
from optax_ortho.trust_region import JORDAN
from tests.reliability.bar_places import scanned
from tests.reliability.subjects import MUON
from tests.rows import ONE_STEP, new_params

SHAPES = {"dense": {"kernel": (4, 6), "bias": (6,)}, "up": {"kernel": (6, 4)}}
LABELS = {"dense/kernel": "matrix", "up/kernel": "matrix", "dense/bias": "bias"}
PARAMS = new_params(SHAPES)


def trained(tx, steps, state=None, seed=0, params=PARAMS):
    state = tx.init(params) if state is None else state
    step, updates = jax.jit(tx.update), None
    for i in range(steps):
        updates, state = step(random_like(params, seed + i), state, params)
    return updates, state


def test_training_of_optax_muon_goes_on():
    theirs = optax.contrib.muon(0.1, adam_b2=0.95)
    ours = optax_ortho.muon(
        0.1,
        momentum=momentum.bias_corrected(0.95),
        trust_region=JORDAN,
        orthogonalizer=NewtonSchulz(eps=1e-8),
        labels=LABELS,
    )
    _, state = trained(theirs, 3)
    converted = checkpoints.from_optax(ours, PARAMS, state)
    updates, _ = trained(ours, 4, converted, seed=3)
    expected, _ = trained(theirs, 4, state, seed=3)
    # Products of another order, enlarged by five steps.
    assert_close(
        {k: updates[k]["kernel"] for k in updates},
        {k: expected[k]["kernel"] for k in expected},
        2e-5,
        "matrices",
    )


def test_training_of_adamw_goes_on():
    theirs = optax.adamw(0.1, b2=0.95, weight_decay=0.0)
    ours = optax_ortho.muon(0.1, labels=LABELS, orthogonalizer=ONE_STEP)
    _, state = trained(theirs, 3)
    converted = checkpoints.from_optax(ours, PARAMS, state)
    updates, new = trained(ours, 4, converted, seed=3)
    expected, _ = trained(theirs, 4, state, seed=3)
    assert_close(updates["dense"]["bias"], expected["dense"]["bias"], 1e-6, "AdamW's")
    assert optax_ortho.diagnostics(new)["steps"] == 7
    mu = optax.tree.get(converted, "momentum").mu
    assert_close(mu["up"]["kernel"], state[0].mu["up"]["kernel"], 0, "the momentum")


def test_a_state_that_was_restored_as_plain_dictionaries_goes_on():
    """Also with a parameter that is named like a momentum."""
    params = {"mu": PARAMS["up"], "nu": PARAMS["dense"]}
    theirs = optax.adamw(0.1)
    _, state = theirs.update(params, theirs.init(params), params)
    tx = optax_ortho.muon(0.1, labels=lambda path, leaf: "vector")
    plain = flax.serialization.to_state_dict(state)
    found, expected = (checkpoints.from_optax(tx, params, s) for s in (plain, state))
    chex.assert_trees_all_equal(found, expected)
    moments = [x for x in jax.tree.leaves(found) if jnp.ndim(x) > 0]
    assert len(moments) == len(jax.tree.leaves((state[0].mu, state[0].nu)))
    for x in jax.tree.leaves(state[0].nu):
        assert any(np.array_equal(x, y) for y in moments)


def test_momenta_that_lie_with_owners_are_refused():
    shards = jax.sharding.NamedSharding(jax.make_mesh((1,), ("d",)), P("d"))
    params = {"kernel": jax.device_put(jnp.ones((4, 6)), shards)}
    tx = optax_ortho.fismo(0.1, layout=optax_ortho.layouts.sharded(params))
    with pytest.raises(ValueError, match="with layouts.local.., and moved"):
        checkpoints.from_optax(tx, params, optax.adamw(0.1).init(params))


def test_a_schedule_goes_on():
    rate = optax.linear_schedule(0.1, 0.0, 10)
    _, state = trained(optax.adamw(rate), 3)
    tx = optax_ortho.muon(rate, labels=LABELS, orthogonalizer=ONE_STEP)
    converted = checkpoints.from_optax(tx, PARAMS, state)
    counts = {int(x) for _, x in optax.tree.get_all_with_path(converted, "count")}
    assert counts == {3}


def test_a_sum_is_as_large_as_its_beta_says():
    _, state = trained(optax.adamw(0.1), 3)
    tx = optax_ortho.dion(0.1, labels=LABELS)
    one = checkpoints.from_optax(tx, PARAMS, state)
    twenty = checkpoints.from_optax(tx, PARAMS, state, momentum_scale=20.0)
    found = [dict(optax.tree.get_all_with_path(s, "mu")) for s in (one, twenty)]
    matrices = [next(iter(f.values())) for f in found]
    leaves = [x["up"]["kernel"] for x in matrices]
    assert_close(leaves[1], 20 * leaves[0], 1e-6, "the sum")


@pytest.mark.parametrize("factory", [optax_ortho.namo, optax_ortho.namo_d])
def test_namo_starts_both_of_its_moments_anew(factory):
    _, state = trained(optax.adamw(0.1), 3)
    tx = factory(0.1, labels=LABELS, orthogonalizer=ONE_STEP)
    converted = checkpoints.from_optax(tx, PARAMS, state)
    fresh = optax.tree.get(tx.init(PARAMS), "direction")
    assert_close(optax.tree.get(converted, "direction"), fresh, 0, "NAMO's moments")
    updates, _ = trained(tx, 1, converted)
    # An RMS of 0.2 times the rate, and up to 3 of it in one entry.
    assert np.abs(updates["up"]["kernel"]).max() < 0.1


@pytest.mark.parametrize(
    "state, words",
    [
        (optax.sgd(0.1).init(PARAMS), "no step count"),
        (optax.adamw(0.1).init({"dense": PARAMS["dense"]}), "up/kernel"),
    ],
    ids=["sgd", "another tree"],
)
def test_what_cannot_be_converted_is_refused(state, words):
    tx = optax_ortho.muon(0.1, labels=LABELS)
    with pytest.raises(ValueError, match=words):
        checkpoints.from_optax(tx, PARAMS, state)


def test_separate_layers_go_on_as_a_scanned_stack_and_back():
    tx, params = scanned(MUON, together=False)
    _, state = trained(tx, 2, params=params)
    stacked_tx, _ = scanned(MUON, together=True)
    stacked_params = checkpoints.stack_layers(params)
    stacked = checkpoints.stack_layers(state)
    checkpoints.check_state(stacked_tx, stacked_params, stacked)
    gradient = random_like(params, seed=5)
    expected, _ = jax.jit(tx.update)(gradient, state, params)
    updates, new = jax.jit(stacked_tx.update)(
        checkpoints.stack_layers(gradient), stacked, stacked_params
    )
    assert_close(checkpoints.unstack_layers(updates, 2), expected, 2e-5, "a stack")
    back = checkpoints.unstack_layers(stacked, 2)
    assert_close(back, state, 0, "there and back")


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_layers_lie_along_any_axis(axis):
    tree = {
        "a": {"layer_0": {"k": jnp.ones((2, 3))}, "layer_1": {"k": jnp.zeros((2, 3))}}
    }
    stacked = checkpoints.stack_layers(tree, axis=axis)
    assert stacked["a"]["layers"]["k"].shape[axis] == 2
    assert_close(
        checkpoints.unstack_layers(stacked, 2, axis=axis), tree, 0, "there and back"
    )


@pytest.mark.parametrize(
    "convert, words",
    [
        (lambda: checkpoints.stack_layers({"a": jnp.ones(2)}), "layer_"),
        (lambda: checkpoints.stack_layers({"layer_1": jnp.ones(2)}), r"\[1\]"),
        (
            lambda: checkpoints.stack_layers(
                {"layer_0": jnp.ones(2), "layer_1": jnp.ones(3)}
            ),
            "layer_1",
        ),
        (lambda: checkpoints.unstack_layers({"a": jnp.ones(2)}, 2), "layers"),
        (lambda: checkpoints.unstack_layers({"layers": jnp.ones(3)}, 2), "3"),
    ],
)
def test_layers_that_do_not_stack_are_refused(convert, words):
    with pytest.raises(ValueError, match=words):
        convert()


def test_a_scanned_state_is_not_taken_for_separate_layers():
    tx, params = scanned(MUON, together=False)
    other, stacked = scanned(MUON, together=True)
    with pytest.raises(ValueError, match="stack_layers"):
        tx.update(params, other.init(stacked), params)


@pytest.mark.parametrize("version", [None, 0, 3])
def test_another_format_is_refused(version):
    tx = optax.trace(0.9)
    flat = {**checkpoints.to_flat(tx.init(PARAMS)), "format": version}
    with pytest.raises(ValueError, match=f"format {version}"):
        checkpoints.from_flat(tx, PARAMS, flat)


def test_a_bfloat16_survives_npz(tmp_path):
    tx, params = optax.trace(0.9), {"a": jnp.asarray([1.5, -2.0], jnp.bfloat16)}
    _, state = tx.update(params, tx.init(params))
    np.savez(tmp_path / "state.npz", **checkpoints.to_flat(state))
    with np.load(tmp_path / "state.npz", allow_pickle=False) as flat:
        loaded = checkpoints.from_flat(tx, params, flat)
    assert loaded.trace["a"].dtype == jnp.bfloat16
    assert_close(loaded, state, 0, "through npz")


def test_registering_twice_is_no_error():
    state = optax_ortho.muon(0.1).init(PARAMS)
    checkpoints.register_for_export(state)
    checkpoints.register_for_export(state)

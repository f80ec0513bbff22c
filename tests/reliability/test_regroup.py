"""The resume of a run whose groups changed."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import optax_ortho
from optax_ortho import checkpoints, layouts
from optax_ortho.testing import assert_close, random_like
from tests.rows import ONE_STEP

PARAMS = {"a": jnp.ones((4, 6)), "b": jnp.ones((6, 4)), "count": jnp.ones(6)}


def muon(**roles: str) -> Any:
    labels = {"a": "matrix", "b": "matrix", "count": "vector"} | roles
    return optax_ortho.muon(0.1, labels=labels, orthogonalizer=ONE_STEP)


def trained(tx: Any, steps: int = 3, params: Any = PARAMS) -> Any:
    state = tx.init(params)
    for i in range(steps):
        _, state = tx.update(random_like(params, i), state, params)
    return state


def only(state: Any, field: str, name: str) -> Any:
    """The one array of a parameter under a field, in whatever group it is."""
    trees = [dict(tree) for _, tree in optax.tree.get_all_with_path(state, field)]
    (array,) = (tree[name] for tree in trees if isinstance(tree.get(name), jax.Array))
    return array


def test_the_same_groups_keep_everything():
    state = trained(muon())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new = checkpoints.regroup(muon(), muon(), PARAMS, state)
    assert_close(new, state, 0, "the state")


def test_a_matrix_that_adamw_had_keeps_its_average():
    old, tx = muon(b="vector"), muon()
    state = trained(old)
    new = checkpoints.regroup(old, tx, PARAMS, state)
    for name in PARAMS:
        assert_close(only(new, "mu", name), only(state, "mu", name), 0, name)
    assert_close(only(new, "nu", "count"), only(state, "nu", "count"), 0, "nu")
    assert optax_ortho.diagnostics(new)["steps"] == 3
    jax.jit(tx.update, donate_argnums=1)(PARAMS, new, PARAMS)


def test_a_matrix_that_goes_to_adamw_starts_there_and_is_named():
    old, tx = muon(), muon(b="vector")
    state = trained(old)
    with pytest.warns(UserWarning, match=r"'b' \(ScaleByAdamState.mu, ScaleByAdamSta"):
        new = checkpoints.regroup(old, tx, PARAMS, state)
    # A momentum over a second moment of zero would be a step without bound.
    for field in ("mu", "nu"):
        assert not only(new, field, "b").any()
    for name in ("a", "count"):
        assert_close(only(new, "mu", name), only(state, "mu", name), 0, name)


def test_groups_of_a_partition_divide_and_join():
    def parts(**rates: float) -> Any:
        made: Any = {name: muon_of(rate) for name, rate in rates.items()}
        last = list(rates)[-1]
        return optax.partition(made, {"a": "x", "b": last, "count": last})

    def muon_of(rate: float) -> Any:
        return optax.chain(optax.ema(0.9), optax_ortho.normuon(rate))

    one, two = parts(x=0.1), parts(x=0.1, y=0.2)
    state = trained(one)
    divided = checkpoints.regroup(one, two, PARAMS, state)
    for field in ("mu", "ema", "neuron_variance"):
        for name in ("a", "b") if field != "ema" else PARAMS:
            assert_close(only(divided, field, name), only(state, field, name), 0, name)
    recipes = [s.inner_state[1] for s in divided.inner_states.values()]
    counts = {int(optax_ortho.diagnostics(state)["steps"]) for state in recipes}
    assert counts == {3}
    assert_close(checkpoints.regroup(two, one, PARAMS, divided), state, 0, "joined")


def test_the_state_of_each_parameter_follows_it():
    old = optax_ortho.aro(0.1, labels={"a": "matrix", "b": "matrix", "count": "vector"})
    tx = optax_ortho.aro(0.1, labels={"a": "vector", "b": "matrix", "count": "vector"})
    state = trained(old)
    with pytest.warns(UserWarning, match="'a'"):
        new = checkpoints.regroup(old, tx, PARAMS, state)
    flat, before = checkpoints.to_flat(new), checkpoints.to_flat(state)
    rotations = [path for path in flat if path.endswith("/rotation/b")]
    assert rotations
    for path in rotations:
        assert_close(flat[path], before[path], 0, path)


def test_another_state_is_refused():
    with pytest.raises(ValueError, match="not one of the old optimizer"):
        checkpoints.regroup(muon(), muon(), PARAMS, optax.adam(0.1).init(PARAMS))


def test_momenta_with_owners_are_refused():
    shards = NamedSharding(jax.make_mesh((1,), ("d",)), P("d"))
    params = {"kernel": jax.device_put(jnp.ones((4, 6)), shards)}
    tx = optax_ortho.fismo(0.1, layout=layouts.sharded(params))
    with pytest.raises(ValueError, match="move_state"):
        checkpoints.regroup(tx, tx, params, tx.init(params))

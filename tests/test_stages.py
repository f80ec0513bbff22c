"""Outputs of stages are the ones that the update was computed from."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ortho

KEY = jax.random.key(0)
PARAMS = {"kernel": jax.random.normal(KEY, (6, 8)), "bias": jnp.ones(8)}
WRAPPERS = {
    "chain": lambda tx: optax.chain(optax.clip_by_global_norm(1e6), tx),
    "masked": lambda tx: optax.masked(tx, {"kernel": True, "bias": True}),
}


def test_the_last_output_is_the_direction():
    tx = optax_ortho.scale_by_normuon()
    g = PARAMS["kernel"]
    direction, _ = tx.update(g, tx.init(g), g)
    (found,) = optax_ortho.stage_outputs(tx, g, tx.init(g), g)
    np.testing.assert_array_equal(found.gradient, g)
    # The same program, compiled with more results.
    np.testing.assert_allclose(found.trust_region, direction, rtol=1e-5, atol=1e-6)
    values = jnp.linalg.svd(found.orthogonalize, compute_uv=False)
    assert values.min() > 0.5 and values.max() < 1.3


@pytest.mark.parametrize("name", WRAPPERS)
def test_through_wrappers(name):
    tx = WRAPPERS[name](optax_ortho.muon(0.1))
    (found,) = optax_ortho.stage_outputs(tx, PARAMS, tx.init(PARAMS), PARAMS)
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    # The rate and the sign come after the chain; 1e-5 as above.
    direction = -0.1 * found.trust_region["kernel"]
    np.testing.assert_allclose(direction, updates["kernel"], rtol=1e-5, atol=1e-6)


def test_injected_rates():
    tx = optax.inject_hyperparams(optax_ortho.muon)(learning_rate=0.1)
    (found,) = optax_ortho.stage_outputs(tx, PARAMS, tx.init(PARAMS), PARAMS)
    assert found.momentum["kernel"].shape == (6, 8)


def test_one_for_each_chain():
    parts = {"a": optax_ortho.muon(0.1), "b": optax_ortho.normuon(0.1)}
    tx = optax.partition(parts, {"a": "a", "b": "b"})
    params = {"a": {"kernel": PARAMS["kernel"]}, "b": {"kernel": PARAMS["kernel"]}}
    found = optax_ortho.stage_outputs(tx, params, tx.init(params), params)
    kernels = [len(jax.tree.leaves(stages.gradient)) for stages in found]
    assert kernels == [1, 1]


def test_an_optimizer_without_a_chain_is_refused():
    tx = optax.adam(0.1)
    with pytest.raises(ValueError, match="ortho_chain"):
        optax_ortho.stage_outputs(tx, PARAMS, tx.init(PARAMS), PARAMS)

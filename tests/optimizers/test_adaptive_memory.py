"""Adaptive memory in SGD, in AdamW and before an orthogonalizer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ortho
from optax_ortho import (
    adaptive_memory_muon,
    am_adamw,
    am_sgd,
    momentum,
    scale_by_adaptive_memory_muon,
    scale_by_am_adamw,
)
from optax_ortho.orthogonalizers import NewtonSchulz
from optax_ortho.testing import assert_close, random_like
from optax_ortho.trust_region import JORDAN
from tests.reference import adaptive_memory as reference
from tests.reference import muon as muon_reference
from tests.rows import ONE_STEP, new_params

SHAPES = {"bias": (6,), "kernel": (4, 6)}


def gradient_of(params, seed):
    """Gradients that agree in part, so that beta is neither 0 nor at its bound."""
    drift, noise = random_like(params, 100), random_like(params, seed)
    return jax.tree.map(lambda x, y: 0.03 * x + 0.1 * y, drift, noise)


def trained(tx, params, steps=10) -> Any:
    """Parameters, and all betas."""
    state, step, betas = tx.init(params), jax.jit(tx.update), []
    for seed in range(steps):
        updates, state = step(gradient_of(params, seed), state, params)
        params = optax.apply_updates(params, updates)
        betas.append(optax.tree.get(state, "memory_beta"))
    return params, betas


def float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


# Muon


@pytest.mark.parametrize("scope", ["matrix", "global"])
def test_ten_steps_are_the_box(scope):
    params = new_params({"wide": (4, 6), "tall": (7, 3)})
    tx = adaptive_memory_muon(0.1, lam=0.2, scope=scope, weight_decay=0.1)
    actual, _ = trained(tx, params)
    gs = [float64(gradient_of(params, seed)) for seed in range(10)]
    everything = [np.concatenate([g[k].ravel() for k in sorted(g)]) for g in gs]
    shared = [beta for _, beta in reference.memories(everything, 0.2)]
    for name, w in float64(params).items():
        own = [beta for _, beta in reference.memories([g[name] for g in gs], 0.2)]
        betas, d = shared if scope == "global" else own, gs[0][name]
        for i, g in enumerate(gs):
            if i > 0:
                d = ((betas[i] + 0.2) * d + (1 - betas[i]) * g[name]) / 1.2
            o = muon_reference.newton_schulz(d)
            w = w - 0.1 * (0.2 * np.sqrt(max(w.shape)) * o + 0.1 * w)
        # Float32 in a polynomial whose slope at zero is 485.
        assert_close(actual[name], w, 2e-5, name)


def test_it_is_muon_with_another_first_stage():
    params = new_params({"kernel": (4, 6)})
    stage = momentum.adaptive_memory(scope="matrix")
    muon, _ = trained(optax_ortho.muon(0.1, momentum=stage), params, steps=3)
    ours, _ = trained(adaptive_memory_muon(0.1), params, steps=3)
    assert_close(ours, muon, 0, "one stage")


@pytest.mark.parametrize(
    "kwargs",
    [
        {"lam": 1.0},
        {"beta_max": 0.1},
        {"scope": "global"},
        {"orthogonalizer": NewtonSchulz()},
        {"trust_region": JORDAN},
        {"mu_dtype": jnp.bfloat16},
    ],
    ids=lambda kwargs: next(iter(kwargs)),
)
def test_each_argument_makes_another_step(kwargs):
    params = new_params({"a": (4, 6), "b": (4, 6)})

    def step(**kwargs):
        tx = scale_by_adaptive_memory_muon(**{"orthogonalizer": ONE_STEP, **kwargs})
        return trained(tx, params, steps=4)[0]

    assert float(jnp.abs(step(**kwargs)["a"] - step()["a"]).max()) > 1e-4


# SGD


@pytest.mark.parametrize("decay", [0.0, 0.03])
def test_ten_steps_of_sgd_are_algorithm_one(decay):
    params = new_params(SHAPES)
    actual, betas = trained(am_sgd(0.1, weight_decay=decay), params)
    x, d, expected = float64(params), None, []
    for seed in range(10):
        g = float64(gradient_of(params, seed))
        g["kernel"] = g["kernel"] + decay * x["kernel"]
        g = np.concatenate([g["bias"], g["kernel"].ravel()])
        beta = 0.0 if d is None else reference.beta_of(g, d, 0.1, 0.9)
        d = g if d is None else ((beta + 0.1) * d + (1 - beta) * g) / 1.1
        x["bias"] = x["bias"] - 0.1 * d[:6]
        x["kernel"] = x["kernel"] - 0.1 * d[6:].reshape(4, 6)
        expected.append(beta)
    assert_close(actual, x, 1e-5, "parameters")  # Float32.
    np.testing.assert_allclose(betas, expected, atol=1e-4)
    assert any(0 < beta < 0.9 for beta in expected)


# AdamW

SCHEDULES = {
    "constant": [0.1] * 10,
    "changing": [0.02 * (1 + i % 4) for i in range(10)],
    "with zeros": [0.1, 0.05, 0.0, 0.1, 0.1, 0.0, 0.0, 0.1, 0.2, 0.1],
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_ten_steps_of_adamw_are_algorithm_three(name, decay):
    rates = SCHEDULES[name]
    params = new_params(SHAPES)
    tx = am_adamw(
        lambda count: jnp.asarray(rates)[count], b2=0.95, lam=0.5, weight_decay=decay
    )
    actual, betas = trained(tx, params)
    for leaf, x in float64(params).items():
        gs = [float64(gradient_of(params, seed))[leaf] for seed in range(10)]
        own = decay if leaf == "kernel" else 0.0  # Vectors do not decay.
        expected, wanted = reference.am_adamw(x, gs, rates, b2=0.95, lam=0.5, decay=own)
        assert_close(actual[leaf], expected, 1e-5, leaf)  # Float32.
        np.testing.assert_allclose([b[leaf] for b in betas], wanted, atol=1e-4)


def test_without_memory_it_is_adamw():
    # lam = 0, and gradients whose beta is always at its bound: the same ones.
    params, gradient = new_params(SHAPES), random_like(new_params(SHAPES), 1)
    ours = am_adamw(0.1, b1_max=0.9, lam=0.0, weight_decay=0.1)
    theirs = optax.adamw(0.1, weight_decay=0.1, mask={"bias": False, "kernel": True})
    paths = []
    for tx in (ours, theirs):
        w, state, step = params, tx.init(params), jax.jit(tx.update)
        for _ in range(2):
            updates, state = step(gradient, state, w)
            w = optax.apply_updates(w, updates)
        paths.append(w)
    assert_close(paths[0], paths[1], 1e-5, "AdamW's first two steps")


def test_the_direction_alone_takes_the_rate_for_constant():
    params = new_params(SHAPES)
    chained = optax.chain(scale_by_am_adamw(), optax.scale_by_learning_rate(0.01))
    alone, _ = trained(chained, params)
    recipe, _ = trained(am_adamw(0.01), params)
    assert_close(alone, recipe, 1e-6, "without weight decay")


@pytest.mark.parametrize("factory", [am_sgd, am_adamw])
@pytest.mark.parametrize("as_tree", [True, False])
def test_the_decay_mask_says_what_decays(factory, as_tree):
    params = new_params(SHAPES)
    mask: Any = {"bias": True, "kernel": False}
    tx = factory(
        0.1,
        weight_decay=0.5,
        weight_decay_mask=mask if as_tree else lambda params: mask,
    )
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(tx.update)(zeros, tx.init(params), params)
    assert updates["bias"].any() and not updates["kernel"].any()


@pytest.mark.parametrize("size", [1e-30, 1e18, 1e25, 3e37])
def test_adamw_survives_gradients_of_any_size(size):
    params = new_params(SHAPES)
    tx = am_adamw(0.1, weight_decay=0.1)
    state, step = tx.init(params), jax.jit(tx.update)
    for seed in range(3):
        gradient = jax.tree.map(
            lambda x: x * jnp.float32(size), random_like(params, seed)
        )
        updates, state = step(gradient, state, params)
        for leaf in jax.tree.leaves((updates, state)):
            assert np.isfinite(leaf).all()
    updates, _ = step(random_like(params, 5), state, params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(updates))


def test_a_decay_needs_parameters():
    tx = scale_by_am_adamw(weight_decay=0.1)
    with pytest.raises(ValueError, match="needs params"):
        tx.update(jnp.ones((2, 2)), tx.init(jnp.ones((2, 2))))


@pytest.mark.parametrize("factory", [am_sgd, am_adamw])
def test_a_summary_knows_them(factory):
    summary = optax_ortho.summary(factory(0.1), new_params(SHAPES))
    ((name, method, rate, decay, leaves, size, _),) = summary.groups
    assert (name, method, leaves, size) == ("all", factory.__name__, 2, 30)
    assert summary.warnings == ("No leaf is orthogonalized.",)


@pytest.mark.parametrize(
    "factory, kwargs, message",
    [
        (am_sgd, {"lam": -1.0}, "lam"),
        (am_sgd, {"learning_rate": -1.0}, "learning_rate"),
        (am_sgd, {"weight_decay": -1.0}, "weight_decay"),
        (am_sgd, {"nonfinite": "skip"}, "nonfinite"),
        (am_adamw, {"b1_max": 1.0}, "b1_max"),
        (am_adamw, {"b2": 1.0}, "b2"),
        (am_adamw, {"eps": -1.0}, "eps"),
        (am_adamw, {"lam": -1.0}, "lam"),
        (am_adamw, {"weight_decay": -1.0}, "weight_decay"),
        (adaptive_memory_muon, {"beta_max": 1.0}, "beta_max"),
        (adaptive_memory_muon, {"scope": "label"}, "scope"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_impossible_values_are_refused_at_once(factory, kwargs, message):
    with pytest.raises(ValueError, match=message):
        factory(**{"learning_rate": 0.1, **kwargs})


@pytest.mark.parametrize("factory", [am_sgd, am_adamw])
@pytest.mark.parametrize("name", ["mu_dtype", "weight_decay_mask"])
def test_functions_under_inject_hyperparams_name_the_way_out(factory, name):
    tx = optax.inject_hyperparams(factory)(0.1, **{name: lambda count: 1.0})
    with pytest.raises(TypeError, match=f"static_args.*{name}"):
        tx.init(new_params(SHAPES))


def test_a_group_without_leaves_takes_steps():
    params = {"kernel": jnp.ones((4, 6))}
    groups = {"none": am_adamw(0.1), "all": optax.sgd(0.1)}
    tx = optax.partition(groups, {"kernel": "all"})
    updates, _ = tx.update(params, tx.init(params), params)
    assert_close(updates["kernel"], -0.1 * params["kernel"], 1e-6, "SGD's step")

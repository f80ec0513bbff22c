"""ROOT: the authors' code in float64, its variants, and every argument."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ortho
from optax_ortho import root, scale_by_root
from optax_ortho.orthogonalizers import (
    PUBLISHED,
    Clipped,
    NewtonSchulz,
    ShapedNewtonSchulz,
)
from optax_ortho.testing import assert_close, random_like
from optax_ortho.trust_region import JORDAN
from tests.optimizers.training import gradients_of, trained
from tests.reference import root as reference
from tests.rows import ONE_STEP, new_params

JORDANS = (3.4445, -4.7750, 2.0315)
KERNEL = {"kernel": (4, 6)}


def expected(params, name, row=JORDANS, steps=10, **arguments):
    gradients = gradients_of(params, name, steps)
    w = np.asarray(params[name], np.float64)
    return reference.root(w, gradients, 0.1, row, **arguments)


@pytest.mark.parametrize(
    "ours, theirs",
    [
        ({"weight_decay": 0.1}, {"decay": 0.1}),
        ({"nesterov": False, "quantile": 0.5}, {"nesterov": False, "quantile": 0.5}),
    ],
    ids=["code", "no look-ahead"],
)
def test_ten_steps_are_the_box(ours, theirs):
    params = new_params({"wide": (4, 6), "tall": (7, 3), "square": (5, 5)})
    actual = trained(root(0.1, **ours), params)
    for name in params:
        # Float32 in a polynomial whose slope at zero is 3.4^5 = 485.
        assert_close(actual[name], expected(params, name, **theirs), 1e-5, name)


def test_a_shape_has_coefficients_of_its_own():
    params = new_params({"w": (64, 80)})
    row = ShapedNewtonSchulz().at(64, 80).coefficients.rows[0]
    assert row != JORDANS
    actual = trained(root(0.1), params, steps=2)
    wanted = expected(params, "w", row, steps=2)
    assert_close(actual["w"], wanted, 1e-5, "a fitted step")  # As above.


def test_the_published_coefficients_are_reached():
    make = functools.partial(NewtonSchulz, eps=1e-7, unsafe=True)
    method = ShapedNewtonSchulz(PUBLISHED, make)
    assert method.at(2048, 2048).coefficients.name == "root_2048x2048"
    params = new_params(KERNEL)
    tx = root(0.1, eps=1e-9, orthogonalizer=method)
    # Against gradients of 1 the additions are below a rounding.
    assert_close(trained(tx, params), trained(root(0.1), params), 1e-5, "as published")


def test_outliers_do_not_turn_the_step():
    clean = random_like(jnp.zeros((24, 24)))
    spoilt = clean.at[3, 5].set(1e4)

    def similarity(tx):
        steps = [tx.update(g, tx.init(g))[0] for g in (clean, spoilt)]
        dots = jnp.sum(steps[0] * steps[1])
        return float(dots / jnp.linalg.norm(steps[0]) / jnp.linalg.norm(steps[1]))

    assert similarity(scale_by_root()) > 0.95
    assert similarity(optax_ortho.scale_by_muon()) < 0.8


def test_it_is_not_muon_even_without_outliers():
    gradient = random_like(jnp.zeros((24, 24)))
    tx, muon = scale_by_root(), optax_ortho.scale_by_muon()
    clipped, _ = tx.update(gradient, tx.init(gradient))
    whole, _ = muon.update(gradient, muon.init(gradient))
    assert float(jnp.linalg.norm(clipped - whole) / jnp.linalg.norm(whole)) > 0.05


def test_the_update_has_the_promised_rms():
    params = new_params({"w": (64, 128)})
    tx = root(0.5)
    updates, _ = jax.jit(tx.update)(random_like(params), tx.init(params))
    rms = float(jnp.sqrt(jnp.mean(updates["w"] ** 2)))
    assert rms == pytest.approx(0.2 * 0.5, rel=0.02)


def test_the_stored_momentum_keeps_its_outliers():
    gradient = random_like(jnp.zeros((4, 6))).at[1, 1].set(1e3)
    tx = scale_by_root(nonfinite="off")
    state: Any = tx.update(gradient, tx.init(gradient))[1]
    assert_close(state.momentum.mu, gradient, 0, "the momentum")


DEFAULT = scale_by_root(orthogonalizer=ONE_STEP)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"beta": 0.5},
        {"nesterov": False},
        {"quantile": 0.5},
        {"threshold": 0.1},
        {"eps": 0.5},
        {"orthogonalizer": NewtonSchulz()},
        {"trust_region": JORDAN},
        {"mu_dtype": jnp.bfloat16},
    ],
    ids=lambda kwargs: next(iter(kwargs)),
)
def test_each_argument_makes_another_step(kwargs):
    params = new_params(KERNEL)
    kwargs = {"orthogonalizer": ONE_STEP, **kwargs}
    step = trained(scale_by_root(**kwargs), params, steps=2)
    default = trained(DEFAULT, params, steps=2)
    assert float(jnp.abs(step["kernel"] - default["kernel"]).max()) > 1e-4


def test_a_summary_names_method_and_cost():
    tx = optax.inject_hyperparams(root)(0.1, quantile=0.8)
    summary = optax_ortho.summary(tx, {"kernel": jnp.ones((64, 256))})
    assert "root" in str(summary) and "NewtonSchulz" in str(summary)
    assert summary.orthogonalized == 1


def test_it_is_clipping_before_muon():
    params = new_params(KERNEL)
    actual = trained(root(0.1, beta=0.9, nesterov=False), params, steps=3)
    muon = optax_ortho.muon(
        0.1,
        momentum=optax_ortho.momentum.heavy_ball(0.9),
        orthogonalizer=Clipped(NewtonSchulz()),
    )
    assert_close(actual, trained(muon, params, steps=3), 1e-6, "one stage wrapped")


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"beta": 1.0}, "beta"),
        ({"quantile": 1.5}, "quantile"),
        ({"threshold": -1.0}, "threshold"),
        ({"eps": -1.0}, "eps"),
        ({"nonfinite": "skip"}, "nonfinite"),
    ],
    ids=str,
)
def test_impossible_values_are_refused_at_once(kwargs, message):
    with pytest.raises(ValueError, match=message):
        root(0.1, **kwargs)


def test_functions_under_inject_hyperparams_name_the_way_out():
    tx = optax.inject_hyperparams(root)(0.1, orthogonalizer=lambda x: x.mean())
    with pytest.raises((TypeError, AttributeError), match="static_args|mean"):
        tx.init(new_params(KERNEL))

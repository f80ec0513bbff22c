"""NorMuon: the box and the authors' code in float64, and what sets it apart."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_ortho import MatrixAxes, Split, muon, normuon, scale_by_normuon
from optax_ortho.momentum import nesterov
from optax_ortho.normalizers import neuron_rms
from optax_ortho.testing import assert_close, random_like
from optax_ortho.trust_region import JORDAN, UNSCALED
from tests.reference import normuon as reference
from tests.rows import ONE_STEP, new_params
from tests.training import check_against

KERNEL = {"kernel": (4, 6)}
# Float32 in a polynomial whose slope at zero is 3.4^5 = 485.
TOLERANCE = 1e-5


def first_update(tx, params):
    return jax.jit(tx.update)(params, tx.init(params), params)[0]


def test_ten_steps_are_the_box():
    tx = normuon(0.1, weight_decay=0.1)
    arguments = {"learning_rate": 0.1, "weight_decay": 0.1}
    check_against(tx, reference.normuon, TOLERANCE, **arguments)


def test_ten_steps_are_the_authors_code():
    tx = normuon(0.1, momentum=nesterov(0.95), trust_region=JORDAN)
    check_against(tx, reference.normuon_code, TOLERANCE, learning_rate=0.1)


def test_every_update_has_the_promised_rms():
    params = new_params({"a": (8, 16), "b": (3, 24, 4)})
    tx = scale_by_normuon(orthogonalizer=ONE_STEP)
    state, step = tx.init(params), jax.jit(tx.update)
    for seed in range(3):
        updates, state = step(random_like(params, seed), state)
        for u in updates.values():
            rms = jnp.sqrt(jnp.mean(u**2, (-2, -1)))
            np.testing.assert_allclose(rms, 0.2, rtol=1e-5)  # Float32 roundings.


def test_first_step_gives_every_neuron_the_same_norm():
    tx = scale_by_normuon(orthogonalizer=ONE_STEP)
    update = first_update(tx, new_params(KERNEL))["kernel"]
    norms = jnp.linalg.norm(update, axis=0)
    np.testing.assert_allclose(norms, norms[0], rtol=1e-5)  # Float32 roundings.


def test_a_dead_neuron_stays_dead_and_disturbs_no_other():
    params = new_params(KERNEL)
    dead = {"kernel": params["kernel"].at[:, 2].set(0)}
    direction = partial(scale_by_normuon, orthogonalizer=ONE_STEP)
    update = first_update(direction(), dead)["kernel"]
    alone = {"kernel": jnp.delete(params["kernel"], 2, axis=1)}
    others = first_update(direction(trust_region=UNSCALED), alone)["kernel"]
    assert not update[:, 2].any()
    size = 0.2 * np.sqrt(24) / jnp.linalg.norm(others)
    expected = jnp.insert(others * size, 2, 0, axis=1)
    assert_close(update, expected, 1e-5, "the other neurons")  # As `TOLERANCE`.


def test_without_its_third_stage_and_scale_it_is_muon():
    params = new_params(KERNEL)
    plain = optax.identity()
    same = {"trust_region": JORDAN, "orthogonalizer": ONE_STEP}
    ours = normuon(0.1, normalize=plain, momentum=nesterov(0.95), **same)
    expected = first_update(muon(0.1, **same), params)
    assert_close(first_update(ours, params), expected, 0, "Muon")


def test_a_fused_leaf_is_its_parts():
    parts = new_params({"a": (4, 3), "b": (4, 5)})
    fused = {"ab": jnp.concatenate([parts["a"], parts["b"]], axis=1)}
    axes = MatrixAxes(split=Split(axis=1, sizes=(3, 5)))
    direction = partial(scale_by_normuon, orthogonalizer=ONE_STEP)
    apart = first_update(direction(), parts)
    together = first_update(direction(axes=lambda path, leaf: axes), fused)
    expected = jnp.concatenate([apart["a"], apart["b"]], axis=1)
    assert_close(together["ab"], expected, 1e-5, "a fused leaf")  # As `TOLERANCE`.


def test_cautious_decay_waits_for_the_update_to_agree():
    params = new_params(KERNEL)
    gradient = random_like(params, seed=3)

    def change(**kwargs):
        tx = normuon(0.1, orthogonalizer=ONE_STEP, **kwargs)
        return jax.jit(tx.update)(gradient, tx.init(params), params)[0]["kernel"]

    plain, cautious = change(), change(weight_decay=0.5, cautious=True)
    w = params["kernel"]
    agrees = w * plain <= 0  # The update has the sign of a step, against the direction.
    assert agrees.any() and not agrees.all()
    expected = plain - 0.05 * jnp.where(agrees, w, 0)
    assert_close(cautious, expected, 1e-6, "decay")  # Float32 roundings.


def test_cautious_decay_is_masked():
    params = new_params(KERNEL)
    mask = {"kernel": False}
    plain = partial(normuon, 0.1, orthogonalizer=ONE_STEP)
    tx = plain(weight_decay=0.5, weight_decay_mask=mask, cautious=True)
    updates = first_update(tx, params)
    assert_close(updates, first_update(plain(), params), 0, "a masked leaf")


def test_the_state_is_one_number_a_neuron():
    axes = MatrixAxes(fan_in=(0, 1, 2), fan_out=(3,))
    shapes = {"conv": (2, 2, 1, 6), "stack": (3, 4, 5)}

    def of(path, leaf):
        return axes if path == "conv" else MatrixAxes()

    params = new_params(shapes, jnp.bfloat16)
    state = neuron_rms(axes=of).init(params).neuron_variance
    assert {k: (v.shape, v.dtype) for k, v in state.items()} == {
        "conv": ((6,), jnp.float32),
        "stack": ((3, 5), jnp.float32),
    }


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"beta": 1.0}, "beta"),
        ({"beta2": 1.0}, "beta2"),
        ({"eps": -1.0}, "eps"),
        ({"weight_decay": -0.1, "cautious": True}, "weight_decay"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_impossible_values_are_refused_at_once(kwargs, message):
    with pytest.raises(ValueError, match=message):
        normuon(0.1, **kwargs)


def test_decay_without_parameters_is_refused():
    params = new_params(KERNEL)
    tx = normuon(0.1, weight_decay=0.1, cautious=True, orthogonalizer=ONE_STEP)
    with pytest.raises(ValueError, match="params"):
        tx.update(params, tx.init(params))

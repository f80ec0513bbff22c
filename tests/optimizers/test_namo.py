"""NAMO and NAMO-D: code and paper in float64, the limits, the decay, the scale."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_ortho
from optax_ortho import namo, namo_d, scale_by_namo, scale_by_namo_d
from optax_ortho.momentum import ema
from optax_ortho.testing import assert_close, random_like
from optax_ortho.trust_region import SPECTRAL, UNSCALED, by_shape
from tests.reference import namo as reference
from tests.rows import LABELS, MODEL, ONE_STEP, new_params
from tests.training import check_against

KERNEL = {"kernel": (4, 6)}
# Float32 in a polynomial whose slope at zero is 3.4^5 = 485.
TOLERANCE = 1e-5


def first_update(tx, gradient, params=None, **extra):
    params = gradient if params is None else params
    return jax.jit(tx.update)(gradient, tx.init(params), params, **extra)[0]


def test_ten_steps_are_namo():
    tx = namo(0.1, weight_decay=0.3)
    arguments = {"rate": 0.1, "weight_decay": 0.3}
    check_against(tx, reference.namo, TOLERANCE, **arguments)


@pytest.mark.parametrize("c", [0.75, 0.12])
def test_ten_steps_are_namo_d(c):
    tx = namo_d(0.1, c=c, weight_decay=0.3)
    arguments = {"rate": 0.1, "weight_decay": 0.3, "c": c}
    check_against(tx, reference.namo, TOLERANCE, **arguments)


def test_ten_steps_are_the_papers():
    paper = {"momentum": ema(0.95), "trust_region": UNSCALED, "max_step": None}
    tx = namo(0.1, eps=0.0, weight_decay=0.3, **paper)
    arguments = {"rate": 0.1, "weight_decay": 0.3}
    check_against(tx, reference.namo_paper, TOLERANCE, **arguments)


def test_no_step_is_longer_than_the_limit_at_any_rate():
    # A rate of 50 asks for 0.2 sqrt(7) 1.95 50 O; the limit is O.
    arguments = {"rate": 50.0, "weight_decay": 0.3}
    tx = namo(50.0, weight_decay=0.3)
    check_against(tx, reference.namo, TOLERANCE, **arguments)
    tx = namo_d(50.0, weight_decay=0.3)
    check_against(tx, reference.namo, TOLERANCE, **arguments, c=0.75)


def test_decay_never_turns_a_weight_around():
    params = new_params(KERNEL)
    tx = namo_d(50.0, weight_decay=3.0, max_step=1.0, orthogonalizer=ONE_STEP)
    update = first_update(tx, random_like(params, 5), params)["kernel"]
    plain = first_update(
        namo_d(50.0, max_step=1.0, orthogonalizer=ONE_STEP), random_like(params, 5)
    )["kernel"]
    # The weights are gone, and not beyond zero; float32 roundings.
    assert_close(update - plain, -params["kernel"], 1e-5, "decay")


@pytest.mark.parametrize("factory", [namo, namo_d])
def test_a_rate_of_zero_is_a_step_of_zero(factory):
    params = new_params(KERNEL)
    schedule = optax.linear_schedule(0.0, 0.1, 10)
    tx = factory(schedule, weight_decay=0.1, orthogonalizer=ONE_STEP)
    assert not first_update(tx, params)["kernel"].any()


def test_the_first_ratio_is_the_stated_one():
    params = new_params(KERNEL)
    tx = scale_by_namo(eps=0.0, trust_region=UNSCALED)
    ours = first_update(tx, params)["kernel"]
    muon = optax_ortho.scale_by_muon(trust_region=UNSCALED)
    theirs = first_update(muon, params)["kernel"]
    # (1 - beta^2) / (1 - beta) sqrt(1 - beta2) / sqrt(1 - beta2)
    assert_close(ours, 1.95 * theirs, 1e-5, "the first step")


def test_ratios_are_free_of_scale_up_to_eps():
    params = new_params(KERNEL)
    norm = float(jnp.linalg.norm(params["kernel"]))

    def size(root):
        """The first update where sqrt(v) is `root`."""
        factor = root / (0.1 * norm)  # sqrt(1 - beta2) is 0.1.
        tx = scale_by_namo(orthogonalizer=ONE_STEP)
        update = first_update(tx, optax.tree.scale(factor, params))["kernel"]
        return float(jnp.linalg.norm(update))

    whole = size(1.0)
    assert size(1e-6) / whole == pytest.approx(1 / 1.01, rel=1e-3)
    assert size(1e-8) / whole == pytest.approx(0.5, rel=1e-3)


def test_moments_of_any_size_are_kept():
    params = new_params(KERNEL)
    tx = scale_by_namo_d(eps=0.0, orthogonalizer=ONE_STEP)

    def after(factor):
        state = tx.init(params)
        for seed in range(3):
            gradient = optax.tree.scale(factor, random_like(params, seed))
            updates, state = jax.jit(tx.update)(gradient, state, params)
        return updates["kernel"], optax.tree.get(state, "moment_rms")["kernel"]

    expected, root = after(1.0)
    for factor in (1e-30, 1e30):
        update, scaled = after(factor)
        assert_close(update, expected, 1e-5, "the third step")  # A factor rounds.
        assert_close(scaled / factor, root, 1e-5, "the moment")


def test_namo_d_is_one_number_an_input_and_may_be_one_an_output():
    params = new_params(KERNEL)
    for per, length in (("fan_in", 4), ("fan_out", 6)):
        state = scale_by_namo_d(per=per).init(params)
        assert optax.tree.get(state, "moment_rms")["kernel"].shape == (length,)
    transposed = {"kernel": params["kernel"].T}
    ours = first_update(scale_by_namo_d(per="fan_out"), params)["kernel"]
    theirs = first_update(scale_by_namo_d(per="fan_in"), transposed)["kernel"]
    assert_close(ours, theirs.T, 1e-5, "the transpose")  # As `TOLERANCE`.


def test_ratios_stay_within_c_of_their_mean():
    gradient = {"kernel": random_like(jnp.zeros((4, 6)))}
    noise = {"kernel": random_like(jnp.zeros((4, 6)), 1).at[0].multiply(100.0)}

    def spread(c):
        tx = scale_by_namo_d(c=c, orthogonalizer=lambda x: jnp.ones_like(x))
        state = tx.init(gradient)
        _, state = jax.jit(tx.update)(noise, state)
        updates, _ = jax.jit(tx.update)(gradient, state)
        return updates["kernel"][:, 0] / jnp.max(updates["kernel"])

    free, tight = spread(0.0), spread(1.0)
    assert float(free.min()) < 0.5
    np.testing.assert_allclose(tight, 1.0, rtol=1e-6)  # Float32 roundings.
    # At most mean / c, at least c mean: a ratio of c^2 between any two.
    assert float(spread(0.75).min()) >= 0.75**2 * (1 - 1e-6)


def test_decay_follows_the_ratio_and_its_mask():
    params = new_params(MODEL)

    def mask(params):
        return jax.tree.map(lambda x: x.ndim == 2, params)

    gradient = random_like(params, 7)
    arguments = {"labels": LABELS, "orthogonalizer": ONE_STEP, "eps": 0.0}
    plain = first_update(namo(0.1, **arguments), gradient, params)
    decay = {"weight_decay": 0.5, "weight_decay_mask": mask}
    decayed = first_update(namo(0.1, **arguments, **decay), gradient, params)
    change = jax.tree.map(jnp.subtract, decayed, plain)
    # rate, weight_decay and the ratio of the first step.
    expected = -0.1 * 0.5 * 1.95 * params["dense"]["kernel"]
    assert_close(change["dense"]["kernel"], expected, 1e-5, "the decay")
    assert not change["stack"].any() and not change["conv"].any()


def test_the_mask_may_be_a_tree_and_the_summary_tells_the_decay():
    params = new_params({"a": (4, 6), "b": (4, 6), "bias": (6,)})
    mask = {"a": True, "b": False, "bias": False}
    tx = namo(0.1, weight_decay=0.5, weight_decay_mask=mask, orthogonalizer=ONE_STEP)
    with_decay, plain = (
        first_update(t, random_like(params, 1), params)
        for t in (tx, namo(0.1, orthogonalizer=ONE_STEP))
    )
    assert jnp.any(with_decay["a"] != plain["a"])
    assert_close(with_decay["b"], plain["b"], 0, "a masked leaf")
    told, _ = optax_ortho.summary(tx, params).groups
    assert told[:4] == ("matrix", "namo", "0.1", "0.5")


@pytest.mark.parametrize("factory", [namo, namo_d])
@pytest.mark.parametrize(
    "kwargs",
    [
        {"beta": 1.0},
        {"beta2": 1.0},
        {"eps": -1.0},
        {"max_step": 0.0},
        {"weight_decay": -0.1},
    ],
    ids=lambda kwargs: next(iter(kwargs)),
)
def test_impossible_values_are_refused_at_once(factory, kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        factory(0.1, **kwargs)


def test_other_misuse_is_refused():
    with pytest.raises(ValueError, match="c must be"):
        namo_d(0.1, c=1.5)
    with pytest.raises(ValueError, match="per must be"):
        namo_d(0.1, per="column")
    with pytest.raises(TypeError, match="ShapeFactor"):
        namo(0.1, trust_region=by_shape(SPECTRAL))
    params = new_params(KERNEL)
    tx = namo(0.1, weight_decay=0.1, orthogonalizer=ONE_STEP)
    with pytest.raises(ValueError, match="params"):
        tx.update(params, tx.init(params))

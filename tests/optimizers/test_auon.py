"""AuON: each of its definitions in float64, and how little the brake does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_ortho import auon, hybrid_auon, muon, scale_by_auon
from optax_ortho.momentum import nesterov
from optax_ortho.normalizers import cosh_rms
from optax_ortho.orthogonalizers import NewtonSchulz
from optax_ortho.testing import assert_close
from optax_ortho.trust_region import JORDAN, UNSCALED, match_unit_norm
from tests.reference import auon as reference
from tests.rows import new_params
from tests.training import check_against

KERNEL = {"kernel": (4, 6)}


def first_update(tx, params):
    return jax.jit(tx.update)(params, tx.init(params), params)[0]


def test_ten_steps_are_the_papers():
    # Float32 roundings, and 1e-6 of the parameters is what this case gives.
    check_against(auon(0.1), reference.auon, 1e-5, learning_rate=0.1)


def test_ten_steps_are_the_current_code():
    tx = auon(0.01, gamma=1.5, unit_norm=False, weight_decay=0.1)
    arguments = {"learning_rate": 0.01, "weight_decay": 0.1}
    check_against(tx, reference.auon_code, 1e-5, **arguments)  # Float32 roundings.


def test_ten_steps_are_the_hybrid():
    # Float32 in a polynomial whose slope at zero is 3.4^5 = 485.
    tx = hybrid_auon(0.1)
    check_against(tx, reference.hybrid_auon, 1e-5, learning_rate=0.1)


def test_the_update_has_the_promised_rms_over_the_brake():
    update = first_update(auon(0.5), new_params({"w": (64, 64)}))["w"]
    rms = float(jnp.sqrt(jnp.mean(update**2)))
    # The brake alone: 1.2e-4 at gamma 1 for normal entries.
    assert rms == pytest.approx(0.1, rel=2e-4)


@pytest.mark.parametrize("trust_region", [JORDAN, UNSCALED])
def test_published_scales(trust_region):
    params = new_params(KERNEL)
    default = first_update(scale_by_auon(), params)["kernel"]
    scaled = first_update(scale_by_auon(trust_region=trust_region), params)["kernel"]
    factor = trust_region.of(4, 6) / match_unit_norm(0.2).of(4, 6)
    assert_close(scaled, factor * default, 1e-6, "a scale")  # Float32 roundings.


def test_the_hybrid_is_muon_to_a_part_in_a_thousand():
    params = new_params({"w": (64, 64)})
    ours = first_update(hybrid_auon(0.1), params)["w"]
    theirs = first_update(muon(0.1), params)["w"]
    gap = float(jnp.linalg.norm(ours - theirs) / jnp.linalg.norm(theirs))
    assert 1e-4 < gap < 6e-4  # r - 1 for 64 x 64 entries at gamma 1.5.


def test_auon_is_momentum_and_orthogonalizes_nothing():
    w = new_params({"w": (8, 8)})["w"]
    update = first_update(scale_by_auon(trust_region=UNSCALED), w)
    ahead, _ = nesterov(0.95).update(w, nesterov(0.95).init(w))
    cosine = jnp.vdot(update, ahead) / jnp.linalg.norm(update) / jnp.linalg.norm(ahead)
    assert float(cosine) == pytest.approx(1.0, abs=1e-6)  # Float32 roundings.
    assert float(jnp.linalg.norm(update)) < 1


def test_the_papers_hybrid():
    w = new_params({"w": (6, 5)})["w"]
    tx = hybrid_auon(
        1.0,
        orthogonalizer=NewtonSchulz(steps=1, unsafe=True),
        normalize=cosh_rms(normalize=False, of_unit=False),
        trust_region=UNSCALED,
    )
    x = np.asarray(w, np.float64)
    x = x / np.linalg.norm(x)
    gram = x @ x.T
    x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    expected = -x / reference.cosh_rms(x)
    update = first_update(tx, {"w": w})["w"]
    assert_close(update, expected, 1e-5, "one step")  # Float32 roundings.


@pytest.mark.parametrize("factory", [auon, hybrid_auon])
@pytest.mark.parametrize(
    "kwargs", [{"beta": 1.0}, {"gamma": -1.0}], ids=lambda kwargs: next(iter(kwargs))
)
def test_impossible_values_are_refused_at_once(factory, kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        factory(0.1, **kwargs)

"""Stage 1: the four forms of exponential momentum."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optax_ortho.momentum import bias_corrected, ema, heavy_ball, nesterov
from optax_ortho.testing import assert_close, check_transformation, random_like

PARAMS = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
FORMS = {
    "ema": ema,
    "nesterov": nesterov,
    "heavy_ball": heavy_ball,
    "heavy_ball_nesterov": lambda beta, **kwargs: heavy_ball(beta, True, **kwargs),
    "bias_corrected": bias_corrected,
    "bias_corrected_plain": lambda beta, **kwargs: bias_corrected(
        beta, False, **kwargs
    ),
}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
every_factory = pytest.mark.parametrize("factory", [ema, nesterov, heavy_ball])


def trajectory(tx, gradients):
    state, out = tx.init(gradients[0]), []
    for gradient in gradients:
        update, state = tx.update(gradient, state)
        out.append(update)
    return np.array(out), state


def first(tx, gradient):
    """A first update, and the state after it."""
    return tx.update(gradient, tx.init(gradient))


def gradients(steps=6):
    return [random_like(jnp.zeros(5), seed) for seed in range(steps)]


def oracle(name, beta, gs):
    """The formulas of the module's docstrings, in float64."""
    mu, out = np.zeros(5), []
    for t, g in enumerate(np.asarray(gs, np.float64), start=1):
        gain = 1 if name.startswith("heavy_ball") else 1 - beta
        mu = beta * mu + gain * g
        out.append(
            {
                "ema": mu,
                "nesterov": beta * mu + (1 - beta) * g,
                "heavy_ball": mu,
                "heavy_ball_nesterov": g + beta * mu,
                "bias_corrected": beta * mu / (1 - beta ** (t + 1))
                + (1 - beta) * g / (1 - beta**t),
                "bias_corrected_plain": mu / (1 - beta**t),
            }[name]
        )
    return np.array(out)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("name", FORMS)
def test_six_steps_are_the_formula(name, beta):
    actual, _ = trajectory(FORMS[name](beta), gradients())
    # A handful of float32 roundings.
    assert_close(actual, oracle(name, beta, gradients()), 2e-6, name)


@every_form
def test_the_contract(form):
    check_transformation(form(0.9), PARAMS)


@settings(deadline=None, max_examples=20)
@given(st.floats(0.0, 0.99), st.integers(0, 100))
def test_heavy_ball_is_a_scaled_ema(beta, seed):
    gs = [random_like(jnp.zeros(5), seed + i) for i in range(4)]
    balls, _ = trajectory(heavy_ball(beta), gs)
    averages, _ = trajectory(ema(beta), gs)
    # 1 - beta loses digits as beta comes near 1.
    assert_close((1 - beta) * balls, averages, 2e-5, "a heavy ball")


@pytest.mark.parametrize("form", ["nesterov", "heavy_ball_nesterov"])
def test_nesterov_is_what_the_same_gradient_would_make_of_the_momentum(form):
    tx = FORMS[form](0.9)
    gs = gradients(3)
    _, state = trajectory(tx, gs)
    ahead, state = tx.update(gs[0], state)
    _, after = tx.update(gs[0], state)
    # To the last bit: both are one program for the compiler.
    np.testing.assert_array_equal(ahead, after.mu)


def test_bias_corrected_changes_the_direction():
    corrected, _ = trajectory(bias_corrected(0.9), gradients(2))
    plain, _ = trajectory(nesterov(0.9), gradients(2))
    ratio = corrected[1] / plain[1]
    assert ratio.std() > 1e-2 * abs(ratio.mean())


def test_bias_corrected_is_the_momentum_of_nadam():
    # b2=0 and a large eps make NAdam's step a fixed multiple of its momentum.
    nadam = optax.scale_by_adam(b1=0.9, b2=0.0, eps=1e8, nesterov=True)
    expected, _ = trajectory(nadam, gradients())
    actual, _ = trajectory(bias_corrected(0.9), gradients())
    assert_close(actual / 1e8, expected, 1e-5, "NAdam's momentum")


@every_form
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_mu_dtype_is_that_of_the_state_alone(form, dtype):
    tx = form(0.9, mu_dtype=dtype)
    update, state = first(tx, jnp.ones(3))
    assert state.mu.dtype == dtype
    assert update.dtype == jnp.float32


@every_form
def test_without_mu_dtype_the_state_is_like_the_parameters(form):
    assert form(0.9).init(jnp.ones(3, jnp.bfloat16)).mu.dtype == jnp.bfloat16


@every_form
def test_bfloat16_momentum_is_the_float32_one_rounded(form):
    exact, _ = trajectory(form(0.9), gradients())
    rounded, _ = trajectory(form(0.9, mu_dtype=jnp.bfloat16), gradients())
    # Six roundings of 2^-9, each damped by the decay.
    assert_close(rounded, exact, 2e-2, "a bfloat16 momentum")


def test_sums_are_wider_than_a_bfloat16_state():
    # 1 + 2^-9 is not a bfloat16: were the look-ahead taken from the rounded sum of a
    # narrow computation, the gradient's last bits would be lost.
    tx = nesterov(0.5, mu_dtype=jnp.bfloat16)
    gradient = jnp.full(3, 1 + 2.0**-9)
    update, _ = first(tx, gradient)
    np.testing.assert_array_equal(update, 0.5 * 0.5 + 0.5 * gradient)


@every_factory
@pytest.mark.parametrize("beta", [-0.1, 1.0, 1.5, np.nan])
def test_impossible_decays_are_refused(factory, beta):
    with pytest.raises(ValueError, match="beta"):
        factory(beta)


def test_bias_corrected_refuses_them_too():
    with pytest.raises(ValueError, match="beta"):
        bias_corrected(1.0)


@every_form
def test_the_decay_may_be_traced(form):
    @jax.jit
    def step(beta, gradient):
        tx = form(beta)
        return first(tx, gradient)[0]

    tx = form(0.9)
    gradient = random_like(jnp.zeros(5))
    expected, _ = first(tx, gradient)
    assert_close(step(0.9, gradient), expected, 1e-6, "a traced decay")


def test_the_count_of_steps_saturates():
    tx, last = bias_corrected(0.9), jnp.array(np.iinfo(np.int32).max)
    state = jax.jit(tx.init)(jnp.ones(3))._replace(count=last)
    update, state = jax.jit(tx.update)(jnp.ones(3), state)
    assert state.count == last
    assert np.isfinite(update).all()

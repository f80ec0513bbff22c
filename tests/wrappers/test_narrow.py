"""Wrappers for bfloat16 parameters: small updates count, in every execution."""

import functools
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_ortho
from optax_ortho import checkpoints
from optax_ortho.testing import assert_close, check_round_trip, random_like
from optax_ortho.wrappers import compensated, stochastic_rounding
from tests.rows import ONE_STEP

both = pytest.mark.parametrize("wrap", [compensated, stochastic_rounding])
muon = functools.partial(optax_ortho.muon, orthogonalizer=ONE_STEP)
RATE, UPDATE, STEPS = 1e-3, 5.6e-4, 50


def steady(inner: Any, start: Any, steps: int = STEPS) -> Any:
    """Parameters after steps that each subtract `UPDATE`."""
    gradient = jax.tree.map(lambda x: jnp.full_like(x, UPDATE / RATE), start)

    def step(carry, _):
        params, state = carry
        updates, state = inner.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (start, inner.init(start)), length=steps)
    return params


def wide(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64)


def test_without_a_wrapper_nothing_moves():
    start = jnp.ones(64, jnp.bfloat16)
    assert_close(steady(optax.sgd(RATE), start), start, 0, "fifty updates")


@pytest.mark.parametrize("dtype, start", [(jnp.bfloat16, 1.5), (jnp.float16, 9.0)])
def test_compensated_parameters_are_the_rounded_sum(dtype, start):
    final = steady(compensated(optax.sgd(RATE)), jnp.full(8, start, dtype))
    # Half a unit in the last place, and fifty errors of the error's own rounding.
    unit = float(jnp.finfo(dtype).eps) * 2 ** np.floor(np.log2(start))
    assert np.abs(wide(final) - (start - STEPS * UPDATE)).max() < 0.6 * unit


def test_the_compensation_is_the_rounding_error():
    tx, start = compensated(optax.sgd(1.0)), jnp.asarray([1.0, -3.0], jnp.bfloat16)
    gradient = jnp.asarray([-1e-3, 2e-3], jnp.bfloat16)
    updates, state = jax.jit(tx.update)(gradient, tx.init(start), start)
    assert_close(optax.apply_updates(start, updates), start, 0, "rounded to nearest")
    assert_close(state.compensation, -gradient, 0, "the error")


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("start", [1.0, -0.75, 300.0])
def test_stochastic_rounding_is_right_in_the_mean(dtype, start):
    n = 100_000
    gap = float(jnp.finfo(dtype).eps) * 2 ** np.floor(np.log2(abs(start)))
    p = jnp.full(n, start, dtype)
    update = jnp.full(n, 0.3 * gap, jnp.float32)
    tx = stochastic_rounding(optax.identity())
    step = jax.jit(lambda p, s: tx.update(update, s, p))
    u, state = step(p, tx.init(p))
    new = wide(optax.apply_updates(p, u))
    neighbours = {start, start + gap}
    assert set(np.unique(new)) == neighbours
    exact = float(np.float32(start) + np.float32(0.3 * gap))
    # Five standard deviations of the mean of n choices with probability 0.3, and the
    # probability's granularity of 2^-16.
    bound = gap * (5 * np.sqrt(0.3 * 0.7 / n) + 2**-16)
    assert abs(new.mean() - exact) < bound
    other = wide(optax.apply_updates(p, step(p, state)[0]))
    # Two independent choices agree in 0.3^2 + 0.7^2 = 0.58 of all cases.
    assert abs((other == new).mean() - 0.58) < 5 * np.sqrt(0.58 * 0.42 / n)


def test_every_share_of_a_gap_is_rounded_up_as_often_as_it_is_due():
    p = jnp.ones(256, jnp.bfloat16)
    update = jnp.arange(256, dtype=jnp.float32) * 2.0**-15  # A gap is 2^-7.
    tx = stochastic_rounding(optax.identity())
    step = jax.jit(lambda s: tx.update(update, s, p))
    state, total, n = tx.init(p), np.zeros(256), 400
    for _ in range(n):
        u, state = step(state)
        total += wide(u)
    # A mean over 128 sums has a deviation of gap sqrt(mean of p (1 - p)) / sqrt(128 n).
    bound = 5 * 2.0**-7 * np.sqrt(1 / 6 / 128 / n)
    errors = total / n - wide(update)
    for half in (errors[:128], errors[128:]):  # The nearest one is below, and above.
        assert abs(half.mean()) < bound


def test_what_is_representable_is_not_rounded():
    p = jnp.asarray([1.0, -2.0, 0.0, -0.0, 1e-38], jnp.bfloat16)
    tx = stochastic_rounding(optax.identity())
    for update in (jnp.zeros_like(p), p, -p):
        u, _ = tx.update(update, tx.init(p), p)
        assert_close(optax.apply_updates(p, u), p + update, 0, "exact sums")


@both
def test_stochastic_and_compensated_runs_move(wrap):
    final = wide(steady(wrap(optax.sgd(RATE)), jnp.ones(4096, jnp.bfloat16)))
    # A gap below 1 is 2^-8; of a walk of 50 choices at most 1/4 gap^2 is the variance.
    assert abs(final.mean() - (1 - STEPS * UPDATE)) < 2**-9 + 5 * 2**-8 * np.sqrt(
        STEPS / 4 / 4096
    )


@both
def test_float32_parameters_get_the_inner_update(wrap):
    params = {"k": jnp.ones((4, 6)), "b": jnp.ones(6), "n": jnp.ones((), jnp.int32)}
    inner = muon(0.1)
    tx = wrap(inner)
    gradient = random_like({name: params[name] for name in "kb"})
    gradient["n"] = np.zeros((), jax.dtypes.float0)
    u, state = tx.update(gradient, tx.init(params), params)
    v, inner_state = inner.update(gradient, inner.init(params), params)
    assert_close(u, v, 0, "the updates")
    assert_close(state.inner, inner_state, 0, "the inner state")
    arrays = jax.tree.leaves(tx.init(params)._replace(inner=()))
    assert len(arrays) == (wrap is stochastic_rounding)


def mixed() -> Any:
    params = random_like({"a": {"kernel": jnp.ones((8, 4))}, "b": jnp.ones(4)})
    params["a"]["kernel"] = params["a"]["kernel"].astype(jnp.bfloat16)
    return params


@both
def test_jit_and_checkpoints(wrap):
    params = mixed()
    tx = wrap(muon(RATE))
    check_round_trip(tx, params, lambda state: pickle.loads(pickle.dumps(state)))
    _, state = tx.update(params, tx.init(params), params)
    eager = tx.update(params, state, params)
    jitted = jax.jit(tx.update, donate_argnums=1)(params, state, params)
    # Rounding to another neighbour would be an error of 4e-3; fused operations differ.
    assert_close(jitted[0], eager[0], 1e-5, "the updates")
    restored = checkpoints.from_flat(tx, params, checkpoints.to_flat(eager[1]))
    assert_close(restored, eager[1], 0, "through arrays")
    checkpoints.check_state(tx, params, restored)
    assert optax_ortho.diagnostics(restored)["steps"] == 2
    assert optax_ortho.summary(tx, params).orthogonalized == 1


@both
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_a_mesh_makes_the_same_step(wrap, kind):
    params = mixed()
    tx = wrap(muon(RATE))
    expected = optax.apply_updates(
        params, tx.update(params, tx.init(params), params)[0]
    )
    mesh = jax.make_mesh((4,), ("x",), axis_types=(kind,))
    shards = NamedSharding(mesh, P("x", None))
    with jax.set_mesh(mesh):
        sharded = {
            "a": {"kernel": jax.device_put(params["a"]["kernel"], shards)},
            "b": jax.device_put(params["b"], NamedSharding(mesh, P())),
        }
        for update in (tx.update, jax.jit(tx.update)):
            u, _ = update(sharded, tx.init(sharded), sharded)
            assert u["a"]["kernel"].sharding.is_equivalent_to(shards, 2)
            new = optax.apply_updates(sharded, u)
            # The same random numbers on every mesh; at most one choice in 32 flips.
            assert_close(new["b"], expected["b"], 1e-6, "AdamW's leaf")
            moved = wide(new["a"]["kernel"]) != wide(expected["a"]["kernel"])
            assert moved.sum() <= 1


@both
def test_accumulated_gradients(wrap):
    params = {"k": jnp.ones(64, jnp.bfloat16)}
    gradient = {"k": jnp.full(64, UPDATE / RATE, jnp.bfloat16)}
    for tx in (
        optax.MultiSteps(wrap(optax.sgd(RATE)), 2),
        wrap(optax.MultiSteps(optax.sgd(RATE), 2)),
    ):
        state, p, step = tx.init(params), params, jax.jit(tx.update)
        for i in range(40):
            u, state = step(gradient, state, p)
            new = optax.apply_updates(p, u)
            if i % 2 == 0:
                assert_close(new, p, 0, "between two updates")
            p = new
        # Twenty updates, and a random walk of twenty steps of at most 2^-8 / 2.
        walk = 5 * 2**-9 * np.sqrt(20 / 64)
        assert abs(wide(p["k"]).mean() - (1 - 20 * UPDATE)) < 2**-9 + walk


@both
def test_an_nnx_optimizer(wrap):
    model = nnx.Linear(8, 4, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16)
    model.bias[...] = jnp.ones(4, jnp.bfloat16)
    optimizer = nnx.Optimizer(model, wrap(optax.sgd(RATE)), wrt=nnx.Param)
    gradient = jax.tree.map(
        lambda x: jnp.full_like(x, UPDATE / RATE), nnx.state(model, nnx.Param)
    )
    step = nnx.jit(lambda model, optimizer: optimizer.update(model, gradient))
    for _ in range(STEPS):
        step(model, optimizer)
    assert (wide(model.bias[...]) < 1).all()
    assert model.bias[...].dtype == jnp.bfloat16


@both
def test_non_finite_updates_stay_so(wrap):
    p = jnp.ones(3, jnp.bfloat16)
    tx = wrap(optax.identity())
    state = tx.init(p)
    u, state = tx.update(jnp.asarray([jnp.nan, jnp.inf, -jnp.inf]), state, p)
    new = wide(optax.apply_updates(p, u))
    assert np.isnan(new[0]) and new[1] == np.inf and new[2] == -np.inf
    u, _ = tx.update(jnp.zeros(3, jnp.bfloat16), state, p)
    assert_close(optax.apply_updates(p, u), p, 0, "the next step")


@both
def test_parameters_are_needed(wrap):
    tx = wrap(optax.sgd(0.1))
    with pytest.raises(ValueError, match="give update the parameters"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))

"""The radius of the softmax: proposition 5.2 in float64, arguments, and accidents."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec

import optax_ortho
from optax_ortho import testing
from optax_ortho.testing import assert_close, random_like
from optax_ortho.trust_region import confidence_radius, softmax_radius
from tests.reference import softmax_radius as reference

SHAPES = {"hidden": jnp.zeros((4, 6)), "out": {"kernel": jnp.zeros((6, 3))}}
X = random_like(jnp.zeros((8, 4)), seed=7)


def apply(params, x, xp=jnp):
    return xp.tanh(x @ params["hidden"]) @ params["out"]["kernel"]


def logits_fn(params):
    return apply(params, X.astype(params["hidden"].dtype))


def model():
    return random_like(SHAPES, seed=1)


def step_of_size(size, seed=2):
    return optax.tree.scale(size, random_like(SHAPES, seed))


def scaled(step, params=None, fn=logits_fn, extra=None, **arguments):
    tx = softmax_radius(**arguments)
    params = model() if params is None else params
    extra = {} if extra is None else extra
    return tx.update(step, tx.init(params), params, logits_fn=fn, **extra)


def as_before(step, **kwargs):
    updates, state = scaled(step, **kwargs)
    return all(
        (u == s).all()
        for u, s in zip(*map(jax.tree.leaves, (updates, step)), strict=True)
    )


# What it promises


@pytest.mark.parametrize("mode", ["cap", "set"])
@pytest.mark.parametrize("r_target", [1.0, 0.5])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_it_is_the_proposition(mode, r_target, size):
    flat, unravel = ravel_pytree(model())

    def logits(theta):
        tree = jax.tree.map(np.asarray, unravel(np.arange(flat.size)))
        order = ravel_pytree(tree)[0].astype(int)
        params = {"hidden": theta[:24].reshape(4, 6)}
        params["out"] = {"kernel": theta[24:].reshape(6, 3)}
        assert (order == np.arange(flat.size)).all()
        return apply(params, np.asarray(X, np.float64), np)

    step = step_of_size(size)
    expected, r = reference.controlled(
        np.asarray(flat, np.float64),
        np.asarray(ravel_pytree(step)[0], np.float64),
        logits,
        r_target,
        mode,
    )
    updates, state = scaled(step, r_target=r_target, mode=mode)
    # Float32 in one forward pass.
    assert_close(ravel_pytree(updates)[0], expected, 1e-5, "the step")
    assert float(state.radius_ratio) == pytest.approx(r, rel=1e-5)
    s = np.linalg.norm(expected) / np.linalg.norm(ravel_pytree(step)[0])
    assert float(state.radius_scale) == pytest.approx(s, rel=1e-5)


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1e3, 1e30])
def test_no_step_is_longer_than_the_target(size):
    updates, _ = scaled(step_of_size(size), r_target=0.7)
    _, state = scaled(updates)
    limit = min(0.7, size * float(scaled(step_of_size(1.0))[1].radius_ratio))
    assert float(state.radius_ratio) == pytest.approx(limit, rel=1e-5)


def test_a_safe_step_is_left_as_it_is_to_the_last_bit():
    step = step_of_size(1e-3)
    assert as_before(step) and not as_before(step, mode="set")


def test_the_sign_of_the_step_does_not_matter():
    step = step_of_size(100.0)
    updates, _ = scaled(step)
    opposite, _ = scaled(optax.tree.scale(-1.0, step))
    assert_close(optax.tree.scale(-1.0, opposite), updates, 0, "the other way")


def test_zero_stays_zero():
    for mode in ("cap", "set"):
        updates, state = scaled(step_of_size(0.0), mode=mode)
        assert not any(u.any() for u in jax.tree.leaves(updates))
        assert (state.radius_ratio, state.radius_scale) == (0, 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_becomes_zero(bad):
    step = step_of_size(1.0)
    step["hidden"] = step["hidden"].at[0, 0].set(bad)
    updates, state = scaled(step)
    assert not any(u.any() for u in jax.tree.leaves(updates))
    assert state.radius_scale == 0 and state.radius_ratio == np.inf


def test_a_derivative_that_is_not_finite_gives_zero():
    def broken(params):
        return jnp.sqrt(params["hidden"] * 0)  # Infinity times zero.

    for reduce in ("max", 0.5):
        updates, state = scaled(step_of_size(1.0), fn=broken, reduce=reduce)
        assert not any(u.any() for u in jax.tree.leaves(updates))
        assert state.radius_scale == 0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_16_bit_parameters(dtype):
    def cast(tree):
        return jax.tree.map(lambda x: x.astype(dtype), tree)

    updates, state = scaled(cast(step_of_size(100.0)), cast(model()))
    expected, wide = scaled(step_of_size(100.0))
    assert jax.tree.leaves(updates)[0].dtype == dtype
    assert state.radius_ratio.dtype == jnp.float32
    # A few roundings of the model's forward pass.
    eps = float(jnp.finfo(dtype).eps)
    assert float(state.radius_ratio / wide.radius_ratio) == pytest.approx(
        1, abs=8 * eps
    )
    as32 = jax.tree.map(lambda x: x.astype(jnp.float32), updates)
    assert_close(as32, expected, 8 * eps, "the step")


# Which samples count


def spreads(step, size=1):
    _, q = jax.jvp(logits_fn, (model(),), (step,))
    return np.asarray(q.max(-1) - q.min(-1))


def test_a_quantile_forgives_outliers():
    step = step_of_size(10.0)
    _, state = scaled(step, reduce=0.75)
    expected = np.quantile(spreads(step), 0.75) / np.pi
    assert float(state.radius_ratio) == pytest.approx(expected, rel=1e-5)
    assert state.radius_ratio < scaled(step)[1].radius_ratio


def test_a_stride_looks_at_less_and_finds_no_more():
    step = step_of_size(10.0)
    ratios = [float(scaled(step, stride=n)[1].radius_ratio) for n in (1, 2, 3)]
    for n, ratio in zip((1, 2, 3), ratios, strict=True):
        assert ratio == pytest.approx(spreads(step)[::n].max() / np.pi, rel=1e-5)
    assert min(ratios) < ratios[0] == max(ratios)


@pytest.mark.parametrize("reduce", ["max", 1.0])
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_does_not_count(reduce, stride):
    step = step_of_size(10.0)
    where = np.arange(8) % 4 == 2
    extra = {"logits_where": where}
    _, state = scaled(step, extra=extra, reduce=reduce, stride=stride)
    expected = spreads(step)[where].max() / np.pi
    assert float(state.radius_ratio) == pytest.approx(expected, rel=1e-5)
    none = {"logits_where": np.zeros(8, bool)}
    assert as_before(step, extra=none, reduce=reduce)


def test_classes_that_cannot_be_do_not_count():
    def masked(params):
        logits = logits_fn(params) + 10 * params["hidden"][0, 0]
        never = jnp.full((8, 2), -jnp.inf)
        return jnp.concatenate([logits, never + 0 * logits[:, :2]], -1)

    step = step_of_size(10.0)
    _, state = scaled(step, fn=masked)
    # A constant in all logits is in their rounding.
    _, expected = scaled(step)
    assert float(state.radius_ratio / expected.radius_ratio) == pytest.approx(
        1, rel=1e-5
    )


def test_a_difference_is_near_the_derivative():
    step = step_of_size(10.0)
    near, _ = scaled(step, difference=1e-2)
    exact, _ = scaled(step)
    assert_close(near, exact, 1e-2, "a difference over 0.01 of a distance")
    assert not as_before(step, difference=1e-2)


@pytest.mark.parametrize("reduce", ["max", 0.75])
def test_a_batch_that_is_split_over_devices(reduce):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    tx = softmax_radius(reduce=reduce, axis_name="data")
    params, step = model(), step_of_size(10.0)

    @jax.jit
    @jax.shard_map(
        mesh=mesh,
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    def update(x):
        return tx.update(step, tx.init(params), params, logits_fn=lambda p: apply(p, x))

    expected = scaled(step, reduce=reduce)
    assert_close(update(X), expected, 1e-5, "the whole batch")  # Two programs.


# Training


def data():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 64)
    x = rng.normal(size=(3, 4))[y] + 0.3 * rng.normal(size=(64, 4))
    return jnp.asarray(x, jnp.float32), jnp.asarray(y)


def loss(logits, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


@pytest.mark.parametrize(
    "factory, usual", [(optax_ortho.muon, 0.1), (optax.adamw, 0.05)]
)
def test_it_survives_a_spike_of_the_rate(factory, usual):
    """Ten thousand times the rate for five steps of forty."""
    x, y = data()

    def rate(t):
        return usual * jnp.where((t >= 15) & (t < 20), 1e4, 1.0)

    def losses(tx):
        params = model()

        def body(carry, _):
            params, state = carry
            value, grad = jax.value_and_grad(lambda p: loss(apply(p, x), y))(params)
            updates, state = tx.update(
                grad, state, params, logits_fn=lambda p: apply(p, x)
            )
            return (optax.apply_updates(params, updates), state), value

        run = jax.jit(lambda c: jax.lax.scan(body, c, length=40)[1])
        return run((params, tx.init(params)))

    plain = losses(optax.with_extra_args_support(factory(rate)))
    controlled = losses(optax.chain(factory(rate), softmax_radius()))
    # It trained, was thrown far off, and did not come back.
    assert plain[14] < plain[0] / 2 and plain[20] > 100 and plain[-1] > 100
    assert controlled.max() == controlled[0] and controlled[-1] < plain[14]


def test_it_trains_under_nnx():
    x, y = data()
    net = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    tx = optax.chain(optax_ortho.muon(100.0), softmax_radius())
    optimizer = nnx.Optimizer(net, tx, wrt=nnx.Param)

    @nnx.jit
    def train(net, optimizer, x, y):
        value, grads = nnx.value_and_grad(lambda net: loss(net(x), y))(net)
        graph, params, rest = nnx.split(net, nnx.Param, ...)
        optimizer.update(net, grads, logits_fn=lambda p: nnx.merge(graph, p, rest)(x))
        return value

    first = train(net, optimizer, x, y)
    before = net(x)
    train(net, optimizer, x, y)
    change = net(x) - before
    # The logits are linear in the parameters, so r is exact.
    r = float((change.max(-1) - change.min(-1)).max() / np.pi)
    assert r == pytest.approx(1, rel=1e-4)
    assert loss(net(x), y) < first
    as_pure = getattr(nnx, "as_pure", None) or nnx.pure  # Its name in old Flax.
    figures = optax_ortho.diagnostics(as_pure(optimizer.opt_state))
    assert figures["radius_ratio"] > 1 > figures["radius_scale"] > 0


def test_it_trains_in_a_linen_train_state():
    x, y = data()
    tx = optax.chain(optax_ortho.muon(100.0), softmax_radius(0.5))
    state = TrainState.create(apply_fn=apply, params=model(), tx=tx)

    @jax.jit
    def train(state):
        def fn(params):
            return state.apply_fn(params, x)

        value, grads = jax.value_and_grad(lambda p: loss(fn(p), y))(state.params)
        updates, opt_state = state.tx.update(
            grads, state.opt_state, state.params, logits_fn=fn
        )
        params = optax.apply_updates(state.params, updates)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state), (
            value
        )

    values = []
    for _ in range(10):
        state, value = train(state)
        values.append(float(value))
    assert values[-1] < values[0]
    figures = optax_ortho.diagnostics(state.opt_state)
    assert figures["radius_ratio"] > 1 > figures["radius_scale"] > 0
    product = figures["radius_ratio"] * figures["radius_scale"]
    assert float(product) == pytest.approx(0.5, rel=1e-5)


def test_a_capped_step_under_vmap_and_scan():
    tx = testing.with_extra(softmax_radius(1e-3), {"logits_fn": logits_fn})
    testing.check_vmap(tx, model())
    testing.check_one_trace(tx, model(), steps=2)


# Arguments


@pytest.mark.parametrize(
    "arguments",
    [
        {"r_target": -1.0},
        {"mode": "clip"},
        {"reduce": "mean"},
        {"reduce": 1.5},
        {"stride": 0},
        {"difference": -1e-4},
    ],
)
def test_what_cannot_be_is_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        softmax_radius(**arguments)


@pytest.mark.parametrize("stage", [softmax_radius(), confidence_radius()])
def test_it_does_not_guess_the_logits(stage):
    params = model()
    with pytest.raises(ValueError, match="logits_fn="):
        stage.update(params, stage.init(params), params)
    with pytest.raises(ValueError, match="needs the parameters"):
        stage.update(params, stage.init(params), logits_fn=logits_fn)


# RhoScaledAdam's scale


@pytest.mark.parametrize("gap", ["maxmin", "top2"])
def test_confidence_scales_by_the_mean_gap(gap):
    params = model()
    tx = confidence_radius(floor=0.0, cap=10.0, gap=gap)
    step = step_of_size(1.0)
    updates, state = tx.update(step, tx.init(params), params, logits_fn=logits_fn)
    ordered = np.sort(np.asarray(logits_fn(params)), -1)
    lower = ordered[:, 0] if gap == "maxmin" else ordered[:, -2]
    scale = np.pi / (np.mean(ordered[:, -1] - lower) + 1e-6)
    assert 0.1 < scale < 10  # Between the bounds.
    assert float(state.confidence_scale) == pytest.approx(scale, rel=1e-5)
    assert_close(updates, optax.tree.scale(scale, step), 1e-5, "the step")
    assert optax_ortho.diagnostics(state) == {
        "confidence_scale": state.confidence_scale
    }


@pytest.mark.parametrize("size, scale", [(1e-6, 0.9), (1e6, 0.2), (np.nan, 0.0)])
def test_confidence_is_bounded(size, scale):
    params = jnp.ones(3)
    tx = confidence_radius(floor=0.2, cap=0.9)
    updates, _ = tx.update(
        params, tx.init(params), params, logits_fn=lambda p: size * jnp.arange(4.0)
    )
    np.testing.assert_allclose(updates, scale, rtol=1e-6)


def test_confidence_refuses_an_unknown_gap():
    with pytest.raises(ValueError, match="gap"):
        confidence_radius(gap="top3")

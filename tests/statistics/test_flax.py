"""The statistics of Linen and NNX models, against what they are by definition."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

import optax_ortho
from examples.gpt import GPT
from examples.gpt import loss_fn as gpt_loss
from optax_ortho import MatrixAxes
from optax_ortho import value_and_grad_with_statistics as with_statistics
from optax_ortho.statistics.dependence import used
from optax_ortho.testing import assert_close, random_like
from tests.models import TOKENS, LinenTransformer, gpt


def normal(*shape, seed=0) -> Any:
    return random_like(jax.ShapeDtypeStruct(shape, jnp.float32), seed)


class Linen(nn.Module):
    """Two layers, the first with a bias; it also gives what is between them."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        y = jnp.tanh(nn.Dense(6, name="up", dtype=self.dtype)(x))
        return nn.Dense(3, use_bias=False, name="down", dtype=self.dtype)(y), y


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.up = nnx.Linear(4, 6, rngs=rngs)
        self.down = nnx.Linear(6, 3, use_bias=False, rngs=rngs)
        self.calls = nnx.Variable(jnp.array(0))

    def __call__(self, x):
        self.calls[...] += 1
        y = jnp.tanh(self.up(x))
        return self.down(y), y


def linen():
    module = Linen()
    params = module.init(jax.random.key(0), normal(1, 4))["params"]
    return params, lambda params, x: module.apply({"params": params}, x)


def nnx_model():
    return Nnx(nnx.Rngs(0)), lambda model, x: model(x)


MODELS = pytest.mark.parametrize("make, jit", [(linen, jax.jit), (nnx_model, nnx.jit)])


def arrays(tree):
    return nnx.to_pure_dict(tree) if isinstance(tree, nnx.State) else tree


@MODELS
def test_statistics_are_the_mean_input_and_the_gradient_of_a_bias(make, jit):
    model, apply = make()
    x, weight = normal(5, 7, 4), normal(5, 7, 3, seed=1)

    def loss_fn(model, x):
        y, hidden = apply(model, x)
        return jnp.sum(weight * y), hidden

    step = jit(lambda model: with_statistics(loss_fn, has_aux=True)(model, x))
    (loss, hidden), gradient, found = step(model)
    plain = nnx.value_and_grad if make is nnx_model else jax.value_and_grad
    expected, expected_gradient = plain(loss_fn, has_aux=True)(model, x)
    assert_close((loss, hidden), expected, 1e-6, "the loss")
    same = jax.tree.structure(gradient) == jax.tree.structure(expected_gradient)
    assert same, "the gradient has another structure"
    assert_close(arrays(gradient), arrays(expected_gradient), 1e-6, "the gradient")
    bias = arrays(gradient)["up"]["bias"]
    expected = {
        "up": {"a": x.mean((0, 1)), "g": bias},
        "down": {"a": hidden.mean((0, 1)), "g": weight.sum((0, 1))},
    }
    assert_close(found, expected, 1e-5, "statistics")  # Sums in another order.


def test_an_nnx_model_is_what_it_was():
    model, apply = nnx_model()
    before = jax.tree.structure(nnx.state(model))
    with_statistics(lambda model, x: apply(model, x)[0].sum())(model, normal(2, 4))
    assert type(model.up) is nnx.Linear and int(model.calls[...]) == 1
    assert jax.tree.structure(nnx.state(model)) == before
    with pytest.raises(TypeError):
        with_statistics(lambda model, x: model(x, 1, 2))(model, normal(2, 4))
    assert type(model.up) is nnx.Linear
    assert jax.tree.structure(nnx.state(model)) == before


@MODELS
def test_samples_are_clipped_before_they_are_averaged(make, jit):
    model, apply = make()
    x, weight = 3 * normal(8, 4), normal(8, 3, seed=1)

    def loss_fn(model, x):
        return jnp.sum(weight * apply(model, x)[0])

    _, _, found = jit(lambda model: with_statistics(loss_fn, clip=2.0)(model, x))(model)
    samples = {
        ("up", "a"): x,
        ("down", "a"): apply(model, x)[1],
        ("down", "g"): 8 * weight,
    }
    for (layer, name), rows in samples.items():
        expected = np.clip(rows, -2, 2).mean(0)
        assert_close(found[layer][name], expected, 1e-5, f"{layer} {name}")


def test_labels_say_which_layers_are_read():
    model, apply = nnx_model()
    labels = optax_ortho.label(model, overrides={"down/kernel": "head"})
    loss_fn = lambda model, x: apply(model, x)[0].sum()  # noqa: E731
    _, _, found = with_statistics(loss_fn, labels)(model, normal(2, 4))
    assert list(found) == ["up"]


def test_a_layer_used_twice_gives_one_mean_and_one_sum():
    module = nn.Dense(4)
    x = normal(5, 4)
    params = module.init(jax.random.key(0), x)["params"]

    def loss_fn(params):
        y = module.apply({"params": params}, x)
        z = module.apply({"params": params}, jnp.tanh(y[:2]))
        return jnp.sum(z**2), y

    (_, y), gradient, found = jax.jit(with_statistics(loss_fn, has_aux=True))(params)
    expected = (x.mean(0) + jnp.tanh(y[:2]).mean(0)) / 2
    assert_close(found, {"a": expected, "g": gradient["bias"]}, 1e-5, "two calls")


def test_one_example_at_a_time_is_the_batch():
    params, apply = linen()
    x = normal(5, 4)

    def loss_fn(params):
        return jnp.mean(jax.vmap(lambda x: apply(params, x)[0].sum())(x))

    _, gradient, found = jax.jit(with_statistics(loss_fn))(params)
    expected = {"a": x.mean(0), "g": gradient["up"]["bias"]}
    assert_close(found["up"], expected, 1e-5, "under vmap")


@pytest.mark.parametrize("kind", ["shard_map", "Auto", "Explicit"])
def test_devices_share_their_statistics(kind):
    params, apply = linen()
    x = normal(16, 4)
    loss_fn = lambda params, x: jnp.mean(apply(params, x)[0] ** 2)  # noqa: E731
    expected = jax.jit(with_statistics(loss_fn))(params, x)
    axis_type = getattr(jax.sharding.AxisType, kind, jax.sharding.AxisType.Auto)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))

    # Going back through a mean, gradients and g are of the whole batch.
    step = with_statistics(lambda params, x: jax.lax.pmean(loss_fn(params, x), "data"))
    if kind == "shard_map":
        specs = {"in_specs": (P(), P("data")), "out_specs": P()}
        found = jax.jit(jax.shard_map(step, mesh=mesh, **specs))(params, x)
    else:
        with jax.set_mesh(mesh):
            x = jax.device_put(x, jax.NamedSharding(mesh, P("data")))
            params = jax.device_put(params, jax.NamedSharding(mesh, P()))
            found = jax.jit(with_statistics(loss_fn))(params, x)
    assert_close(found, expected, 1e-5, "eight devices")  # Sums in another order.


def test_under_pmap_the_mean_over_devices_is_that_of_the_batch():
    params, apply = linen()
    x = normal(16, 4)
    loss_fn = lambda params, x: jnp.mean(apply(params, x)[0] ** 2)  # noqa: E731
    expected = jax.jit(with_statistics(loss_fn))(params, x)

    def step(x):
        return jax.lax.pmean(with_statistics(loss_fn)(params, x), "data")

    found = jax.pmap(step, axis_name="data")(x.reshape(8, 2, 4))
    found = jax.tree.map(lambda leaf: leaf[0], found)
    assert_close(found, expected, 1e-5, "pmap")


def test_a_bfloat16_layer_is_read_in_float32():
    module = Linen(dtype=jnp.bfloat16)
    x = normal(64, 4)
    params = module.init(jax.random.key(0), x)["params"]
    loss_fn = lambda params: module.apply({"params": params}, x)[0].sum()  # noqa: E731
    _, _, found = jax.jit(with_statistics(loss_fn))(params)
    assert found["up"]["g"].dtype == jnp.float32
    assert_close(found["up"]["a"], x.mean(0), 1e-6, "the mean input")


# Kinds of layers

CONVS = {
    "same": {"kernel_size": (3, 2), "strides": 2},
    "valid_dilated": {
        "kernel_size": (2, 2),
        "padding": "VALID",
        "kernel_dilation": 2,
        "strides": (1, 2),
    },
    "padded": {"kernel_size": (3, 3), "padding": ((1, 0), (2, 1)), "strides": 2},
    "number": {"kernel_size": (3, 2), "padding": 1},
    "circular": {"kernel_size": (3, 2), "padding": "CIRCULAR"},
    "reflect": {"kernel_size": (3, 3), "padding": "REFLECT"},
    "input_dilated": {
        "kernel_size": (3, 2),
        "input_dilation": (2, 1),
        "padding": ((1, 0), (0, 1)),
    },
}


QUICK = ("same", "circular")
SLOW = [
    pytest.param(name, marks=pytest.mark.slow) for name in CONVS if name not in QUICK
]


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_a_convolution_gives_its_mean_patch(name):
    x = normal(2, 6, 5, 3)
    linen_conv = nn.Conv(4, **CONVS[name])
    params = linen_conv.init(jax.random.key(0), x)["params"]
    nnx_conv = nnx.Conv(3, 4, **CONVS[name], rngs=nnx.Rngs(0))
    nnx.update(nnx_conv, nnx.State({k: nnx.Param(v) for k, v in params.items()}))
    weight = normal(*linen_conv.apply({"params": params}, x).shape, seed=1)

    def loss_fn(layer, weight):
        linen = isinstance(layer, dict)
        y = linen_conv.apply({"params": layer}, x) if linen else layer(x)
        return jnp.sum(weight * y)

    # The gradient in the kernel of the mean over samples and positions is the patch.
    ones = jnp.ones_like(weight) / weight[..., 0].size
    patch = jax.grad(loss_fn)(params, ones)["kernel"][..., 0].reshape(-1)
    positions = weight[0, ..., 0].size
    for layer in (params, nnx_conv):
        labels = {"kernel": MatrixAxes((0, 1, 2), (3,)), "bias": "bias"}
        _, gradient, found = with_statistics(loss_fn, labels)(layer, weight)
        bias = arrays(gradient)["bias"]
        assert_close(found["a"], patch, 1e-5, "the mean patch")
        assert_close(found["g"], bias / positions, 1e-5, "the mean over positions")


def test_a_causal_convolution():
    x = normal(2, 6, 3)
    conv = nn.Conv(4, (3,), padding="CAUSAL", kernel_dilation=2)
    params = conv.init(jax.random.key(0), x)["params"]
    mean = lambda params: conv.apply({"params": params}, x).mean((0, 1)).sum()  # noqa: E731
    labels = {"kernel": MatrixAxes((0, 1), (2,)), "bias": "bias"}
    _, gradient, found = with_statistics(mean, labels)(params)
    expected = gradient["kernel"][..., 0].reshape(-1)
    assert_close(found["a"], expected, 1e-5, "the mean patch")


@pytest.mark.parametrize("linen", [True, False])
def test_axes_of_a_general_layer_are_folded_as_its_kernel_is(linen):
    x = normal(2, 5, 3, 4)  # 2 is a batch axis of the kernel too.
    if linen:
        layer = nn.DenseGeneral((2, 3), axis=(-1, -2), batch_dims=(0,))
        model = layer.init(jax.random.key(0), x)["params"]
        apply = lambda params: layer.apply({"params": params}, x)  # noqa: E731
    else:
        model = nnx.LinearGeneral(
            (3, 4), (2, 3), axis=(-1, -2), batch_axis={0: 2}, rngs=nnx.Rngs(0)
        )
        apply = lambda layer: layer(x)  # noqa: E731
    labels = {"kernel": MatrixAxes((1, 2), (3, 4)), "bias": "bias"}
    # The gradient in the kernel of a mean over samples is the mean input.
    loss_fn = lambda model: jnp.sum(apply(model)) / 5  # noqa: E731
    _, gradient, found = with_statistics(loss_fn, labels)(model)
    gradient = arrays(gradient)
    a = gradient["kernel"][..., 0, 0].reshape(2, 12)
    expected = {"a": a, "g": gradient["bias"].reshape(2, 6)}
    assert_close(found, expected, 1e-5, "statistics")


@pytest.mark.slow
def test_scanned_linen_layers_are_stacked():
    stacked = LinenTransformer(scan_axis=0)
    tokens = jnp.arange(10).reshape(TOKENS.shape) % 11
    params = stacked.init(jax.random.key(0), tokens)["params"]
    apart = LinenTransformer()

    def loss_of(module):
        return lambda p: jnp.mean(module.apply({"params": p}, tokens) ** 2)

    labels = optax_ortho.label(stacked, tokens)
    _, _, found = jax.jit(with_statistics(loss_of(stacked), labels))(params)
    rows = {
        f"block_{i}": jax.tree.map(lambda x, i=i: x[i], params["blocks"])
        for i in (0, 1, 2)
    }
    rest = {name: leaf for name, leaf in params.items() if name != "blocks"}
    labels = optax_ortho.label(apart, tokens)
    _, _, expected = jax.jit(with_statistics(loss_of(apart), labels))({**rest, **rows})
    for i in range(3):
        layer = jax.tree.map(lambda x, i=i: x[i], found["blocks"])
        for tree in (layer, expected[f"block_{i}"]):
            # Softmax ignores a bias of the keys, so its gradient is rounding alone.
            bias = tree["MultiHeadDotProductAttention_0"]["key"].pop("g")
            assert np.abs(bias).max() < 1e-6
        assert_close(layer, expected[f"block_{i}"], 1e-4, f"block {i}")
    assert "lm_head" not in found  # A head by its name.


@pytest.mark.parametrize("lift", [nn.remat, nn.jit], ids=["remat", "jit"])
def test_a_lifted_linen_layer_is_read_once(lift):
    module = lift(nn.Dense)(6)
    x = normal(5, 4)
    params = module.init(jax.random.key(0), x)["params"]
    loss_fn = lambda params: jnp.sum(jnp.sin(module.apply({"params": params}, x)))  # noqa: E731
    for _ in range(2):  # The second time nn.jit has its program already.
        _, gradient, found = with_statistics(loss_fn)(params)
    expected = {"a": x.mean(0), "g": gradient["bias"]}
    assert_close(found, expected, 1e-5, "statistics")


@pytest.mark.slow
def test_scanned_nnx_layers_are_stacked_and_train():
    model = gpt()
    labels = optax_ortho.label(model)
    tx = optax_ortho.mkor(0.02, labels=labels, update_every=2)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    tokens = jnp.tile(jnp.arange(9) % 4, (2, 1))

    @nnx.jit
    def step(model, optimizer):
        loss, gradient, statistics = with_statistics(gpt_loss, labels)(model, tokens)
        optimizer.update(model, gradient, statistics=statistics)
        return loss, statistics

    losses = []
    with jax.numpy_rank_promotion("allow"):  # The model adds positions to a batch.
        for _ in range(30):
            loss, statistics = step(model, optimizer)
            losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
    blocks = statistics["blocks"]
    assert blocks["up"]["a"].shape == (3, 8)
    assert blocks["attention"]["query"]["g"].shape == (3, 8)
    assert isinstance(model, GPT) and "head" not in statistics


def test_recurrent_layers_are_read_at_every_step():
    rnn = nnx.RNN(nnx.OptimizedLSTMCell(4, 5, rngs=nnx.Rngs(0)))
    labels = optax_ortho.label(rnn)
    x = normal(3, 7, 4)
    loss_fn = lambda rnn: jnp.mean(rnn(x) ** 2)  # noqa: E731
    _, gradient, found = nnx.jit(with_statistics(loss_fn, labels))(rnn)
    assert_close(found["cell"]["dense_i"]["a"], x.mean((0, 1)), 1e-5, "inputs")
    bias = arrays(gradient)["cell"]["dense_h"]["bias"]
    assert_close(found["cell"]["dense_h"]["g"], bias, 1e-5, "gradients")
    tx = optax_ortho.mkor(0.1, labels=labels)
    params = arrays(nnx.state(rnn, nnx.Param))
    updates, _ = tx.update(arrays(gradient), tx.init(params), statistics=found)
    assert updates["cell"]["dense_i"]["kernel"].any()


def test_a_kernel_that_nothing_reads_is_asked_about():
    class Own(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x @ self.param("kernel", nn.initializers.ones, (4, 6))

    module, x = Own(), normal(5, 4)
    params = {"own": module.init(jax.random.key(0), x)["params"]}
    loss_fn = lambda p: module.apply({"params": p["own"]}, x).sum()  # noqa: E731
    _, gradient, found = with_statistics(loss_fn)(params)
    assert not found
    tx = optax_ortho.mkor(0.1)
    with pytest.raises(ValueError, match="'own/kernel' has no statistic.*overrides"):
        tx.update(gradient, tx.init(params), statistics=found)


@pytest.mark.parametrize("jit", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_a_layer_has_statistics_where_this_loss_calls_it(jit):
    """Whatever another loss called before, in the same jitted parts."""
    one, two, x = nn.Dense(6), nn.Dense(3), normal(5, 4)
    params = {
        "up": one.init(jax.random.key(0), x)["params"],
        "down": two.init(jax.random.key(1), normal(5, 6))["params"],
    }
    encode = jax.jit(lambda params, x: one.apply({"params": params["up"]}, x))
    decode = jax.jit(lambda params, x: two.apply({"params": params["down"]}, x))

    def full(params):
        return jnp.mean(decode(params, encode(params, x)) ** 2)

    def part(params):
        return jnp.mean(encode(params, x) ** 2)

    def layers(loss_fn):
        value, gradient, found = jit(with_statistics(loss_fn))(params)
        for name, layer in found.items():
            assert_close(layer["g"], gradient[name]["bias"], 1e-5, name)
        return set(found)

    assert layers(part) == {"up"}
    assert layers(full) == {"up", "down"}
    assert layers(part) == {"up"}
    assert layers(full) == {"up", "down"}


def test_the_layers_are_those_of_this_call():
    x = normal(5, 4)
    module = nn.Dense(6)
    params = {name: module.init(jax.random.key(0), x)["params"] for name in ("a", "b")}

    def loss_fn(params, name):
        return jnp.mean(module.apply({"params": params[name]}, x) ** 2)

    function = with_statistics(loss_fn)
    assert [set(function(params, name)[2]) for name in "aba"] == [{"a"}, {"b"}, {"a"}]


def test_loops_and_branches_use_what_their_bodies_use():
    def f(xs):
        y = jax.lax.cond(xs["index"] > 0, lambda: xs["left"], lambda: 2 * xs["right"])
        inside = lambda c, x: (c, x * xs["inside"].sum())  # noqa: E731
        _, y = jax.lax.scan(inside, 0.0, y + xs["rows"])
        jax.checkpoint(lambda x, y: x + 1)(xs["saved"], xs["ignored"])
        body = lambda i, y: jnp.sin(y) * xs["factor"]  # noqa: E731
        return jax.lax.fori_loop(0, 3, body, y), xs["passed"]

    names = ("factor", "ignored", "inside", "left", "passed", "right", "rows", "saved")
    tree = {name: jnp.ones(3) for name in names} | {"index": 1}
    assert used(f, tree) == dict.fromkeys(tree, True) | {"ignored": False}


def test_parts_of_a_model_may_be_called_on_their_own():
    one, two, x = nn.Dense(6), nn.Dense(3), normal(5, 4)
    params = {
        "encoder": one.init(jax.random.key(0), x)["params"],
        "decoder": two.init(jax.random.key(1), normal(5, 6))["params"],
    }

    def loss_fn(params):
        y = one.apply({"params": params["encoder"]}, x)
        return jnp.mean(two.apply({"params": params["decoder"]}, jnp.tanh(y)) ** 2)

    _, gradient, found = jax.jit(with_statistics(loss_fn))(params)
    for name in params:
        assert_close(found[name]["g"], gradient[name]["bias"], 1e-5, name)


def test_a_negative_clip_is_refused():
    with pytest.raises(ValueError, match="clip"):
        with_statistics(optax.global_norm, clip=-1.0)

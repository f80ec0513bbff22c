"""Programs that end in one head, several, or none."""

import jax
import jax.numpy as jnp
from jax import lax

from optax_ortho.matrices import MatrixAxes
from tests.labels.program.case import Table, floats, integers

table = Table()
X = floats(2, 6)
IN_OUT = MatrixAxes(0, 1)
W = {"w": ((6, 8), IN_OUT)}


def body(p, x):
    return jnp.tanh(x @ p["w"])


@table({**W, "out": ((8, 5), "head"), "b": ((5,), "bias")}, X, integers(2))
def loss(p, x, y):
    scores = jax.nn.log_softmax(body(p, x) @ p["out"] + p["b"])
    return -jnp.take_along_axis(scores, y[:, None], 1).mean()


@table({**W, "out": ((8, 5), "head")}, X, integers(2))
def loss_by_one_hot(p, x, y):
    scores = jax.nn.log_softmax(body(p, x) @ p["out"])
    return -(jax.nn.one_hot(y, 5) * scores).sum(-1).mean()


@table(
    {
        **W,
        "out": ((8, 5), "head"),
        "router": ((6, 4), "vector"),
        "up": ((4, 8, 8), MatrixAxes(1, 2)),
    },
    X,
    integers(2),
)
def loss_with_an_auxiliary_loss(p, x, y):
    shares, experts = lax.top_k(jax.nn.softmax(x @ p["router"]), 1)
    h = jnp.einsum("nd,nkdf->nkf", body(p, x), p["up"][experts])
    scores = jax.nn.log_softmax(jnp.einsum("nk,nkf->nf", shares, h) @ p["out"])
    nll = -jnp.take_along_axis(scores, y[:, None], 1).mean()
    return nll + 0.01 * jnp.square(jax.nn.softmax(x @ p["router"]).mean(0)).sum()


@table({**W, "out": ((8, 5), "head")}, X, integers(2))
def loss_with_decay(p, x, y):
    scores = jax.nn.log_softmax(body(p, x) @ p["out"])
    nll = -jnp.take_along_axis(scores, y[:, None], 1).mean()
    return nll + 1e-4 * sum(jnp.square(w).sum() for w in p.values())


@table({**W, "policy": ((8, 5), "head"), "value": ((8, 2), "head")}, X)
def two_outputs(p, x):
    h = body(p, x)
    return {"policy": h @ p["policy"], "value": h @ p["value"]}


@table({**W, "mean": ((8, 5), "head"), "scale": ((8, 5), "head")}, X, jax.random.key(0))
def a_sample_of_two_heads(p, x, key):
    h = body(p, x)
    scale = jax.nn.softplus(h @ p["scale"])
    return h @ p["mean"] + scale * jax.random.normal(key, (2, 5))


@table({**W, "a": ((8, 5), "head"), "b": ((8, 4), "head")}, X)
def outputs_joined(p, x):
    h = body(p, x)
    return jnp.concatenate([h @ p["a"], h @ p["b"]], -1)


@table(
    {
        "up": ((6, 8), IN_OUT),
        "down": ((8, 6), IN_OUT),
        "up2": ((6, 8), IN_OUT),
        "down2": ((8, 6), "head"),
    },
    X,
)
def last_layer_without_a_residual(p, x):
    x = x + jnp.tanh(x @ p["up"]) @ p["down"]
    return jnp.tanh(x @ p["up2"]) @ p["down2"]


@table(
    {
        "up": ((2, 6, 8), MatrixAxes(1, 2)),
        "down": ((2, 8, 6), MatrixAxes(1, 2)),
        "norm": ((6,), "norm"),
    },
    X,
)
def residual_backbone(p, x):
    for up, down in zip(p["up"], p["down"], strict=True):
        x = x + jnp.tanh(x @ up) @ down
    x = x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True))
    return x * p["norm"]


@table(
    {"table": ((11, 6), "embedding"), "up": ((6, 8), IN_OUT), "down": ((8, 6), IN_OUT)},
    integers(2, 5),
    integers(2, 5),
)
def loss_of_a_tied_model(p, tokens, targets):
    x = p["table"][tokens]
    x = x + jnp.tanh(x @ p["up"]) @ p["down"]
    scores = jax.nn.log_softmax(x @ p["table"].T)
    return -jnp.take_along_axis(scores, targets[..., None], -1).mean()


@table(
    {
        "encode": ((6, 8), IN_OUT),
        "mean": ((8, 3), IN_OUT),
        "scale": ((8, 3), IN_OUT),
        "decode": ((3, 8), IN_OUT),
        "out": ((8, 6), "head"),
    },
    X,
    jax.random.key(0),
)
def variational_autoencoder(p, x, key):
    h = jnp.tanh(x @ p["encode"])
    mean, scale = h @ p["mean"], h @ p["scale"]
    z = mean + jnp.exp(scale) * jax.random.normal(key, (2, 3))
    return jnp.tanh(z @ p["decode"]) @ p["out"], mean, scale


@table(
    {
        **W,
        "out": ((8, 5), "head"),
        "bridge": ((8, 8), IN_OUT),
        "next": ((8, 5), "head"),
    },
    X,
)
def prediction_of_two_tokens(p, x):
    h = body(p, x)
    return h @ p["out"], jnp.tanh(h @ p["bridge"]) @ p["next"]


@table({**W, "out": ((8, 5), "head")}, floats(4, 2, 6))
def the_last_step_of_a_loop(p, x):
    def step(h, x):
        return h + body(p, x), None

    return lax.scan(step, jnp.zeros((2, 8)), x)[0] @ p["out"]


@table({**W, "out": ((8, 5), "head")}, floats(4, 2, 6))
def logits_in_a_loop(p, x):
    return lax.map(lambda x: body(p, x) @ p["out"], x)


@table({**W, "out": ((8, 5), "head"), "scale": ((), "scalar")}, X)
def soft_capped_logits(p, x):
    return 30 * jnp.tanh(body(p, x) @ p["out"] * p["scale"] / 30)


@table(
    {"image": ((6, 8), "head"), "text": ((7, 8), "head"), "scale": ((), "scalar")},
    X,
    floats(2, 7),
)
def contrastive(p, x, y):
    def unit(x):
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

    a, b = unit(x @ p["image"]), unit(y @ p["text"])
    return jnp.exp(p["scale"]) * a @ b.T

"""Programs whose matrices are functions of parameters, and parameters not trained."""

import jax
import jax.numpy as jnp
from jax import lax

from optax_ortho.matrices import MatrixAxes
from tests.labels.program.case import Table, floats

table = Table()
X = floats(2, 6)
IN_OUT = MatrixAxes(0, 1)
OUT = {"out": ((8, 3), "head")}
W = {"w": ((6, 8), IN_OUT), **OUT}


def layers(w, p, x):
    return jnp.tanh(x @ w) @ p["out"]


@table({"g": ((8,), "norm"), **W}, X)
def weight_norm(p, x):
    w = p["w"] / jnp.linalg.norm(p["w"], axis=0) * p["g"]
    return layers(w, p, x)


@table(W, X)
def standardized(p, x):
    w = (p["w"] - p["w"].mean(0)) / (p["w"].std(0) + 1e-6)
    return layers(w, p, x)


@table(
    {"w": ((3, 3, 5, 8), MatrixAxes((0, 1, 2), 3)), "gain": ((8,), "norm"), **OUT},
    floats(2, 9, 9, 5),
)
def standardized_convolution(p, x):
    w = p["w"] - p["w"].mean((0, 1, 2), keepdims=True)
    w = w * lax.rsqrt(p["w"].var((0, 1, 2)) + 1e-6) * p["gain"]
    numbers = ("NHWC", "HWIO", "NHWC")
    h = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers)
    return jax.nn.relu(h).mean((1, 2)) @ p["out"]


@table(W, X, floats(8))
def spectral_norm(p, x, u):
    for _ in range(2):
        v = p["w"] @ u
        v = v / jnp.linalg.norm(v)
        u = v @ p["w"]
        u = u / jnp.linalg.norm(u)
    sigma = v @ p["w"] @ u
    return layers(p["w"] / lax.stop_gradient(sigma), p, x)


@table(W, X)
def equalized_rate(p, x):
    return layers(p["w"] * jnp.sqrt(2 / 6), p, x)


@table({"a": ((6, 2), IN_OUT), "b": ((2, 8), IN_OUT), **W}, X)
def adapter_added_to_the_weight(p, x):
    return layers(p["w"] + p["a"] @ p["b"], p, x)


@table({"a": ((6, 2), IN_OUT), "b": ((2, 8), IN_OUT), **W, "w": ((6, 8), "frozen")}, X)
def adapter_scaled_and_added_to_a_frozen_weight(p, x):
    return layers(lax.stop_gradient(p["w"]) + 0.5 * (p["a"] @ p["b"]), p, x)


@table({"a": ((6, 2), IN_OUT), "b": ((2, 8), IN_OUT), **W}, X)
def adapter_beside_the_weight(p, x):
    h = x @ p["w"] + x @ p["a"] @ p["b"] * 0.5
    return jnp.tanh(h) @ p["out"]


@table({"a": ((6, 2), IN_OUT), "b": ((2, 8), IN_OUT), "m": ((8,), "norm"), **W}, X)
def weight_decomposed_adapter(p, x):
    w = p["w"] + p["a"] @ p["b"]
    return layers(w / jnp.linalg.norm(w, axis=0) * p["m"], p, x)


@table(W, X)
def penalized(p, x):
    return layers(p["w"], p, x), 1e-4 * (p["w"] ** 2).sum() + jnp.abs(p["out"]).max()


@table({"w": ((6, 8), "undecided"), **OUT}, floats(2, 8))
def penalized_and_not_used(p, x):
    return x @ p["out"], (p["w"] ** 2).sum()


@table(W, X)
def masked(p, x):
    mask = jnp.arange(6)[:, None] <= jnp.arange(8)
    return layers(jnp.where(mask, p["w"], 0), p, x)


@table(W, X)
def quantized_with_a_straight_gradient(p, x):
    scale = jnp.abs(p["w"]).max() / 127
    rounded = jnp.round(p["w"] / scale) * scale
    return layers(p["w"] + lax.stop_gradient(rounded - p["w"]), p, x)


@table(W, X)
def positive(p, x):
    return layers(jax.nn.softplus(p["w"]), p, x)


@table(W, X)
def in_half_precision(p, x):
    w, x = p["w"].astype(jnp.bfloat16), x.astype(jnp.bfloat16)
    return jnp.tanh(x @ w).astype(jnp.float32) @ p["out"]


@table({"ema": ((8, 3), "frozen"), **W}, X)
def a_teacher(p, x):
    h = jnp.tanh(x @ p["w"])
    return h @ p["out"], lax.stop_gradient(h @ lax.stop_gradient(p["ema"]))


@table(
    {"steps": ((), "frozen", jnp.int32), "seed": ((2,), "frozen", jnp.uint32), **W}, X
)
def counters(p, x):
    return layers(p["w"] * (1 / (1 + p["steps"])), p, x)


@table(
    {
        "unused": ((5, 7), "undecided"),
        "flag": ((), "scalar"),
        "row": ((5,), "vector"),
        **W,
    },
    X,
)
def not_used(p, x):
    return layers(p["w"], p, x)


@table({"w": ((8, 8), "undecided"), **OUT}, floats(2, 8))
def orthogonalized_by_qr(p, x):
    return layers(jnp.linalg.qr(p["w"])[0], p, x)


@table({"w": ((8, 8), IN_OUT), **OUT}, floats(2, 8))
def exponential_of_a_matrix(p, x):
    rotation = jax.scipy.linalg.expm(p["w"] - p["w"].T, max_squarings=2)
    return jnp.tanh(x @ rotation) @ p["out"]

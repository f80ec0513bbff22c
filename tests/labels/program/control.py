"""Programs with loops and branches."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from optax_ortho.matrices import MatrixAxes, Split
from tests.labels.program.case import Table, floats, integers

table = Table()
IN_OUT = MatrixAxes(0, 1)
STACK = MatrixAxes(1, 2)
X = floats(2, 8)
OUT = {"out": ((8, 3), "head")}


@table({"w": ((4, 8, 8), STACK), "b": ((4, 8), "bias"), **OUT}, X)
def scan_over_layers(p, x):
    def layer(x, own):
        w, b = own
        return jnp.tanh(x @ w + b), None

    return lax.scan(layer, x, (p["w"], p["b"]))[0] @ p["out"]


@table({"w": ((4, 8, 8), STACK), **OUT}, X)
def scan_over_layers_backwards_with_a_residual(p, x):
    def layer(x, w):
        return x + jnp.tanh(x @ w), x

    x, seen = lax.scan(layer, x, p["w"], reverse=True, unroll=2)
    return (x + seen.mean(0)) @ p["out"]


@table({"w": ((2, 3, 8, 8), MatrixAxes(2, 3)), "scale": ((2, 3, 8), "norm"), **OUT}, X)
def scan_in_a_scan(p, x):
    def layer(x, own):
        w, scale = own
        x = x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True)) * scale
        return jnp.tanh(x @ w), None

    def group(x, own):
        return lax.scan(layer, x, own)

    return lax.scan(group, x, (p["w"], p["scale"]))[0] @ p["out"]


@table({"w": ((8, 4, 8), MatrixAxes(0, 2)), **OUT}, X)
def scan_over_the_second_axis(p, x):
    def layer(x, w):
        return jnp.tanh(x @ w), None

    return lax.scan(layer, x, p["w"].transpose(1, 0, 2))[0] @ p["out"]


@table({"w": ((8, 8), IN_OUT), **OUT}, X)
def one_layer_many_times(p, x):
    def layer(x, _):
        return jnp.tanh(x @ p["w"]), None

    return lax.scan(layer, x, None, length=4)[0] @ p["out"]


@table({"h": ((8, 8), IN_OUT), "i": ((6, 8), IN_OUT), **OUT}, floats(5, 2, 6))
def recurrent(p, xs):
    def step(h, x):
        h = jnp.tanh(h @ p["h"] + x @ p["i"])
        return h, h

    return lax.scan(step, jnp.zeros((2, 8)), xs)[1] @ p["out"]


@table(
    {"h0": ((8,), "vector"), "h": ((8, 8), IN_OUT), "i": ((6, 8), IN_OUT), **OUT},
    floats(5, 2, 6),
)
def a_learned_initial_state(p, xs):
    def step(h, x):
        return jnp.tanh(h @ p["h"] + x @ p["i"]), None

    h0 = jnp.broadcast_to(p["h0"], (2, 8))
    return lax.scan(step, h0, xs)[0] @ p["out"]


@table(
    {"h0": ((2, 8), "embedding"), "h": ((8, 8), IN_OUT), "i": ((6, 8), IN_OUT), **OUT},
    floats(5, 6),
)
def a_learned_initial_state_of_two_axes(p, xs):
    def step(h, x):
        return jnp.tanh(h @ p["h"] + x @ p["i"]), None

    return lax.scan(step, p["h0"], xs)[0] @ p["out"]


@table({"w": ((4, 8, 8), STACK), **OUT}, X)
def fori_loop_over_a_stack(p, x):
    def layer(i, x):
        w = lax.dynamic_index_in_dim(p["w"], i, keepdims=False)
        return jnp.tanh(x @ w)

    return lax.fori_loop(0, 4, layer, x) @ p["out"]


@table({"w": ((4, 8, 8), STACK), **OUT}, X, integers())
def fori_loop_of_an_unknown_length(p, x, n):
    return lax.fori_loop(0, n, lambda i, x: jnp.tanh(x @ p["w"][i]), x) @ p["out"]


@table({"w": ((8, 8), IN_OUT), **OUT}, X)
def while_loop_to_a_fixed_point(p, x):
    def going(state):
        before, now, steps = state
        return (jnp.abs(now - before).max() > 1e-3) & (steps < 9)

    def step(state):
        _, now, steps = state
        return now, jnp.tanh(x + now @ p["w"]), steps + 1

    return lax.while_loop(going, step, (x - 1, x, 0))[1] @ p["out"]


@table({"w": ((8, 8), IN_OUT), **OUT}, X)
def while_loop_that_carries_the_weight(p, x):
    def step(state):
        i, w, x = state
        return i + 1, w, jnp.tanh(x @ w)

    return lax.while_loop(lambda s: s[0] < 3, step, (0, p["w"], x))[2] @ p["out"]


@table({"w": ((4, 8, 8), STACK), **OUT}, X)
def map_over_a_stack(p, x):
    heads = lax.map(lambda w: jnp.tanh(x @ w), p["w"])
    return heads.mean(0) @ p["out"]


@table({"a": ((8, 8), IN_OUT), "b": ((8, 8), IN_OUT), **OUT}, X, integers())
def branches(p, x, i):
    def one(x):
        return jnp.tanh(x @ p["a"])

    def other(x):
        return jnp.sin(x @ p["b"])

    return lax.switch(i, [one, other, lambda x: x], x) @ p["out"]


@table({"w": ((8, 8), IN_OUT), **OUT}, X)
def a_branch_of_another_weight(p, x):
    w = lax.cond(x.sum() > 0, lambda w: w, lambda w: -w, p["w"])
    return jnp.tanh(x @ w) @ p["out"]


@table(
    {
        "w": ((4, 8, 8), STACK),
        "a": ((8, 16), MatrixAxes(0, 1, Split(1, (8, 8)))),
        **OUT,
    },
    X,
)
def branches_in_a_scan(p, x):
    def layer(x, own):
        i, w = own
        x = lax.cond(i % 2 == 0, lambda x: jnp.tanh(x @ w), lambda x: x, x)
        return x, None

    x, _ = lax.scan(layer, x, (jnp.arange(4), p["w"]))
    a, b = jnp.split(x @ p["a"], 2, -1)
    return a * jax.nn.sigmoid(b) @ p["out"]


@table({"w": ((8, 8), IN_OUT), "decay": ((8,), "vector"), **OUT}, floats(5, 8))
def associative_scan(p, x):
    h = x @ p["w"]
    decay = jnp.broadcast_to(jax.nn.sigmoid(p["decay"]), h.shape)

    def join(a, b):
        return a[0] * b[0], b[0] * a[1] + b[1]

    return lax.associative_scan(join, (decay, h))[1] @ p["out"]


@table({"w": ((3, 8, 8), STACK), **OUT}, X)
def layers_reduced_in_python(p, x):
    return functools.reduce(lambda x, w: jnp.tanh(x @ w), p["w"], x) @ p["out"]


@table({"w": ((4, 8, 8), STACK), **OUT}, X, integers())
def early_exit(p, x, depth):
    def layer(x, own):
        i, w = own
        return jnp.where(i < depth, jnp.tanh(x @ w), x), None

    return lax.scan(layer, x, (jnp.arange(4), p["w"]))[0] @ p["out"]

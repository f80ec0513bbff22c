"""Programs whose matrices hold several, side by side: gates, shifts, projections."""

import jax
import jax.numpy as jnp
from jax import lax

from optax_ortho.matrices import MatrixAxes, Split
from tests.labels.program.case import Table, floats

table = Table()
X = floats(2, 5, 8)
IN_OUT = MatrixAxes(0, 1)
OUT = {"out": ((8, 3), "head")}


def blocks(*sizes):
    return MatrixAxes(0, 1, Split(1, sizes))


@table({"up": ((8, 32), blocks(16, 16)), "down": ((16, 8), IN_OUT), **OUT}, X)
def gated_unit(p, x):
    gate, up = jnp.split(x @ p["up"], 2, -1)
    return (x + (jax.nn.gelu(gate) * up) @ p["down"]) @ p["out"]


@table(
    {
        "up": ((8, 2, 16), MatrixAxes(0, (1, 2), Split(1, (1, 1)))),
        "down": ((16, 8), IN_OUT),
        **OUT,
    },
    X,
)
def gated_unit_along_an_axis(p, x):
    h = jnp.einsum("btd,dgf->btgf", x, p["up"])
    return (x + (jax.nn.gelu(h[..., 0, :]) * h[..., 1, :]) @ p["down"]) @ p["out"]


@table(
    {
        "gate": ((8, 16), IN_OUT),
        "up": ((8, 16), IN_OUT),
        "down": ((16, 8), IN_OUT),
        **OUT,
    },
    X,
)
def gated_unit_of_two_matrices(p, x):
    return (jax.nn.silu(x @ p["gate"]) * (x @ p["up"])) @ p["down"] @ p["out"]


@table({"up": ((8, 32), IN_OUT), "down": ((16, 8), IN_OUT), **OUT}, X)
def interleaved_gates_are_no_blocks(p, x):
    h = x @ p["up"]
    return (x + (jax.nn.silu(h[..., ::2]) * h[..., 1::2]) @ p["down"]) @ p["out"]


@table(
    {
        "shift": ((6, 48), blocks(8, 8, 8, 8, 8, 8)),
        "b": ((48,), "bias"),
        "w": ((8, 8), IN_OUT),
        "v": ((8, 8), IN_OUT),
        **OUT,
    },
    X,
    floats(2, 6),
)
def adaptive_norm(p, x, condition):
    def normed(x, shift, scale):
        x = (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * (1 + scale[:, None]) + shift[:, None]

    parts = jnp.split(jax.nn.silu(condition) @ p["shift"] + p["b"], 6, -1)
    x = x + parts[2][:, None] * jnp.tanh(normed(x, *parts[:2]) @ p["w"])
    x = x + parts[5][:, None] * jnp.tanh(normed(x, *parts[3:5]) @ p["v"])
    return x @ p["out"]


@table(
    {
        "i": ((8, 32), blocks(8, 8, 8, 8)),
        "h": ((8, 32), blocks(8, 8, 8, 8)),
        "b": ((32,), "bias"),
        **OUT,
    },
    X,
)
def lstm(p, x):
    def step(state, x):
        h, c = state
        i, f, g, o = jnp.split(x @ p["i"] + h @ p["h"] + p["b"], 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((2, 8))
    return lax.scan(step, (zeros, zeros), x.swapaxes(0, 1))[1] @ p["out"]


@table({"w": ((16, 32), blocks(8, 8, 8, 8)), "b": ((32,), "bias"), **OUT}, X)
def lstm_of_one_matrix(p, x):
    def step(state, x):
        h, c = state
        gates = jnp.concatenate([x, h], -1) @ p["w"] + p["b"]
        i, f, g, o = jnp.split(gates, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((2, 8))
    return lax.scan(step, (zeros, zeros), x.swapaxes(0, 1))[1] @ p["out"]


@table(
    {
        "i": ((8, 24), blocks(8, 8, 8)),
        "h": ((8, 24), blocks(8, 8, 8)),
        "b": ((24,), "bias"),
        **OUT,
    },
    X,
)
def gru(p, x):
    def step(h, x):
        r_x, z_x, n_x = jnp.split(x @ p["i"] + p["b"], 3, -1)
        r_h, z_h, n_h = jnp.split(h @ p["h"], 3, -1)
        z = jax.nn.sigmoid(z_x + z_h)
        n = jnp.tanh(n_x + jax.nn.sigmoid(r_x + r_h) * n_h)
        h = (1 - z) * n + z * h
        return h, h

    return lax.scan(step, jnp.zeros((2, 8)), x.swapaxes(0, 1))[1] @ p["out"]


@table(
    {
        "i": ((8, 24), blocks(8, 8, 8)),
        "h": ((8, 24), blocks(8, 8, 8)),
        **OUT,
    },
    X,
)
def gru_that_cuts_its_weight(p, x):
    zr, n_h = jnp.split(p["h"], (16,), 1)

    def step(h, x):
        zr_x, n_x = jnp.split(x @ p["i"], (16,), -1)
        z, r = jnp.split(jax.nn.sigmoid(zr_x + h @ zr), 2, -1)
        h = (1 - z) * jnp.tanh(n_x + (r * h) @ n_h) + z * h
        return h, h

    return lax.scan(step, jnp.zeros((2, 8)), x.swapaxes(0, 1))[1] @ p["out"]


@table(
    {
        "in": ((8, 44), blocks(16, 16, 4, 4, 4)),
        "conv": ((3, 1, 24), "grouped_conv"),
        "dt": ((4,), "bias"),
        "a_log": ((4,), "vector"),
        "d": ((4,), "vector"),
        "norm": ((16,), "norm"),
        "out_proj": ((16, 8), IN_OUT),
        **OUT,
    },
    X,
)
def state_space(p, x):
    z, xbc, dt = jnp.split(x @ p["in"], (16, 40), -1)
    xbc = jax.nn.silu(
        lax.conv_general_dilated(
            xbc,
            p["conv"],
            (1,),
            [(2, 0)],
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=24,
        )
    )
    u, b, c = jnp.split(xbc, (16, 20), -1)
    u = u.reshape(2, 5, 4, 4)
    dt = jax.nn.softplus(dt + p["dt"])
    decay = jnp.exp(-dt * jnp.exp(p["a_log"]))

    def step(state, now):
        u, b, c, decay, dt = now
        grown = jnp.einsum("bnh,bs->bnhs", u * dt[..., None], b)
        state = state * decay[..., None, None] + grown
        return state, jnp.einsum("bnhs,bs->bnh", state, c)

    steps = tuple(each.swapaxes(0, 1) for each in (u, b, c, decay, dt))
    y = lax.scan(step, jnp.zeros((2, 4, 4, 4)), steps)[1].swapaxes(0, 1)
    y = (y + u * p["d"][:, None]).reshape(2, 5, 16) * jax.nn.silu(z)
    y = y * lax.rsqrt(jnp.square(y).mean(-1, keepdims=True)) * p["norm"]
    return (x + y @ p["out_proj"]) @ p["out"]


@table({"w": ((3, 8, 16), MatrixAxes(1, 2, Split(2, (8, 8)))), **OUT}, X)
def gates_of_a_stack(p, x):
    def layer(x, w):
        a, b = jnp.split(x @ w, 2, -1)
        return x + a * jax.nn.sigmoid(b), None

    return lax.scan(layer, x, p["w"])[0] @ p["out"]


@table({"w": ((3, 8, 16), MatrixAxes((0, 1), 2, Split(2, (8, 8)))), **OUT}, X)
def gates_of_a_convolution(p, x):
    numbers = ("NWC", "WIO", "NWC")
    h = lax.conv_general_dilated(x, p["w"], (1,), "SAME", dimension_numbers=numbers)
    a, b = jnp.split(h, 2, -1)
    return a * jax.nn.sigmoid(b) @ p["out"]


@table(
    {"w": ((16, 8), MatrixAxes(1, 0, Split(0, (8, 8)))), "out": ((3, 8), "head")},
    floats(8),
)
def gates_of_a_matrix_on_the_left(p, x):
    a, b = jnp.split(p["w"] @ x, 2)
    return p["out"] @ (a * jax.nn.sigmoid(b))

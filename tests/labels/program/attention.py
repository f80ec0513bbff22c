"""Programs with attention of every kind."""

import jax
import jax.numpy as jnp

from optax_ortho.matrices import MatrixAxes, Split
from tests.labels.program.case import Table, floats

table = Table()
X = floats(2, 5, 16)
IN_OUT = MatrixAxes(0, 1)
HEADS = MatrixAxes(0, (1, 2))  # (width, heads, head width)
MERGED = MatrixAxes((0, 1), 2)  # (heads, head width, width)
END = {"out": ((16, 3), "head")}
ANGLES = jnp.ones((5, 1, 2))


def attend(q, k, v):
    """Softmax attention of (..., time, heads, width)."""
    scores = jnp.einsum("btnh,bsnh->bnts", q, k) / jnp.sqrt(q.shape[-1])
    mask = jnp.arange(5)[:, None] >= jnp.arange(5)
    shares = jax.nn.softmax(jnp.where(mask, scores, -1e9))
    return jnp.einsum("bnts,bsnh->btnh", shares, v)


def halves(x):
    """RoPE whose pairs are the halves of a head."""
    a, b = jnp.split(x, 2, -1)
    cos, sin = jnp.cos(ANGLES), jnp.sin(ANGLES)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def rotate_half(x):
    """RoPE as transformers write it."""
    a, b = x[..., :2], x[..., 2:]
    turned = jnp.concatenate([-b, a], -1)
    angles = jnp.concatenate([ANGLES, ANGLES], -1)
    return x * jnp.cos(angles) + turned * jnp.sin(angles)


def interleaved(x):
    """RoPE whose pairs are neighbors."""
    a, b = x[..., ::2], x[..., 1::2]
    cos, sin = jnp.cos(ANGLES), jnp.sin(ANGLES)
    return jnp.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(x.shape)


def by_complex_numbers(x):
    """RoPE as a product of complex numbers."""
    pairs = x.reshape(*x.shape[:-1], 2, 2)
    z = jax.lax.complex(pairs[..., 0], pairs[..., 1]) * jnp.exp(1j * ANGLES)
    return jnp.stack([jnp.real(z), jnp.imag(z)], -1).reshape(x.shape)


PROJECTIONS = {
    **{name: ((16, 4, 4), HEADS) for name in ("q", "k", "v")},
    "o": ((4, 4, 16), MERGED),
    **END,
}


def projected(p, x, turn=lambda x: x):
    q, k, v = (jnp.einsum("btd,dnh->btnh", x, p[name]) for name in ("q", "k", "v"))
    o = jnp.einsum("btnh,nhd->btd", attend(turn(q), turn(k), v), p["o"])
    return (x + o) @ p["out"]


@table(PROJECTIONS, X)
def heads_as_axes(p, x):
    return projected(p, x)


for rope in (halves, rotate_half, interleaved, by_complex_numbers):

    def rotary(p, x, rope=rope):
        return projected(p, x, rope)

    rotary.__name__ = f"rotary_{rope.__name__}"
    table(PROJECTIONS, X)(rotary)


def pairs_apart(x):
    """RoPE of pairs that come out as the two halves."""
    pairs = x.reshape(*x.shape[:-1], 2, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    cos, sin = jnp.cos(ANGLES), jnp.sin(ANGLES)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


WIDE = {name: ((16, 4, 12), HEADS) for name in ("q", "k", "v")}

for rope in (halves, interleaved, by_complex_numbers, pairs_apart):

    def partly_rotary(p, x, rope=rope):
        """Heads of which a part is rotated: one matrix, as it is joined again."""

        def turn(x):
            plain, rotated = jnp.split(x, (8,), -1)
            return jnp.concatenate([plain, rope(rotated)], -1)

        return projected(p, x, turn)

    partly_rotary.__name__ = f"partly_rotary_{rope.__name__}"
    table({**PROJECTIONS, **WIDE, "o": ((4, 12, 16), MERGED)}, X)(partly_rotary)


FLAT = {**{name: ((16, 16), IN_OUT) for name in ("q", "k", "v", "o")}, **END}


@table(FLAT, X)
def heads_by_a_reshape(p, x):
    q, k, v = ((x @ p[name]).reshape(2, 5, 4, 4) for name in ("q", "k", "v"))
    o = attend(halves(q), halves(k), v).reshape(2, 5, 16) @ p["o"]
    return (x + o) @ p["out"]


@table(FLAT, X)
def heads_moved_forward(p, x):
    q, k, v = (
        (x @ p[name]).reshape(2, 5, 4, 4).transpose(0, 2, 1, 3)
        for name in ("q", "k", "v")
    )
    shares = jax.nn.softmax(q @ k.swapaxes(-1, -2))
    o = (shares @ v).transpose(0, 2, 1, 3).reshape(2, 5, 16) @ p["o"]
    return (x + o) @ p["out"]


@table(
    {
        "q": ((16, 4, 4), HEADS),
        "k": ((16, 2, 4), HEADS),
        "v": ((16, 2, 4), HEADS),
        "o": ((4, 4, 16), MERGED),
        "q_scale": ((4,), "norm"),
        **END,
    },
    X,
)
def grouped_queries(p, x):
    q, k, v = (jnp.einsum("btd,dnh->btnh", x, p[name]) for name in ("q", "k", "v"))
    q = q * jax.lax.rsqrt(jnp.square(q).mean(-1, keepdims=True)) * p["q_scale"]
    q = halves(q).reshape(2, 5, 2, 2, 4)
    scores = jnp.einsum("btngh,bsnh->bngts", q, halves(k))
    o = jnp.einsum("bngts,bsnh->btngh", jax.nn.softmax(scores), v)
    o = jnp.einsum("btnh,nhd->btd", o.reshape(2, 5, 4, 4), p["o"])
    return (x + o) @ p["out"]


@table(
    {
        "q": ((16, 16), IN_OUT),
        "k": ((16, 8), IN_OUT),
        "v": ((16, 8), IN_OUT),
        "o": ((16, 16), IN_OUT),
        **END,
    },
    X,
)
def grouped_queries_with_repeated_keys(p, x):
    q = (x @ p["q"]).reshape(2, 5, 4, 4)
    k, v = ((x @ p[name]).reshape(2, 5, 2, 4) for name in ("k", "v"))
    k, v = (jnp.repeat(each, 2, axis=2) for each in (halves(k), v))
    o = attend(halves(q), k, v).reshape(2, 5, 16) @ p["o"]
    return (x + o) @ p["out"]


@table(
    {
        "q": ((16, 16), IN_OUT),
        "kv": ((16, 8), MatrixAxes(0, 1, Split(1, (4, 4)))),
        "o": ((16, 16), IN_OUT),
        **END,
    },
    X,
)
def one_key_for_all_queries(p, x):
    q = (x @ p["q"]).reshape(2, 5, 4, 4)
    k, v = jnp.split(x @ p["kv"], 2, -1)
    shares = jax.nn.softmax(jnp.einsum("btnh,bsh->bnts", q, k))
    o = jnp.einsum("bnts,bsh->btnh", shares, v).reshape(2, 5, 16) @ p["o"]
    return (x + o) @ p["out"]


FUSED = {"o": ((16, 16), IN_OUT), **END}


@table({"qkv": ((16, 48), MatrixAxes(0, 1, Split(1, (16, 16, 16)))), **FUSED}, X)
def fused(p, x):
    q, k, v = jnp.split(x @ p["qkv"], 3, -1)
    q, k, v = (each.reshape(2, 5, 4, 4) for each in (q, k, v))
    return attend(halves(q), halves(k), v).reshape(2, 5, 16) @ p["o"] @ p["out"]


@table(
    {
        "qkv": ((16, 48), MatrixAxes(0, 1, Split(1, (16, 16, 16)))),
        "b": ((48,), "bias"),
        **FUSED,
    },
    X,
)
def fused_and_reshaped(p, x):
    qkv = (x @ p["qkv"] + p["b"]).reshape(2, 5, 3, 4, 4)
    q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    return (
        attend(rotate_half(q), rotate_half(k), v).reshape(2, 5, 16) @ p["o"] @ p["out"]
    )


@table({"qkv": ((16, 32), MatrixAxes(0, 1, Split(1, (16, 8, 8)))), **FUSED}, X)
def fused_with_fewer_keys(p, x):
    q, k, v = jnp.split(x @ p["qkv"], (16, 24), -1)
    q, k, v = (each.reshape(2, 5, -1, 4) for each in (q, k, v))
    k, v = (jnp.repeat(each, 2, axis=2) for each in (halves(k), v))
    return attend(halves(q), k, v).reshape(2, 5, 16) @ p["o"] @ p["out"]


@table({"qkv": ((3, 16, 4, 4), MatrixAxes(1, (2, 3))), **FUSED}, X)
def fused_along_an_axis(p, x):
    q, k, v = jnp.einsum("btd,sdnh->sbtnh", x, p["qkv"])
    return attend(halves(q), halves(k), v).reshape(2, 5, 16) @ p["o"] @ p["out"]


@table(
    {
        "q_down": ((16, 6), IN_OUT),
        "q_norm": ((6,), "norm"),
        "q_up": ((6, 4, 8), HEADS),  # Both parts of a query are one again.
        "kv_down": ((16, 12), MatrixAxes(0, 1, Split(1, (8, 4)))),
        "kv_norm": ((8,), "norm"),
        "kv_up": ((8, 4, 8), MatrixAxes(0, (1, 2), Split(2, (4, 4)))),
        "o": ((4, 4, 16), MERGED),
        **END,
    },
    X,
)
def latent_attention(p, x):
    """Multi-head latent attention, of low rank, with a rotary key for all heads."""

    def normed(x, scale):
        return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) * scale

    q = normed(x @ p["q_down"], p["q_norm"])
    q, q_rope = jnp.split(jnp.einsum("btr,rnh->btnh", q, p["q_up"]), 2, -1)
    latent, k_rope = jnp.split(x @ p["kv_down"], (8,), -1)
    kv = jnp.einsum("btr,rnh->btnh", normed(latent, p["kv_norm"]), p["kv_up"])
    k, v = jnp.split(kv, 2, -1)
    k_rope = jnp.broadcast_to(halves(k_rope[:, :, None]), k.shape)
    q = jnp.concatenate([q, halves(q_rope)], -1)
    k = jnp.concatenate([k, k_rope], -1)
    o = jnp.einsum("btnh,nhd->btd", attend(q, k, v), p["o"])
    return (x + o) @ p["out"]


@table(PROJECTIONS, X)
def attention_of_jax(p, x):
    q, k, v = (jnp.einsum("btd,dnh->btnh", x, p[name]) for name in ("q", "k", "v"))
    o = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    return jnp.einsum("btnh,nhd->btd", o, p["o"]) @ p["out"]


@table({**PROJECTIONS, "kv_bias": ((4, 5), "embedding"), "sink": ((4,), "vector")}, X)
def scores_with_a_bias_and_a_sink(p, x):
    q, k, v = (jnp.einsum("btd,dnh->btnh", x, p[name]) for name in ("q", "k", "v"))
    scores = jnp.einsum("btnh,bsnh->bnts", q, k) + p["kv_bias"][:, None]
    sink = jnp.broadcast_to(p["sink"][:, None, None], (2, 4, 5, 1))
    shares = jax.nn.softmax(jnp.concatenate([scores, sink], -1))[..., :-1]
    o = jnp.einsum("bnts,bsnh->btnh", shares, v)
    return jnp.einsum("btnh,nhd->btd", o, p["o"]) @ p["out"]


@table({**FLAT, "memory": ((7, 16), "embedding")}, X)
def learned_keys_and_values(p, x):
    memory = jnp.broadcast_to(p["memory"], (2, 7, 16))
    seen = jnp.concatenate([memory, x], 1)
    q = (x @ p["q"]).reshape(2, 5, 4, 4)
    k, v = ((seen @ p[name]).reshape(2, 12, 4, 4) for name in ("k", "v"))
    shares = jax.nn.softmax(jnp.einsum("btnh,bsnh->bnts", q, k))
    o = jnp.einsum("bnts,bsnh->btnh", shares, v).reshape(2, 5, 16) @ p["o"]
    return (x + o) @ p["out"]


@table({**FLAT, "probe": ((1, 16), "vector")}, X)
def pooled_by_a_learned_query(p, x):
    probe = jnp.broadcast_to(p["probe"], (2, 1, 16))
    q = (probe @ p["q"]).reshape(2, 1, 4, 4)
    k, v = ((x @ p[name]).reshape(2, 5, 4, 4) for name in ("k", "v"))
    shares = jax.nn.softmax(jnp.einsum("btnh,bsnh->bnts", q, k))
    o = jnp.einsum("bnts,bsnh->btnh", shares, v).reshape(2, 16) @ p["o"]
    return jnp.tanh(o) @ p["out"]


@table(
    {
        **{name: ((16, 16), IN_OUT) for name in ("q", "k", "v", "g", "o")},
        "decay": ((4,), "vector"),
        **END,
    },
    X,
)
def linear_attention(p, x):
    q, k, v, g = ((x @ p[name]).reshape(2, 5, 4, 4) for name in ("q", "k", "v", "g"))
    decay = jnp.exp(-jnp.exp(p["decay"]))[:, None, None]

    def step(state, now):
        q, k, v = now
        state = state * decay + jnp.einsum("bnh,bnw->bnhw", k, v)
        return state, jnp.einsum("bnh,bnhw->bnw", q, state)

    steps = tuple(jnp.moveaxis(each, 1, 0) for each in (q, k, v))
    _, o = jax.lax.scan(step, jnp.zeros((2, 4, 4, 4)), steps)
    o = (jnp.moveaxis(o, 0, 1) * jax.nn.silu(g)).reshape(2, 5, 16) @ p["o"]
    return (x + o) @ p["out"]


@table(
    {
        "left": ((16, 4), IN_OUT),
        "right": ((16, 4), IN_OUT),
        "o": ((16, 6), IN_OUT),
        "out": ((6, 3), "head"),
    },
    X,
)
def outer_product_mean(p, x):
    a, b = x @ p["left"], x @ p["right"]
    pairs = jnp.einsum("bti,btj->bij", a, b).reshape(2, 16)
    return jnp.tanh(pairs @ p["o"]) @ p["out"]

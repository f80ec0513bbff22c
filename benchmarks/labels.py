"""The time and the memory that `label` takes to read a large model, in shapes alone.

    python -m benchmarks.labels
    python -m benchmarks.labels --models llama_8b

Gemma 2B and Llama 3 8B with the widths that were published, and a mixture of 384
experts in 61 layers, layer by layer in plain JAX. Each is read in a process of its own;
the peak of its memory is printed, and the part that is not due to imports.
"""

import argparse
import functools
import multiprocessing
import resource
import time
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from optax_ortho.labels import Labels, label

Params = dict[str, Any]


class Sizes(NamedTuple):
    """The widths of a transformer.

    Args:
      vocabulary, layers, width: as they say.
      heads, kv_heads, head: numbers of queries and keys, and the width of each.
      hidden: of the MLP, or of one expert.
      experts: how many; 0 for an MLP.
      chosen: experts a token.
      tied: whether the table of tokens is the head.
    """

    vocabulary: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    head: int
    hidden: int
    experts: int = 0
    chosen: int = 0
    tied: bool = False


MODELS = {
    "gemma_2b": Sizes(256_128, 18, 2048, 8, 1, 256, 16_384, tied=True),
    "llama_8b": Sizes(128_256, 32, 4096, 32, 8, 128, 14_336),
    "experts_384": Sizes(163_840, 61, 7168, 64, 64, 112, 2048, 384, 8),
}
TOKENS = jax.ShapeDtypeStruct((1, 512), jnp.int32)


def shapes(sizes: Sizes) -> Params:
    """The parameters of a model, as shapes."""

    def leaf(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16)

    d, f, e = sizes.width, sizes.hidden, (sizes.experts,) * bool(sizes.experts)

    def layer():
        return {
            "attention_norm": leaf(d),
            "query": leaf(d, sizes.heads, sizes.head),
            "key": leaf(d, sizes.kv_heads, sizes.head),
            "value": leaf(d, sizes.kv_heads, sizes.head),
            "output": leaf(sizes.heads, sizes.head, d),
            "mlp_norm": leaf(d),
            "gate": leaf(*e, d, f),
            "up": leaf(*e, d, f),
            "down": leaf(*e, f, d),
            **({"router": leaf(d, *e)} if e else {}),
        }

    return {
        "token": leaf(sizes.vocabulary, d),
        "layers": [layer() for _ in range(sizes.layers)],
        "norm": leaf(d),
        **({} if sizes.tied else {"head": leaf(d, sizes.vocabulary)}),
    }


def forward(params: Params, tokens: jax.Array, sizes: Sizes) -> jax.Array:
    """The logits of the next token."""
    x = params["token"][tokens]
    for layer in params["layers"]:
        x += attention(layer, normed(x, layer["attention_norm"]))
        h = normed(x, layer["mlp_norm"])
        x += experts(layer, h, sizes) if sizes.experts else mlp(layer, h)
    x = normed(x, params["norm"])
    return x @ (params["token"].T if sizes.tied else params["head"])


def normed(x: jax.Array, scale: jax.Array) -> jax.Array:
    mean = jnp.square(x.astype(jnp.float32)).mean(-1, keepdims=True)
    return (x * lax.rsqrt(mean + 1e-6)).astype(x.dtype) * scale


def rotated(x: jax.Array) -> jax.Array:
    a, b = jnp.split(x, 2, -1)
    place = jnp.arange(x.shape[1], dtype=jnp.float32)[:, None, None]
    angle = place * 1e4 ** (-jnp.arange(a.shape[-1]) / a.shape[-1])
    cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def attention(layer: Params, x: jax.Array) -> jax.Array:
    query, key, value = (
        jnp.einsum("btd,dnh->btnh", x, layer[name])
        for name in ("query", "key", "value")
    )
    mixed = jax.nn.dot_product_attention(
        rotated(query), rotated(key), value, is_causal=True
    )
    return jnp.einsum("btnh,nhd->btd", mixed, layer["output"])


def mlp(layer: Params, x: jax.Array) -> jax.Array:
    return (jax.nn.silu(x @ layer["gate"]) * (x @ layer["up"])) @ layer["down"]


def experts(layer: Params, x: jax.Array, sizes: Sizes) -> jax.Array:
    """The chosen experts of every token, as ragged products of sorted rows."""
    rows = x.reshape(-1, sizes.width)
    scores = jax.nn.sigmoid(rows @ layer["router"])
    shares, chosen = lax.top_k(scores, sizes.chosen)
    order = jnp.argsort(chosen.reshape(-1))
    counts = jnp.bincount(chosen.reshape(-1), length=sizes.experts)
    taken = jnp.repeat(rows, sizes.chosen, axis=0)[order]
    gate, up = (lax.ragged_dot(taken, layer[name], counts) for name in ("gate", "up"))
    made = lax.ragged_dot(jax.nn.silu(gate) * up, layer["down"], counts)
    made = made[jnp.argsort(order)].reshape(-1, sizes.chosen, sizes.width)
    return jnp.einsum("tk,tkd->td", shares, made).reshape(x.shape)


def read(sizes: Sizes) -> Labels:
    """The labels of a model."""
    return label(functools.partial(forward, sizes=sizes), shapes(sizes), TOKENS)


def measure(name: str) -> str:
    """One row: the time, the memory, and the roles that were found."""
    sizes = MODELS[name]
    params, before = shapes(sizes), peak()
    start = time.perf_counter()
    labels = label(
        lambda params, tokens: forward(params, tokens, sizes), params, TOKENS
    )
    seconds = time.perf_counter() - start
    roles = Counter(label.role for _, _, label in labels)
    counts = ", ".join(f"{role} {count}" for role, count in sorted(roles.items()))
    return (
        f"{name:12} {len(labels):5} leaves {seconds:6.2f} s {peak():6.0f} MB "
        f"({peak() - before:.0f} beside imports)  {counts}"
    )


def peak() -> float:
    """The most memory that the process has held, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for name in options.models:
        with context.Pool(1) as pool:
            print(pool.apply(measure, (name,)), flush=True)


if __name__ == "__main__":
    main()

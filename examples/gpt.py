"""A GPT in Flax NNX, from tokens to logits of the next token.

The blocks are one stacked module: layers are the first axis of each leaf, which
`nnx.scan` iterates over, so that the program does not grow with the depth. Shapes are
named B (batch), T (time), D (width), V (vocabulary), H (heads), K (width of a head).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

TOKENS = jax.ShapeDtypeStruct((1, 8), jnp.int32)  # An input, for labels.


def rotary_attention(
    query_BTHK: jax.Array, key_BTHK: jax.Array, value_BTHK: jax.Array, **arguments: Any
) -> jax.Array:
    """Attention with rotary position embeddings of queries and keys (RoPE).

    Su et al., RoFormer, arXiv 2104.09864, with the halves of a head as pairs.
    """
    time, width = query_BTHK.shape[-3], query_BTHK.shape[-1]
    frequency_K = 1e4 ** (-jnp.arange(0, width, 2) / width)
    angle_TK = jnp.arange(time)[:, None] * frequency_K[None]
    cos_1T1K, sin_1T1K = (f(angle_TK)[None, :, None] for f in (jnp.cos, jnp.sin))

    def turned(x_BTHK):
        a, b = jnp.split(x_BTHK.astype(jnp.float32), 2, -1)
        parts = (a * cos_1T1K - b * sin_1T1K, a * sin_1T1K + b * cos_1T1K)
        return jnp.concatenate(parts, -1).astype(x_BTHK.dtype)

    return nnx.dot_product_attention(
        turned(query_BTHK), turned(key_BTHK), value_BTHK, **arguments
    )


class Block(nnx.Module):
    """Attention and MLP, each on the normalized residual stream."""

    def __init__(self, width: int, heads: int, *, dtype: Any, rngs: nnx.Rngs, **more):
        shared = {"use_bias": False, "dtype": dtype, "rngs": rngs}
        self.attention_norm = nnx.RMSNorm(width, dtype=dtype, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            heads, width, decode=False, **shared, **more
        )
        self.mlp_norm = nnx.RMSNorm(width, dtype=dtype, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, **shared)
        self.down = nnx.Linear(4 * width, width, **shared)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        mask = nnx.make_causal_mask(x_BTD[..., 0])
        x_BTD += self.attention(self.attention_norm(x_BTD), mask=mask)
        # On a CPU, gelu instead of relu would take a third of the step.
        x_BTD += self.down(jax.nn.relu(self.up(self.mlp_norm(x_BTD))))
        return x_BTD


class GPT(nnx.Module):
    """The model.

    Args:
      vocabulary: number of tokens.
      context: the longest input, for the table of positions.
      layers: number of blocks.
      width: width of the residual stream.
      heads: number of heads of the queries.
      kv_heads: number of heads of the keys and values; None is as many as queries.
      attention_fn: the attention function of queries, keys and values. All but
        `rotary_attention` get a learned table of positions.
      normalize_qk: whether queries and keys are normalized.
      dtype: dtype of the computation; parameters stay in float32.
      scanned: whether the blocks are stacked and scanned, or a list.
      unroll: number of blocks in an iteration of the scan; None is all of them, because
        XLA's CPU loops run their bodies on fewer threads.
      remat: whether the backward pass recomputes each block, to save memory.
      place: constrains the sharding of the residual stream, `(B, T, D)`.
      rngs: random streams of the initial weights.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        context: int,
        layers: int,
        width: int,
        heads: int,
        kv_heads: int | None = None,
        attention_fn: Callable = nnx.dot_product_attention,
        normalize_qk: bool = False,
        dtype: Any = None,
        scanned: bool = True,
        unroll: int | None = None,
        remat: bool = False,
        place: Callable[[jax.Array], jax.Array] = lambda x_BTD: x_BTD,
        rngs: nnx.Rngs,
    ):
        self.remat, self.place = remat, place
        self.unroll = layers if unroll is None else unroll
        self.token = nnx.Embed(vocabulary, width, dtype=dtype, rngs=rngs)
        self.position = (
            None
            if attention_fn is rotary_attention
            else nnx.Embed(context, width, dtype=dtype, rngs=rngs)
        )
        # Old releases of Flax do not have the argument.
        grouped = {} if kv_heads is None else {"num_kv_heads": kv_heads}

        def block(rngs: nnx.Rngs) -> Block:
            return Block(
                width,
                heads,
                attention_fn=attention_fn,
                normalize_qk=normalize_qk,
                dtype=dtype,
                rngs=rngs,
                **grouped,
            )

        self.blocks = (
            nnx.split_rngs(splits=layers)(nnx.vmap(block))(rngs)
            if scanned
            else nnx.List([block(rngs) for _ in range(layers)])
        )
        self.norm = nnx.RMSNorm(width, dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(
            width, vocabulary, use_bias=False, dtype=dtype, rngs=rngs
        )

    def __call__(self, tokens_BT: jax.Array) -> jax.Array:
        x_BTD = self.token(tokens_BT)
        if self.position is not None:
            x_BTD += self.position(jnp.arange(tokens_BT.shape[1]))

        def apply(x_BTD: jax.Array, block: Block) -> jax.Array:
            return self.place(block(self.place(x_BTD)))

        if self.remat:
            apply = nnx.remat(apply)
        if isinstance(self.blocks, Block):
            along = {"in_axes": (nnx.Carry, 0), "out_axes": nnx.Carry}
            x_BTD = nnx.scan(apply, **along, unroll=self.unroll)(x_BTD, self.blocks)
        else:
            for block in self.blocks:
                x_BTD = apply(x_BTD, block)
        return self.head(self.norm(x_BTD))


def loss_fn(model: GPT, tokens: jax.Array) -> jax.Array:
    """Mean cross-entropy in nats a token; tokens is int32[B, T + 1]."""
    logits_BTV = model(tokens[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(
        logits_BTV.astype(jnp.float32), tokens[:, 1:]
    ).mean()

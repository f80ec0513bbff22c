"""A small GPT in Flax NNX: bytes in, next byte out.

The blocks are one stacked module: each leaf has the layer as its first axis and
`nnx.scan` walks over it, so the program does not grow with the depth. Shapes are
named B (batch), T (time), D (width), V (vocabulary).
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx


class Block(nnx.Module):
    """Attention and MLP, each on a normed copy of the stream."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.attention_norm = nnx.RMSNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            heads, width, use_bias=False, decode=False, rngs=rngs
        )
        self.mlp_norm = nnx.RMSNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, use_bias=False, rngs=rngs)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        mask = nnx.make_causal_mask(x_BTD[..., 0])
        x_BTD += self.attention(self.attention_norm(x_BTD), mask=mask)
        # relu and not gelu: on a CPU gelu alone is a third of the step.
        x_BTD += self.down(jax.nn.relu(self.up(self.mlp_norm(x_BTD))))
        return x_BTD


class GPT(nnx.Module):
    def __init__(
        self,
        *,
        vocabulary: int,
        context: int,
        layers: int,
        width: int,
        heads: int,
        rngs: nnx.Rngs,
    ):
        self.layers = layers
        self.token = nnx.Embed(vocabulary, width, rngs=rngs)
        self.position = nnx.Embed(context, width, rngs=rngs)

        @nnx.split_rngs(splits=layers)
        @nnx.vmap
        def stack(rngs: nnx.Rngs) -> Block:
            return Block(width, heads, rngs=rngs)

        self.blocks = stack(rngs)
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, vocabulary, use_bias=False, rngs=rngs)

    def __call__(self, tokens_BT: jax.Array) -> jax.Array:
        x_BTD = self.token(tokens_BT) + self.position(jnp.arange(tokens_BT.shape[1]))

        # Unrolled, because XLA's CPU loops run their bodies on fewer threads.
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry, unroll=self.layers)
        def walk(x_BTD: jax.Array, block: Block) -> jax.Array:
            return block(x_BTD)

        return self.head(self.norm(walk(x_BTD, self.blocks)))


def loss_fn(model: GPT, tokens: jax.Array) -> jax.Array:
    """Mean cross-entropy in nats a byte; tokens is int32[B, T + 1]."""
    logits_BTV = model(tokens[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(
        logits_BTV, tokens[:, 1:]
    ).mean()

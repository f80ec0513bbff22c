"""Small models of the tests, each of a kind that labels read differently."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from examples.gpt import GPT

VOCABULARY, WIDTH, HEADS, LAYERS = 11, 8, 2, 3


def gpt() -> GPT:
    """Layers stacked by `nnx.vmap`."""
    return GPT(
        vocabulary=VOCABULARY,
        context=16,
        layers=LAYERS,
        width=WIDTH,
        heads=HEADS,
        rngs=nnx.Rngs(0),
    )


class LinenBlock(nn.Module):
    """The second argument and result are for `nn.scan`."""

    @nn.compact
    def __call__(self, x_BTD, _=None):
        x = nn.LayerNorm()(x_BTD)
        x_BTD += nn.MultiHeadDotProductAttention(num_heads=HEADS)(x, x)
        x = nn.Dense(4 * WIDTH, name="up")(nn.LayerNorm()(x_BTD))
        return x_BTD + nn.Dense(WIDTH, name="down")(jax.nn.relu(x)), None


class LinenTransformer(nn.Module):
    """Blocks in a row, or scanned and rematerialized, stacked along `scan_axis`."""

    scan_axis: int | None = None

    @nn.compact
    def __call__(self, tokens_BT):
        x_BTD = nn.Embed(VOCABULARY, WIDTH, name="token")(tokens_BT)
        if self.scan_axis is None:
            for i in range(LAYERS):
                x_BTD, _ = LinenBlock(name=f"block_{i}")(x_BTD)
        else:
            stack = nn.scan(
                nn.remat(LinenBlock),
                variable_axes={"params": self.scan_axis},
                split_rngs={"params": True},
                length=LAYERS,
            )
            x_BTD, _ = stack(name="blocks")(x_BTD, None)
        return nn.Dense(VOCABULARY, name="lm_head")(nn.LayerNorm()(x_BTD))


TOKENS = jax.ShapeDtypeStruct((2, 5), jnp.int32)


class CNN(nnx.Module):
    """A stem, a depthwise and a pointwise convolution, and a classifier."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(3, 6, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.depthwise = nnx.Conv(6, 6, (3, 3), feature_group_count=6, rngs=rngs)
        self.pointwise = nnx.Conv(6, 12, (1, 1), use_bias=False, rngs=rngs)
        self.up = nnx.ConvTranspose(12, 6, (2, 2), rngs=rngs)
        self.classifier = nnx.Linear(6, 10, rngs=rngs)


class Adapted(nnx.Module):
    """Low-rank adapters: one layer of its own, one wrapped around another."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.first = nnx.LoRALinear(WIDTH, 6, lora_rank=2, rngs=rngs)
        base = nnx.Linear(6, WIDTH, rngs=rngs)
        self.second = nnx.LoRA(6, 2, WIDTH, base_module=base, rngs=rngs)
        self.head = nnx.LoRALinear(WIDTH, VOCABULARY, lora_rank=2, rngs=rngs)

"""Small replicas of public models in Equinox, with the labels that are right.

A model is a tree that can be called, so it is labelled itself. What `plain.py` says of
the labels holds here.
"""

import jax
import jax.numpy as jnp
import pytest

from optax_ortho import label
from tests.labels.replicas.plain import array, tokens

eqx = pytest.importorskip("equinox")  # Of the extra `test`.


def made(module, *args):
    """A model in shapes alone."""
    return eqx.filter_eval_shape(module, *args, key=jax.random.key(0))


class Block(eqx.Module):
    norm: eqx.nn.LayerNorm
    qkv: eqx.nn.Linear
    out: eqx.nn.Linear
    mlp: eqx.nn.MLP
    heads: int = eqx.field(static=True)

    def __init__(self, width, heads, *, key):
        keys = jax.random.split(key, 3)
        self.norm = eqx.nn.LayerNorm(width)
        self.qkv = eqx.nn.Linear(width, 3 * width, key=keys[0])
        self.out = eqx.nn.Linear(width, width, key=keys[1])
        self.mlp = eqx.nn.MLP(width, width, 4 * width, 1, jax.nn.gelu, key=keys[2])
        self.heads = heads

    def __call__(self, x):
        q, k, v = (
            y.reshape(len(x), self.heads, -1)
            for y in jnp.split(jax.vmap(self.qkv)(jax.vmap(self.norm)(x)), 3, axis=-1)
        )
        weights = jax.nn.softmax(jnp.einsum("tnh,snh->nts", q, k))
        y = jnp.einsum("nts,snh->tnh", weights, v).reshape(x.shape)
        x += jax.vmap(self.out)(y)
        return x + jax.vmap(self.mlp)(x)


class GPT2(eqx.Module):
    wte: eqx.nn.Embedding
    wpe: eqx.nn.Embedding
    blocks: Block
    norm: eqx.nn.LayerNorm

    def __init__(self, width=8, layers=3, *, key):
        keys = jax.random.split(key, 3)
        self.wte = eqx.nn.Embedding(50, width, key=keys[0])
        self.wpe = eqx.nn.Embedding(16, width, key=keys[1])
        make = eqx.filter_vmap(lambda key: Block(width, 2, key=key))
        self.blocks = make(jax.random.split(keys[2], layers))
        self.norm = eqx.nn.LayerNorm(width)

    def __call__(self, tokens):
        x = jax.vmap(self.wte)(tokens)
        x += jax.vmap(self.wpe)(jnp.arange(len(tokens)))
        arrays, static = eqx.partition(self.blocks, eqx.is_array_like)

        def step(x, layer):
            return eqx.combine(layer, static)(x), None

        x, _ = jax.lax.scan(step, x, arrays)
        return jax.vmap(self.norm)(x) @ self.wte.weight.T


def gpt2():
    """GPT-2 with stacked layers: fused qkv in PyTorch's order, a tied head."""
    return label(made(GPT2), tokens(7), split="**/qkv/weight"), {
        "wte/weight": "embedding",
        "wpe/weight": "embedding",
        "blocks/qkv/weight": "[0] 2 -> 1, 3 blocks",
        "**/norm/*": "norm",
        "**/bias": "bias",
        "blocks/**/weight": "[0] 2 -> 1",
    }


class ESM(eqx.Module):
    embed: eqx.nn.Embedding
    attention: eqx.nn.MultiheadAttention
    norm: eqx.nn.LayerNorm
    dense: eqx.nn.Linear
    logit_head: eqx.nn.Linear

    def __init__(self, width=8, *, key):
        keys = jax.random.split(key, 4)
        self.embed = eqx.nn.Embedding(20, width, key=keys[0])
        self.attention = eqx.nn.MultiheadAttention(2, width, key=keys[1])
        self.norm = eqx.nn.LayerNorm(width)
        self.dense = eqx.nn.Linear(width, width, key=keys[2])
        self.logit_head = eqx.nn.Linear(width, 20, key=keys[3])

    def __call__(self, tokens):
        x = jax.vmap(self.embed)(tokens)
        x += self.attention(x, x, x)
        y = jax.nn.gelu(jax.vmap(self.dense)(jax.vmap(self.norm)(x)))
        return jax.vmap(self.logit_head)(y)


def esm():
    """A protein language model such as ESM-2: a masked-token head of two layers."""
    return label(made(ESM), tokens(7)), {
        "embed/weight": "embedding",
        "logit_head/weight": "head",
        "norm/*": "norm",
        "**/bias": "bias",
        "**/weight": "1 -> 0",
    }


class CNN(eqx.Module):
    layers: list

    def __init__(self, *, key):
        keys = jax.random.split(key, 4)
        self.layers = [
            eqx.nn.Conv2d(1, 4, 3, key=keys[0]),
            jax.nn.relu,
            eqx.nn.Conv2d(4, 4, 3, groups=4, key=keys[1]),
            eqx.nn.MaxPool2d(2, 2),
            jnp.ravel,
            eqx.nn.Linear(36, 16, key=keys[2]),
            jax.nn.relu,
            eqx.nn.Linear(16, 10, key=keys[3]),
        ]

    def __call__(self, image):
        for layer in self.layers:
            image = layer(image)
        return image


def cnn():
    """Equinox's CNN of a list of layers: no name says anything."""

    def loss(model, images, classes):
        logits = jax.nn.log_softmax(jax.vmap(model)(images))
        return -jnp.take_along_axis(logits, classes[:, None], axis=1).mean()

    return label(loss, made(CNN), array(2, 1, 11, 11), tokens(2)), {
        "layers/0/weight": "1,2,3 -> 0",
        "layers/2/weight": "grouped_conv",
        "layers/5/weight": "1 -> 0",
        "layers/7/weight": "head",
        "layers/*/bias": "bias",
    }


class FNO(eqx.Module):
    lift: eqx.nn.Linear
    real: jax.Array
    imaginary: jax.Array
    skip: eqx.nn.Linear
    project: eqx.nn.Linear

    def __init__(self, width=6, modes=4, *, key):
        keys = jax.random.split(key, 5)
        self.lift = eqx.nn.Linear(2, width, key=keys[0])
        shape = (width, width, modes)
        self.real = jax.random.normal(keys[1], shape)
        self.imaginary = jax.random.normal(keys[2], shape)
        self.skip = eqx.nn.Linear(width, width, key=keys[3])
        self.project = eqx.nn.Linear(width, 1, key=keys[4])

    def __call__(self, x):
        x = jax.vmap(self.lift)(x)
        modes = jnp.fft.rfft(x, axis=0)[: self.real.shape[-1]]
        weight = self.real + 1j * self.imaginary
        y = jnp.einsum("mi,iom->mo", modes, weight)
        y = jnp.fft.irfft(y, n=len(x), axis=0)
        x = jax.nn.gelu(y + jax.vmap(self.skip)(x))
        return jax.vmap(self.project)(x)


def fno():
    """A Fourier neural operator: parts of complex weights are left as vectors."""
    return label(made(FNO), array(16, 2)), {
        "lift/weight": "1 -> 0",
        "skip/weight": "1 -> 0",
        "project/weight": "small",  # One row.
        "**": "small",
    }

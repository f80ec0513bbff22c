"""Small replicas of models of text in Flax Linen, with the labels that are right.

What `plain.py` says of the labels holds here.
"""

import flax.linen as nn
import jax.numpy as jnp

from optax_ortho import label
from tests.labels.replicas.plain import attend, rms_norm, rope, tokens


class T5Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        def heads(name):
            return nn.DenseGeneral((2, 4), use_bias=False, name=name)(y)

        y = nn.RMSNorm(name="pre_attention_layer_norm")(x)
        shape = (2, 32)
        table = self.param("rel_embedding", nn.initializers.normal(), shape)
        t = jnp.arange(x.shape[1])
        buckets = jnp.clip(t[None] - t[:, None] + 16, 0, 31)
        bias = nn.one_hot(buckets, 32) @ table.T
        scores = jnp.einsum("btnh,bsnh->bnts", heads("query"), heads("key"))
        weights = nn.softmax(scores + bias.transpose(2, 0, 1)[None])
        y = jnp.einsum("bnts,bsnh->btnh", weights, heads("value"))
        x += nn.DenseGeneral(8, axis=(-2, -1), use_bias=False, name="out")(y)
        y = nn.RMSNorm(name="pre_mlp_layer_norm")(x)
        gate = nn.gelu(nn.Dense(16, use_bias=False, name="wi_0")(y))
        y = gate * nn.Dense(16, use_bias=False, name="wi_1")(y)
        return x + nn.Dense(8, use_bias=False, name="wo")(y), None


class Decoder(nn.Module):
    """Layers stacked along axis 1, as T5X and MaxText keep them."""

    tied: bool = False

    @nn.compact
    def __call__(self, tokens):
        table = nn.Embed(50, 8, name="token_embedder")
        stack = nn.scan(
            nn.remat(T5Layer),
            variable_axes={"params": 1},
            split_rngs={"params": True},
            length=3,
        )
        x, _ = stack(name="layers")(table(tokens), None)
        x = nn.RMSNorm(name="decoder_norm")(x)
        if self.tied:
            return table.attend(x / 8**0.5)
        return nn.Dense(50, use_bias=False, name="logits_dense")(x)


T5 = {
    "token_embedder/embedding": "embedding",
    "layers/rel_embedding": "embedding",
    "layers/out/kernel": "[1] 0,2 -> 3",
    "layers/w*/kernel": "[1] 0 -> 2",
    "layers/*/kernel": "[1] 0 -> 2,3",
    "**/scale": "norm",
}


def t5():
    """T5: relative positions as one-hot rows of a table, scans, a tied head."""
    return label(Decoder(tied=True), tokens(2, 7)), T5


def maxtext():
    """A decoder as MaxText scans it: stacks on axis 1, `logits_dense` for a head."""
    return label(Decoder(), tokens(2, 7)), {"logits_dense/kernel": "head"} | T5


class Einsum(nn.Module):
    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, equation, x):
        return jnp.einsum(
            equation, x, self.param("w", nn.initializers.normal(), self.shape)
        )


class GemmaBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = rms_norm(x, self.param("pre_norm", nn.initializers.ones, (8,)))
        q = Einsum((4, 8, 6), name="q_einsum")("td,ndh->tnh", y)
        k, v = Einsum((2, 1, 8, 6), name="kv_einsum")("td,ckdh->ctkh", y)
        k, v = (jnp.repeat(each, 4, axis=1) for each in (rope(k), v))
        y = attend(rope(q), k, v)
        x += Einsum((4, 6, 8), name="attn_vec_einsum")("tnh,nhd->td", y)
        y = rms_norm(x, self.param("pre_ffw_norm", nn.initializers.ones, (8,)))
        gate, up = Einsum((2, 8, 16), name="gating_einsum")("td,cdf->ctf", y)
        return x + Einsum((16, 8), name="linear")("tf,fd->td", nn.gelu(gate) * up)


class Gemma(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        table = self.param("input_embedding", nn.initializers.normal(), (50, 8))
        x = table[tokens] * 8**0.5
        for i in range(2):
            x = GemmaBlock(name=f"layer_{i}")(x)
        return x @ table.T


def gemma():
    """Gemma: einsum layers of its own, keys and values in one, gates in one."""
    return label(Gemma(), tokens(7)), {
        "input_embedding": "embedding",
        "**/q_einsum/w": "1 -> 0,2",
        "**/kv_einsum/w": "[0] 2 -> 1,3",
        "**/attn_vec_einsum/w": "0,1 -> 2",
        "**/gating_einsum/w": "[0] 1 -> 2",
        "**/linear/w": "0 -> 1",
        "**/*norm": "norm",
    }


class Seq2Seq(nn.Module):
    @nn.compact
    def __call__(self, source, target):
        embed = nn.Embed(20, 8, name="embed")
        encoder = nn.RNN(nn.GRUCell(16), return_carry=True, name="encoder")
        carry, _ = encoder(embed(source))
        decoder = nn.RNN(nn.GRUCell(16), name="decoder")
        y = decoder(embed(target), initial_carry=carry)
        return nn.Dense(20)(y)


def seq2seq():
    """A GRU encoder and decoder: gates, and an unnamed last layer."""
    return label(Seq2Seq(), tokens(2, 5), tokens(2, 6)), {
        "embed/embedding": "embedding",
        "Dense_0/kernel": "head",
        "**/kernel": "0 -> 1",
        "**/bias": "bias",
    }

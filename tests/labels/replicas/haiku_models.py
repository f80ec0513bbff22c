"""Small replicas of public models in Haiku, with the labels that are right.

A pure function is labelled with the parameters that its `init` would make. What
`plain.py` says of the labels holds here.
"""

import jax
import jax.numpy as jnp
import pytest

from optax_ortho import label
from tests.labels.replicas.plain import array, tokens

hk = pytest.importorskip("haiku")  # Of the extra `test`.


def labelled(function, *inputs, **options):
    """The labels of a function of inputs, of which Haiku makes one of parameters."""
    model = hk.without_apply_rng(hk.transform(function))
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    return label(model.apply, params, *inputs, **options)


def lstm():
    """An LSTM language model: four gates in one kernel, an unnamed last layer."""

    def forward(tokens):
        x = hk.Embed(30, 8)(tokens)
        core = hk.LSTM(16)
        y, _ = hk.dynamic_unroll(core, x, core.initial_state(x.shape[1]))
        return hk.BatchApply(hk.Linear(30))(y)

    return labelled(forward, tokens(6, 2), split=True), {
        "embed/embeddings": "embedding",
        "lstm/linear/w": "0 -> 1, 4 blocks",
        "linear/w": "head",
        "**/b": "bias",
    }


def transformer():
    """Haiku's transformer: attention of flat heads, a position table, a tied head."""

    def forward(tokens):
        init = hk.initializers.VarianceScaling()
        embed = hk.Embed(30, 8, name="token")
        positions = hk.get_parameter(
            "positions", (6, 8), init=hk.initializers.RandomNormal()
        )
        x = embed(tokens) + positions
        for i in range(2):
            y = hk.LayerNorm(-1, True, True, name=f"norm_{i}")(x)
            x += hk.MultiHeadAttention(2, 4, w_init=init, name=f"attn_{i}")(y, y, y)
            y = jax.nn.gelu(hk.Linear(32, name=f"up_{i}")(x))
            x += hk.Linear(8, name=f"down_{i}")(y)
        return x @ embed.embeddings.T

    return labelled(forward, tokens(6)), {
        "token/embeddings": "embedding",
        "~/positions": "embedding",
        "norm_*/*": "norm",
        "**/b": "bias",
        "**/w": "0 -> 1",
    }


def evoformer():
    """AlphaFold's Evoformer: gated attention, a pair bias, triangles, an outer mean."""

    def weight(name, *shape):
        return hk.get_parameter(name, shape, init=hk.initializers.RandomNormal())

    class Attention(hk.Module):
        def __call__(self, x, bias):
            q, k, v = (
                jnp.einsum("ta,ahc->thc", x, weight(f"{n}_w", 8, 2, 4)) for n in "qkv"
            )
            scores = jnp.einsum("qhc,khc->hqk", q, k)
            scores = scores if bias is None else scores + bias
            y = jnp.einsum("hqk,khc->qhc", jax.nn.softmax(scores), v)
            gate = jnp.einsum("ta,ahc->thc", x, weight("gating_w", 8, 2, 4))
            y *= jax.nn.sigmoid(gate)
            return jnp.einsum("thc,hco->to", y, weight("output_w", 2, 4, 8))

    class Triangle(hk.Module):
        def __call__(self, pair):
            a, b = jnp.split(hk.Linear(8, name="projection")(pair), 2, axis=-1)
            y = hk.Linear(6, name="output_projection")(jnp.einsum("ikc,jkc->ijc", a, b))
            return pair + y * jax.nn.sigmoid(hk.Linear(6, name="gating_linear")(pair))

    def forward(msa, pair):
        msa, pair = hk.Linear(8, name="msa_in")(msa), hk.Linear(6, name="pair_in")(pair)
        bias = hk.Linear(2, False, name="feat_2d")(pair).transpose(2, 0, 1)
        row = Attention(name="attention_with_pair_bias")
        msa += jax.vmap(lambda x: row(x, bias))(msa)
        column = Attention(name="column_attention")
        msa += jax.vmap(lambda x: column(x, None), 1, 1)(msa)
        left, right = hk.Linear(3, name="left")(msa), hk.Linear(3, name="right")(msa)
        outer = jnp.einsum("sic,sjd->ijcd", left, right)
        pair += jnp.einsum("ijcd,cdf->ijf", outer, weight("outer_w", 3, 3, 6))
        pair = Triangle(name="triangle_multiplication")(pair)
        return hk.Linear(4, name="distogram_logits")(pair)

    return labelled(forward, array(3, 5, 7), array(5, 5, 4)), {
        "distogram_logits/w": "head",
        "**/output_w": "0,1 -> 2",
        "**/outer_w": "0,1 -> 2",
        "**/*_w": "0 -> 1,2",
        "**/b": "bias",
        "**/w": "0 -> 1",
    }


def resnet():
    """A residual network of Haiku: convolutions of every size, BatchNorm's state."""

    def forward(images):
        x = hk.Conv2D(8, 3, name="stem")(images)
        for i in range(2):
            y = hk.BatchNorm(True, True, 0.9, name=f"norm_{i}")(x, True)
            x += hk.Conv2D(8, 3, with_bias=False, name=f"conv_{i}")(jax.nn.relu(y))
        x = hk.Conv2D(16, 1, name="shortcut")(x)
        return hk.Linear(10)(x.mean((1, 2)))

    model = hk.without_apply_rng(hk.transform_with_state(forward))
    images = array(2, 8, 8, 3)
    params, state = jax.eval_shape(model.init, jax.random.key(0), images)

    def loss(params, state, images, classes):
        logits, state = model.apply(params, state, images)
        logits = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(logits, classes[:, None], 1).mean(), state

    return label(loss, params, state, images, tokens(2)), {
        "linear/w": "head",
        "*/b": "bias",
        "norm_*/*": "norm",
        "*/w": "0,1,2 -> 3",
    }

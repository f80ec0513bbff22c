"""Parameter trees of other libraries, labelled by their names and a few rules."""

import jax
import jax.numpy as jnp
import pytest

import optax_ortho
from optax_ortho import MatrixAxes, Split
from optax_ortho.matrices import path_of


def shapes(tree):
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        tree,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def labelled(tree, rules):
    """Role, fan-in and fan-out of every leaf."""
    labels = optax_ortho.label(shapes(tree), overrides=rules)
    found = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(shapes(tree)):
        path = path_of(keys)
        label = labels.label(path, leaf)
        axes = label.axes
        found[path] = (
            label.role if axes is None else (axes.fan_in, axes.fan_out, axes.split)
        )
    return found


def norm(width):
    return {"scale": (width,), "bias": (width,)}


# Hugging Face Transformers, FlaxGPT2LMHeadModel: its Conv1D keeps (fan_out, fan_in).
HF_GPT2 = {
    "transformer": {
        "wte": {"embedding": (50257, 768)},
        "wpe": {"embedding": (1024, 768)},
        "h": {
            "0": {
                "ln_1": norm(768),
                "attn": {
                    "c_attn": {"kernel": (2304, 768), "bias": (2304,)},
                    "c_proj": {"kernel": (768, 768), "bias": (768,)},
                },
                "ln_2": norm(768),
                "mlp": {
                    "c_fc": {"kernel": (3072, 768), "bias": (3072,)},
                    "c_proj": {"kernel": (768, 3072), "bias": (768,)},
                },
            }
        },
        "ln_f": norm(768),
    }
}
TURNED = MatrixAxes((1,), (0,))
HF_GPT2_RULES = {
    "**/c_attn/kernel": MatrixAxes((1,), (0,), Split(0, (768, 768, 768))),
    "**/c_*/kernel": TURNED,
}
TURNED_ROW = ((1,), (0,), None)
HF_GPT2_ROWS = {
    "wte/embedding": "embedding",
    "wpe/embedding": "embedding",
    "h/0/ln_1/scale": "norm",
    "h/0/ln_1/bias": "norm",
    "h/0/attn/c_attn/kernel": ((1,), (0,), Split(0, (768, 768, 768))),
    "h/0/attn/c_attn/bias": "bias",
    "h/0/attn/c_proj/kernel": TURNED_ROW,
    "h/0/attn/c_proj/bias": "bias",
    "h/0/ln_2/scale": "norm",
    "h/0/ln_2/bias": "norm",
    "h/0/mlp/c_fc/kernel": TURNED_ROW,
    "h/0/mlp/c_fc/bias": "bias",
    "h/0/mlp/c_proj/kernel": TURNED_ROW,
    "h/0/mlp/c_proj/bias": "bias",
    "ln_f/scale": "norm",
    "ln_f/bias": "norm",
}

# MaxText's decoder, scanned: the layers are axis 1 of every leaf.
L = 16
MAXTEXT = {
    "params": {
        "token_embedder": {"embedding": (32000, 2048)},
        "decoder": {
            "layers": {
                "pre_self_attention_layer_norm": {"scale": (2048, L)},
                "post_self_attention_layer_norm": {"scale": (2048, L)},
                "self_attention": {
                    "query": {"kernel": (2048, L, 32, 64)},
                    "key": {"kernel": (2048, L, 8, 64)},
                    "value": {"kernel": (2048, L, 8, 64)},
                    "out": {"kernel": (32, L, 64, 2048)},
                },
                "mlp": {
                    "wi_0": {"kernel": (2048, L, 8192)},
                    "wi_1": {"kernel": (2048, L, 8192)},
                    "wo": {"kernel": (8192, L, 2048)},
                },
            },
            "decoder_norm": {"scale": (2048,)},
            "logits_dense": {"kernel": (2048, 32000)},
        },
    }
}
MAXTEXT_RULES = {
    "**/self_attention/out/kernel": MatrixAxes((0, 2), (3,)),
    "**/self_attention/*/kernel": MatrixAxes((0,), (2, 3)),
    "**/mlp/w*/kernel": MatrixAxes((0,), (2,)),
}
PROJECTION, UP = ((0,), (2, 3), None), ((0,), (2,), None)
MAXTEXT_ROWS = {
    "token_embedder/embedding": "embedding",
    "decoder/layers/pre_self_attention_layer_norm/scale": "norm",
    "decoder/layers/post_self_attention_layer_norm/scale": "norm",
    "decoder/layers/self_attention/query/kernel": PROJECTION,
    "decoder/layers/self_attention/key/kernel": PROJECTION,
    "decoder/layers/self_attention/value/kernel": PROJECTION,
    "decoder/layers/self_attention/out/kernel": ((0, 2), (3,), None),
    "decoder/layers/mlp/wi_0/kernel": UP,
    "decoder/layers/mlp/wi_1/kernel": UP,
    "decoder/layers/mlp/wo/kernel": UP,
    "decoder/decoder_norm/scale": "norm",
    "decoder/logits_dense/kernel": "head",
}

TREES = {
    "Transformers' GPT-2": (HF_GPT2, HF_GPT2_RULES, "transformer", HF_GPT2_ROWS, 6),
    "MaxText, scanned": (MAXTEXT, MAXTEXT_RULES, "params", MAXTEXT_ROWS, 7 * L),
}


@pytest.mark.parametrize("name", TREES)
def test_every_leaf(name):
    tree, rules, prefix, rows, _ = TREES[name]
    expected = {f"{prefix}/{path}": row for path, row in rows.items()}
    assert labelled(tree, rules) == expected


@pytest.mark.parametrize("name", TREES)
def test_an_optimizer_of_it(name):
    tree, rules, *_, matrices = TREES[name]
    labels = optax_ortho.label(shapes(tree), overrides=rules)
    tx = optax_ortho.muon(0.01, labels=labels, adamw_learning_rate=0.001)
    told = optax_ortho.summary(tx, shapes(tree))
    assert told.orthogonalized == matrices
    assert not told.warnings


def test_without_rules_stacks_are_left_to_the_fallback_and_said_so():
    told = optax_ortho.summary(
        optax_ortho.muon(0.01, adamw_learning_rate=0.001), shapes(MAXTEXT)
    )
    assert any("nothing says which axes make a matrix" in w for w in told.warnings)


def test_holes_of_filtered_trees_stay_holes():
    """Equinox puts None where a leaf is not trained."""
    params = {"weight": jnp.ones((4, 6)), "activation": None, "bias": jnp.ones(6)}
    tx = optax_ortho.muon(0.1)
    updates, state = tx.update(params, tx.init(params), params)
    assert updates["activation"] is None and updates["weight"].shape == (4, 6)
    _, state = tx.update(params, state, params)
    assert int(optax_ortho.diagnostics(state)["steps"]) == 2

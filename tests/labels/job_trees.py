"""Parameter trees of MaxText and Levanter: shapes, a user's rules, and every row."""

from typing import Any, NamedTuple

from optax_ortho import MatrixAxes


class Known(NamedTuple):
    """A tree of shapes, overrides, what every leaf is, and how many matrices."""

    tree: dict[str, Any]
    rules: dict[str, Any]
    rows: dict[str, Any]
    matrices: int


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

# MaxText's Mixtral, scanned: experts are axis 0 and layers axis 1 of their kernels.
E = 8
MIXTRAL = {
    "params": {
        "token_embedder": {"embedding": (32000, 4096)},
        "decoder": {
            "layers": {
                "pre_self_attention_layer_norm": {"scale": (4096, L)},
                "post_self_attention_layer_norm": {"scale": (4096, L)},
                "self_attention": {
                    "query": {"kernel": (4096, L, 32, 128)},
                    "key": {"kernel": (4096, L, 8, 128)},
                    "value": {"kernel": (4096, L, 8, 128)},
                    "out": {"kernel": (32, L, 128, 4096)},
                },
                "MoeBlock_0": {
                    "gate": {"kernel": (4096, L, E)},
                    "wi_0": (E, L, 4096, 14336),
                    "wi_1": (E, L, 4096, 14336),
                    "wo": (E, L, 14336, 4096),
                },
            },
            "decoder_norm": {"scale": (4096,)},
            "logits_dense": {"kernel": (4096, 32000)},
        },
    }
}
MIXTRAL_RULES = {
    "**/MoeBlock_0/w*": MatrixAxes(-2, -1),
    "**/MoeBlock_0/gate/kernel": "vector",  # The router is left to AdamW.
    **MAXTEXT_RULES,
}
EXPERT = ((2,), (3,), None)
MIXTRAL_ROWS = {
    **{path: row for path, row in MAXTEXT_ROWS.items() if "/mlp/" not in path},
    "decoder/layers/MoeBlock_0/gate/kernel": "vector",
    "decoder/layers/MoeBlock_0/wi_0": EXPERT,
    "decoder/layers/MoeBlock_0/wi_1": EXPERT,
    "decoder/layers/MoeBlock_0/wo": EXPERT,
}
del MIXTRAL_RULES["**/mlp/w*/kernel"]

# MaxText, not scanned: one tree a layer, where MLP kernels have two axes.
UNSCANNED = {
    "params": {
        "token_embedder": {"embedding": (32000, 2048)},
        "decoder": {
            "layers_0": {
                "pre_self_attention_layer_norm": {"scale": (2048,)},
                "post_self_attention_layer_norm": {"scale": (2048,)},
                "self_attention": {
                    "query": {"kernel": (2048, 32, 64)},
                    "key": {"kernel": (2048, 8, 64)},
                    "value": {"kernel": (2048, 8, 64)},
                    "out": {"kernel": (32, 64, 2048)},
                },
                "mlp": {
                    "wi_0": {"kernel": (2048, 8192)},
                    "wi_1": {"kernel": (2048, 8192)},
                    "wo": {"kernel": (8192, 2048)},
                },
            },
            "decoder_norm": {"scale": (2048,)},
            "logits_dense": {"kernel": (2048, 32000)},
        },
    }
}
UNSCANNED_RULES = {
    "**/self_attention/out/kernel": MatrixAxes((0, 1), (2,)),
    "**/self_attention/*/kernel": MatrixAxes((0,), (1, 2)),
}
FLAX_ROW, HEADS_ROW = ((0,), (1,), None), ((0,), (1, 2), None)
UNSCANNED_ROWS = {
    "token_embedder/embedding": "embedding",
    "decoder/layers_0/pre_self_attention_layer_norm/scale": "norm",
    "decoder/layers_0/post_self_attention_layer_norm/scale": "norm",
    "decoder/layers_0/self_attention/query/kernel": HEADS_ROW,
    "decoder/layers_0/self_attention/key/kernel": HEADS_ROW,
    "decoder/layers_0/self_attention/value/kernel": HEADS_ROW,
    "decoder/layers_0/self_attention/out/kernel": ((0, 1), (2,), None),
    "decoder/layers_0/mlp/wi_0/kernel": FLAX_ROW,
    "decoder/layers_0/mlp/wi_1/kernel": FLAX_ROW,
    "decoder/layers_0/mlp/wo/kernel": FLAX_ROW,
    "decoder/decoder_norm/scale": "norm",
    "decoder/logits_dense/kernel": "head",
}

# Levanter's Llama: blocks stacked in front, weights (out axes, in axes).
LEVANTER = {
    "embeddings": {"token_embeddings": {"weight": (32000, 2048)}},
    "transformer": {
        "layers": {
            "stacked": {
                "self_attn": {
                    "q_proj": {"weight": (L, 8, 4, 64, 2048)},
                    "k_proj": {"weight": (L, 8, 64, 2048)},
                    "v_proj": {"weight": (L, 8, 64, 2048)},
                    "o_proj": {"weight": (L, 2048, 32, 64)},
                },
                "mlp": {
                    "gate_proj": {"weight": (L, 8192, 2048)},
                    "up_proj": {"weight": (L, 8192, 2048)},
                    "down_proj": {"weight": (L, 2048, 8192)},
                },
                "input_layernorm": {"weight": (L, 2048)},
                "post_attention_layernorm": {"weight": (L, 2048)},
            }
        },
        "norm": {"weight": (2048,)},
    },
    "lm_head": {"weight": (32000, 2048)},
}
LEVANTER_RULES = {
    "**/self_attn/q_proj/weight": MatrixAxes(4, (1, 2, 3)),
    "**/self_attn/o_proj/weight": MatrixAxes((2, 3), 1),
    "**/self_attn/*/weight": MatrixAxes(3, (1, 2)),
    "**/mlp/*/weight": MatrixAxes(2, 1),
}
STACKED = "transformer/layers/stacked"
LEVANTER_ROWS = {
    "embeddings/token_embeddings/weight": "embedding",
    f"{STACKED}/self_attn/q_proj/weight": ((4,), (1, 2, 3), None),
    f"{STACKED}/self_attn/k_proj/weight": ((3,), (1, 2), None),
    f"{STACKED}/self_attn/v_proj/weight": ((3,), (1, 2), None),
    f"{STACKED}/self_attn/o_proj/weight": ((2, 3), (1,), None),
    f"{STACKED}/mlp/gate_proj/weight": ((2,), (1,), None),
    f"{STACKED}/mlp/up_proj/weight": ((2,), (1,), None),
    f"{STACKED}/mlp/down_proj/weight": ((2,), (1,), None),
    f"{STACKED}/input_layernorm/weight": "norm",
    f"{STACKED}/post_attention_layernorm/weight": "norm",
    "transformer/norm/weight": "norm",
    "lm_head/weight": "head",
}


def under(prefix, rows):
    return {f"{prefix}/{path}": row for path, row in rows.items()}


JOBS = {
    "MaxText, scanned": Known(
        MAXTEXT, MAXTEXT_RULES, under("params", MAXTEXT_ROWS), 7 * L
    ),
    "MaxText, in a row": Known(
        UNSCANNED, UNSCANNED_RULES, under("params", UNSCANNED_ROWS), 7
    ),
    "MaxText's Mixtral": Known(
        MIXTRAL, MIXTRAL_RULES, under("params", MIXTRAL_ROWS), (4 + 3 * E) * L
    ),
    "Levanter's Llama": Known(LEVANTER, LEVANTER_RULES, LEVANTER_ROWS, 7 * L),
}

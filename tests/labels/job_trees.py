"""Parameter trees of MaxText and Levanter: shapes, a user's rules, and every row."""

from typing import Any, NamedTuple

from optax_ortho import MatrixAxes


class Known(NamedTuple):
    """A tree of shapes, overrides, what every leaf is, and how many matrices."""

    tree: dict[str, Any]
    rules: dict[str, Any]
    rows: dict[str, Any]
    matrices: int


def maxtext(width, block, layers=None):
    """MaxText's decoder: one tree a layer, or the layers as axis 1 of every leaf.

    Args:
      width: of the model.
      block: the leaves of a layer beside its attention and its norms.
      layers: how many, if they are scanned.
    """
    stack = () if layers is None else (layers,)
    layer = {
        "pre_self_attention_layer_norm": {"scale": (width, *stack)},
        "post_self_attention_layer_norm": {"scale": (width, *stack)},
        "self_attention": {
            "query": {"kernel": (width, *stack, 32, width // 32)},
            "key": {"kernel": (width, *stack, 8, width // 32)},
            "value": {"kernel": (width, *stack, 8, width // 32)},
            "out": {"kernel": (32, *stack, width // 32, width)},
        },
        **block,
    }
    return {
        "params": {
            "token_embedder": {"embedding": (32000, width)},
            "decoder": {
                "layers_0" if layers is None else "layers": layer,
                "decoder_norm": {"scale": (width,)},
                "logits_dense": {"kernel": (width, 32000)},
            },
        }
    }


def maxtext_rows(layer, projection, out, block):
    """What every leaf of it is; `layer` is its name, `block` as above."""
    rows = {
        "pre_self_attention_layer_norm/scale": "norm",
        "post_self_attention_layer_norm/scale": "norm",
        "self_attention/query/kernel": projection,
        "self_attention/key/kernel": projection,
        "self_attention/value/kernel": projection,
        "self_attention/out/kernel": out,
        **block,
    }
    return under(
        "params",
        {
            "token_embedder/embedding": "embedding",
            **under(f"decoder/{layer}", rows),
            "decoder/decoder_norm/scale": "norm",
            "decoder/logits_dense/kernel": "head",
        },
    )


def under(prefix, rows):
    return {f"{prefix}/{path}": row for path, row in rows.items()}


L, E = 16, 8
PROJECTION, OUT = ((0,), (2, 3), None), ((0, 2), (3,), None)
ATTENTION_RULES = {
    "**/self_attention/out/kernel": MatrixAxes((0, 2), (3,)),
    "**/self_attention/*/kernel": MatrixAxes((0,), (2, 3)),
}

MLP = {
    "wi_0": {"kernel": (2048, L, 8192)},
    "wi_1": {"kernel": (2048, L, 8192)},
    "wo": {"kernel": (8192, L, 2048)},
}
MAXTEXT = maxtext(2048, {"mlp": MLP}, L)
MAXTEXT_RULES = {**ATTENTION_RULES, "**/mlp/w*/kernel": MatrixAxes((0,), (2,))}
UP = ((0,), (2,), None)
MAXTEXT_ROWS = maxtext_rows(
    "layers",
    PROJECTION,
    OUT,
    {"mlp/wi_0/kernel": UP, "mlp/wi_1/kernel": UP, "mlp/wo/kernel": UP},
)

# MaxText's Mixtral, scanned: experts are axis 0 and layers axis 1 of their kernels.
MOE = {
    "gate": {"kernel": (4096, L, E)},
    "wi_0": (E, L, 4096, 14336),
    "wi_1": (E, L, 4096, 14336),
    "wo": (E, L, 14336, 4096),
}
MIXTRAL = maxtext(4096, {"MoeBlock_0": MOE}, L)
EXPERT_RULES = {"**/MoeBlock_0/w*": MatrixAxes(-2, -1)}
MIXTRAL_RULES = {**EXPERT_RULES, **ATTENTION_RULES}
EXPERT = ((2,), (3,), None)
MIXTRAL_ROWS = maxtext_rows(
    "layers",
    PROJECTION,
    OUT,
    {
        "MoeBlock_0/gate/kernel": "vector",
        "MoeBlock_0/wi_0": EXPERT,
        "MoeBlock_0/wi_1": EXPERT,
        "MoeBlock_0/wo": EXPERT,
    },
)

# MaxText, not scanned: MLP kernels have two axes.
UNSCANNED = maxtext(
    2048,
    {
        "mlp": {
            "wi_0": {"kernel": (2048, 8192)},
            "wi_1": {"kernel": (2048, 8192)},
            "wo": {"kernel": (8192, 2048)},
        }
    },
)
UNSCANNED_RULES = {
    "**/self_attention/out/kernel": MatrixAxes((0, 1), (2,)),
    "**/self_attention/*/kernel": MatrixAxes((0,), (1, 2)),
}
FLAX_ROW = ((0,), (1,), None)
UNSCANNED_ROWS = maxtext_rows(
    "layers_0",
    ((0,), (1, 2), None),
    ((0, 1), (2,), None),
    {
        "mlp/wi_0/kernel": FLAX_ROW,
        "mlp/wi_1/kernel": FLAX_ROW,
        "mlp/wo/kernel": FLAX_ROW,
    },
)

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


JOBS = {
    "MaxText, scanned": Known(MAXTEXT, MAXTEXT_RULES, MAXTEXT_ROWS, 7 * L),
    "MaxText, in a row": Known(UNSCANNED, UNSCANNED_RULES, UNSCANNED_ROWS, 7),
    "MaxText's Mixtral": Known(MIXTRAL, MIXTRAL_RULES, MIXTRAL_ROWS, (4 + 3 * E) * L),
    "Levanter's Llama": Known(LEVANTER, LEVANTER_RULES, LEVANTER_ROWS, 7 * L),
}

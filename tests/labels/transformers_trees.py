"""Parameter trees of Hugging Face Transformers: shapes, a user's rules, every row.

One layer of each kind, of the sizes of a published model.
"""

from optax_ortho import MatrixAxes, Split
from tests.labels.job_trees import Known, under


def norm(width):
    return {"scale": (width,), "bias": (width,)}


def dense(*shape):
    return {"kernel": shape, "bias": shape[-1:]}


def kernels(names, *shape):
    return {name: {"kernel": shape} for name in names}


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


ROW = ((0,), (1,), None)

# FlaxLlamaForCausalLM.
LLAMA = {
    "model": {
        "embed_tokens": {"embedding": (32000, 4096)},
        "layers": {
            "0": {
                "input_layernorm": {"weight": (4096,)},
                "self_attn": {
                    **kernels(("q_proj", "o_proj"), 4096, 4096),
                    **kernels(("k_proj", "v_proj"), 4096, 1024),
                },
                "post_attention_layernorm": {"weight": (4096,)},
                "mlp": {
                    **kernels(("gate_proj", "up_proj"), 4096, 14336),
                    **kernels(("down_proj",), 14336, 4096),
                },
            }
        },
        "norm": {"weight": (4096,)},
    },
    "lm_head": {"kernel": (4096, 32000)},
}
LLAMA_ROWS = {
    "model/embed_tokens/embedding": "embedding",
    "model/layers/0/input_layernorm/weight": "norm",
    "model/layers/0/self_attn/q_proj/kernel": ROW,
    "model/layers/0/self_attn/k_proj/kernel": ROW,
    "model/layers/0/self_attn/v_proj/kernel": ROW,
    "model/layers/0/self_attn/o_proj/kernel": ROW,
    "model/layers/0/post_attention_layernorm/weight": "norm",
    "model/layers/0/mlp/gate_proj/kernel": ROW,
    "model/layers/0/mlp/up_proj/kernel": ROW,
    "model/layers/0/mlp/down_proj/kernel": ROW,
    "model/norm/weight": "norm",
    "lm_head/kernel": "head",
}

# FlaxT5ForConditionalGeneration, version 1.1: a gated MLP, and a head of its own.
ATTENTION = kernels("qkvo", 768, 768)
MLP = {
    "DenseReluDense": {
        **kernels(("wi_0", "wi_1"), 768, 2048),
        **kernels(("wo",), 2048, 768),
    },
    "layer_norm": {"weight": (768,)},
}
OWN = {
    "SelfAttention": {**ATTENTION, "relative_attention_bias": {"embedding": (32, 12)}},
    "layer_norm": {"weight": (768,)},
}
CROSS = {"EncDecAttention": ATTENTION, "layer_norm": {"weight": (768,)}}
T5 = {
    "shared": {"embedding": (32128, 768)},
    "encoder": {
        "block": {"0": {"layer": {"0": OWN, "1": MLP}}},
        "final_layer_norm": {"weight": (768,)},
    },
    "decoder": {
        "block": {"0": {"layer": {"0": OWN, "1": CROSS, "2": MLP}}},
        "final_layer_norm": {"weight": (768,)},
    },
    "lm_head": {"kernel": (768, 32128)},
}


def of_attention(name):
    rows = {f"{name}/{kernel}/kernel": ROW for kernel in "qkvo"}
    return {**rows, "layer_norm/weight": "norm"}


OWN_ROWS = {
    **of_attention("SelfAttention"),
    "SelfAttention/relative_attention_bias/embedding": "embedding",
}
MLP_ROWS = {
    "DenseReluDense/wi_0/kernel": ROW,
    "DenseReluDense/wi_1/kernel": ROW,
    "DenseReluDense/wo/kernel": ROW,
    "layer_norm/weight": "norm",
}
T5_ROWS = {
    "shared/embedding": "embedding",
    **under("encoder/block/0/layer/0", OWN_ROWS),
    **under("encoder/block/0/layer/1", MLP_ROWS),
    "encoder/final_layer_norm/weight": "norm",
    **under("decoder/block/0/layer/0", OWN_ROWS),
    **under("decoder/block/0/layer/1", of_attention("EncDecAttention")),
    **under("decoder/block/0/layer/2", MLP_ROWS),
    "decoder/final_layer_norm/weight": "norm",
    "lm_head/kernel": "head",
}

# FlaxViTForImageClassification. Its first convolution makes the embeddings of patches.
VIT = {
    "vit": {
        "embeddings": {
            "cls_token": (1, 1, 768),
            "position_embeddings": (1, 197, 768),
            "patch_embeddings": {"projection": dense(16, 16, 3, 768)},
        },
        "encoder": {
            "layer": {
                "0": {
                    "attention": {
                        "attention": {
                            "query": dense(768, 768),
                            "key": dense(768, 768),
                            "value": dense(768, 768),
                        },
                        "output": {"dense": dense(768, 768)},
                    },
                    "intermediate": {"dense": dense(768, 3072)},
                    "output": {"dense": dense(3072, 768)},
                    "layernorm_before": norm(768),
                    "layernorm_after": norm(768),
                }
            }
        },
        "layernorm": norm(768),
    },
    "classifier": dense(768, 1000),
}


def of_dense(name, kernel=ROW):
    return {f"{name}/kernel": kernel, f"{name}/bias": "bias"}


def of_norm(name):
    return {f"{name}/scale": "norm", f"{name}/bias": "norm"}


VIT_ROWS = {
    "vit/embeddings/cls_token": "embedding",
    "vit/embeddings/position_embeddings": "embedding",
    **of_dense("vit/embeddings/patch_embeddings/projection", "embedding"),
    **under(
        "vit/encoder/layer/0",
        {
            **of_dense("attention/attention/query"),
            **of_dense("attention/attention/key"),
            **of_dense("attention/attention/value"),
            **of_dense("attention/output/dense"),
            **of_dense("intermediate/dense"),
            **of_dense("output/dense"),
            **of_norm("layernorm_before"),
            **of_norm("layernorm_after"),
        },
    ),
    **of_norm("vit/layernorm"),
    **of_dense("classifier", "head"),
}


# FlaxResNetForImageClassification, the first bottleneck of ResNet-50.
def convolution(*shape):
    return {"convolution": {"kernel": shape}, "normalization": norm(shape[-1])}


RESNET = {
    "resnet": {
        "embedder": {"embedder": convolution(7, 7, 3, 64)},
        "encoder": {
            "stages": {
                "0": {
                    "layers": {
                        "0": {
                            "layer": {
                                "0": convolution(1, 1, 64, 64),
                                "1": convolution(3, 3, 64, 64),
                                "2": convolution(1, 1, 64, 256),
                            },
                            "shortcut": convolution(1, 1, 64, 256),
                        }
                    }
                }
            }
        },
    },
    "classifier": {"1": dense(2048, 1000)},
}
# The stem keeps the role that its name says.
RESNET_RULES = {"**/stages/**/convolution/kernel": MatrixAxes((0, 1, 2), 3)}


def of_convolution(name, kernel=((0, 1, 2), (3,), None)):
    return {f"{name}/convolution/kernel": kernel, **of_norm(f"{name}/normalization")}


RESNET_ROWS = {
    **of_convolution("resnet/embedder/embedder", "embedding"),
    **under(
        "resnet/encoder/stages/0/layers/0",
        {
            **of_convolution("layer/0"),
            **of_convolution("layer/1"),
            **of_convolution("layer/2"),
            **of_convolution("shortcut"),
        },
    ),
    **of_dense("classifier/1", "head"),
}

TRANSFORMERS = {
    "Transformers' GPT-2": Known(
        HF_GPT2, HF_GPT2_RULES, under("transformer", HF_GPT2_ROWS), 6
    ),
    "Transformers' Llama": Known(LLAMA, {}, LLAMA_ROWS, 7),
    "Transformers' T5": Known(T5, {}, T5_ROWS, 2 * 4 + 4 + 2 * 3),
    "Transformers' ViT": Known(VIT, {}, VIT_ROWS, 6),
    "Transformers' ResNet": Known(RESNET, RESNET_RULES, RESNET_ROWS, 4),
}

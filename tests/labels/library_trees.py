"""Trees of Equinox, PyTorch and Flax's examples: shapes, a user's rules, every row."""

from optax_ortho import MatrixAxes, Split
from tests.labels.job_trees import Known, under


def linear(fan_in, fan_out):
    """A layer of Equinox or PyTorch, which keeps (out, in)."""
    return {"weight": (fan_out, fan_in), "bias": (fan_out,)}


def weights(shapes):
    return {name: {"weight": shape} for name, shape in shapes.items()}


OUT_FIRST = ((1,), (0,), None)
LINEAR_ROWS = {"weight": OUT_FIRST, "bias": "bias"}

# Equinox: a GPT of one block, with `eqx.nn.MultiheadAttention` and `eqx.nn.MLP`.
EQUINOX = {
    "token_embedding": {"weight": (256, 64)},
    "blocks": [
        {
            "norm": {"weight": (64,), "bias": (64,)},
            "attention": {
                f"{name}_proj": {"weight": (64, 64), "bias": None}
                for name in ("query", "key", "value", "output")
            },
            "mlp": {"layers": [linear(64, 256), linear(256, 64)], "activation": None},
        }
    ],
    "lm_head": {"weight": (256, 64), "bias": None},
}
EQUINOX_ROWS = {
    "token_embedding/weight": "embedding",
    "blocks/0/norm/weight": "norm",
    "blocks/0/norm/bias": "norm",
    **{
        f"blocks/0/attention/{name}_proj/weight": OUT_FIRST
        for name in ("query", "key", "value", "output")
    },
    **under("blocks/0/mlp/layers/0", LINEAR_ROWS),
    **under("blocks/0/mlp/layers/1", LINEAR_ROWS),
    "lm_head/weight": "head",
}

# An LSTM of PyTorch, whose four gates share one weight.
LSTM = {
    "lstm": {
        "weight_ih_l0": (512, 64),
        "weight_hh_l0": (512, 128),
        "bias_ih_l0": (512,),
    },
    "classifier": linear(128, 10),
}
GATES = Split(0, (128, 128, 128, 128))
LSTM_RULES = {"**/weight_*": MatrixAxes(1, 0, GATES)}
LSTM_ROWS = {
    "lstm/weight_ih_l0": ((1,), (0,), GATES),
    "lstm/weight_hh_l0": ((1,), (0,), GATES),
    "lstm/bias_ih_l0": "vector",
    "classifier/weight": "head",
    "classifier/bias": "bias",
}

# PyTorch's Qwen3-MoE, one layer of it with two of its experts: the router is a gate.
QWEN_ATTENTION = {
    "q_proj": (4096, 2048),
    "k_proj": (512, 2048),
    "v_proj": (512, 2048),
    "o_proj": (2048, 4096),
    "q_norm": (128,),
}
QWEN_EXPERT = {
    "gate_proj": (768, 2048),
    "up_proj": (768, 2048),
    "down_proj": (2048, 768),
}
QWEN = {
    "model": {
        "embed_tokens": {"weight": (151936, 2048)},
        "layers": {
            "0": {
                "input_layernorm": {"weight": (2048,)},
                "self_attn": weights(QWEN_ATTENTION),
                "mlp": {
                    "gate": {"weight": (128, 2048)},
                    "experts": {"0": weights(QWEN_EXPERT), "1": weights(QWEN_EXPERT)},
                },
            }
        },
        "norm": {"weight": (2048,)},
    },
    "lm_head": {"weight": (151936, 2048)},
}
QWEN_ROWS = {
    "model/embed_tokens/weight": "embedding",
    "model/layers/0/input_layernorm/weight": "norm",
    **{
        f"model/layers/0/self_attn/{name}/weight": OUT_FIRST
        for name in ("q_proj", "k_proj", "v_proj", "o_proj")
    },
    "model/layers/0/self_attn/q_norm/weight": "norm",
    "model/layers/0/mlp/gate/weight": "vector",
    **{
        f"model/layers/0/mlp/experts/{expert}/{name}/weight": OUT_FIRST
        for expert in (0, 1)
        for name in QWEN_EXPERT
    },
    "model/norm/weight": "norm",
    "lm_head/weight": "head",
}


def batch_norm(width):
    return {"scale": (width,), "bias": (width,)}


# The ResNet-50 of Flax's ImageNet example, its first block: the head is Dense_0.
RESNET_50 = {
    "conv_init": {"kernel": (7, 7, 3, 64)},
    "bn_init": batch_norm(64),
    "BottleneckResNetBlock_0": {
        "Conv_0": {"kernel": (1, 1, 64, 64)},
        "BatchNorm_0": batch_norm(64),
        "Conv_1": {"kernel": (3, 3, 64, 64)},
        "BatchNorm_1": batch_norm(64),
        "Conv_2": {"kernel": (1, 1, 64, 256)},
        "BatchNorm_2": batch_norm(256),
        "conv_proj": {"kernel": (1, 1, 64, 256)},
        "norm_proj": batch_norm(256),
    },
    "Dense_0": {"kernel": (2048, 1000), "bias": (1000,)},
}
RESNET_50_RULES = {
    "Dense_0/kernel": "head",
    "conv_init/kernel": "embedding",  # Of pixels, as the stem is.
    "**/kernel": MatrixAxes((0, 1, 2), 3),
}
CONV = ((0, 1, 2), (3,), None)
BATCH_NORM = {"scale": "norm", "bias": "norm"}
NAMED_ELSE = {"scale": "vector", "bias": "bias"}  # For AdamW as well.
RESNET_50_ROWS = {
    "conv_init/kernel": "embedding",
    **under("bn_init", NAMED_ELSE),
    **under(
        "BottleneckResNetBlock_0",
        {f"{name}/kernel": CONV for name in ("Conv_0", "Conv_1", "Conv_2", "conv_proj")}
        | under("BatchNorm_0", BATCH_NORM)
        | under("BatchNorm_1", BATCH_NORM)
        | under("BatchNorm_2", BATCH_NORM)
        | under("norm_proj", NAMED_ELSE),
    ),
    "Dense_0/kernel": "head",
    "Dense_0/bias": "bias",
}

LIBRARIES = {
    "Equinox GPT": Known(EQUINOX, {}, EQUINOX_ROWS, 6),
    "PyTorch LSTM": Known(LSTM, LSTM_RULES, LSTM_ROWS, 8),
    "PyTorch Qwen3-MoE": Known(QWEN, {}, QWEN_ROWS, 10),
    "Flax's ResNet-50": Known(RESNET_50, RESNET_50_RULES, RESNET_50_ROWS, 4),
}

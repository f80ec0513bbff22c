import pytest

from optax_ortho.labels import words
from optax_ortho.labels.words import (
    routers,
    said_role,
    says_head,
    says_out_first,
)


@pytest.mark.parametrize(
    "name",
    [
        "MultiHeadAttention_0",
        "MultiHeadDotProductAttention_0",
        "multi_head",
        "attention_heads",
        "attn_gate",
        "pre_norm_mlp",
        "pre_logits",
        "headroom",
        "normalizer",
        "biased_dense",
        "stable",
        "rescale_mlp",
        "positionwise",
        "position_wise_mlp",
        "tokenwise",
        "up",
        "0",
        "_",
        "",
    ],
)
def test_names_that_say_nothing(name):
    assert said_role(f"{name}/kernel") is None


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("lm_head", "head"),
        ("LMHead_0", "head"),
        ("head", "head"),
        ("heads", "head"),
        ("mlp_head2", "head"),
        ("classifier", "head"),
        ("logits_dense", "head"),
        ("unembed", "head"),
        ("LayerNorm_0", "norm"),
        ("RMSNorm", "norm"),
        ("norm1", "norm"),
        ("final_norm", "norm"),
        ("head_norm", "norm"),
        ("input_layernorm", "norm"),
        ("ln_f", "norm"),
        ("layernorm_before", "norm"),
        ("normalization", "norm"),
        ("transformer.h.0.ln_1.weight", "norm"),
        ("lm_head.weight", "head"),
        ("ln_1", "norm"),
        ("query_ln", "norm"),
        ("token_embedding", "embedding"),
        ("embed_tokens", "embedding"),
        ("Embed_0", "embedding"),
        ("wte", "embedding"),
        ("wpe", "embedding"),
        ("pos_table", "embedding"),
        ("relative_position_bias_table", "embedding"),
        ("pos", "embedding"),
        ("bias", "bias"),
        ("rel_bias", "bias"),
        ("layer_scale", "vector"),
    ],
)
def test_names_that_say_a_role(name, role):
    assert said_role(f"stack/{name}/w") == role


def test_the_nearest_name_decides_but_a_norm_keeps_its_own():
    assert said_role("lm_head/bias") == "bias"
    assert said_role("embedder/head/kernel") == "head"
    assert said_role("final_norm/bias") == "norm"


def test_any_name_may_say_head():
    assert says_head("heads/0/proj/kernel")
    assert not says_head("MultiHead_0/proj/kernel")


def test_words_are_of_the_whole_path():
    assert words("c_attn/gateUp2") == {"c", "attn", "gate", "up"}


@pytest.mark.parametrize(
    "path",
    [
        "router/kernel",
        "decoder/Router_0/router_weights/w/kernel",
        "moe/router",
        "MoeBlock_0/gate/kernel",
        "block_sparse_moe.gate.weight",
        "SparseMoE_0/gate/kernel",
        "moe_gate/kernel",
        "layers/moe/gate",
    ],
)
def test_routers_by_name(path):
    assert routers([path]) == {path}


@pytest.mark.parametrize(
    "path",
    [
        "mlp/gate/kernel",
        "gate/kernel",
        "gate",
        "moe/gate_proj/kernel",
        "moe/up_gate_proj/kernel",
        "moe/experts/gate/kernel",
        "moe/shared_experts/gate/kernel",
        "moe_layers/0/attention/gate/kernel",
        "amoeba/gate/kernel",
        "route/kernel",
        "",
    ],
)
def test_no_routers(path):
    assert not routers([path])


def test_a_gate_beside_experts_is_a_router():
    paths = [
        "0/mlp/gate/weight",
        "0/mlp/experts/0/gate/weight",
        "0/mlp/shared_experts/gate/weight",
        "1/mlp/gate/weight",
        "1/mlp/up/weight",
    ]
    assert routers(paths) == {"0/mlp/gate/weight"}


@pytest.mark.parametrize("other", ["up_proj/kernel", "down/kernel", "router/kernel"])
def test_a_gate_beside_what_it_gates_is_none(other):
    assert "moe/gate/kernel" not in routers(["moe/gate/kernel", f"moe/{other}"])
    found = routers(["mlp/gate", "mlp/experts/up", f"mlp/{other}"])
    assert "mlp/gate" not in found


@pytest.mark.parametrize(
    ("path", "out_first"),
    [
        ("up/weight", True),
        ("h.0.mlp.weight", True),
        ("lstm/weight_ih_l0", True),
        ("attn/in_proj_weight", True),
        ("weight/kernel", False),
        ("up/kernel", False),
        ("up/w", False),
        ("weights", False),
        ("weightless", False),
    ],
)
def test_weights_are_out_first(path, out_first):
    assert says_out_first(path) == out_first

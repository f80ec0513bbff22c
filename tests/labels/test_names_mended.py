"""Names that were read wrongly once, of many libraries, each with its right role."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from optax_ortho.labels import label, resolve
from optax_ortho.labels.refusals import refuse_functions
from optax_ortho.labels.rules import by_name, by_names
from optax_ortho.labels.words import said_role, says_head
from optax_ortho.matrices import MatrixAxes


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def role_of(path, *shape):
    return by_name(path, leaf(*shape)).role


# Stacked vectors


@pytest.mark.parametrize(
    "path",
    [
        *("layers/linear/b", "layers/attn/output_b", "layers/layer_norm_input/offset"),
        *("attention/gating_b", "mlp/b1", "mlp/b_2", "gru/b_h", "mlp/out_proj_b"),
        *("0/b", "layers/beta", "layers/shift", "lstm/b_ih", "b1", "layers/proj_b"),
    ],
)
@pytest.mark.parametrize("shape", [(4, 64), (4, 2, 32)])
def test_biases(path, shape):
    assert role_of(path, *shape) == "bias"


@pytest.mark.parametrize(
    "path",
    [
        *("b", "w_b", "ssm/b_proj", "layer/B", "up/lora_b", "up/kernel_lora_b"),
        *("lora/b", "head/lora/lora_a", "lm_head/lora_B"),
    ],
)
def test_a_b_that_is_a_matrix(path):
    assert by_name(path, leaf(8, 64)).axes == MatrixAxes((0,), (1,))


@pytest.mark.parametrize("name", ["gain", "lambda", "lambda_1", "alpha", "ls1/gamma"])
def test_a_value_a_feature(name):
    assert role_of(f"layers/{name}", 4, 64) == "vector"


@pytest.mark.parametrize(
    "path", ["blocks/ln_attn/weight", "blocks/ln1_w", "blocks/attn_norm_weight"]
)
def test_stacked_norms(path):
    assert role_of(path, 12, 64) == "norm"


# Containers


@pytest.mark.parametrize(
    "path",
    [
        "attention_with_pair_bias/query/w",
        "Dense_no_bias/kernel",
        "time_embed/layers_0/kernel",
        "time_embed/0/kernel",
        "time_embed/kernel",
        "time_embedding/linear_1/kernel",
        "t_embedder/mlp/layers_2/kernel",
        "resnet/time_emb_proj/kernel",
        "embeddings_project/kernel",
        "encoder/embedding_hidden_mapping_in/kernel",
        "embedder/mm_input_projection/w",
        "embedding/Dense_0/kernel",
        "MAPHead_0/MlpBlock_0/Dense_0/kernel",
        "MAPHead_0/MultiHeadDotProductAttention_0/query/kernel",
        "predicted_lddt_head/act_0/weights",
        "heads/0/key/kernel",
        "attention/q_heads/kernel",
        "self_attention/out/kernel",
        "final_layer/adaLN_modulation/layers_1/kernel",
        "block/adaLN/kernel",
        "AdaLayerNorm_0/Dense_0/kernel",
        "encoder/mid_conv_out/kernel",
    ],
)
def test_matrices_inside_containers(path):
    assert by_name(path, leaf(64, 256)).axes == MatrixAxes((0,), (1,))


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("lm_head/kernel", "head"),
        ("lm_head_weight", "head"),
        ("params.lm_head.weight", "head"),
        ("head/Dense_0/kernel", "head"),
        ("head/layers_2/kernel", "head"),
        ("classifier/1/kernel", "head"),
        ("classifier/out_proj/kernel", "head"),
        ("lm_head/decoder/kernel", "head"),
        ("lm_head/base_layer/weight", "head"),
        ("masked_msa_head/logits/weights", "head"),
        ("logitdense/kernel", "head"),
        ("decoder/logit_dense/kernel", "head"),
        ("final_proj/kernel", "head"),
        ("final_layer/linear/kernel", "head"),
        ("embed_out/weight", "head"),
        ("token_embed/embedding", "embedding"),
        ("time_embed/embedding", "embedding"),
        ("embed_tokens.weight", "embedding"),
        ("embed/embeddings", "embedding"),
        ("embeddings/0/weight", "embedding"),
        ("relpos_bias/rel_embedding", "embedding"),
        ("patch_embeddings/projection/kernel", "embedding"),
        ("ln_1/bias", "norm"),
        ("norm/linear/kernel", "norm"),
        ("AdaLayerNorm_0/LayerNorm_0/scale", "norm"),
    ],
)
def test_layers_that_say_what_they_are(path, role):
    assert role_of(path, 64, 256) == role


def test_the_last_convolution_is_a_head():
    assert role_of("unet/conv_out/kernel", 3, 3, 320, 4) == "head"


# Tables, and what is asked


@pytest.mark.parametrize(
    "path",
    [
        *("relpos", "encoder/pos_enc", "posenc", "positional_encoding", "codevectors"),
        *("vq/codebooks", "encoder/rel_pos_encoding", "mask_tokens"),
    ],
)
def test_tables(path):
    assert role_of(path, 197, 64) == "embedding"


@pytest.mark.parametrize("path", ["A_log", "ssm/nu_log", "log_dt", "rwkv/time_decay"])
def test_elementwise_parameters_of_state_space_models(path):
    assert role_of(path, 1536, 16) == "vector"


@pytest.mark.parametrize(
    "path",
    [
        *("B_re", "ssm/C_im", "ssm/B_real", "A_imag", "perceiver/latents"),
        *("detr/object_queries", "codebook/codes", "time_embed/weight"),
        *("token_embed/kernel", "film_scale/kernel", "pair_bias/kernel"),
    ],
)
def test_what_may_be_a_matrix_is_asked(path):
    assert role_of(path, 64, 32) == "undecided"
    with pytest.raises(ValueError, match="no name says what it is"):
        label({path: leaf(64, 32)})
    (row,) = label({path: leaf(64, 32)}, overrides={path: "matrix"})
    assert row[2].role == "matrix"


def test_an_axis_of_length_one_needs_no_question():
    assert role_of("MAPHead_0/probe", 1, 1, 64) == "vector"


class Patches(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(16, (4, 4), (4, 4), name="patch_embedding")(x)
        return nn.Dense(10, name="head")(x.mean((1, 2)))


def test_a_patch_embedding_gets_the_answer_of_its_module():
    images = jnp.ones((1, 8, 8, 3))
    params = jax.eval_shape(Patches().init, jax.random.key(0), images)["params"]
    with pytest.raises(ValueError, match="patch_embedding/kernel"):
        label(params)
    axes = MatrixAxes((0, 1, 2), (3,))
    labels = label(params, overrides={"patch_embedding/kernel": axes})
    assert labels.items() == label(Patches(), images).items()


def test_a_weight_among_kernels_is_asked():
    flax = {
        "projector/input_projection_weight": leaf(1152, 2560),
        "mlp/kernel": leaf(2560, 10240),
        "norm/weight": leaf(3, 2560),
    }
    rows = [row.role for row in by_names(flax.items())]
    assert rows == ["undecided", "matrix", "norm"]
    with pytest.raises(ValueError, match="input_projection_weight"):
        label(flax)
    torch = {"projector/weight": leaf(1152, 2560), "mlp/weight": leaf(2560, 10240)}
    assert {row.axes for row in by_names(torch.items())} == {MatrixAxes((1,), (0,))}


# Modules


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(16)(nn.gelu(nn.Dense(64)(x)))


class PoolHead(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Block()(x) + nn.MultiHeadDotProductAttention(4)(x, x)


class Classifier(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10, name="head")(PoolHead()(x))


def test_a_module_called_a_head_holds_matrices():
    rows = label(Classifier(), leaf(2, 8, 16))
    heads = [path for path, _, label in rows if label.role == "head"]
    assert heads == ["head/kernel"]
    assert sum(label.role == "matrix" for _, _, label in rows) == 2 + 4


@pytest.mark.parametrize("container", ["attn/heads/0", "heads_0", "attn/head/1"])
def test_attention_of_one_module_a_head(container):
    for name in ("query", "key", "value"):
        found = label(nested(f"{container}/{name}/kernel", jnp.ones((16, 4))))
        assert [x.role for _, _, x in found] == ["matrix"]


def nested(path: str, leaf: Any) -> Any:
    for key in reversed(path.split("/")):
        leaf = {key: leaf}
    return leaf


def test_own_layers_of_a_tree():
    params = {f"fc_{i}": {"kernel": leaf(16, 16)} for i in range(6)}
    params |= {"head": {"kernel": leaf(16, 10)}, "pos_embedding": leaf(1, 8, 16)}
    rows = {path: label.role for path, _, label in label(params)}
    assert rows == {
        **{f"fc_{i}/kernel": "matrix" for i in range(6)},
        "head/kernel": "head",
        "pos_embedding": "embedding",
    }


def test_heads_of_modules():
    assert says_head("logitdense/kernel") and says_head("head/layers/2/kernel")
    assert not says_head("PoolHead_0/MLP_0/Dense_0/kernel")
    assert said_role("lm_head/bias") == "bias"


# Questions


def asked(tree, **arguments):
    with pytest.raises(ValueError) as error:
        label(tree, **arguments)
    message = str(error.value)
    assert len(message) <= 490, message
    assert "(-2,)" not in message and "(-1,)" not in message
    return message


@pytest.mark.parametrize(
    ("path", "shape", "pattern"),
    [
        ("attn/q_proj/w", (2048, 8, 128), "**/q_proj/w"),
        ("layers/fc/weight", (6, 256, 64), "**/fc/weight"),
        ("conv/kernel", (3, 3, 8, 16), "conv/kernel"),
        ("mix", (3, 8, 16), "mix"),
        ("blocks/0/1/w", (3, 8, 16), "blocks/0/1/w"),
    ],
)
def test_a_question_has_the_pattern_of_its_answer(path, shape, pattern):
    message = asked({path: leaf(*shape)})
    assert message.startswith(f"{path!r} {shape}: no layer and no name says what it is")
    assert "label(function, params, inputs) reads it from the forward pass" in message
    answer = f"{{{pattern!r}: MatrixAxes(fan_in=(...), fan_out=(...))}}"
    assert f"label(params, overrides={answer})" in message
    axes = MatrixAxes(fan_in=(0, 1), fan_out=(2,))
    (row,) = label({path: leaf(*shape)}, overrides={pattern: axes})
    assert row[2].axes == axes


def test_leaves_of_a_kind_are_counted():
    names = {"attention/query": (64, 4, 16), "mlp/conv1": (3, 64, 64)}
    params = {
        f"layer_{i}/{name}/kernel": leaf(*shape)
        for i in range(48)
        for name, shape in names.items()
    }
    message = asked(params)
    assert "'layer_0/attention/query/kernel' (64, 4, 16) and 47 like it" in message
    assert message.count("**/query/kernel") == message.count("**/conv1/kernel") == 1


def test_numbers_in_a_pattern_are_stars_where_they_differ():
    params = {f"fc_{i}/kernel": leaf(4, 5, 6) for i in range(3)}
    assert "overrides={'fc_*/kernel': " in asked(params)
    params = {f"blocks/{i}/w": leaf(4, 5, 6) for i in range(3)}
    assert "overrides={'blocks/*/w': " in asked(params)
    params["encoder/blocks/0/w"] = leaf(4, 5, 6)
    assert "overrides={'**/blocks/*/w': " in asked(params)


def test_many_kinds_are_a_short_question():
    params = {f"{'name' * 9}_{chr(97 + i)}/w": leaf(4, 5, 6) for i in range(9)}
    assert "leaves of other kinds" in asked(params)
    asked({"a" * 600: {"kernel": leaf(4, 5, 6)}})


def test_an_override_that_may_cover_nothing():
    overrides = {"lm_head/kernel": "head", "**/out/w": MatrixAxes((0, 1), (2,))}
    params = {"attn/out/w": leaf(4, 16, 64)}
    with pytest.raises(ValueError, match="'lm_head/kernel'.*optional=True"):
        label(params, overrides=overrides)
    (row,) = label(params, overrides=overrides, optional=True)
    assert row[2].axes == MatrixAxes((0, 1), (2,))


# Functions in place of a tree


class Transformed(NamedTuple):
    """The pair that `haiku.transform` returns."""

    init: Callable[..., Any]
    apply: Callable[..., Any]


@pytest.mark.parametrize("use", [resolve, label])
def test_functions_are_no_parameters(use):
    given = Transformed(lambda rng, x: {}, lambda params, rng, x: x)
    with pytest.raises(TypeError) as error:
        use(given)
    message = str(error.value)
    assert len(message) <= 490
    assert "A Transformed of functions (init, apply)" in message
    assert "label(transformed.apply, params, rng, *inputs)" in message


def test_other_trees_of_functions():
    with pytest.raises(TypeError, match=r"label\(function, params, \*inputs\)"):
        refuse_functions({"encoder": jnp.sin, "decoder": jnp.cos})


@pytest.mark.parametrize(
    "tree", [jnp.sin, {}, {"w": leaf(2, 3)}, {"w": leaf(2, 3), "activation": jnp.sin}]
)
def test_what_is_no_tree_of_functions_passes(tree):
    refuse_functions(tree)


def test_a_matrix_that_is_frozen_by_its_name_alone_has_a_note():
    def model(params, x):
        return jnp.tanh(x @ params["mask-FREEZE_ME"]) @ params["out"]

    params = {"mask-FREEZE_ME": jnp.ones((6, 8)), "out": jnp.ones((8, 3))}
    labels = label(model, params, jnp.ones((2, 6)))
    assert "frozen, by its name" in " ".join(labels.remarks[0].notes)
    assert "frozen" not in " ".join(labels.remarks[1].notes)

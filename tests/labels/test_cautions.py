"""Warnings of a summary about labels."""

import jax
import jax.numpy as jnp
import pytest

import optax_ortho
from optax_ortho import MatrixAxes, Split, label, muon
from optax_ortho.labels.cautions import Matrix, is_fused

IN_OUT = MatrixAxes((0,), (1,))


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def warnings(shapes, labels=None):
    params = {path: leaf(*shape) for path, shape in shapes.items()}
    tx = muon(0.02, labels=labels, adamw_learning_rate=1e-3)
    return optax_ortho.summary(tx, params).warnings


# Fused leaves


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("lstm/linear/w", (128, 256)),
        ("gru/w_h", (64, 192)),
        ("gru/w_i", (32, 192)),
        ("ada_proj/kernel", (64, 384)),
        ("block/adaLN_modulation/1/kernel", (64, 384)),
        ("adaln/kernel", (64, 256)),
        ("attn/qkv/kernel", (64, 192)),
        ("attn/qkv/kernel", (64, 96)),
    ],
)
def test_fused_matrices(path, shape):
    (warning,) = warnings({path: shape})
    assert warning.startswith(f"{path} {shape} looks like several matrices in one")
    assert "Split(axis, sizes)" in warning and "batch axis" in warning
    halves = (shape[1] // 2, shape[1] // 2)
    axes = MatrixAxes((0,), (1,), Split(1, halves))
    assert not warnings({path: shape}, {"**": axes})


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("LSTMCell_0/ii/kernel", (64, 256)),
        ("GRUCell_0/hn/kernel", (64, 192)),
        ("lstm/out/kernel", (256, 64)),
        ("gru/w_h", (64, 100)),
        ("ada_proj/kernel", (64, 100)),
        ("adapter/up/kernel", (64, 384)),
        ("mlp/up/kernel", (64, 256)),
    ],
)
def test_matrices_that_are_not_fused(path, shape):
    assert not warnings({path: shape})


def test_a_weight_of_pytorch_is_fused_along_its_first_axis():
    assert is_fused(Matrix("gru/cell/weight", (192, 64), MatrixAxes((1,), (0,))))
    assert not is_fused(Matrix("gru/cell/weight", (192, 64), IN_OUT))


@pytest.mark.parametrize(
    ("shape", "axes", "fused"),
    [
        ((3, 4, 64, 16), MatrixAxes((2,), (0, 1, 3)), True),
        ((3, 4, 64, 16), MatrixAxes((2,), (1, 3)), False),
        ((12, 64, 192), MatrixAxes((1,), (2,)), True),
        ((3, 64, 192), MatrixAxes((1,), (2,)), True),  # Three layers of fused leaves.
        ((12, 3, 64, 64), MatrixAxes((2,), (3,)), False),
    ],
)
def test_a_batch_axis_is_an_answer(shape, axes, fused):
    assert is_fused(Matrix("qkv_einsum/kernel", shape, axes)) == fused
    assert len(warnings({"qkv_einsum/kernel": shape}, {"**": axes})) == fused


def test_a_kind_is_one_warning():
    (warning,) = warnings({f"layer_{i}/qkv/kernel": (64, 192) for i in range(48)})
    assert "layer_0/qkv/kernel (64, 192) and 47 like it look like" in warning
    shapes = {
        f"layer_{i}/{name}": (64, 192) for i in range(4) for name in ("qkv", "ih")
    }
    assert len(warnings(shapes)) == 2


def test_routers_are_one_warning():
    shapes = {f"{i}/mlp/gate/weight": (8, 64) for i in range(4)}
    shapes |= {f"{i}/mlp/experts/0/up/weight": (64, 64) for i in range(4)}
    (warning,) = warnings(shapes)
    assert "0/mlp/gate/weight (8, 64) and 3 like it look like a router" in warning


# Vectors


@pytest.mark.parametrize("path", ["b", "mix", "blocks/mix"])
def test_vectors_stacked_as_what_is_beside_them(path):
    beside = path.replace(path.split("/")[-1], "w")
    vectors, _ = warnings({beside: (6, 64, 64), path: (6, 64)})
    assert vectors.startswith(f"{path} (6, 64) looks like a stack of vectors")
    assert f'overrides={{{path!r}: "vector"}}' in vectors
    labels = {beside: MatrixAxes(), path: "vector"}
    assert not warnings({beside: (6, 64, 64), path: (6, 64)}, labels)


def test_a_bias_that_is_called_a_matrix():
    (vectors,) = warnings({"up/bias": (6, 64)}, {"**": "matrix"})
    assert "up/bias (6, 64) looks like a stack of vectors" in vectors


@pytest.mark.parametrize(
    "shapes",
    [
        {"w": (6, 64, 64), "mix": (8, 64)},  # No stack of six.
        {"w": (6, 64, 64), "mix": (6, 64), "scale": (64,)},  # Not all are stacked.
        {"query": (16, 4, 4), "up": (16, 64)},  # Not as wide as any.
        {"w": (64, 4, 16), "mix": (64, 64)},  # As many layers as a layer is wide.
        {"w": (6, 64), "mix": (6, 64)},
    ],
)
def test_matrices_that_are_no_stacks_of_vectors(shapes):
    assert not any("stack of vectors" in warning for warning in warnings(shapes))


# Heads

POLICY = {"Dense_0/kernel": (64, 6), "Dense_1/kernel": (8, 64)}


def test_a_head_without_a_name():
    (warning,) = warnings(POLICY)
    assert "No leaf is a head. Dense_0/kernel (64, 6) looks like one" in warning
    assert "label(model, inputs)" in warning
    params = {path: leaf(*shape) for path, shape in POLICY.items()}
    labels = label(params, overrides={"Dense_0/kernel": "head"})
    assert not warnings(POLICY, labels)


def test_the_program_finds_it():
    def policy(params, x):
        x = jnp.tanh(x @ params["Dense_1/kernel"])
        return x @ params["Dense_0/kernel"]

    params = {path: leaf(*shape) for path, shape in POLICY.items()}
    assert not warnings(POLICY, label(policy, params, leaf(2, 8)))


def test_a_head_of_as_many_outputs_as_a_table_has_rows():
    shapes = {"wte": (300, 16), "up/kernel": (16, 64), "down/kernel": (64, 16)}
    assert not warnings(shapes)  # It may be tied.
    (warning,) = warnings({**shapes, "Dense_0/kernel": (16, 300)})
    assert "Dense_0/kernel (16, 300) looks like one" in warning


def test_a_head_behind_convolutions():
    labels = {"conv*": MatrixAxes((0, 1, 2), (3,)), "fc": "matrix"}
    shapes = {"conv0": (3, 3, 3, 8), "conv1": (3, 3, 8, 32), "fc": (32, 10)}
    (warning,) = warnings(shapes, labels)
    assert "fc (32, 10) looks like one" in warning


@pytest.mark.parametrize(
    "shapes",
    [
        {"q": (64, 64), "k": (64, 16), "v": (64, 16), "o": (64, 64)},  # Fewer heads.
        {"up": (64, 256), "down": (256, 64)},
        {"qkv": (64, 192), "out": (64, 64), "embed": (100, 64)},
        {"lora_a": (64, 4), "lora_b": (4, 100)},
        {"kernel": (4, 6)},
    ],
)
def test_models_without_a_head(shapes):
    assert not any("head" in warning for warning in warnings(shapes))

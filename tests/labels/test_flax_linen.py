"""Every layer of Flax Linen, leaf by leaf: path -> shape, role, axes.

A layer alone is the head of its function, so the tables take heads for matrices; and
they are strict, so the layer's type and the program agree on every leaf.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax.core import freeze

from optax_ortho.labels import Policy, label
from optax_ortho.matrices import MatrixAxes, Split, path_of

DENSE = MatrixAxes((0,), (1,))


def ones(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def table(model, *inputs, **kwargs):
    kwargs = {"policy": Policy(heads=True), "strict": True, **kwargs}
    return {
        path: (shape, found.axes if found.axes is not None else found.role)
        for path, shape, found in label(model, *inputs, **kwargs)
    }


class Inside(nn.Module):
    """Any layer, as a part of a model; the name is in its paths."""

    layer: nn.Module

    def __call__(self, *args, **kwargs):
        return self.layer(*args, **kwargs)


class Cell(nn.Module):
    cell: nn.RNNCellBase

    @nn.compact
    def __call__(self, x):
        carry = self.cell.initialize_carry(jax.random.key(0), x.shape)
        return self.cell(carry, x)


def gates(names, kernel, bias=True):
    rows = {f"{name}/kernel": (kernel, DENSE) for name in names}
    if bias:
        rows |= {f"{name}/bias": (kernel[-1:], "bias") for name in names}
    return rows


ROWS = {
    "dense": (
        nn.Dense(8),
        ones(2, 6),
        {"kernel": ((6, 8), DENSE), "bias": ((8,), "bias")},
    ),
    "dense to one": (
        nn.Dense(1, use_bias=False),
        ones(2, 6),
        {"kernel": ((6, 1), "vector")},
    ),
    "general out": (
        nn.DenseGeneral((2, 4)),
        ones(2, 6),
        {"kernel": ((6, 2, 4), MatrixAxes((0,), (1, 2))), "bias": ((2, 4), "bias")},
    ),
    "general in": (
        nn.DenseGeneral(6, axis=(-2, -1)),
        ones(3, 2, 4),
        {"kernel": ((2, 4, 6), MatrixAxes((0, 1), (2,))), "bias": ((6,), "bias")},
    ),
    "general batched": (
        nn.DenseGeneral(7, axis=-1, batch_dims=(0,)),
        ones(3, 2, 6),
        {"kernel": ((3, 6, 7), MatrixAxes((1,), (2,))), "bias": ((3, 7), "bias")},
    ),
    "einsum": (
        nn.Einsum((3, 6, 4), "nta,hab->nthb"),
        ones(2, 5, 6),
        {"kernel": ((3, 6, 4), MatrixAxes((1,), (0, 2))), "bias": ((3, 4), "bias")},
    ),
    "einsum of each head": (
        nn.Einsum((3, 6, 4), "ntha,hab->nthb", use_bias=False),
        ones(2, 5, 3, 6),
        {"kernel": ((3, 6, 4), MatrixAxes((1,), (2,)))},
    ),
    "conv": (
        nn.Conv(7, (3, 3)),
        ones(1, 8, 8, 5),
        {
            "kernel": ((3, 3, 5, 7), MatrixAxes((0, 1, 2), (3,))),
            "bias": ((7,), "bias"),
        },
    ),
    "conv in one dimension": (
        nn.Conv(7, (4,), use_bias=False),
        ones(1, 8, 5),
        {"kernel": ((4, 5, 7), MatrixAxes((0, 1), (2,)))},
    ),
    "conv in groups": (
        nn.Conv(6, (3, 3), feature_group_count=6, use_bias=False),
        ones(1, 8, 8, 6),
        {"kernel": ((3, 3, 1, 6), "grouped_conv")},
    ),
    "conv local": (
        nn.ConvLocal(7, (3,)),
        ones(1, 8, 5),
        {"kernel": ((8, 15, 7), MatrixAxes((1,), (2,))), "bias": ((8, 7), "bias")},
    ),
    "conv transpose": (
        nn.ConvTranspose(7, (3, 3), use_bias=False),
        ones(1, 8, 8, 5),
        {"kernel": ((3, 3, 5, 7), MatrixAxes((0, 1, 2), (3,)))},
    ),
    "conv transpose, kernel too": (
        nn.ConvTranspose(7, (3, 3), use_bias=False, transpose_kernel=True),
        ones(1, 8, 8, 5),
        {"kernel": ((3, 3, 7, 5), MatrixAxes((0, 1, 3), (2,)))},
    ),
    "embed": (
        nn.Embed(11, 6),
        jax.ShapeDtypeStruct((2,), jnp.int32),
        {"embedding": ((11, 6), "embedding")},
    ),
    "layer norm": (
        nn.LayerNorm(),
        ones(2, 6),
        {"scale": ((6,), "norm"), "bias": ((6,), "norm")},
    ),
    "rms norm": (nn.RMSNorm(), ones(2, 6), {"scale": ((6,), "norm")}),
    "batch norm": (
        nn.BatchNorm(use_running_average=True),
        ones(2, 6),
        {"scale": ((6,), "norm"), "bias": ((6,), "norm")},
    ),
    "group norm": (
        nn.GroupNorm(num_groups=2),
        ones(2, 6),
        {"scale": ((6,), "norm"), "bias": ((6,), "norm")},
    ),
    "attention": (
        nn.MultiHeadDotProductAttention(2, qkv_features=8, normalize_qk=True),
        ones(1, 5, 6),
        {
            **{
                f"{name}/kernel": ((6, 2, 4), MatrixAxes((0,), (1, 2)))
                for name in ("query", "key", "value")
            },
            **{f"{name}/bias": ((2, 4), "bias") for name in ("query", "key", "value")},
            "out/kernel": ((2, 4, 6), MatrixAxes((0, 1), (2,))),
            "out/bias": ((6,), "bias"),
            "query_ln/scale": ((4,), "norm"),
            "key_ln/scale": ((4,), "norm"),
        },
    ),
    "lstm": (
        nn.RNN(nn.LSTMCell(8)),
        ones(1, 5, 6),
        {
            f"cell/{path}": row
            for path, row in {
                **gates(("hf", "hg", "hi", "ho"), (8, 8)),
                **gates(("if", "ig", "ii", "io"), (6, 8), bias=False),
            }.items()
        },
    ),
    "optimized lstm": (
        Cell(nn.OptimizedLSTMCell(8)),
        ones(1, 6),
        {
            f"cell/{path}": row
            for path, row in {
                **gates(("hf", "hg", "hi", "ho"), (8, 8)),
                **gates(("if", "ig", "ii", "io"), (6, 8), bias=False),
            }.items()
        },
    ),
    "gru": (
        Cell(nn.GRUCell(8)),
        ones(1, 6),
        {
            f"cell/{path}": row
            for path, row in {
                **gates(("hn",), (8, 8)),
                **gates(("hr", "hz"), (8, 8), bias=False),
                **gates(("in", "ir", "iz"), (6, 8)),
            }.items()
        },
    ),
    "simple cell": (
        Cell(nn.SimpleCell(8)),
        ones(1, 6),
        {
            "cell/h/kernel": ((8, 8), DENSE),
            "cell/i/kernel": ((6, 8), DENSE),
            "cell/i/bias": ((8,), "bias"),
        },
    ),
    "conv lstm": (
        Cell(nn.ConvLSTMCell(4, (3,))),
        ones(1, 8, 5),
        {
            "cell/hh/kernel": (
                (3, 4, 16),
                MatrixAxes((0, 1), (2,), Split(2, (4, 4, 4, 4))),
            ),
            "cell/hh/bias": ((16,), "bias"),
            "cell/ih/kernel": (
                (3, 5, 16),
                MatrixAxes((0, 1), (2,), Split(2, (4, 4, 4, 4))),
            ),
            "cell/ih/bias": ((16,), "bias"),
        },
    ),
    "prelu": (nn.PReLU(), ones(2, 6), {"negative_slope": ((), "scalar")}),
    "weight norm": (
        nn.WeightNorm(nn.Dense(8)),
        ones(2, 6),
        {
            "layer_instance/kernel": ((6, 8), DENSE),
            "layer_instance/bias": ((8,), "bias"),
            "layer_instance/kernel/scale": ((8,), "norm"),
        },
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_every_leaf_of_every_layer(name):
    layer, example, expected = ROWS[name]
    expected = {f"layer/{path}": row for path, row in expected.items()}
    assert table(Inside(layer), example) == expected


def test_spectral_norm_takes_a_static_argument():
    layer = Inside(nn.SpectralNorm(nn.Dense(8)))
    expected = {
        "layer/layer_instance/kernel": ((6, 8), DENSE),
        "layer/layer_instance/bias": ((8,), "bias"),
    }
    assert table(layer, ones(2, 6), update_stats=False) == expected


def test_a_positional_argument_that_is_no_array_is_kept_as_it_is():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, batch, train):
            return nn.Dense(8 if train else 9, use_bias=False)(batch["x"])

    assert table(Model(), {"x": ones(2, 6)}, True) == {
        "Dense_0/kernel": ((6, 8), DENSE)
    }


def test_paths_are_those_of_the_parameters_boxed_or_not():
    init = nn.with_logical_partitioning(nn.initializers.ones, ("in", "out"))
    model = Inside(nn.Dense(8, kernel_init=init))
    labels = label(model, ones(2, 6))
    variables = model.init(jax.random.key(0), jnp.ones((2, 6)))
    for tree in (
        variables["params"],
        nn.unbox(variables)["params"],
        freeze(nn.unbox(variables))["params"],
        variables,  # With "params" in front.
    ):
        roles = [
            labels.label(path_of(keys), leaf).role
            for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)
        ]
        assert sorted(roles) == ["bias", "head"]


def test_tied_embedding_and_head():
    class Model(nn.Module):
        def setup(self):
            self.embed = nn.Embed(11, 6)
            self.lm_head = nn.Dense(11)

        def __call__(self, tokens):
            x = self.embed(tokens)
            return self.embed.attend(x), self.lm_head(x)

    tokens = jax.ShapeDtypeStruct((2,), jnp.int32)
    assert table(Model(), tokens, policy=Policy()) == {
        "embed/embedding": ((11, 6), "embedding"),
        "lm_head/kernel": ((6, 11), "head"),
        "lm_head/bias": ((11,), "bias"),
    }


def test_layers_that_share_a_scope():
    class Adapted(nn.Module):
        @nn.compact
        def __call__(self, x):
            child = nn.DenseGeneral(8)
            nn.share_scope(self, child)
            a = self.param("a", nn.initializers.ones, (6, 2))
            b = self.param("b", nn.initializers.ones, (2, 8))
            return child(x) + x @ a @ b

    assert table(Adapted(), ones(2, 6)) == {
        "a": ((6, 2), DENSE),
        "b": ((2, 8), DENSE),
        "kernel": ((6, 8), DENSE),
        "bias": ((8,), "bias"),
    }


class Block(nn.Module):
    width: int = 6

    @nn.compact
    def __call__(self, x, _=None):
        gate = self.param("gate", nn.initializers.ones, (6,))
        x = nn.Dense(self.width, name="dense")(x)
        return x * jnp.broadcast_to(gate, x.shape), None


def scanned(block, axis, length=3, **kwargs):
    return nn.scan(
        block,
        variable_axes={"params": axis},
        split_rngs={"params": True},
        length=length,
        **kwargs,
    )


@pytest.mark.parametrize(
    ("axis", "shape", "axes"),
    [(0, (3, 6, 6), MatrixAxes((1,), (2,))), (1, (6, 3, 6), MatrixAxes((0,), (2,)))],
)
def test_a_scan_of_a_remat(axis, shape, axes):
    vectors = (3, 6) if axis == 0 else (6, 3)
    model = Inside(scanned(nn.remat(Block), axis)())
    assert table(model, ones(2, 6), None) == {
        "layer/dense/kernel": (shape, axes),
        "layer/dense/bias": (vectors, "bias"),
        "layer/gate": (vectors, "vector"),  # Its own shape is known: (6,).
    }


def test_a_scan_of_boxed_parameters():
    init = nn.with_logical_partitioning(nn.initializers.ones, ("in", "out"))

    class Boxed(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.Dense(6, kernel_init=init, use_bias=False)(x), None

    names = {nn.PARTITION_NAME: "layers"}
    model = Inside(scanned(Boxed, 0, metadata_params=names)())
    expected = {"layer/Dense_0/kernel": ((3, 6, 6), MatrixAxes((1,), (2,)))}
    assert table(model, ones(2, 6), None) == expected


def test_scans_of_scans():
    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            x, _ = scanned(Block, 0)(name="inner")(x, None)
            return x, None

    model = Inside(scanned(Outer, 1, length=5)())
    found = table(model, ones(2, 6), None)
    assert found["layer/inner/dense/kernel"] == (
        (3, 5, 6, 6),
        MatrixAxes((2,), (3,)),
    )


def test_a_lifted_layer():
    stack = nn.vmap(
        nn.Dense,
        variable_axes={"params": 0},
        split_rngs={"params": True},
    )
    found = table(Inside(stack(8)), ones(3, 2, 6))
    assert found["layer/kernel"] == ((3, 6, 8), MatrixAxes((1,), (2,)))


def test_the_program_knows_the_axis_of_a_scan():
    model = Inside(scanned(Block, 0, length=6)())
    found = table(model, ones(2, 6), None)
    assert found["layer/dense/kernel"] == ((6, 6, 6), MatrixAxes((1,), (2,)))


def test_a_raw_table_is_added():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(6)(x) + self.param("pos", nn.initializers.ones, (2, 6))

    assert table(Model(), ones(2, 6))["pos"] == ((2, 6), "embedding")


def test_a_linen_module_needs_inputs():
    with pytest.raises(TypeError, match="example_inputs"):
        label(nn.Dense(8))

"""Every layer of Flax NNX, leaf by leaf: path -> shape, role, axes.

The table from the types of layers equals the table from programs that use them.
"""

import inspect

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from optax_ortho.labels import Policy, label
from optax_ortho.matrices import MatrixAxes, Split, path_of

RNGS = nnx.Rngs(0)
DENSE = MatrixAxes((0,), (1,))


def table(model, *inputs, **kwargs):
    return {
        path: (shape, found.axes if found.axes is not None else found.role)
        for path, shape, found in label(model, *inputs, **kwargs)
    }


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def attention(rngs, **kwargs):
    return nnx.MultiHeadAttention(2, 6, 8, decode=False, rngs=rngs, **kwargs)


ROWS = {
    "linear": (
        lambda rngs: nnx.Linear(6, 8, rngs=rngs),
        {"kernel": ((6, 8), DENSE), "bias": ((8,), "bias")},
    ),
    "linear to one": (
        lambda rngs: nnx.Linear(6, 1, use_bias=False, rngs=rngs),
        {"kernel": ((6, 1), "vector")},
    ),
    "linear from one": (
        lambda rngs: nnx.Linear(1, 6, use_bias=False, rngs=rngs),
        {"kernel": ((1, 6), "vector")},
    ),
    "general out": (
        lambda rngs: nnx.LinearGeneral(6, (2, 4), rngs=rngs),
        {
            "kernel": ((6, 2, 4), MatrixAxes((0,), (1, 2))),
            "bias": ((2, 4), "bias"),
        },
    ),
    "general in": (
        lambda rngs: nnx.LinearGeneral((2, 4), 6, axis=(-2, -1), rngs=rngs),
        {"kernel": ((2, 4, 6), MatrixAxes((0, 1), (2,))), "bias": ((6,), "bias")},
    ),
    "general batched": (
        lambda rngs: nnx.LinearGeneral(6, 7, batch_axis={0: 3}, rngs=rngs),
        {"kernel": ((3, 6, 7), MatrixAxes((1,), (2,))), "bias": ((3, 7), "bias")},
    ),
    "einsum over all heads": (
        lambda rngs: nnx.Einsum("nta,hab->nthb", (3, 6, 4), (3, 4), rngs=rngs),
        {
            "kernel": ((3, 6, 4), MatrixAxes((1,), (0, 2))),
            "bias": ((3, 4), "bias"),
        },
    ),
    "einsum of each head": (
        lambda rngs: nnx.Einsum("...ha,hab->...hb", (3, 6, 4), rngs=rngs),
        {"kernel": ((3, 6, 4), MatrixAxes((1,), (2,)))},
    ),
    "einsum transposed": (
        lambda rngs: nnx.Einsum("ntd,vd->ntv", (11, 6), rngs=rngs),
        {"kernel": ((11, 6), MatrixAxes((1,), (0,)))},
    ),
    "einsum that scales": (
        lambda rngs: nnx.Einsum("nhd,hd->nhd", (3, 6), rngs=rngs),
        {"kernel": ((3, 6), "vector")},
    ),
    "conv": (
        lambda rngs: nnx.Conv(5, 7, (3, 3), rngs=rngs),
        {
            "kernel": ((3, 3, 5, 7), MatrixAxes((0, 1, 2), (3,))),
            "bias": ((7,), "bias"),
        },
    ),
    "conv in one dimension": (
        lambda rngs: nnx.Conv(5, 7, 4, use_bias=False, rngs=rngs),
        {"kernel": ((4, 5, 7), MatrixAxes((0, 1), (2,)))},
    ),
    "conv in groups": (
        lambda rngs: nnx.Conv(6, 6, (3, 3), feature_group_count=6, rngs=rngs),
        {"kernel": ((3, 3, 1, 6), "grouped_conv"), "bias": ((6,), "bias")},
    ),
    "conv transpose": (
        lambda rngs: nnx.ConvTranspose(5, 7, (3, 3), use_bias=False, rngs=rngs),
        {"kernel": ((3, 3, 5, 7), MatrixAxes((0, 1, 2), (3,)))},
    ),
    "conv transpose, kernel too": (
        lambda rngs: nnx.ConvTranspose(
            5, 7, (3, 3), transpose_kernel=True, use_bias=False, rngs=rngs
        ),
        {"kernel": ((3, 3, 7, 5), MatrixAxes((0, 1, 3), (2,)))},
    ),
    "embed": (
        lambda rngs: nnx.Embed(11, 6, rngs=rngs),
        {"embedding": ((11, 6), "embedding")},
    ),
    "layer norm": (
        lambda rngs: nnx.LayerNorm(6, rngs=rngs),
        {"scale": ((6,), "norm"), "bias": ((6,), "norm")},
    ),
    "rms norm": (lambda rngs: nnx.RMSNorm(6, rngs=rngs), {"scale": ((6,), "norm")}),
    "batch norm": (
        lambda rngs: nnx.BatchNorm(6, rngs=rngs),
        {"scale": ((6,), "norm"), "bias": ((6,), "norm")},
    ),
    "group norm": (
        lambda rngs: nnx.GroupNorm(6, num_groups=2, rngs=rngs),
        {"scale": ((6,), "norm"), "bias": ((6,), "norm")},
    ),
    "instance norm": (
        lambda rngs: nnx.InstanceNorm(6, rngs=rngs),
        {"scale": ((6,), "norm"), "bias": ((6,), "norm")},
    ),
    "attention": (
        lambda rngs: attention(rngs, normalize_qk=True),
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
    "grouped-query attention": (
        lambda rngs: nnx.MultiHeadAttention(
            4, 6, 8, num_kv_heads=2, use_bias=False, decode=False, rngs=rngs
        ),
        {
            "query/kernel": ((6, 4, 2), MatrixAxes((0,), (1, 2))),
            "key/kernel": ((6, 2, 2), MatrixAxes((0,), (1, 2))),
            "value/kernel": ((6, 2, 2), MatrixAxes((0,), (1, 2))),
            "out/kernel": ((4, 2, 6), MatrixAxes((0, 1), (2,))),
        },
    ),
    "lora": (
        lambda rngs: nnx.LoRA(
            6, 2, 8, base_module=nnx.Linear(6, 8, rngs=rngs), rngs=rngs
        ),
        {
            "lora_a": ((6, 2), DENSE),
            "lora_b": ((2, 8), DENSE),
            "base_module/kernel": ((6, 8), "frozen"),
            "base_module/bias": ((8,), "frozen"),
        },
    ),
    "lora linear": (
        lambda rngs: nnx.LoRALinear(6, 8, lora_rank=2, rngs=rngs),
        {
            "kernel": ((6, 8), "frozen"),
            "bias": ((8,), "frozen"),
            "lora/lora_a": ((6, 2), DENSE),
            "lora/lora_b": ((2, 8), DENSE),
        },
    ),
    "lstm": (
        lambda rngs: nnx.LSTMCell(6, 8, rngs=rngs),
        {
            **{f"h{gate}/kernel": ((8, 8), DENSE) for gate in "figo"},
            **{f"h{gate}/bias": ((8,), "bias") for gate in "figo"},
            **{f"i{gate}/kernel": ((6, 8), DENSE) for gate in ("f_", "i", "g", "o")},
        },
    ),
    "optimized lstm": (
        lambda rngs: nnx.OptimizedLSTMCell(6, 8, rngs=rngs),
        {
            "dense_h/kernel": (
                (8, 32),
                MatrixAxes((0,), (1,), Split(1, (8, 8, 8, 8))),
            ),
            "dense_h/bias": ((32,), "bias"),
            "dense_i/kernel": (
                (6, 32),
                MatrixAxes((0,), (1,), Split(1, (8, 8, 8, 8))),
            ),
        },
    ),
    "gru": (
        lambda rngs: nnx.GRUCell(6, 8, rngs=rngs),
        {
            "dense_h/kernel": ((8, 24), MatrixAxes((0,), (1,), Split(1, (8, 8, 8)))),
            "dense_i/kernel": ((6, 24), MatrixAxes((0,), (1,), Split(1, (8, 8, 8)))),
            "dense_i/bias": ((24,), "bias"),
        },
    ),
    "simple cell": (
        lambda rngs: nnx.RNN(nnx.SimpleCell(6, 8, rngs=rngs)),
        {
            "cell/dense_h/kernel": ((8, 8), DENSE),
            "cell/dense_i/kernel": ((6, 8), DENSE),
            "cell/dense_i/bias": ((8,), "bias"),
        },
    ),
    "prelu": (lambda rngs: nnx.PReLU(), {"negative_slope": ((), "scalar")}),
    "weight norm": (
        lambda rngs: nnx.WeightNorm(nnx.Linear(6, 8, rngs=rngs), rngs=rngs),
        {
            "layer_instance/kernel": ((6, 8), DENSE),
            "layer_instance/bias": ((8,), "bias"),
        },
    ),
    "spectral norm": (
        lambda rngs: nnx.SpectralNorm(nnx.Linear(6, 8, rngs=rngs), rngs=rngs),
        {
            "layer_instance/kernel": ((6, 8), DENSE),
            "layer_instance/bias": ((8,), "bias"),
        },
    ),
    "sequential": (
        lambda rngs: nnx.Sequential(
            nnx.Linear(6, 8, use_bias=False, rngs=rngs), nnx.relu, nnx.PReLU()
        ),
        {
            "layers/0/kernel": ((6, 8), DENSE),
            "layers/2/negative_slope": ((), "scalar"),
        },
    ),
    "list": (
        lambda rngs: nnx.List([nnx.Embed(11, 6, rngs=rngs), nnx.RMSNorm(6, rngs=rngs)]),
        {"0/embedding": ((11, 6), "embedding"), "1/scale": ((6,), "norm")},
    ),
}

if "num_kv_heads" not in inspect.signature(nnx.MultiHeadAttention).parameters:
    del ROWS["grouped-query attention"]  # The oldest Flax has no such layer.


@pytest.mark.parametrize("name", ROWS)
def test_every_leaf_of_every_layer(name):
    make, expected = ROWS[name]
    holder = nnx.eval_shape(lambda: nnx.Dict(layer=make(nnx.Rngs(0))))
    expected = {f"layer/{path}": row for path, row in expected.items()}
    assert table(holder) == expected
    # Those and no others, under the same paths, are what an optimizer is given.
    keyed = jax.tree_util.tree_leaves_with_path(nnx.state(holder, nnx.Param))
    assert [path_of(keys) for keys, _ in keyed] == [row[0] for row in label(holder)]


class Used(nnx.Module):
    """Any layer, used as it is meant to be."""

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, x):
        layer = self.layer
        if isinstance(layer, nnx.RNNCellBase):
            return layer(layer.initialize_carry(x.shape, nnx.Rngs(0)), x)
        if isinstance(layer, nnx.List):
            return layer[1](layer[0](x))
        return layer(x)


TOKENS = jax.ShapeDtypeStruct((2,), jnp.int32)
INPUTS = {
    "linear from one": floats(2, 1),
    "general in": floats(3, 2, 4),
    "general batched": floats(3, 6),
    "einsum over all heads": floats(2, 5, 6),
    "einsum of each head": floats(2, 3, 6),
    "einsum transposed": floats(2, 5, 6),
    "einsum that scales": floats(2, 3, 6),
    "conv": floats(1, 8, 8, 5),
    "conv in one dimension": floats(1, 8, 5),
    "conv in groups": floats(1, 8, 8, 6),
    "conv transpose": floats(1, 8, 8, 5),
    "conv transpose, kernel too": floats(1, 8, 8, 5),
    "embed": TOKENS,
    "instance norm": floats(2, 4, 6),
    "attention": floats(1, 5, 6),
    "grouped-query attention": floats(1, 5, 6),
    "simple cell": floats(1, 5, 6),
    "list": TOKENS,
}
FROM_TYPES = {"lora", "lora linear"}  # Frozen parameters: no program says so.


@pytest.mark.parametrize("abstract", [True, False])
@pytest.mark.parametrize("name", ROWS)
def test_every_layer_and_its_program_agree(name, abstract):
    make, expected = ROWS[name]

    def used():
        return Used(make(nnx.Rngs(0)))

    model = nnx.eval_shape(used) if abstract else used()
    inputs = INPUTS.get(name, floats(2, 6))
    # A layer alone is the head of its function.
    options = {"policy": Policy(heads=True), "strict": True}
    expected = {f"layer/{path}": row for path, row in expected.items()}
    assert table(model, inputs, **options) == expected
    hows = {remark.how for remark in label(model, inputs, **options).remarks}
    assert hows == {"program", *(["module"] if name in FROM_TYPES else [])}


@pytest.mark.parametrize("name", ["lora", "lora linear"])
def test_adapters_and_their_program_agree(name):
    make, expected = ROWS[name]
    model = nnx.eval_shape(lambda: Used(make(nnx.Rngs(0))))
    options = {"policy": Policy(heads=True), "strict": True, "wrt": nnx.LoRAParam}
    adapters = {f"layer/{p}": row for p, row in expected.items() if "lora_" in p}
    assert (
        table(model, floats(2, 6), **options)
        == adapters
        == table(model, wrt=nnx.LoRAParam)
    )


class Layers(nnx.Module):
    """A stack of layers along an axis, one after the other or side by side."""

    def __init__(self, make, axis, rngs, depth=3):
        axes = nnx.StateAxes({nnx.RngState: 0, ...: axis})
        stacked = nnx.vmap(make, in_axes=0, out_axes=axes, axis_size=depth)
        self.layers = nnx.split_rngs(splits=depth)(stacked)(rngs)
        self.axes = axes

    def scanned(self, x):
        def apply(x, layer):
            return layer(x)

        along = {"in_axes": (nnx.Carry, self.axes), "out_axes": nnx.Carry}
        return nnx.scan(apply, **along)(x, self.layers)

    def vmapped(self, x):
        return nnx.vmap(lambda layer, x: layer(x), in_axes=(self.axes, 0))(
            self.layers, x
        )


class Residual(nnx.Module):
    """A layer of every kind whose result is like its input."""

    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.up = nnx.LinearGeneral(8, (2, 6), rngs=rngs)
        self.down = nnx.LinearGeneral((2, 6), 8, axis=(-2, -1), rngs=rngs)
        self.conv = nnx.Conv(8, 8, (3,), rngs=rngs)
        self.back = nnx.ConvTranspose(8, 8, (5,), transpose_kernel=True, rngs=rngs)
        self.depthwise = nnx.Conv(8, 8, (3,), feature_group_count=8, rngs=rngs)
        self.einsum = nnx.Einsum("btd,dnk->btnk", (8, 2, 4), rngs=rngs)
        self.adapted = nnx.LoRALinear(8, 8, lora_rank=2, rngs=rngs)
        self.cell = nnx.GRUCell(8, 8, rngs=rngs)

    def __call__(self, x):
        x += self.attention(self.norm(x))
        x += self.down(jnp.tanh(self.up(x)))
        x += self.back(jnp.tanh(self.conv(x))) + self.depthwise(x)
        x += self.adapted(self.einsum(x).reshape(x.shape))
        return x + self.cell(x, x)[1]


@pytest.mark.parametrize("how", ["scanned", "vmapped"])
@pytest.mark.parametrize("axis", [0, 1])
def test_stacks_and_their_programs_agree(how, axis):
    def make(rngs):
        return Layers(Residual, axis, rngs)

    def apply(model, x):
        return getattr(model, how)(x)

    model = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    inputs = floats(2, 5, 8) if how == "scanned" else floats(3, 2, 5, 8)
    options = {"policy": Policy(heads=True), "strict": True}
    found = table(apply, model, inputs, **options)
    expected = table(model, scan_axis=axis)
    assert found == expected
    axes = [row for _, row in found.values() if isinstance(row, MatrixAxes)]
    assert all(axis not in (*row.fan_in, *row.fan_out) for row in axes)
    assert len(axes) == 13


def test_arrays_have_the_labels_of_their_shapes():
    def make():
        return attention(nnx.Rngs(0))

    assert table(make()) == table(nnx.eval_shape(make))


class Pair(nnx.Module):
    def __init__(self, first, second):
        self.a = first
        self.b = second


def test_a_shared_layer_appears_once():
    linear = nnx.Linear(6, 8, use_bias=False, rngs=RNGS)
    assert table(Pair(linear, linear)) == {"a/kernel": ((6, 8), DENSE)}


@pytest.mark.parametrize("turned", [False, True])
def test_a_tied_table_is_a_table_whatever_comes_first(turned):
    embed = nnx.Embed(11, 6, rngs=RNGS)
    project = nnx.Einsum("nd,vd->nv", (11, 6), rngs=RNGS)
    project.kernel = embed.embedding
    model = Pair(project, embed) if turned else Pair(embed, project)
    assert list(table(model).values()) == [((11, 6), "embedding")]


@pytest.mark.parametrize("name", ["head", "lm_head", "classifier", "unembed"])
def test_a_kernel_under_a_name_of_a_head(name):
    model = nnx.Dict({name: nnx.Linear(6, 11, rngs=RNGS)})
    assert table(model) == {
        f"{name}/bias": ((11,), "bias"),
        f"{name}/kernel": ((6, 11), "head"),
    }


def test_attention_is_no_head_even_inside_one():
    model = nnx.Dict(map_head=attention(RNGS, use_bias=False))
    assert {row[2].role for row in label(model)} == {"matrix"}


def test_metadata_outranks_the_layer_and_an_override_outranks_both():
    stated = nnx.Linear(6, 8, kernel_metadata={"role": "embedding"}, rngs=RNGS)
    model = nnx.Dict(up=stated)
    assert table(model)["up/kernel"] == ((6, 8), "embedding")
    found = table(model, overrides={"up/kernel": "matrix"})
    assert found["up/kernel"] == ((6, 8), DENSE)


def test_partitioned_parameters_keep_their_paths():
    init = nnx.with_partitioning(nnx.initializers.lecun_normal(), (None, "model"))
    with jax.set_mesh(jax.make_mesh((1,), ("model",))):
        linear = nnx.Linear(6, 8, kernel_init=init, use_bias=False, rngs=RNGS)
    assert table(nnx.Dict(up=linear)) == {"up/kernel": ((6, 8), DENSE)}


class Raw(nnx.Module):
    def __init__(self, **shapes):
        for name, shape in shapes.items():
            setattr(self, name, nnx.Param(jnp.zeros(shape)))


def test_small_raw_parameters_are_vectors_and_scalars():
    assert table(Raw(gate=(6,), token=(1, 1, 6), temperature=())) == {
        "gate": ((6,), "vector"),
        "temperature": ((), "scalar"),
        "token": ((1, 1, 6), "vector"),
    }


def test_a_raw_table_is_asked_about():
    with pytest.raises(ValueError) as error:
        label(Raw(pos=(16, 6)))
    message = str(error.value)
    assert len(message) < 500
    assert "'pos' (16, 6)" in message
    assert "label(model, overrides={'pos': 'embedding'})" in message
    found = label(Raw(pos=(16, 6)), overrides={"pos": "embedding"})
    assert [row[2].role for row in found] == ["embedding"]


def test_many_raw_parameters_make_a_short_question():
    shapes = {f"{'long_name_' * 8}{i}": (4, 5, 6) for i in range(9)}
    with pytest.raises(ValueError) as error:
        label(Raw(**shapes))
    assert len(str(error.value)) < 500
    assert "and 8 like it" in str(error.value)


def test_an_einsum_that_sums_its_kernel_alone_is_asked_about():
    odd = nnx.Einsum("nd,dvx->nv", (6, 8, 2), rngs=RNGS)
    with pytest.raises(ValueError, match="odd/kernel"):
        label(nnx.Dict(odd=odd))


def test_a_layer_whose_kernel_was_replaced_is_refused():
    linear = nnx.Linear(6, 8, rngs=RNGS)
    linear.kernel = nnx.Param(jnp.zeros((6, 9)))
    with pytest.raises(ValueError, match=r"'up/kernel' has shape \(6, 9\)"):
        label(nnx.Dict(up=linear))


def test_attention_of_one_module_a_head():
    class Head(nnx.Module):
        def __init__(self, rngs):
            self.key = nnx.Linear(16, 4, rngs=rngs)
            self.query = nnx.Linear(16, 4, rngs=rngs)

    class Attention(nnx.Module):
        def __init__(self, rngs):
            self.heads = nnx.List([Head(rngs), Head(rngs)])
            self.proj = nnx.Linear(8, 16, rngs=rngs)

    found = label(Attention(nnx.Rngs(0)))
    roles = {x.role for path, _, x in found if path.endswith("kernel")}
    assert roles == {"matrix"}

"""The options of `label` on programs: policies, splits, strictness, precedence."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax

from optax_ortho.labels import Policy, label
from optax_ortho.matrices import MatrixAxes, Split
from tests.labels.program.case import floats, integers

IN_OUT = MatrixAxes(0, 1)


def model(p, x):
    """An input layer, a router of experts, attention of two heads, and a head."""
    x = jnp.tanh(x @ p["stem"])
    shares, experts = lax.top_k(jax.nn.softmax(x @ p["router"]), 1)
    x += jnp.einsum(
        "tk,tkd->td", shares, jnp.einsum("td,tkdf->tkf", x, p["up"][experts])
    )
    q, k = (jnp.einsum("td,dnh->tnh", x, p[name]) for name in ("q", "k"))
    v = (x @ p["v"]).reshape(5, 2, 4)
    scores = jax.nn.softmax(jnp.einsum("tnh,snh->nts", q, k))
    x += jnp.einsum("nts,snh->tnh", scores, v).reshape(5, 8) @ p["o"]
    a, b = jnp.split(x @ p["gates"], 2, -1)
    return (a * jax.nn.sigmoid(b)) @ p["out"]


PARAMS = {
    "stem": floats(6, 8),
    "router": floats(8, 4),
    "up": floats(4, 8, 8),
    "q": floats(8, 2, 4),
    "k": floats(8, 2, 4),
    "v": floats(8, 8),
    "o": floats(8, 8),
    "gates": floats(8, 16),
    "out": floats(8, 3),
}
X = floats(5, 6)


def found(**options):
    """The role of every leaf, or the axes of a matrix."""
    labels = label(model, PARAMS, X, **options)
    return {path: row.role if row.axes is None else row.axes for path, _, row in labels}


DEFAULT = {
    "stem": IN_OUT,
    "router": "vector",
    "up": MatrixAxes(1, 2),
    "q": MatrixAxes(0, (1, 2)),
    "k": MatrixAxes(0, (1, 2)),
    "v": IN_OUT,
    "o": IN_OUT,
    "gates": IN_OUT,
    "out": "head",
}


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({}, {}),
        ({"policy": Policy()}, {}),
        ({"policy": Policy(heads=True)}, {"out": IN_OUT}),
        ({"policy": Policy(heads=False)}, {}),
        ({"policy": Policy(input_layers=False)}, {"stem": "input"}),
        ({"policy": Policy(input_layers=True)}, {}),
        ({"policy": Policy(routers=True)}, {"router": IN_OUT}),
        ({"policy": Policy(routers=False)}, {}),
        (
            {"policy": Policy(separate_heads=True)},
            {
                "q": MatrixAxes(0, 2),
                "k": MatrixAxes(0, 2),
                "v": MatrixAxes(0, 1, Split(1, (4, 4))),
            },
        ),
        ({"policy": Policy(separate_heads=False)}, {}),
        ({"split": True}, {"gates": MatrixAxes(0, 1, Split(1, (8, 8)))}),
        ({"split": False}, {}),
        ({"split": "gate*"}, {"gates": MatrixAxes(0, 1, Split(1, (8, 8)))}),
        ({"split": ("q", "*s")}, {"gates": MatrixAxes(0, 1, Split(1, (8, 8)))}),
        ({"split": ("q", "k")}, {}),
        ({"overrides": {"gates": "vector"}}, {"gates": "vector"}),
        ({"overrides": {"out": "matrix"}}, {"out": IN_OUT}),
        ({"overrides": {"up": MatrixAxes((0, 1), 2)}}, {"up": MatrixAxes((0, 1), 2)}),
        ({"overrides": {"none": "head"}, "optional": True}, {}),
    ],
)
def test_options(options, changed):
    assert found(**options) == DEFAULT | changed


def test_several_policies_at_once():
    policy = Policy(True, False, True, True)
    assert dataclasses.astuple(policy) == (True, False, True, True)
    assert found(policy=policy) == DEFAULT | {
        "out": IN_OUT,
        "stem": "input",
        "router": IN_OUT,
        "q": MatrixAxes(0, 2),
        "k": MatrixAxes(0, 2),
        "v": MatrixAxes(0, 1, Split(1, (4, 4))),
    }


def test_an_override_of_a_fused_matrix_has_its_split():
    options = {"overrides": {"gates": "matrix"}, "split": True}
    assert found(**options)["gates"] == MatrixAxes(0, 1, Split(1, (8, 8)))


def test_an_override_that_covers_nothing_is_an_error():
    with pytest.raises(ValueError, match="none"):
        found(overrides={"none": "head"})


@pytest.mark.parametrize(
    "policy", [Policy(input_layers=False), Policy(separate_heads=True)]
)
def test_a_policy_that_needs_the_program(policy):
    with pytest.raises(ValueError, match=r"label\(params, \*inputs\)"):
        label(PARAMS, policy=policy)


def test_the_table_says_how_and_what_was_found():
    text = str(label(model, PARAMS, X))
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert all("program" in rows[path] for path in PARAMS)
    assert "2 blocks" in rows["gates"]
    assert "input layer" in rows["stem"]
    assert "chooses" in rows["router"]


class Net(nnx.Module):
    """Layers whose types say enough, but for what is done with them."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(11, 8, rngs=rngs)
        self.up = nnx.Linear(8, 8, rngs=rngs)
        self.last = nnx.Linear(8, 3, use_bias=False, rngs=rngs)
        self.spare = nnx.Linear(8, 8, use_bias=False, rngs=rngs)
        self.mask = nnx.Param(jnp.zeros((8, 8)))

    def __call__(self, tokens, turned=False):
        x = self.embed(tokens)
        kernel = self.up.kernel[...]
        x = jnp.tanh(x @ (kernel.T if turned else kernel) + self.up.bias[...][None])
        return self.last(x)


TOKENS = integers(2)
OVERRIDES = {"mask": "vector"}


def net(**options):
    labels = label(
        nnx.eval_shape(lambda: Net(nnx.Rngs(0))),
        TOKENS,
        **{"overrides": OVERRIDES, **options},
    )
    return labels


def test_layers_answer_for_what_a_call_does_not_use():
    labels = net()
    roles = {path: row.role for path, _, row in labels}
    assert roles == {
        "embed/embedding": "embedding",
        "up/kernel": "matrix",
        "up/bias": "bias",
        "last/kernel": "head",
        "spare/kernel": "matrix",
        "mask": "vector",
    }
    how = {row[0]: each.how for row, each in zip(labels, labels.remarks, strict=True)}
    assert how["spare/kernel"] == "module" and how["mask"] == "override"
    assert {how[path] for path in roles} == {"module", "override", "program"}


def test_what_nothing_decides_is_asked():
    with pytest.raises(ValueError, match=r"'mask' \(8, 8\): unused by this call"):
        net(overrides={})


def test_keyword_arguments_of_the_call_go_through():
    axes = {path: row.axes for path, _, row in net(turned=True)}
    assert axes["up/kernel"] == MatrixAxes(1, 0)
    with pytest.raises(ValueError, match="could not trace the call"):
        net(twisted=True)


def test_strict_makes_a_contradiction_an_error():
    labels = net(turned=True)  # The model uses the transpose of its layer's kernel.
    notes = dict(zip((row[0] for row in labels), labels.remarks, strict=True))
    assert "its layer says matrix (0,) -> (1,)" in " ".join(notes["up/kernel"].notes)
    with pytest.raises(ValueError, match="'up/kernel'.*the program says matrix"):
        net(turned=True, strict=True)


def test_a_layer_need_not_know_that_it_is_the_head():
    labels = net(strict=True)
    notes = dict(zip((row[0] for row in labels), labels.remarks, strict=True))
    assert not notes["last/kernel"].notes


def test_metadata_outranks_the_program():
    def make():
        module = Net(nnx.Rngs(0))
        module.up.kernel.set_metadata(role="embedding")
        return module

    labels = label(nnx.eval_shape(make), TOKENS, overrides=OVERRIDES)
    assert {path: row.role for path, _, row in labels}["up/kernel"] == "embedding"


class Adapted(nnx.Module):
    def __init__(self, rngs):
        self.base = nnx.Linear(8, 8, rngs=rngs)
        self.a = nnx.LoRAParam(jnp.zeros((8, 2)))
        self.b = nnx.LoRAParam(jnp.zeros((2, 8)))
        self.out = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.base(x) + x @ self.a[...] @ self.b[...]))


@pytest.mark.parametrize("abstract", [False, True])
def test_adapters_alone(abstract):
    def make():
        return Adapted(nnx.Rngs(0))

    module = nnx.eval_shape(make) if abstract else make()
    labels = label(module, floats(4, 8), wrt=nnx.LoRAParam)
    assert [(path, row.axes) for path, _, row in labels] == [
        ("a", IN_OUT),
        ("b", IN_OUT),
    ]
    everything = label(module, floats(4, 8), wrt=(nnx.Param, nnx.LoRAParam))
    assert len(everything) == 6


def test_only_an_nnx_model_has_variables_to_choose():
    with pytest.raises(TypeError, match="wrt"):
        label(model, PARAMS, X, wrt=nnx.LoRAParam)


def test_arrays_and_shapes_have_the_same_labels():
    arrays = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), PARAMS)
    assert list(label(model, arrays, jnp.ones((5, 6)))) == list(label(model, PARAMS, X))

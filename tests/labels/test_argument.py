"""Values of ``labels=`` that a recipe accepts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from optax_ortho.labels import Label, Labeller, label, resolve
from optax_ortho.matrices import MatrixAxes
from tests import models

W, WIDE = jnp.ones((6, 8)), jnp.ones((2, 6, 8))
DENSE = Label("matrix", MatrixAxes((0,), (1,)))


def test_none_decides_by_name():
    labels = resolve(None)
    assert labels.label("up/kernel", W) == DENSE
    assert labels.axes("up/kernel", W) == DENSE.axes
    assert labels.label("conv/kernel", WIDE) == Label("undecided")


def test_labels_and_what_is_resolved_stay_what_they_are():
    labels = label({"up": W})
    assert resolve(labels) is labels
    rules = resolve({"**": "vector"})
    assert resolve(rules) is rules


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("matrix", DENSE),
        ("head", Label("head")),
        (
            MatrixAxes(fan_in=(1,), fan_out=(0,)),
            Label("matrix", MatrixAxes((1,), (0,))),
        ),
        (Label("norm"), Label("norm")),
    ],
)
def test_a_function_gives_any_kind_of_label(given, expected):
    labels = resolve(lambda path, leaf: given)
    assert labels.label("up", W) == expected


@pytest.mark.parametrize(
    "tree",
    [
        {"up": {"kernel": MatrixAxes(), "bias": "bias"}, "wte": "embedding"},
        nnx.State(
            {"up": {"kernel": MatrixAxes(), "bias": "bias"}, "wte": Label("embedding")}
        ),
        {"up/kernel": "matrix", "*/bias": "bias", "**": "embedding"},
    ],
    ids=["tree", "state", "rules"],
)
def test_trees_and_rules(tree):
    labels = resolve(tree)
    assert labels.label("up/kernel", W) == DENSE
    assert labels.label("up/bias", W) == Label("bias")
    assert labels.label("wte", W) == Label("embedding")


@jax.tree_util.register_pytree_with_keys_class
class Net:
    """A callable container of parameters, as the modules of Equinox are."""

    def __init__(self, kernel, bias):
        self.kernel, self.bias = kernel, bias

    def __call__(self, x):
        return x @ self.kernel + self.bias

    def tree_flatten_with_keys(self):
        key = jax.tree_util.GetAttrKey
        return ((key("kernel"), self.kernel), (key("bias"), self.bias)), None

    def tree_flatten(self):
        return (self.kernel, self.bias), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def test_a_tree_that_is_callable_is_a_tree():
    labels = resolve({"net": Net(MatrixAxes(), "bias")}["net"])
    assert labels.label("kernel", W) == DENSE
    assert labels.label("bias", W) == Label("bias")
    rule = jax.tree_util.Partial(lambda role, path, leaf: role, "head")
    assert resolve(rule).label("kernel", W) == Label("head")


def test_rules_keep_their_order():
    labels = resolve({"z/*": "bias", "**": "vector", "a": "head"})
    assert labels.label("z/0", W).role == "bias"
    assert labels.label("a", W).role == "vector"


def test_sequences_in_a_tree():
    labels = resolve([{"w": "matrix"}, {"w": "head"}])
    assert labels.label("1/w", W).role == "head"


def test_a_leaf_without_a_rule():
    labels = resolve({"up": "matrix"})
    with pytest.raises(ValueError) as error:
        labels.label("down", W)
    message = str(error.value)
    assert len(message) < 500
    assert "'down'" in message and "{'**': role}" in message


def test_axes_of_a_leaf_that_has_none():
    for labels in (resolve(None), resolve({"**": "head"}), label({"head": W})):
        with pytest.raises(ValueError, match="'head'.*no matrix axes") as error:
            labels.axes("head", W)
        assert len(str(error.value)) < 500


@pytest.mark.parametrize("value", [jnp.zeros(()), np.zeros(())])
def test_an_array_is_refused(value):
    with pytest.raises(TypeError, match=r"static_args=\('labels',\)"):
        resolve(value)


def test_inject_hyperparams():
    def recipe(learning_rate, labels=None):
        resolve(labels)
        return optax.sgd(learning_rate)

    def rule(path, leaf=None):
        return jnp.ones(())

    params = {"up": W}
    with pytest.raises(TypeError, match="static_args"):
        optax.inject_hyperparams(recipe)(0.1, labels=rule).init(params)
    injected = optax.inject_hyperparams(recipe, static_args=("labels",))
    injected(0.1, labels=rule).init(params)
    # These are no callables, so they pass as they are.
    for labels in (label(params), {"**": "vector"}, resolve(rule)):
        assert not callable(labels)
        optax.inject_hyperparams(recipe)(0.1, labels=labels).init(params)


def test_a_model_is_refused():
    with pytest.raises(TypeError, match="label\\(model\\)"):
        resolve(nnx.eval_shape(models.gpt))
    with pytest.raises(TypeError, match="example_inputs"):
        resolve(models.LinenTransformer())


@pytest.mark.parametrize("value", ["matrix", 3, {"up": W}, {"up": None, "down": 3}])
def test_other_values_are_refused(value):
    with pytest.raises(TypeError, match="labels"):
        resolve(value)


def test_every_kind_is_a_labeller():
    for labels in (None, {"**": "vector"}, label({"up": W}), lambda path, leaf: "head"):
        assert isinstance(resolve(labels), Labeller)


def test_shapes_do_for_leaves():
    leaf = jax.ShapeDtypeStruct((6, 8), jnp.float32)
    assert resolve(None).label("up", leaf) == DENSE

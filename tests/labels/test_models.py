"""Whole models: every leaf in the right group, none left over."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn
from flax import nnx
from flax.training.train_state import TrainState

from optax_ortho.labels import label
from optax_ortho.matrices import MatrixAxes, path_of
from tests import models


def roles(labels):
    return {path: found.role for path, _, found in labels}


def expect(matrices, others):
    return {**dict.fromkeys(matrices, "matrix"), **others}


ATTENTION = [f"attention/{name}/kernel" for name in ("query", "key", "value", "out")]


def test_gpt():
    labels = label(nnx.eval_shape(models.gpt))
    assert roles(labels) == expect(
        [f"blocks/{name}" for name in (*ATTENTION, "up/kernel", "down/kernel")],
        {
            "blocks/attention_norm/scale": "norm",
            "blocks/mlp_norm/scale": "norm",
            "norm/scale": "norm",
            "token/embedding": "embedding",
            "position/embedding": "embedding",
            "head/kernel": "head",
        },
    )
    assert {
        found.axes.batch(len(shape)) for _, shape, found in labels if found.axes
    } == {(0,)}


def linen_block(prefix):
    attention = f"{prefix}/MultiHeadDotProductAttention_0"
    names = ("query", "key", "value", "out")
    matrices = [f"{attention}/{name}/kernel" for name in names]
    matrices += [f"{prefix}/{name}/kernel" for name in ("up", "down")]
    others = {f"{attention}/{name}/bias": "bias" for name in names}
    others |= {f"{prefix}/{name}/bias": "bias" for name in ("up", "down")}
    for i in (0, 1):
        for leaf in ("scale", "bias"):
            others[f"{prefix}/LayerNorm_{i}/{leaf}"] = "norm"
    return expect(matrices, others)


LINEN_ENDS = {
    "token/embedding": "embedding",
    "lm_head/kernel": "head",
    "lm_head/bias": "bias",
    "LayerNorm_0/scale": "norm",
    "LayerNorm_0/bias": "norm",
}


def test_linen_transformer():
    labels = label(models.LinenTransformer(), models.TOKENS)
    expected = dict(LINEN_ENDS)
    for i in range(models.LAYERS):
        expected |= linen_block(f"block_{i}")
    assert roles(labels) == expected
    assert all(not found.axes.batch(len(s)) for _, s, found in labels if found.axes)


@pytest.mark.parametrize("scan_axis", [0, 1])
def test_scanned_linen_transformer(scan_axis):
    labels = label(models.LinenTransformer(scan_axis), models.TOKENS)
    assert roles(labels) == LINEN_ENDS | linen_block("blocks")
    batches = {found.axes.batch(len(s)) for _, s, found in labels if found.axes}
    assert batches == {(scan_axis,)}


def test_train_state():
    model = models.LinenTransformer(scan_axis=0)
    labels = label(model, models.TOKENS)
    tokens = jnp.zeros(models.TOKENS.shape, jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), tokens)
    state = TrainState.create(
        apply_fn=model.apply, params=variables["params"], tx=optax.identity()
    )
    keyed = jax.tree_util.tree_leaves_with_path(state.params)
    found = {
        path_of(keys): labels.label(path_of(keys), leaf).role for keys, leaf in keyed
    }
    assert found == roles(labels)


def test_cnn():
    labels = label(nnx.eval_shape(lambda: models.CNN(nnx.Rngs(0))))
    assert roles(labels) == expect(
        ["stem/kernel", "pointwise/kernel", "up/kernel"],
        {
            "stem/bias": "bias",
            "norm/scale": "norm",
            "norm/bias": "norm",
            "depthwise/kernel": "grouped_conv",
            "depthwise/bias": "bias",
            "up/bias": "bias",
            "classifier/kernel": "head",
            "classifier/bias": "bias",
        },
    )


class Mixture(nnx.Module):
    """Experts stacked in front, behind a router."""

    def __init__(self, rngs):
        self.gate = nnx.Linear(6, 4, rngs=rngs)
        expert = nnx.vmap(lambda rngs: nnx.Linear(6, 8, rngs=rngs))
        self.experts = nnx.split_rngs(splits=4)(expert)(rngs)


class LinenMixture(nn.Module):
    @nn.compact
    def __call__(self, x):
        shares = nn.softmax(nn.Dense(4, name="router")(x))
        return nn.Dense(4, name="down")(shares * nn.Dense(4, name="up")(x))


def test_routers_of_experts():
    labels = label(nnx.eval_shape(lambda: Mixture(nnx.Rngs(0))))
    assert roles(labels) == {
        "gate/kernel": "vector",
        "gate/bias": "bias",
        "experts/kernel": "matrix",
        "experts/bias": "bias",
    }
    labels = label(LinenMixture(), jnp.ones((2, 6)))
    found = roles(labels)
    assert found["router/kernel"] == "vector" and found["up/kernel"] == "matrix"


def test_an_override_makes_a_router_a_matrix():
    model = nnx.eval_shape(lambda: Mixture(nnx.Rngs(0)))
    labels = label(model, overrides={"gate/kernel": "matrix"})
    assert roles(labels)["gate/kernel"] == "matrix"


def test_lora():
    model = nnx.eval_shape(lambda: models.Adapted(nnx.Rngs(0)))
    labels = label(model)
    assert roles(labels) == expect(
        [
            "first/lora/lora_a",
            "first/lora/lora_b",
            "second/lora_a",
            "second/lora_b",
            "head/lora/lora_a",
            "head/lora/lora_b",
        ],
        {
            "embed/embedding": "embedding",
            "first/kernel": "frozen",
            "first/bias": "frozen",
            "second/base_module/kernel": "frozen",
            "second/base_module/bias": "frozen",
            "head/kernel": "frozen",
            "head/bias": "frozen",
        },
    )
    # A tree of the adapters alone is a tree of the model.
    for keys, leaf in jax.tree_util.tree_leaves_with_path(
        nnx.state(model, nnx.LoRAParam)
    ):
        assert labels.axes(path_of(keys), leaf) == MatrixAxes((0,), (1,))


def test_the_same_labels_at_init_and_at_update():
    model = models.gpt()
    labels = label(model)
    seen = []

    def look(tree):
        seen.append(
            {
                path_of(keys): labels.label(path_of(keys), leaf)
                for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)
            }
        )

    def init(params):
        look(params)
        return optax.EmptyState()

    def update(updates, state, params=None):
        look(updates)
        look(params)
        return updates, state

    optimizer = nnx.Optimizer(
        model, optax.GradientTransformation(init, update), wrt=nnx.Param
    )
    gradients = jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param))
    optimizer.update(model, gradients)
    expected = {path: found for path, _, found in labels}
    assert seen == [expected, expected, expected]

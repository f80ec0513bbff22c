"""Choices about heads, input layers, routers and attention heads."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from optax_ortho import MatrixAxes, Policy, label


class Model(nnx.Module):
    def __init__(self, rngs):
        self.patches = nnx.Conv(3, 8, (2, 2), strides=2, use_bias=False, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            2, 8, use_bias=False, decode=False, rngs=rngs
        )
        self.router = nnx.Linear(8, 4, use_bias=False, rngs=rngs)
        self.experts = nnx.Param(jnp.ones((4, 8, 8)))
        self.logits = nnx.Linear(8, 5, use_bias=False, rngs=rngs)

    def __call__(self, images):
        x = self.patches(images).reshape(len(images), -1, 8)
        x += self.attention(x)
        weights, chosen = jax.lax.top_k(nnx.softmax(self.router(x)), 2)
        mix = (nnx.one_hot(chosen, 4) * weights[..., None]).sum(-2)
        each = jnp.einsum("btd,edf->btef", x, self.experts[...])
        return self.logits((x + jnp.einsum("btef,bte->btf", each, mix)).mean(1))


IMAGES = jax.ShapeDtypeStruct((2, 4, 4, 3), jnp.float32)
HEADS = {f"attention/{name}/kernel" for name in ("query", "key", "value")}


def rows(policy, **options):
    model = nnx.eval_shape(lambda: Model(nnx.Rngs(0)))
    labels = label(model, IMAGES, policy=policy, **options)
    return {path: (answer.role, answer.axes) for path, _, answer in labels}


@pytest.mark.parametrize(
    "policy, changed",
    [
        (Policy(heads=True), {"logits/kernel": ("matrix", MatrixAxes((0,), (1,)))}),
        (Policy(input_layers=False), {"patches/kernel": ("input", None)}),
        (Policy(routers=True), {"router/kernel": ("matrix", MatrixAxes((0,), (1,)))}),
        (
            Policy(separate_heads=True),
            dict.fromkeys(HEADS, ("matrix", MatrixAxes((0,), (2,)))),
        ),
    ],
)
def test_each_choice_changes_its_leaves_alone(policy, changed):
    default = rows(Policy())
    assert all(default[path] != value for path, value in changed.items())
    assert rows(policy) == default | changed


def test_a_choice_is_no_contradiction():
    policy = Policy(heads=True, input_layers=False, routers=True, separate_heads=True)
    assert rows(policy, strict=True) == rows(policy)
    labels = label(Model(nnx.Rngs(0)), IMAGES, policy=policy)
    assert "its layer says" not in str(labels)


def test_overrides_outrank_a_choice():
    found = rows(Policy(heads=True), overrides={"logits/kernel": "head"})
    assert found["logits/kernel"] == ("head", None)


@pytest.mark.parametrize(
    "policy", [Policy(input_layers=False), Policy(separate_heads=True)]
)
def test_choices_that_need_the_forward_pass(policy):
    overrides = {"experts": "vector"}
    with pytest.raises(ValueError, match="only the forward pass can tell"):
        label(Model(nnx.Rngs(0)), policy=policy, overrides=overrides)


def test_choices_by_name():
    overrides = {"experts": "vector"}
    policies = Policy(), Policy(heads=True, routers=True)
    found = [
        {path: answer.role for path, _, answer in labels}
        for labels in (
            label(Model(nnx.Rngs(0)), policy=policy, overrides=overrides)
            for policy in policies
        )
    ]
    changed = {path for path in found[0] if found[0][path] != found[1][path]}
    assert changed == {"logits/kernel", "router/kernel"}

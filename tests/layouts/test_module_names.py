"""Modules named like shapes, as the branches of Inception are, are no stacks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_ortho
from optax_ortho.checkpoints import move_state
from optax_ortho.layouts import sharded
from optax_ortho.testing import random_like
from tests.layouts.test_sharded import RECIPES, ROUNDING

# The names of stacks of matrices that are there, of some that are not, and of none.
SHAPES = {
    "16x30": {"kernel": (16, 30)},
    "1x1": {"kernel": (16, 32)},
    "3x3": {"kernel": (16, 30), "bias": (30,)},
    "3x3_reduce": {"kernel": (32, 16)},
}
STATISTICS = {
    name: {"a": np.ones(shapes["kernel"][0]), "g": np.ones(shapes["kernel"][1])}
    for name, shapes in SHAPES.items()
}
EVERY = pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(name, marks=() if name == "normuon" else pytest.mark.slow)
        for name in (*RECIPES, "mkor")
    ],
)


def on_mesh():
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    rng = np.random.default_rng(0)
    host = jax.tree.map(
        lambda shape: rng.normal(size=shape).astype(np.float32),
        SHAPES,
        is_leaf=lambda node: isinstance(node, tuple),
    )

    def put(x):
        spec = P("fsdp") if x.ndim == 2 else P()
        return jax.device_put(x, NamedSharding(mesh, spec))

    return jax.tree.map(put, host), host


@EVERY
def test_a_step_and_a_state_are_those_of_one_device(recipe):
    there, host = on_mesh()
    extra = {"statistics": STATISTICS} if recipe == "mkor" else {}
    labels = {
        f"{name}/{leaf}": "matrix" if leaf == "kernel" else "bias"
        for name, leaves in SHAPES.items()
        for leaf in leaves
    }
    make = functools.partial(getattr(optax_ortho, recipe), 0.1, labels=labels)
    layout = sharded(there, jnp.float32)
    alone, many = make(), make(layout=layout)
    gradients = [random_like(host, seed) for seed in range(3)]

    def step(tx, params, state, gradient):
        return jax.jit(tx.update)(gradient, state, params, **extra)

    def like(tree):
        return jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), tree, there)

    expected, state = [], alone.init(host)
    for gradient in gradients:
        updates, state = step(alone, host, state, gradient)
        expected.append(updates)

    first, state = step(many, there, many.init(there), like(gradients[0]))
    state = move_state(many, alone, there, jax.device_get(state))
    second, state = step(alone, host, state, gradients[1])
    state = layout.place(move_state(alone, many, there, jax.device_get(state)))
    third, _ = step(many, there, state, like(gradients[2]))
    for new, want in zip((first, second, third), expected, strict=True):
        for found, x in zip(jax.tree.leaves(new), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(found, x, rtol=0, atol=ROUNDING)


def test_a_state_named_like_a_shape_is_replicated_unless_its_parameter_is_sharded():
    there, _ = on_mesh()
    labels = {"**/kernel": "matrix", "**": "bias"}
    layout = sharded(there)
    tx = optax_ortho.namo_d(0.1, labels=labels, layout=layout)
    specs = layout.specs(jax.eval_shape(tx.init, there))
    (moment,) = (
        spec
        for keys, spec in jax.tree_util.tree_leaves_with_path(specs)
        if "moment_rms" in jax.tree_util.keystr(keys) and "'3x3'" in str(keys)
    )
    assert "fsdp" not in jax.tree.leaves(tuple(moment))

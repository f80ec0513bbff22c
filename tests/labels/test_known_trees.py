"""Parameter trees of other libraries, labelled by their names and a few rules."""

import jax
import jax.numpy as jnp
import pytest

import optax_ortho
from optax_ortho.matrices import path_of
from tests.labels.job_trees import JOBS
from tests.labels.library_trees import LIBRARIES
from tests.labels.transformers_trees import TRANSFORMERS


def shapes(tree):
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        tree,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def labelled(tree, rules):
    """Role, fan-in and fan-out of every leaf."""
    labels = optax_ortho.label(shapes(tree), overrides=rules)
    found = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(shapes(tree)):
        path = path_of(keys)
        label = labels.label(path, leaf)
        axes = label.axes
        found[path] = (
            label.role if axes is None else (axes.fan_in, axes.fan_out, axes.split)
        )
    return found


TREES = TRANSFORMERS | JOBS | LIBRARIES


@pytest.mark.parametrize("name", TREES)
def test_every_leaf(name):
    tree, rules, rows, _ = TREES[name]
    assert labelled(tree, rules) == rows


@pytest.mark.parametrize("name", TREES)
def test_an_optimizer_of_it(name):
    tree, rules, _, matrices = TREES[name]
    labels = optax_ortho.label(shapes(tree), overrides=rules)
    tx = optax_ortho.muon(0.01, labels=labels, adamw_learning_rate=0.001)
    told = optax_ortho.summary(tx, shapes(tree))
    assert told.orthogonalized == matrices
    assert not told.warnings


def test_without_rules_stacks_are_left_to_the_fallback_and_said_so():
    told = optax_ortho.summary(
        optax_ortho.muon(0.01, adamw_learning_rate=0.001),
        shapes(JOBS["MaxText, scanned"].tree),
    )
    assert any("nothing says which axes make a matrix" in w for w in told.warnings)


def test_holes_of_filtered_trees_stay_holes():
    """Equinox puts None where a leaf is not trained."""
    params = {"weight": jnp.ones((4, 6)), "activation": None, "bias": jnp.ones(6)}
    tx = optax_ortho.muon(0.1)
    updates, state = tx.update(params, tx.init(params), params)
    assert updates["activation"] is None and updates["weight"].shape == (4, 6)
    _, state = tx.update(params, state, params)
    assert int(optax_ortho.diagnostics(state)["steps"]) == 2


def test_without_labels_a_router_beside_experts_is_orthogonalized_and_said_so():
    told = optax_ortho.summary(
        optax_ortho.muon(0.01, adamw_learning_rate=0.001),
        shapes(LIBRARIES["PyTorch Qwen3-MoE"].tree),
    )
    (warning,) = told.warnings
    assert "mlp/gate/weight (128, 2048) looks like a router of experts" in warning

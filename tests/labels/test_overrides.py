"""Patterns of paths, and what they override."""

import jax.numpy as jnp
import pytest
from flax import nnx

from optax_ortho.labels import Label, label
from optax_ortho.labels.patterns import matches
from optax_ortho.matrices import MatrixAxes, Split
from tests import models


@pytest.mark.parametrize(
    ("pattern", "path", "covered"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("b", "a/b", False),
        ("a/*", "a/b", True),
        ("a/*", "a/b/c", False),
        ("a/*_1/c", "a/b_1/c", True),
        ("a/*_1/c", "a/b_2/c", False),
        ("*", "a", True),
        ("*", "a/b", False),
        ("**", "a/b/c", True),
        ("**/c", "c", True),
        ("**/c", "a/b/c", True),
        ("**/c", "a/b/dc", False),
        ("a/**", "a/b/c", True),
        ("a/**", "ab/c", False),
        ("a/**/d", "a/d", True),
        ("a/**/d", "a/b/c/d", True),
        ("a.b", "axb", False),  # No regular expression.
        ("a[b]", "ab", False),
    ],
)
def test_matches(pattern, path, covered):
    assert matches(pattern, path) == covered


PARAMS = {
    "qkv": {"kernel": jnp.ones((8, 24))},
    "up": {"kernel": jnp.ones((8, 4))},
    "pos": jnp.ones((8, 8)),
}


def test_each_kind_of_answer():
    split = Split(axis=-1, sizes=(8, 8, 8))
    labels = label(
        PARAMS,
        overrides={
            "**/qkv/kernel": MatrixAxes(split=split),
            "up/*": Label("frozen"),
            "pos": "matrix",
        },
    )
    found = {path: what for path, _, what in labels}
    assert found["qkv/kernel"].axes == MatrixAxes((0,), (1,), Split(1, (8, 8, 8)))
    assert found["up/kernel"] == Label("frozen")
    assert found["pos"] == Label("matrix", MatrixAxes((0,), (1,)))


def test_the_first_pattern_wins():
    overrides = {"up/kernel": "frozen", "**/kernel": "vector"}
    found = {path: what.role for path, _, what in label(PARAMS, overrides=overrides)}
    assert found["up/kernel"] == "frozen" and found["qkv/kernel"] == "vector"
    turned = dict(reversed(overrides.items()))
    found = {path: what.role for path, _, what in label(PARAMS, overrides=turned)}
    assert found["up/kernel"] == "vector"


def test_a_matrix_for_each_head():
    axes = MatrixAxes(fan_in=(1,), fan_out=(3,))
    path = "blocks/attention/query/kernel"
    labels = label(nnx.eval_shape(models.gpt), overrides={path: axes})
    leaf = jnp.ones((models.LAYERS, models.WIDTH, models.HEADS, 4))
    assert labels.axes(path, leaf) == axes
    assert labels.axes(path, leaf).batch(4) == (0, 2)


def test_a_head_that_is_a_matrix_after_all():
    labels = label(nnx.eval_shape(models.gpt), overrides={"head/kernel": "matrix"})
    leaf = jnp.ones((models.WIDTH, models.VOCABULARY))
    assert labels.axes("head/kernel", leaf) == MatrixAxes((0,), (1,))


def test_a_pattern_that_covers_nothing():
    with pytest.raises(ValueError) as error:
        label(
            nnx.eval_shape(models.gpt),
            overrides={"blocks/atention/query/kernel": "vector"},
        )
    message = str(error.value)
    assert len(message) < 500
    assert "'blocks/atention/query/kernel'" in message
    assert "'blocks/attention/query/kernel'" in message


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        ("embeding", ValueError, "'pos'.*mean 'embedding'"),
        (MatrixAxes((0,), (5,)), ValueError, "'pos'.*out of range"),
        (3, TypeError, "'pos'.*int"),
    ],
)
def test_answers_that_are_none(value, error, match):
    with pytest.raises(error, match=match) as caught:
        label(PARAMS, overrides={"pos": value})
    assert len(str(caught.value)) < 500


def test_the_word_matrix_needs_axes_where_there_are_three():
    params = {"w": jnp.ones((4, 5, 7))}
    with pytest.raises(ValueError, match="'w'.*MatrixAxes"):
        label(params, overrides={"w": "matrix"})

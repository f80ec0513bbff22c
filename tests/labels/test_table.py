"""The table that `label` returns: asked, refused, printed."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from optax_ortho.labels import Label, Labels, label
from optax_ortho.matrices import MatrixAxes, Split
from tests import models


def test_labels_are_values():
    params = {"up": jnp.ones((6, 8)), "bias": jnp.ones(8)}
    labels = label(params)
    assert labels == label(params) and hash(labels) == hash(label(params))
    assert labels != label({"up": jnp.ones((6, 8))})
    assert not callable(labels)
    assert len(labels) == 2 and list(labels) == list(labels.items())
    assert labels.items()[1] == ("up", (6, 8), Label("matrix", MatrixAxes((0,), (1,))))


def test_labels_are_one_leaf_of_a_tree():
    assert jax.tree.leaves(Label("head")) == [Label("head")]


@pytest.mark.parametrize(
    "arguments", [("matrx",), ("matrix",), ("head", MatrixAxes())], ids=str
)
def test_labels_that_make_no_sense(arguments):
    with pytest.raises(ValueError):
        Label(*arguments)


def test_an_unknown_path():
    labels = label(nnx.eval_shape(models.gpt))
    with pytest.raises(ValueError) as error:
        labels.label("blocks/gate/kernel", jnp.ones((3, 8)))
    message = str(error.value)
    assert len(message) < 500
    assert "'blocks/gate/kernel'" in message and "(3, 8)" in message
    assert "label(model)" in message


def test_another_shape():
    labels = label(nnx.eval_shape(models.gpt))
    with pytest.raises(ValueError) as error:
        labels.label("blocks/up/kernel", jnp.ones((8, 32)))  # Not scanned.
    message = str(error.value)
    assert len(message) < 500
    assert "'blocks/up/kernel'" in message
    assert "(8, 32)" in message and "(3, 8, 32)" in message


def test_params_in_front_is_tolerated():
    labels = label({"up": jnp.ones((6, 8))})
    assert labels.label("params/up", jnp.ones((6, 8))).role == "matrix"


def test_the_table_reads_well():
    rows = (
        ("gru/kernel", (6, 24), MatrixAxes((0,), (1,), Split(1, (8, 8, 8)))),
        ("query/kernel", (3, 6, 2, 4), MatrixAxes((1,), (2, 3))),
    )
    labels = Labels(
        (
            *((path, shape, Label("matrix", axes)) for path, shape, axes in rows),
            ("query/bias", (3, 2, 4), Label("bias")),
            ("wte", (1000, 6), Label("embedding")),
        )
    )
    expected = """\
path          shape         role       axes
------------  ------------  ---------  ----------------
gru/kernel    (6, 24)       matrix     0 -> 1, 3 blocks
query/kernel  (3, 6, 2, 4)  matrix     [0] 1 -> 2,3
query/bias    (3, 2, 4)     bias
wte           (1000, 6)     embedding

orthogonalized  2 leaves, 288 parameters: matrix 2 (288)
fallback        2 leaves, 6,024 parameters: bias 1 (24), embedding 1 (6,000)"""
    assert str(labels) == expected
    assert repr(labels) == expected


def test_the_table_of_a_model_fits_a_terminal():
    lines = str(label(nnx.eval_shape(models.gpt))).splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) == 2 + 12 + 1 + 2


def test_an_empty_table():
    assert str(label({})).startswith("orthogonalized  0 leaves")


def test_the_package_does_not_import_flax():
    code = (
        "import sys, jax.numpy as jnp, optax_ortho.labels as labels;"
        "labels.label({'w': jnp.ones((2, 3))}); labels.resolve(None);"
        "assert not [name for name in sys.modules if name.split('.')[0] == 'flax']"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

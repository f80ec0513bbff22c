"""Labels from names and shapes: recipes without labels, and trees of parameters."""

import jax
import numpy as np
import pytest

from optax_ortho.labels import by_name, label
from optax_ortho.matrices import MatrixAxes


@pytest.mark.parametrize(
    ("path", "shape", "role"),
    [
        ("mlp/kernel", (6, 8), "matrix"),
        ("a", (4, 4), "matrix"),
        ("b", (4, 4), "matrix"),
        ("token/embedding", (11, 6), "embedding"),
        ("lm_head/kernel", (6, 11), "head"),
        ("out/bias", (2, 4), "bias"),  # Of an attention layer: (heads, features).
        ("blocks/norm/scale", (3, 6), "norm"),
        ("blocks/layer_scale", (3, 6), "vector"),
        ("query/bias", (3, 2, 4), "bias"),  # The same, stacked.
        ("value/kernel", (6, 1), "vector"),
        ("router/kernel", (6, 4), "vector"),
        ("router/bias", (2, 4), "bias"),
        ("moe/gate/kernel", (6, 4), "vector"),
        ("moe/gate/kernel", (4, 6, 8), "undecided"),
        ("cls", (1, 6), "vector"),
        ("cls", (1, 1, 6), "vector"),
        ("gate", (6,), "vector"),
        ("lm_head/gate", (6,), "vector"),
        ("mlp/bias", (6,), "bias"),
        ("norm/scale", (6,), "norm"),
        ("temperature", (), "scalar"),
        ("scale", (), "scalar"),
        ("conv/kernel", (3, 3, 5, 7), "undecided"),
        ("kernel", (4, 5, 7), "undecided"),
    ],
)
def test_by_name(path, shape, role):
    found = by_name(path, jax.ShapeDtypeStruct(shape, np.float32))
    assert found.role == role
    assert found.axes == (MatrixAxes((0,), (1,)) if role == "matrix" else None)


@pytest.mark.parametrize("given", ["by its name", "as a matrix"])
def test_a_weight_is_out_first(given):
    params = {"up": {"weight": np.ones((8, 6))}}
    overrides = {"**/weight": "matrix"} if given == "as a matrix" else None
    ((_, _, found),) = label(params, overrides=overrides)
    assert found.axes == MatrixAxes((1,), (0,))


def test_a_tree_is_labelled_by_the_same_rules():
    params = {"wte": np.ones((11, 6)), "mlp": [np.ones((6, 8)), np.ones(8)]}
    labels = label(params)
    assert {path: found.role for path, _, found in labels} == {
        "wte": "embedding",
        "mlp/0": "matrix",
        "mlp/1": "vector",
    }


def test_a_tree_asks_about_three_axes():
    params = {"conv": {"kernel": np.ones((4, 5, 7))}, "w": np.ones((2, 3))}
    with pytest.raises(ValueError) as error:
        label(params)
    message = str(error.value)
    assert len(message) < 500
    assert "'conv/kernel' (4, 5, 7)" in message
    assert "label(params, overrides={'conv/kernel': MatrixAxes(" in message

    axes = MatrixAxes(fan_in=(0, 1), fan_out=(2,))
    labels = label(params, overrides={"conv/kernel": axes})
    assert labels.axes("conv/kernel", params["conv"]["kernel"]) == axes

"""Layers stacked by nnx.vmap, on any axis and more than once."""

import pytest
from flax import nnx

from optax_ortho.labels import label
from optax_ortho.labels.stacks import added_axes, lift
from optax_ortho.matrices import MatrixAxes, Split


def stacked(make, length, axis=0):
    """The shapes of `length` results of `make(rngs)`, stacked along an axis."""

    def stack(rngs):
        split = nnx.split_rngs(splits=length)
        return split(nnx.vmap(make, out_axes=axis))(rngs)

    return stack


def axes_of(make, **kwargs):
    model = nnx.eval_shape(lambda: nnx.Dict(blocks=make(nnx.Rngs(0))))
    found = label(model, **kwargs)
    return {
        path.removeprefix("blocks/"): (shape, what.axes or what.role)
        for path, shape, what in found
    }


def linear(rngs):
    return nnx.Linear(6, 8, rngs=rngs)


def square(rngs):
    return nnx.Linear(6, 6, use_bias=False, rngs=rngs)


def attention(rngs):
    return nnx.MultiHeadAttention(3, 6, 12, use_bias=False, decode=False, rngs=rngs)


@pytest.mark.parametrize(
    ("axis", "shape", "axes"),
    [
        (0, (3, 6, 8), MatrixAxes((1,), (2,))),
        (1, (6, 3, 8), MatrixAxes((0,), (2,))),
        (-1, (6, 8, 3), MatrixAxes((0,), (1,))),
    ],
)
def test_a_stack_on_any_axis(axis, shape, axes):
    bias = (3, 8) if axis == 0 else (8, 3)
    assert axes_of(stacked(linear, 3, axis)) == {
        "kernel": (shape, axes),
        "bias": (bias, "bias"),
    }


def test_stacks_of_stacks():
    nested = stacked(stacked(linear, 3), 5, axis=1)
    assert axes_of(nested) == {
        "kernel": ((3, 5, 6, 8), MatrixAxes((2,), (3,))),
        "bias": ((3, 5, 8), "bias"),
    }


def test_a_stacked_conv():
    def conv(rngs):
        return nnx.Conv(5, 7, (2, 2), use_bias=False, rngs=rngs)

    expected = {"kernel": ((2, 2, 3, 5, 7), MatrixAxes((0, 1, 3), (4,)))}
    assert axes_of(stacked(conv, 3, axis=2)) == expected


def test_a_stacked_fused_cell_keeps_its_gates():
    def cell(rngs):
        return nnx.GRUCell(6, 8, rngs=rngs)

    found = axes_of(stacked(cell, 3, axis=1))
    split = Split(axis=2, sizes=(8, 8, 8))
    assert found["dense_i/kernel"] == ((6, 3, 24), MatrixAxes((0,), (2,), split))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_stacked_adapter_has_the_rank_that_fits_both_halves(axis):
    def lora(rngs):
        return nnx.LoRA(6, 2, 8, rngs=rngs)

    found = axes_of(stacked(lora, 3, axis))
    own = [i for i in range(3) if i != axis % 3]
    axes = MatrixAxes((own[0],), (own[1],))
    assert [what for _, what in found.values()] == [axes, axes]
    assert [shape[axis] for shape, _ in found.values()] == [3, 3]


def test_a_stack_of_vectors_stays_with_the_vectors():
    def norm(rngs):
        return nnx.LayerNorm(6, rngs=rngs)

    assert axes_of(stacked(norm, 3)) == {
        "scale": ((3, 6), "norm"),
        "bias": ((3, 6), "norm"),
    }


def test_a_stack_as_long_as_a_feature_is_asked_about():
    with pytest.raises(ValueError) as error:
        axes_of(stacked(square, 6))
    message = str(error.value)
    assert len(message) < 500
    assert "'blocks/kernel'" in message and "(6, 6, 6)" in message
    assert "0 or 1 or 2" in message and "label(model, scan_axis=0)" in message


@pytest.mark.parametrize(
    ("given", "axes"),
    [
        (0, MatrixAxes((1,), (2,))),
        (1, MatrixAxes((0,), (2,))),
        (-1, MatrixAxes((0,), (1,))),
    ],
)
def test_scan_axis_answers(given, axes):
    found = axes_of(stacked(square, 6), scan_axis=given)
    assert found["kernel"] == ((6, 6, 6), axes)


def test_scan_axes_of_a_stack_of_stacks():
    nested = stacked(stacked(square, 6), 6)
    with pytest.raises(ValueError, match=r"scan_axis=\(0, 1\)"):
        axes_of(nested)
    found = axes_of(nested, scan_axis=(0, 1))
    assert found["kernel"] == ((6,) * 4, MatrixAxes((2,), (3,)))


def test_a_scan_axis_that_fits_nothing_does_not_decide():
    def make(rngs):
        return nnx.Linear(6, 8, use_bias=False, rngs=rngs)

    with pytest.raises(ValueError, match="scan_axis"):
        axes_of(stacked(make, 6), scan_axis=2)


def test_an_override_answers_too():
    axes = MatrixAxes((1,), (2,))
    found = axes_of(stacked(square, 6), overrides={"**/kernel": axes})
    assert found["kernel"] == ((6, 6, 6), axes)


@pytest.mark.parametrize("axis", [0, 1])
def test_as_many_layers_as_heads(axis):
    # The output kernel alone allows two axes, its neighbours in the layer only one.
    found = axes_of(stacked(attention, 3, axis))
    out = (3, 3, 4, 6)
    expected = MatrixAxes((1, 2), (3,)) if axis == 0 else MatrixAxes((0, 2), (3,))
    assert found["out/kernel"] == (out, expected)
    query = MatrixAxes((1,), (2, 3)) if axis == 0 else MatrixAxes((0,), (2, 3))
    assert found["query/kernel"][1] == query


def test_a_raw_parameter_inside_a_stack_is_asked_about():
    class Gated(nnx.Module):
        def __init__(self, rngs):
            self.up = linear(rngs)
            self.gate = nnx.Param(nnx.initializers.ones(rngs(), (8,)))

    with pytest.raises(ValueError, match=r"'blocks/gate' \(3, 8\)"):
        axes_of(stacked(Gated, 3))
    found = axes_of(stacked(Gated, 3), overrides={"**/gate": "vector"})
    assert found["gate"] == ((3, 8), "vector")


def test_added_axes_and_lift_undo_a_stack():
    assert added_axes((5, 6, 3, 8), (6, 8)) == [(0, 2)]
    assert lift(MatrixAxes((0,), (1,)), (0, 2)) == MatrixAxes((1,), (3,))
    assert added_axes((6,), (6, 8)) == []

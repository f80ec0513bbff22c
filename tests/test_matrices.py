"""Folding a leaf to matrices and back, and what does not fold."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optax_ortho import MatrixAxes, Orthogonalizer, Split
from optax_ortho.matrices import axes_at, fold, last_two, map_with_axes, path_of, unfold
from optax_ortho.orthogonalizers import NewtonSchulz


@st.composite
def leaves(draw):
    """A shape of up to five axes and axes that fit it, with or without a split."""
    ndim = draw(st.integers(2, 5))
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=ndim, max_size=ndim)))
    order = draw(st.permutations(range(ndim)))
    ins = draw(st.integers(1, ndim - 1))
    outs = draw(st.integers(1, ndim - ins))
    fan_in, fan_out = tuple(order[:ins]), tuple(order[ins : ins + outs])
    split = None
    if draw(st.booleans()):
        axis = draw(st.sampled_from(fan_in + fan_out))
        first = draw(st.integers(1, shape[axis]))
        sizes = tuple(size for size in (first, shape[axis] - first) if size)
        split = Split(axis, sizes)
    return shape, MatrixAxes(fan_in, fan_out, split)


def counted(shape):
    # Of NumPy, whose transposes are not compiled for every shape.
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@settings(deadline=None, max_examples=25)
@given(leaves())
def test_unfold_undoes_fold(case):
    shape, axes = case
    leaf = counted(shape)
    np.testing.assert_array_equal(unfold(fold(leaf, axes), axes, shape), leaf)


@settings(deadline=None, max_examples=25)
@given(leaves())
def test_blocks_end_in_fan_in_and_fan_out(case):
    shape, axes = case
    batch = tuple(shape[axis] for axis in axes.batch(len(shape)))
    expected = [batch + axes.matrix_shape(block) for block in axes.block_shapes(shape)]
    assert [block.shape for block in fold(counted(shape), axes)] == expected


def test_one_fold_by_hand():
    leaf = counted((2, 3, 4, 5))
    (folded,) = fold(leaf, MatrixAxes(fan_in=(2,), fan_out=(0, 3)))
    assert folded.shape == (3, 4, 10)
    for batch in range(3):
        for i in range(4):
            np.testing.assert_array_equal(folded[batch, i], leaf[:, batch, i].ravel())


def test_dense_kernel_needs_no_transpose():
    leaf = counted((3, 4))
    program = jax.make_jaxpr(lambda x: fold(x, MatrixAxes().resolve((3, 4))))(leaf)
    kinds = {equation.primitive.name for equation in program.eqns}
    assert kinds <= {"transpose", "reshape"}
    np.testing.assert_array_equal(fold(leaf, MatrixAxes().resolve((3, 4)))[0], leaf)


def test_negative_axes_are_counted_from_the_end():
    axes = MatrixAxes((-3,), (-1,), Split(-1, (1, 3)))
    assert axes.resolve((2, 3, 4)) == MatrixAxes((0,), (2,), Split(2, (1, 3)))


@pytest.mark.parametrize(
    "axes, message",
    [
        (MatrixAxes((), (1,)), "at least one fan-in"),
        (MatrixAxes((0,), (2,)), "out of range"),
        (MatrixAxes((-3,), (1,)), "out of range"),
        (MatrixAxes((0,), (0,)), "twice"),
        (MatrixAxes((1,), (-1,)), "twice"),
        (MatrixAxes((0,), (1,), Split(2, (1, 5))), "out of range"),
        (MatrixAxes((0,), (1,), Split(1, (2, 2))), "adds up to 4"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_axes_that_do_not_fit_are_refused(axes, message):
    with pytest.raises(ValueError, match=message):
        axes.resolve((4, 6))


def test_split_along_a_batch_axis_is_refused():
    with pytest.raises(ValueError, match="fan-in or fan-out"):
        MatrixAxes((1,), (2,), Split(0, (1, 1))).resolve((2, 3, 4))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((1, ()), "positive"),
        ((1, (2, 0)), "positive"),
        ((1, (2, 3), (1.0,)), "1 scales for 2 sizes"),
    ],
)
def test_impossible_splits_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Split(*arguments)


def test_refused_axes_name_the_leaf():
    with pytest.raises(ValueError, match="'block/kernel'"):
        axes_at(
            lambda path, leaf: MatrixAxes((0,), (3,)), "block/kernel", jnp.ones((4, 6))
        )


def test_vector_without_axes_is_refused_by_name():
    with pytest.raises(ValueError, match="'block/bias' of shape"):
        map_with_axes(lambda axes, x: x, last_two, {"block": {"bias": jnp.ones(3)}})


def test_axes_from_optax():
    numbers = optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1), output_axis=-1)
    assert MatrixAxes.from_optax(numbers) == MatrixAxes((0, 1), (-1,))


def test_boxed_leaves_have_the_path_of_bare_ones():
    key = jax.tree_util.DictKey("kernel")
    assert path_of((key, jax.tree_util.GetAttrKey("value"))) == path_of((key,))


def test_a_field_called_value_alone_is_a_path():
    assert path_of((jax.tree_util.GetAttrKey("value"),)) == "value"


def test_axes_are_one_leaf_and_hash():
    axes = MatrixAxes((0,), (1,), Split(1, (2, 2)))
    assert jax.tree.leaves(axes) == [axes]
    assert len({axes, MatrixAxes((0,), (1,), Split(1, (2, 2)))}) == 1


def test_functions_are_no_orthogonalizer_objects():
    assert isinstance(NewtonSchulz(), Orthogonalizer)
    assert not isinstance(jnp.sign, Orthogonalizer)

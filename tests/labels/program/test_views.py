"""Views against NumPy: every entry of a parameter is tagged, and found where they say.

A parameter whose entries are their own indices goes through the same reshapes,
transposes and slices as its view; then each entry of the result must be the one that
the atoms of the view name.
"""

import math

import jax
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from optax_ortho.labels.program.movement import opaque
from optax_ortho.labels.program.reader import Reader
from optax_ortho.labels.program.rules import RULES
from optax_ortho.labels.program.values import Value
from optax_ortho.labels.program.views import (
    FOREIGN,
    Atom,
    foreign,
    leads,
    leaf_axes,
    parameter,
    reshaped,
    resized,
    sliced,
)

SHAPES = st.lists(st.sampled_from([1, 3, 4, 6, 12]), min_size=1, max_size=3)


def tagged(shape):
    """An array whose entries are their own indices, in front."""
    return np.indices(shape)


def entries(axes, shape, ndim):
    """The index in the parameter of each entry of a view, by its atoms."""
    index = np.zeros((ndim, *shape), int)
    for place, axis in enumerate(axes):
        assert math.prod(atom.size for atom in axis) == shape[place]
        digits = np.unravel_index(
            np.arange(shape[place]), [atom.size for atom in axis] or [1]
        )
        around = [-1 if i == place else 1 for i in range(len(shape))]
        for atom, digit in zip(axis, digits, strict=False):
            assert atom.axis != FOREIGN
            index[atom.axis] += ((atom.start + digit) * atom.stride).reshape(around)
    return index


def factors(draw, length):
    """The factors of a length, in an order drawn."""
    found = []
    while length > 1:
        divisors = [n for n in range(2, length + 1) if length % n == 0]
        found.append(draw(st.sampled_from(divisors)))
        length //= found[-1]
    return found


@st.composite
def moves(draw):
    """A shape, and a chain of moves that neither mix atoms nor drop entries of one."""
    shape = draw(SHAPES)
    now, chain = list(shape), []
    for _ in range(draw(st.integers(3, 8))):
        kinds = ["transpose", "factor"] if len(now) < 6 else ["transpose"]
        kinds += ["group"] * (len(now) > 1) + ["slice"] * (max(now) > 2)
        kind = draw(st.sampled_from(kinds))
        if kind == "factor":
            place = draw(st.integers(0, len(now) - 1))
            parts = factors(draw, now[place]) or [1]
            now[place : place + 1] = parts
            chain.append(("reshape", tuple(now)))
        elif kind == "group":
            place = draw(st.integers(0, len(now) - 2))
            now[place : place + 2] = [now[place] * now[place + 1]]
            chain.append(("reshape", tuple(now)))
        elif kind == "transpose":
            order = draw(st.permutations(range(len(now))))
            now = [now[i] for i in order]
            chain.append(("transpose", tuple(order)))
        else:
            place = draw(st.sampled_from([i for i, n in enumerate(now) if n > 2]))
            size = draw(st.integers(2, now[place]))
            start = draw(st.integers(0, now[place] - size))
            now[place] = size
            chain.append(("slice", (place, start, size)))
    return tuple(shape), chain


@settings(deadline=None)
@given(moves())
@example(((12,), [("slice", (0, 3, 4)), ("reshape", (2, 2))]))
def test_atoms_name_the_entries(moved):
    shape, chain = moved
    array, axes = tagged(shape), parameter(0, shape).axes
    for kind, how in chain:
        now = array.shape[1:]
        if kind == "reshape":
            axes, array = reshaped(axes, now, how), array.reshape(len(shape), *how)
            if axes is None:
                return  # A slice can leave atoms that do not factor.
        elif kind == "transpose":
            axes = tuple(axes[i] for i in how)
            array = array.transpose(0, *(i + 1 for i in how))
        else:
            place, start, size = how
            kept, piece = sliced(axes[place], start, size, now[place])
            if kept == foreign(size) or (piece is not None and piece.size == 1):
                return  # Through several atoms, or a single step of one.
            axes = (*axes[:place], kept, *axes[place + 1 :])
            array = np.take(array, range(start, start + size), axis=place + 1)
        np.testing.assert_array_equal(entries(axes, array.shape[1:], len(shape)), array)


@settings(deadline=None)
@given(SHAPES, st.data())
def test_axes_that_are_factored_and_grouped_are_the_same(shape, data):
    axes = parameter(0, shape).axes
    parts = [factors(data.draw, n) or [1] for n in shape]
    flat = [n for part in parts for n in part]
    factored = reshaped(axes, shape, flat)
    assert factored is not None
    grouped = reshaped(factored, flat, shape)
    assert grouped is not None
    tags = entries(grouped, shape, len(shape))
    np.testing.assert_array_equal(tags, tagged(shape))
    assert leaf_axes(grouped) == tuple(range(len(shape)))


@settings(deadline=None)
@given(SHAPES, st.data())
def test_a_reshape_that_fits_is_a_reshape_of_the_entries(shape, data):
    target = factors(data.draw, math.prod(shape)) or [1]
    axes = reshaped(parameter(0, shape).axes, shape, target)
    if axes is not None:
        tags = tagged(shape).reshape(len(shape), *target)
        np.testing.assert_array_equal(entries(axes, target, len(shape)), tags)


@settings(deadline=None)
@given(st.sampled_from([4, 6, 12]), st.data())
def test_the_pieces_of_a_split_cover_their_axis(length, data):
    edges = sorted(data.draw(st.sets(st.integers(1, length - 1))) | {0, length})
    (axis,) = parameter(0, (length,)).axes
    pieces = [
        sliced(axis, start, end - start, length)[1]
        for start, end in zip(edges, edges[1:], strict=False)
    ]
    if len(pieces) == 1:
        assert pieces == [None]  # The whole axis is no piece.
    else:
        spans = [(piece.start, piece.start + piece.size) for piece in pieces]
        assert spans == list(zip(edges, edges[1:], strict=False))


def test_a_slice_through_several_atoms_belongs_to_no_parameter():
    ((*atoms,),) = reshaped(parameter(0, (4, 6)).axes, (4, 6), (24,))
    assert sliced(tuple(atoms), 0, 12, 24)[1] == Atom(0, 1, 2, 0)
    assert sliced(tuple(atoms), 3, 12, 24) == (foreign(12), None)
    assert sliced(tuple(atoms), None, 12, 24) == (foreign(12), None)


def test_a_slice_from_an_unknown_start_stays_a_part_of_its_axis():
    (axis,) = parameter(0, (12,)).axes
    assert sliced(axis, None, 4, 12) == ((Atom(0, 1, 4),), None)
    assert sliced(axis, None, 1, 12) == (foreign(1), None)


def test_the_slower_atom_leads():
    axes = reshaped(parameter(0, (12,)).axes, (12,), (3, 4))
    assert leads(axes[0][0], axes)
    assert not leads(axes[1][0], axes)
    assert not leads(foreign(3)[0], axes)


@pytest.mark.parametrize(("shape", "back"), [((8, 6), (16, 6)), ((16, 3), (16, 6))])
def test_a_part_of_a_sharded_axis_is_that_axis_again(shape, back):
    view = parameter(0, (16, 6))
    inside = resized(view, shape)
    assert tuple(math.prod(a.size for a in axis) for axis in inside.axes) == shape
    assert resized(inside, back) == view


def results(function, *shapes):
    """The views of what a function makes of parameters of some shapes."""
    arrays = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    views = [Value((parameter(i, shape),)) for i, shape in enumerate(shapes)]
    reader = Reader(arrays, RULES, opaque)
    return reader.run(jax.make_jaxpr(function)(*arrays), views)


@settings(deadline=None, max_examples=30)  # Each is traced.
@given(moves())
def test_a_program_moves_a_view_as_it_moves_an_array(moves):
    shape, chain = moves

    def program(array, xp):
        for kind, how in chain:
            if kind == "reshape":
                array = array.reshape(how)
            elif kind == "transpose":
                array = xp.transpose(array, how)
            else:
                place, start, size = how
                at = [slice(None)] * array.ndim
                at[place] = slice(start, start + size)
                array = array[tuple(at)]
        return array

    moved = program(np.arange(math.prod(shape)).reshape(shape), np)
    (value,) = results(lambda array: program(array, jax.numpy), shape)
    if not value.views or any(
        atom.axis == FOREIGN for axis in value.views[0].axes for atom in axis
    ):
        return  # Lost, and said so.
    index = entries(value.views[0].axes, moved.shape, len(shape))
    at = np.ravel_multi_index(tuple(index), shape)
    # Where a single entry of an axis was taken, the view does not say which.
    np.testing.assert_array_equal(at - at.flat[0], moved - moved.flat[0])

"""The plan: every matrix has one owner, and owners receive alike."""

import collections
import math
import time

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from optax_ortho import MatrixAxes, Split
from optax_ortho.layouts.assignment import rounds
from optax_ortho.layouts.geometry import (
    Leaf,
    Route,
    kind_of,
    local_batch,
    mesh_size,
    order_of,
    route_of,
)

FSDP = {"d": 8}
GRID = {"f": 4, "t": 2}


def leaf(path, shape, *spec, axes=None):
    spec = tuple((a,) if isinstance(a, str) else tuple(a or ()) for a in spec)
    spec += ((),) * (len(shape) - len(spec))
    axes = (axes or MatrixAxes()).resolve(shape)
    return Leaf(path, shape, axes, spec, ("float32", "float32"))


def gpt2(mesh):
    """GPT-2's 48 matrices, the larger side along the mesh or both."""
    for i in range(12):
        for name, shape in (
            ("qkv", (768, 2304)),
            ("proj", (768, 768)),
            ("up", (768, 3072)),
            ("down", (3072, 768)),
        ):
            if mesh is GRID:
                spec = ("t", "f") if name in ("proj", "down") else ("f", "t")
            else:
                spec = ("d", None) if shape[0] >= shape[1] else (None, "d")
            yield leaf(f"{i}/{name}", shape, *spec)


def owned(plan):
    """How often each matrix of each leaf has an owner."""
    found = collections.Counter()
    for one in plan:
        units = [unit for share in one.owners for unit in share]
        for turn in range(one.repeats):
            for unit in units:
                found[unit.leaf, unit.index + turn * len(units)] += 1
    return found


@pytest.mark.parametrize("mesh", [FSDP, GRID], ids=["fsdp", "grid"])
def test_gpt2_is_shared_without_padding(mesh):
    plan = rounds(list(gpt2(mesh)), mesh, equivariant=True, at_once=1)
    elements = sum(one.elements for one in plan)
    assert elements * 8 * 8 == 12 * 12 * 768 * 768
    # Six matrices' worth for each device, and two mixes of them at most.
    assert all(len(set(map(len, one.owners))) <= 2 for one in plan)


def test_without_equivariance_wide_and_tall_are_two_programs():
    leaves = list(gpt2(FSDP))
    alike = {kind_of(one, FSDP, True) for one in leaves}
    apart = {kind_of(one, FSDP, False) for one in leaves}
    assert (len(alike), len(apart)) == (3, 4)


def test_routes():
    stack = leaf("stack", (12, 8, 8), "t", "f")
    assert route_of(stack, GRID) == Route(("t",), ("f",), ())
    assert route_of(leaf("a", (8, 8), ("f", "t")), GRID) == Route((), ("f", "t"), ())
    assert route_of(leaf("a", (8, 8), None, "t"), GRID) == Route((), ("t",), ("f",))
    assert route_of(leaf("a", (8, 8), "f"), {"f": 1}) == Route((), (), ())
    assert local_batch(stack, GRID) == 6
    assert mesh_size(Route(("t",), ("f",), ()).pool, GRID) == 4


def test_the_side_along_the_first_mesh_axis_leads():
    conv = MatrixAxes((0, 1, 2), (3,))
    one = leaf("conv", (3, 3, 8, 16), None, None, None, "f", axes=conv)
    assert order_of(one, GRID) == (3, 0, 1, 2)
    assert kind_of(one, GRID, False).piece == (4, 72)
    assert kind_of(one, GRID, False).fan_out_leads


def test_a_stack_repeats_one_round():
    plan = rounds([leaf("stack", (20, 8, 16), None, "d")], FSDP, True, at_once=1)
    assert [one.repeats for one in plan] == [2, 1]
    assert sum(map(len, plan[1].owners)) == 4


def test_small_matrices_travel_together():
    leaves = [leaf(str(i), (8, 8), "d") for i in range(64)]
    apart = rounds(leaves, FSDP, True, at_once=1)
    together = rounds(leaves, FSDP, True, at_once=4 * 8 * 8)
    assert (len(apart), len(together)) == (8, 2)


def test_a_plan_for_many_devices_is_quick():
    shapes = ((2048, 2048), (2048, 512), (2048, 8192), (8192, 2048))
    leaves = [
        leaf(str(i), (9, *shapes[i % len(shapes)]), None, "d") for i in range(400)
    ]
    started = time.process_time()
    plan = rounds(leaves, {"d": 256}, True, 2**18)
    # It takes a tenth of a second, and this much on a machine with much else to do.
    assert time.process_time() - started < 2
    assert sum(owned(plan).values()) == 400 * 9


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_every_matrix_has_exactly_one_owner(data):
    lengths = st.sampled_from([8, 16, 24])
    entries = st.sampled_from([None, "f", "t"])
    leaves = []
    for i in range(data.draw(st.integers(1, 12))):
        shape = (data.draw(st.integers(1, 3)) * 8, data.draw(lengths), 8)
        spec = [data.draw(entries) for _ in shape]
        spec = [a if a not in spec[:j] else None for j, a in enumerate(spec)]
        cut = Split(1, (shape[1] - 4, 4)) if data.draw(st.booleans()) else None
        leaves.append(leaf(str(i), shape, *spec, axes=MatrixAxes(split=cut)))
    at_once = data.draw(st.sampled_from([1, 2**12, 2**20]))
    plan = rounds(leaves, GRID, data.draw(st.booleans()), at_once)
    found = owned(plan)
    assert set(found.values()) == {1}
    batches = {
        (i, j) for i, x in enumerate(leaves) for j in range(local_batch(x, GRID))
    }
    assert set(found) == batches
    for one in plan:
        assert len(one.owners) == mesh_size(one.route.pool, GRID)
        largest = max(
            math.prod(unit.kind.dims) for share in one.owners for unit in share
        )
        loads = [sum(math.prod(u.kind.dims) for u in share) for share in one.owners]
        # Longest first leaves nobody behind by more than one matrix.
        assert max(loads) - min(loads) <= largest

"""A state of owners continues on another mesh, and on one device."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

import optax_ortho
from optax_ortho import MatrixAxes
from optax_ortho.checkpoints import move_state
from optax_ortho.checkpoints.entries import from_entries
from optax_ortho.layouts import owned, sharded
from optax_ortho.layouts.geometry import Leaf
from tests.layouts import test_owned
from tests.layouts.test_sharded import (
    RECIPES,
    ROUNDING,
    axes,
    laid_out,
)

LEAVES = ("wide_0", "tall_0", "stack", "experts", "fused")


def on(name):
    there, here = laid_out(name, AxisType.Auto)
    return ({k: tree[k] for k in LEAVES if k in tree} for tree in (there, here))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["dion", "aro"])
def test_from_a_mesh_to_one_device_and_to_another_mesh(recipe):
    (grid, host), (line, _) = on("grid"), on("fsdp")
    line = {k: x for k, x in line.items() if x.shape == host[k].shape}
    grid, host = ({k: tree[k] for k in line} for tree in (grid, host))
    make = functools.partial(
        getattr(optax_ortho, recipe), 0.1, labels={k: axes(k, None) for k in line}
    )
    gradient = jax.tree.map(lambda x: x + 0.1, host)
    here = make()
    _, state = jax.jit(here.update)(gradient, here.init(host), host)
    expected, _ = jax.jit(here.update)(gradient, state, host)

    before, params = here, host
    for there in (grid, line, host):
        layout = None if there is host else sharded(there, jnp.float32)
        tx = make(layout=layout)
        state = move_state(before, tx, params, jax.device_get(state), there)
        if layout is not None:
            state = layout.place(state)
        found, _ = jax.jit(tx.update)(lies_as(gradient, there), state, there)
        for name, want in expected.items():
            np.testing.assert_allclose(found[name], want, 0, ROUNDING, err_msg=name)
        before, params = tx, there


def lies_as(tree, params):
    return {k: jax.device_put(x, params[k].sharding) for k, x in tree.items()}


@pytest.mark.slow
def test_momentum_of_owners_moves_to_another_mesh():
    mesh, params, host, parts, over = test_owned.laid_out("fsdp")
    small = jax.make_mesh(
        (2,), ("d",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2]
    )
    names = ("wide_0", "stack", "conv", "bias")
    params, host = ({k: x[k] for k in names} for x in (params, host))
    there = {
        k: jax.device_put(
            np.asarray(x), jax.sharding.NamedSharding(small, x.sharding.spec)
        )
        for k, x in params.items()
    }
    layouts = [owned(x, over, jnp.float32) for x in (params, there)]
    many, few = (test_owned.muon(layout) for layout in layouts)
    _, state, _ = test_owned.on_owners(many, layouts[0], mesh, params, parts, steps=1)
    moved = layouts[1].place(
        move_state(many, few, params, jax.device_get(state), there)
    )
    means = {k: np.mean([part[k] for part in parts], 0) for k in host}
    found, _, _ = test_owned.on_owners(
        few, layouts[1], small, there, [means, means], steps=1, state=moved
    )
    one = test_owned.muon()
    _, expected = one.update(means, one.init(host), host)
    expected, _ = one.update(means, expected, host)
    test_owned.assert_same(found, [expected], ROUNDING)


# Trees of one another's: fused, unfolded, of a stack, and of a scan along axis 1.
MOVED = ("wide_0", "stack", "conv", "fused", "scanned", "bias")
AXES = test_owned.AXES | {"scanned": MatrixAxes((0,), (2,))}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_through_all_layouts(recipe):
    mesh, params, host, parts, over = test_owned.laid_out("fsdp")
    shards = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    host["scanned"] = np.random.default_rng(1).normal(size=(8, 3, 6)).astype("f")
    params["scanned"] = jax.device_put(host["scanned"], shards)
    params, host = ({k: x[k] for k in MOVED} for x in (params, host))
    mean = {k: np.flip(x) + 0.1 for k, x in host.items()}
    factory = functools.partial(
        getattr(optax_ortho, recipe),
        0.1,
        labels=lambda path, leaf: AXES.get(path, MatrixAxes()),
    )
    layouts = sharded(params, jnp.float32), owned(params, over, jnp.float32)
    one, (sent, kept) = factory(), (factory(layout=layout) for layout in layouts)
    alone = jax.jit(one.update)
    expected, states = [], [one.init(host)]
    for _ in range(4):
        updates, state = alone(mean, states[-1], host)
        expected.append(updates)
        states.append(state)

    moved = move_state(one, kept, params, jax.device_get(states[1]))
    moved = layouts[1].place(moved)
    second, state, _ = test_owned.on_owners(
        kept, layouts[1], mesh, params, [mean] * len(parts), steps=1, state=moved
    )
    moved = layouts[0].place(move_state(kept, sent, params, jax.device_get(state)))
    third, state = jax.jit(sent.update)(lies_as(mean, params), moved, params)
    moved = move_state(sent, one, params, jax.device_get(state))
    chex.assert_trees_all_equal_shapes_and_dtypes(moved, states[3])
    fourth, _ = alone(mean, moved, host)
    found = [*second, jax.device_get(third), fourth]
    test_owned.assert_same(found, expected[1:], ROUNDING)


def test_states_that_could_lie_in_two_ways_are_refused():
    """Of a scan along the middle axis, as long as the rows: rows, or columns?"""
    for length, state in ((4, (4, 4)), (3, (5, 3))):
        shape = (4, length, 4)
        axes = MatrixAxes((0,), (2,)).resolve(shape)
        leaf = Leaf("scanned", shape, axes, ((),) * 3, ("float32",))
        with pytest.raises(ValueError, match="either entries, rows or columns"):
            from_entries([jnp.ones(state)], [leaf])


def test_states_of_two_optimizers_are_refused():
    params = {"kernel": jnp.ones((4, 6))}
    one, other = (
        getattr(optax_ortho, name)(0.1, labels={"kernel": MatrixAxes()})
        for name in ("aro", "muon")
    )
    with pytest.raises(ValueError, match="not of one optimizer"):
        move_state(one, other, params, one.init(params))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["aro", "dion", "fismo"])
def test_from_and_to_meshes_with_explicit_axes(recipe):
    """Restored on a mesh, and not on the host; `jax.make_mesh` makes such meshes."""
    there, host = laid_out("grid", AxisType.Explicit)
    line, _ = laid_out("fsdp", AxisType.Explicit)
    names = [k for k in LEAVES if k in line and line[k].shape == host[k].shape]
    there, line, host = ({k: tree[k] for k in names} for tree in (there, line, host))
    make = functools.partial(
        getattr(optax_ortho, recipe), 0.1, labels={k: axes(k, None) for k in names}
    )
    gradient = jax.tree.map(lambda x: x + 0.1, host)
    alone = make()
    _, first = jax.jit(alone.update)(gradient, alone.init(host), host)
    expected, _ = jax.jit(alone.update)(gradient, first, host)

    def moved(before, params, state, new_params):
        """The state of the next optimizer, on a mesh if its parameters are."""
        layout = None if new_params is host else sharded(new_params, jnp.float32)
        tx = make(layout=layout)
        state = move_state(before, tx, params, state, new_params)
        return tx, jax.device_get(state) if layout is None else layout.place(state)

    tx, params, state = alone, host, first
    for new_params in (there, line, host):
        tx, state = moved(tx, params, state, new_params)
        params = new_params
        updates, _ = jax.jit(tx.update)(lies_as(gradient, params), state, params)
        for name, want in expected.items():
            np.testing.assert_allclose(updates[name], want, 0, ROUNDING, err_msg=name)

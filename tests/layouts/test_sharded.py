"""The sharded layout gives what one device gives, on every mesh."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_ortho
from optax_ortho import MatrixAxes, Split
from optax_ortho.layouts import local, replicated, sharded
from optax_ortho.matrices import last_two
from optax_ortho.orthogonalizers import NewtonSchulz
from tests import rows

# Products of order-one numbers, summed in another order.
ROUNDING = 1e-5
# bfloat16 on the wire, once in and once out.
WIRE = 2.0**-7

FSDP = {
    **{f"wide_{i}": ((8, 16), P(None, "d")) for i in range(5)},
    **{f"tall_{i}": ((16, 8), P("d", None)) for i in range(5)},
    "stack": ((20, 8, 16), P(None, None, "d")),
    "few": ((3, 8, 16), P(None, "d")),
    "experts": ((16, 4, 6), P("d")),
    "replicated": ((8, 16), P()),
    "empty": ((0, 8, 16), P()),
    "conv": ((2, 2, 8, 6), P(None, None, "d")),
    "fused": ((8, 32), P(None, "d")),
}
GRID = {
    **{f"wide_{i}": ((8, 16), P("f", "t")) for i in range(5)},
    **{f"tall_{i}": ((16, 8), P("t", "f")) for i in range(5)},
    "stack": ((20, 8, 16), P(None, "f", "t")),
    "experts": ((8, 8, 6), P("f", None, "t")),
    "half": ((8, 16), P(None, "t")),
    "both": ((8, 16), P(("f", "t"))),
    "heads": ((8, 4, 2), P("f", "t")),
    "fused": ((8, 32), P("f", "t")),
}
AXES = {
    "conv": MatrixAxes((0, 1, 2), (3,)),
    "heads": MatrixAxes((0,), (1, 2)),
    "fused": MatrixAxes(split=Split(1, (16, 8, 8))),
}
TREES = {"fsdp": (FSDP, (8,), ("d",)), "grid": (GRID, (4, 2), ("f", "t"))}


def axes(path, leaf):
    return AXES.get(path, MatrixAxes())


def laid_out(name, kind, seed=0):
    """A tree on a mesh, and the same on one device."""
    leaves, shape, names = TREES[name]
    mesh = jax.make_mesh(shape, names, axis_types=(kind,) * len(shape))
    rng = np.random.default_rng(seed)
    host = {k: rng.normal(size=s).astype(np.float32) for k, (s, _) in leaves.items()}
    there = {
        k: jax.device_put(x, NamedSharding(mesh, leaves[k][1])) for k, x in host.items()
    }
    return there, {k: jnp.asarray(x) for k, x in host.items()}


def lopsided(x):
    """A function of one matrix that knows rows from columns and first from last."""
    weights = jnp.arange(1.0, 1 + x.shape[1])[None, :]
    return (x @ x.T) @ (x * weights) / (1 + jnp.sum(x**2))


def assert_equal_trees(found, expected, tolerance):
    for name, x in expected.items():
        y = np.asarray(found[name])
        assert y.shape == x.shape
        np.testing.assert_allclose(y, x, rtol=0, atol=tolerance, err_msg=name)


KINDS = pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
MESHES = pytest.mark.parametrize("name", list(TREES))


@KINDS
@MESHES
def test_any_function_of_one_matrix(name, kind):
    tree, host = laid_out(name, kind)
    layout = sharded(tree, wire_dtype=jnp.float32)
    found = jax.jit(lambda tree: layout.map(lopsided, axes, tree))(tree)
    assert_equal_trees(found, local().map(lopsided, axes, host), ROUNDING * 100)
    for k, x in found.items():
        assert x.sharding.is_equivalent_to(tree[k].sharding, x.ndim), k


@MESHES
def test_an_orthogonalizer_may_be_given_the_transpose(name):
    tree, host = laid_out(name, AxisType.Auto)
    method = NewtonSchulz()
    layout = sharded(tree, wire_dtype=jnp.float32)
    found = jax.jit(lambda tree: layout.map(method, axes, tree))(tree)
    assert_equal_trees(found, local().map(method, axes, host), ROUNDING)


@MESHES
def test_several_operands_results_and_states(name):
    tree, host = laid_out(name, AxisType.Auto)

    def init(x):
        return {"count": jnp.zeros([], jnp.int32), "gram": jnp.zeros([x.shape[0]] * 2)}

    def f(x, y, state):
        gram = state["gram"] + x @ x.T
        count = state["count"] + 1
        return {"a": gram @ y, "b": x + count}, {"count": count, "gram": gram}

    layout = sharded(tree, wire_dtype=jnp.float32)
    states = [layout.init(init, axes, tree), local().init(init, axes, host)]
    for one, x, where in ((layout, tree, 0), (local(), host, 1)):
        step = jax.jit(lambda x, y, state, one=one: one.map(f, axes, x, y, state=state))
        for _ in range(2):
            y, states[where] = step(x, jax.tree.map(lambda x: 2 * x, x), states[where])
        states[where] = y
    for part in ("a", "b"):
        found, expected = ({k: y[k][part] for k in y} for y in states)
        assert_equal_trees(found, expected, ROUNDING * 100)


def test_the_wire_rounds_to_bfloat16():
    tree, host = laid_out("fsdp", AxisType.Auto)
    layout = sharded(tree)
    found = jax.jit(lambda tree: layout.map(lambda x: x, axes, tree))(tree)
    for k, x in host.items():
        rounded = x.astype(jnp.bfloat16).astype(jnp.float32)
        replicas = np.asarray(found[k])
        np.testing.assert_array_equal(replicas, rounded, err_msg=k)


def test_inside_shard_map_each_device_hands_in_its_part():
    tree, host = laid_out("grid", AxisType.Auto)
    layout = sharded(tree, wire_dtype=jnp.float32)
    specs = {k: spec for k, (_, spec) in GRID.items()}

    @jax.jit
    @functools.partial(
        jax.shard_map,
        mesh=tree["both"].sharding.mesh,
        in_specs=(specs,),
        out_specs=specs,
        check_vma=False,
    )
    def run(tree):
        return layout.map(lopsided, axes, tree)

    expected = local().map(lopsided, axes, host)
    assert_equal_trees(run(tree), expected, ROUNDING * 100)


def test_inside_pmap_the_devices_share_the_work():
    _, host = laid_out("fsdp", AxisType.Auto)
    layout = replicated("devices", 8, wire_dtype=jnp.float32)
    copies = jax.tree.map(lambda x: jnp.stack([x] * 8), host)
    run = jax.pmap(lambda tree: layout.map(lopsided, axes, tree), axis_name="devices")
    found = run(copies)
    expected = local().map(lopsided, axes, host)
    for k, x in found.items():
        assert (np.asarray(x) == np.asarray(x[:1])).all(), k  # Equal to the last bit.
    first = {k: x[0] for k, x in found.items()}
    assert_equal_trees(first, expected, ROUNDING * 100)


def test_replicated_in_shard_map_comes_out_replicated():
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    layout = replicated("d", 8, wire_dtype=jnp.float32)
    x = {"kernel": jnp.arange(12.0).reshape(3, 4), "other": jnp.ones((3, 4))}
    # With check_vma JAX itself proves that all devices have the same.
    run = jax.shard_map(
        lambda x: layout.map(lopsided, last_two, x),
        mesh=mesh,
        in_specs=P(),
        out_specs=P(),
    )
    expected = local().map(lopsided, last_two, x)
    assert_equal_trees(jax.jit(run)(x), expected, ROUNDING * 1000)


RECIPES = tuple(
    factory.__name__
    for factory in rows.RECIPES
    if "layout" in inspect.signature(factory).parameters
)


def trained(recipe, layout, params, gradients):
    labels = {k: axes(k, None) for k in params}
    tx = getattr(optax_ortho, recipe)(0.1, labels=labels, layout=layout)
    state, step = tx.init(params), jax.jit(tx.update)
    for gradient in gradients:
        updates, state = step(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


# A tree with every kind of work and few of each; compilation is what these cost.
SMALL = ("wide_0", "tall_0", "stack")
CASES = [pytest.param(recipe, "grid", jnp.float32, id=recipe) for recipe in RECIPES]
CASES += [
    pytest.param("muon", name, wire, id=f"muon-{name}-{wire.__name__}")
    for name, wire in (("fsdp", jnp.float32), ("fsdp", jnp.bfloat16))
]


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "name", "wire"), CASES)
def test_every_optimizer(recipe, name, wire):
    kind = AxisType.Explicit if name == "grid" else AxisType.Auto
    (tree, host), *steps = (
        [{k: x[k] for k in SMALL} for x in laid_out(name, kind, seed)]
        for seed in range(3)
    )
    layout = sharded(tree, wire_dtype=wire)
    found = trained(recipe, layout, tree, [there for there, _ in steps])
    expected = trained(recipe, local(), host, [here for _, here in steps])
    for k, x in expected.items():
        moved = float(np.abs(np.asarray(x - host[k])).max())
        tolerance = WIRE * moved if wire == jnp.bfloat16 else ROUNDING
        np.testing.assert_allclose(
            np.asarray(found[k]), x, rtol=0, atol=tolerance, err_msg=k
        )


@pytest.mark.slow
def test_blocks_have_their_scales_where_all_of_a_state_lies_with_owners():
    tree, host = ({"fused": x["fused"]} for x in laid_out("fsdp", AxisType.Auto))
    split = dataclasses.replace(AXES["fused"].split, scales=(2.0, 1.0, 0.5))
    scaled = dataclasses.replace(AXES["fused"], split=split)

    def update(layout, params):
        tx = optax_ortho.fismo(0.1, labels={"fused": scaled}, layout=layout)
        return jax.jit(tx.update)(params, tx.init(params), params)[0]

    found, expected = update(sharded(tree, jnp.float32), tree), update(None, host)
    assert_equal_trees(found, expected, ROUNDING)


@KINDS
@MESHES
def test_a_compiled_init_lays_the_state_out_like_the_parameters(name, kind):
    tree, _ = laid_out(name, kind)
    tree = {k: tree[k] for k in SMALL}
    labels = {k: axes(k, None) for k in tree}
    tx = optax_ortho.muon(0.1, labels=labels, layout=sharded(tree))
    with jax.set_mesh(tree["stack"].sharding.mesh):
        state = jax.jit(tx.init)(tree)
    for k, x in tree.items():
        found = optax.tree.get_all_with_path(state, k)
        arrays = [y for _, y in found if isinstance(y, jax.Array)]
        assert [y.shape for y in arrays] == [x.shape]
        assert arrays[0].sharding.is_equivalent_to(x.sharding, x.ndim), k


def test_the_same_twice_to_the_last_bit():
    tree, _ = laid_out("grid", AxisType.Auto)
    layout = sharded(tree)
    run = jax.jit(lambda tree: layout.map(NewtonSchulz(), axes, tree))
    first, second = run(tree), run(tree)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_parameters_of_another_model_are_refused():
    tree, _ = laid_out("fsdp", AxisType.Auto)
    layout = sharded(tree)
    with pytest.raises(ValueError, match=r"'other' is none of the .* parameters"):
        layout.map(lopsided, axes, {"other": tree["conv"]})
    with pytest.raises(ValueError, match=r"'conv' has shape \(8, 16\), but"):
        layout.map(lopsided, axes, {"conv": tree["wide_0"]})


def test_parameters_without_a_mesh_are_refused():
    with pytest.raises(ValueError, match="needs parameters with a .*NamedSharding"):
        sharded({"kernel": jnp.ones((4, 6))})
    one, two = (jax.make_mesh((n,), ("d",)) for n in (4, 8))
    there = {
        str(i): jax.device_put(jnp.ones((8, 8)), NamedSharding(mesh, P("d")))
        for i, mesh in enumerate((one, two))
    }
    with pytest.raises(ValueError, match="one mesh, but the parameters have 2"):
        sharded(there)

"""Between TPU slices nothing travels, and each does what one slice would do."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_ortho
from benchmarks.aot.cost import cost
from optax_ortho import MatrixAxes
from optax_ortho.layouts import local, sharded, specs

SHAPES = {f"layer_{i}": (8, 16) for i in range(5)} | {"stack": (8, 8, 12)}


def laid_out(mesh):
    rng = np.random.default_rng(0)
    return {
        path: jax.device_put(
            rng.normal(size=shape).astype(np.float32),
            NamedSharding(mesh, P(*[None] * (len(shape) - 1), "fsdp")),
        )
        for path, shape in SHAPES.items()
    }


def two_slices(kind=AxisType.Auto):
    return jax.make_mesh((2, 4), ("slice", "fsdp"), axis_types=(kind,) * 2)


def traffic(tree, **arguments):
    layout = sharded(tree, **arguments)
    tx = optax_ortho.orthogonalize(layout=layout)
    step = jax.jit(lambda x: tx.update(x, tx.init(x))[0])
    return cost(step.lower(tree).compile().as_text()).traffic


def test_each_slice_sends_what_one_slice_would():
    alone = Mesh(np.array(jax.devices()[:4]), ("fsdp",))
    expected = traffic(laid_out(alone))
    found = laid_out(two_slices())
    assert traffic(found, dcn="slice") == expected
    # Otherwise the slices share the work, and gather what they have not done.
    assert traffic(found)["all-gather"].wire > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize("recipe", ["muon", "aro", "fismo", "dion"])
def test_all_slices_have_the_result_of_one_device(recipe, kind):
    tree = laid_out(two_slices(kind))
    host = jax.tree.map(np.asarray, tree)

    def trained(params, layout):
        labels = dict.fromkeys(params, MatrixAxes())
        tx = getattr(optax_ortho, recipe)(0.1, labels=labels, layout=layout)
        state, step = tx.init(params), jax.jit(tx.update)
        for scale in (1.0, -0.3):
            gradient = jax.tree.map(lambda x, a=scale: a * x**2 + x, params)
            updates, state = step(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    layout = sharded(tree, wire_dtype=jnp.float32, dcn="slice")
    found, state = trained(tree, layout)
    expected, _ = trained(host, local())
    for path, x in expected.items():
        # Products of order-one numbers, summed in another order.
        np.testing.assert_allclose(found[path], x, 0, 1e-5, err_msg=path)
        copies = {}
        for shard in found[path].addressable_shards:
            copies.setdefault(str(shard.index), []).append(np.asarray(shard.data))
        assert all((a == b).all() for a, b in copies.values())
    specs = [x.sharding.spec for x in jax.tree.leaves(state) if x.ndim]
    assert specs and all("slice" not in jax.tree.leaves(tuple(s)) for s in specs)


def test_a_plan_is_of_one_slice():
    labels = dict.fromkeys(SHAPES, MatrixAxes())

    def planned(mesh, **arguments):
        tree = laid_out(mesh)
        layout = sharded(tree, **arguments)
        return optax_ortho.plan(
            optax_ortho.muon(0.1, labels=labels, layout=layout), tree
        )

    alone = Mesh(np.array(jax.devices()[:4]), ("fsdp",))
    assert planned(two_slices(), dcn="slice").cost == planned(alone).cost


def test_slices_are_found_by_their_devices(monkeypatch):
    of = np.array([[0, 0], [1, 1]])
    devices = np.vectorize(lambda i: types.SimpleNamespace(slice_index=i))(of)
    mesh = types.SimpleNamespace(devices=devices, axis_names=("slice", "fsdp"))
    monkeypatch.setattr(specs, "Mesh", types.SimpleNamespace)
    assert specs.slice_axes(specs.Params(mesh, {}), None) == ("slice",)
    over_both = {"kernel": specs.Param((4, 4), "float32", P(("slice", "fsdp")))}
    assert specs.slice_axes(specs.Params(mesh, over_both), None) == ()
    mesh.devices = np.vectorize(lambda i: types.SimpleNamespace())(of)
    assert specs.slice_axes(specs.Params(mesh, {}), None) == ()


def test_what_has_to_travel_is_said():
    tree = laid_out(two_slices())
    with pytest.raises(ValueError, match=r"dcn has \['pods'\]"):
        sharded(tree, dcn="pods")
    with pytest.raises(ValueError, match=r"Leaf 'layer_0' is sharded over 'fsdp'"):
        sharded(tree, dcn="fsdp")

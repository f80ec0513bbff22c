"""MKOR's layers on meshes: a kernel's bias and statistics are with its owner too."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_ortho
from optax_ortho import MatrixAxes, Split
from optax_ortho.checkpoints import move_state
from optax_ortho.kronecker import LossRate
from optax_ortho.layouts import owned, replicated, sharded
from tests.layouts.test_sharded import ROUNDING

FUSED = MatrixAxes(split=Split(1, (8, 4, 4)))
LAYERS = {
    # Of each layer: its kernel and axes, and for two meshes the spec of the kernel.
    "wide": ((8, 16), MatrixAxes(), P(None, "d"), P("f", "t")),
    "plain": ((8, 16), MatrixAxes(), P("d"), P("t", "f")),
    "tall": ((16, 8), MatrixAxes(), P("d"), P(("f", "t"))),
    "stack": ((8, 8, 16), MatrixAxes(), P(None, None, "d"), P("f", None, "t")),
    "heads": ((8, 4, 4), MatrixAxes(0, (1, 2)), P("d"), P("f", "t")),
    "fused": ((8, 16), FUSED, P("d"), P("f", "t")),
}
WITHOUT_BIAS = ("plain",)


def laid_out(name, kind, seed=0):
    """Parameters on a mesh and on one device, and statistics of their layers."""
    shape, names = ((8,), ("d",)) if name == "fsdp" else ((4, 2), ("f", "t"))
    mesh = jax.make_mesh(shape, names, axis_types=(kind,) * len(shape))
    rng = np.random.default_rng(seed)
    there, here, statistics = {}, {}, {}
    for layer, (size, axes, *specs) in LAYERS.items():
        spec = specs[0] if name == "fsdp" else specs[1]
        ndim = len(size)
        batch = axes.batch(ndim)
        resolved = axes.resolve(size)
        fan_in, fan_out = (
            [size[i] for i in sides] for sides in (resolved.fan_in, resolved.fan_out)
        )
        stacked = [size[i] for i in batch]
        arrays = {"kernel": (size, spec)}
        if layer not in WITHOUT_BIAS:
            entries = (*spec, *(None,) * (ndim - len(spec)))
            kept = P(*(entries[i] for i in (*batch, *resolved.fan_out)))
            arrays["bias"] = ((*stacked, *fan_out), kept)
        here[layer] = {
            k: jnp.asarray(rng.normal(size=s), jnp.float32)
            for k, (s, _) in arrays.items()
        }
        there[layer] = {
            k: jax.device_put(here[layer][k], NamedSharding(mesh, s))
            for k, (_, s) in arrays.items()
        }
        statistics[layer] = {
            "a": rng.normal(size=(*stacked, int(np.prod(fan_in)))).astype(np.float32),
            "g": rng.normal(size=(*stacked, int(np.prod(fan_out)))).astype(np.float32),
        }
    return there, here, statistics


def labels(path, leaf):
    layer, name = path.split("/")
    return LAYERS[layer][1] if name == "kernel" else "bias"


def mkor(layout=None, **arguments):
    return optax_ortho.mkor(
        0.1, labels=labels, layout=layout, update_every=2, **arguments
    )


def trained(tx, params, steps, state=None):
    state = tx.init(params) if state is None else state
    update = jax.jit(tx.update)
    for gradient, statistics in steps:
        given = {"statistics": statistics, "value": jnp.float32(1.0)}
        updates, state = update(gradient, state, params, **given)
        params = optax.apply_updates(params, updates)
    return params, state


def steps_of(name, kind, number=3):
    made = [laid_out(name, kind, seed) for seed in range(1, 1 + number)]
    there = [(tree, statistics) for tree, _, statistics in made]
    return there, [(tree, statistics) for _, tree, statistics in made]


def assert_same(found, expected):
    for layer, arrays in expected.items():
        for name, x in arrays.items():
            np.testing.assert_allclose(
                np.asarray(found[layer][name]),
                x,
                rtol=0,
                atol=ROUNDING,
                err_msg=f"{layer}/{name}",
            )


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize("name", ["fsdp", "grid"])
def test_what_one_device_gives(name, kind):
    params, host, _ = laid_out(name, kind)
    there, here = steps_of(name, kind)
    found, _ = trained(mkor(sharded(params, jnp.float32)), params, there)
    expected, _ = trained(mkor(), host, here)
    assert_same(found, expected)
    for layer, arrays in params.items():
        for k, x in arrays.items():
            assert found[layer][k].sharding.is_equivalent_to(x.sharding, x.ndim)


@pytest.mark.slow
def test_with_a_switch():
    params, host, _ = laid_out("grid", AxisType.Auto)
    there, here = steps_of("grid", AxisType.Auto, 4)
    switch = LossRate(window=1, patience=1)
    found, state = trained(
        mkor(sharded(params, jnp.float32), switch=switch), params, there
    )
    expected, _ = trained(mkor(switch=switch), host, here)
    assert_same(found, expected)
    (second_order,) = [
        x for _, x in optax.tree.get_all_with_path(state, "second_order")
    ]
    assert not second_order


def test_factors_stay_with_their_owner():
    params, _, _ = laid_out("fsdp", AxisType.Auto)
    state = mkor(sharded(params)).init(params)
    ((_, inverse),) = optax.tree.get_all_with_path(state, "input_inverse")
    # Of kernels with a bias the factor has a row more.
    assert inverse.by_shape["8x16_bias"].shape[1:] == (9, 9)
    assert inverse.by_shape["8x16"].shape[1:] == (8, 8)
    for x in inverse.by_shape.values():
        assert x.sharding.spec == P(("d",)) and len(x) % 8 == 0


@pytest.mark.slow
def test_replicas_share_the_work():
    _, host, _ = laid_out("fsdp", AxisType.Auto)
    _, here = steps_of("fsdp", AxisType.Auto, 2)
    expected, _ = trained(mkor(), host, here)
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    tx = mkor(replicated("d", 8, jnp.float32))

    def run(params, steps):
        return trained(tx, params, steps)[0]

    found = jax.shard_map(run, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)(
        host, here
    )
    assert_same(found, expected)


@pytest.mark.slow
def test_a_state_moves_from_a_mesh_to_one_device_and_back():
    params, host, _ = laid_out("grid", AxisType.Auto)
    there, here = steps_of("grid", AxisType.Auto, 4)
    expected, _ = trained(mkor(), host, here)
    many, one = mkor(sharded(params, jnp.float32)), mkor()
    first, state = trained(many, params, there[:2])
    state = move_state(many, one, params, jax.device_get(state), host)
    second, state = trained(one, jax.device_get(first), here[2:3], state)
    state = move_state(one, many, host, jax.device_get(state), params)
    second = jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), second, params)
    found, _ = trained(many, second, there[3:], state)
    assert_same(found, expected)


def test_owned_layouts_are_refused():
    params, _, _ = laid_out("fsdp", AxisType.Auto)
    with pytest.raises(ValueError, match="one of local, sharded and replicated"):
        mkor(owned(params, "d")).init(params)

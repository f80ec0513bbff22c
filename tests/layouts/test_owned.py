"""A step with matrices on their owners gives what one device gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_ortho
from optax_ortho import MatrixAxes, Split
from optax_ortho.layouts import owned, sharded
from tests.layouts.test_sharded import RECIPES
from tests.rows import ONE_STEP

# Products of order-one numbers, summed in another order.
ROUNDING = 1e-5
# bfloat16 on the wire, once.
WIRE = 2.0**-8

FSDP = {
    **{f"wide_{i}": ((8, 16), P(None, "d")) for i in range(3)},
    **{f"tall_{i}": ((16, 8), P("d", None)) for i in range(2)},
    "stack": ((17, 8, 16), P(None, None, "d")),
    "experts": ((16, 4, 6), P("d")),
    "replicated": ((8, 16), P()),
    "conv": ((2, 2, 8, 6), P(None, None, "d")),
    "fused": ((8, 32), P(None, "d")),
    "bias": ((16,), P("d")),
    "scale": ((6,), P()),
    "embedding": ((24, 8), P("d", None)),
}
# Gradients differ along f alone: t is for parts of a matrix.
GRID = {
    **{f"wide_{i}": ((8, 16), P("f", "t")) for i in range(3)},
    "tall": ((16, 8), P("t", "f")),
    "stack": ((9, 8, 16), P(None, "f", "t")),
    "experts": ((8, 8, 6), P("f", None, "t")),
    "apart": ((4, 8, 6), P("t", "f", None)),
    "half": ((8, 16), P(None, "t")),
    "other": ((8, 16), P("f")),
    "both": ((8, 16), P(("t", "f"))),
    "fused": ((8, 32), P("f", "t")),
    "bias": ((16,), P("t")),
    "embedding": ((24, 8), P(("t", "f"), None)),
}
AXES = {
    "conv": MatrixAxes((0, 1, 2), (3,)),
    "fused": MatrixAxes(split=Split(1, (16, 8, 8))),
    "bias": "bias",
    "scale": "norm",
    "embedding": "embedding",
}
TREES = {"fsdp": (FSDP, (8,), ("d",), ("d",)), "grid": (GRID, (4, 2), ("f", "t"), "f")}


def label(path, leaf):
    return AXES.get(path, MatrixAxes())


def laid_out(name):
    """Parameters on a mesh, local gradients of each part of a batch, and the layout."""
    leaves, shape, names, over = TREES[name]
    mesh = jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(shape))
    rng = np.random.default_rng(0)
    host = {k: rng.normal(size=s).astype(np.float32) for k, (s, _) in leaves.items()}
    params = {
        k: jax.device_put(x, NamedSharding(mesh, leaves[k][1])) for k, x in host.items()
    }
    parts = [
        {k: rng.normal(size=x.shape).astype(np.float32) for k, x in host.items()}
        for _ in range(shape[0])
    ]
    return mesh, params, host, parts, over


def on_owners(tx, layout, mesh, params, parts, steps=2, state=None):
    """The updates of some steps, with a gradient for each part of the batch."""
    over = layout.over
    specs = jax.tree.map(lambda x: x.sharding.spec, params)
    state = jax.jit(tx.init)(params) if state is None else state
    state_specs = layout.specs(state)
    # A gradient differs along `over`; other axes cut it as they cut the parameter.
    kept = {
        k: P(
            over,
            *(
                tuple(a for a in axes if a not in over)
                for axes in layout.shards.params.spec(k)
            ),
        )
        for k in params
    }

    def update(gradient, state, params):
        gradient = jax.tree.map(lambda g: g[0], gradient)
        updates, state = tx.update(gradient, state, params)
        return updates, state

    step = jax.jit(
        jax.shard_map(
            update,
            mesh=mesh,
            in_specs=(kept, state_specs, specs),
            out_specs=(specs, state_specs),
            check_vma=False,
        )
    )
    gradient = {k: np.stack([part[k] for part in parts]) for k in params}
    found = []
    for _ in range(steps):
        updates, state = step(gradient, state, params)
        params = optax.apply_updates(params, updates)
        found.append(jax.device_get(updates))
    return found, state, step


def on_one_device(tx, host, parts, steps=2):
    gradient = {k: jnp.mean(jnp.stack([part[k] for part in parts]), 0) for k in host}
    state, params = tx.init(host), host
    found = []
    step = jax.jit(tx.update)
    for _ in range(steps):
        updates, state = step(gradient, state, params)
        params = optax.apply_updates(params, updates)
        found.append(updates)
    return found, state


def muon(layout=None):
    return optax_ortho.muon(
        0.1, labels=label, weight_decay=0.1, orthogonalizer=ONE_STEP, layout=layout
    )


def assert_same(found, expected, tolerance):
    for ours, theirs in zip(found, expected, strict=True):
        for name, want in theirs.items():
            atol = tolerance * float(np.abs(want).max())
            np.testing.assert_allclose(ours[name], want, 0, atol, err_msg=name)


@pytest.mark.parametrize("name", list(TREES))
@pytest.mark.parametrize(
    "wire", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"]
)
def test_muon_is_muon_on_one_device(name, wire):
    mesh, params, host, parts, over = laid_out(name)
    layout = owned(params, over, wire)
    found, _, _ = on_owners(muon(layout), layout, mesh, params, parts)
    expected, _ = on_one_device(muon(), host, parts)
    assert_same(found, expected, ROUNDING if wire == jnp.float32 else WIRE)


SMALL = ("wide_0", "tall", "stack", "bias")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_optimizer(recipe):
    mesh, params, host, parts, over = laid_out("grid")
    params, host = ({k: x[k] for k in SMALL} for x in (params, host))
    layout = owned(params, over, jnp.float32)
    factory = functools.partial(getattr(optax_ortho, recipe), 0.1, labels=label)
    found, _, _ = on_owners(factory(layout=layout), layout, mesh, params, parts)
    expected, _ = on_one_device(factory(), host, parts)
    assert_same(found, expected, ROUNDING)


def test_a_plan_counts_the_updates_alone():
    """Half of what a matrix sends that goes to its owner and back."""
    mesh, params, *_, over = laid_out("fsdp")
    params = {k: params[k] for k in ("wide_0", "wide_1", "tall_0", "stack")}

    def plan(layout):
        return optax_ortho.plan(optax_ortho.muon(0.1, layout=layout), params).cost

    stays, travels = plan(owned(params, over)), plan(sharded(params))
    assert stays.floor_bytes == travels.floor_bytes / 2 > 0
    assert stays.flops >= travels.ideal_flops == stays.ideal_flops
    assert "MB of updates a step" in str(stays)


def test_a_state_of_large_matrices_and_empty_slots_is_made():
    """Two for eight owners; skipping an empty slot asks for the device's position."""
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    spec = NamedSharding(mesh, P("d"))
    kernel = jax.ShapeDtypeStruct((512, 256), jnp.float32, sharding=spec)
    params = {"up": {"kernel": kernel}, "down": {"kernel": kernel}}
    tx = optax_ortho.fismo(0.1, layout=sharded(params))
    state = jax.eval_shape(tx.init, params)
    assert {x.shape[0] for x in jax.tree.leaves(state) if x.ndim} == {8}

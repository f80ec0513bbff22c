"""Matrices that several devices share come out as one device makes them."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_ortho
from benchmarks.aot.cost import cost
from optax_ortho import MatrixAxes, Split
from optax_ortho.layouts import local, sharded
from optax_ortho.layouts.assignment import rounds
from optax_ortho.layouts.geometry import Leaf, kind_of, route_of, shared_along
from optax_ortho.orthogonalizers import Auto, GramNewtonSchulz, NewtonSchulz, aol

# Products of order-one numbers, summed in another order.
ROUNDING = 1e-5
# bfloat16 on the wire: once in, once out, and in every Gram matrix but its diagonal.
WIRE = 2.0**-7

AXES = ("fsdp", "ta", "tb")
LEAVES = {
    **{f"wide_{i}": ((8, 32), P("fsdp", ("ta", "tb"))) for i in range(3)},
    **{f"tall_{i}": ((48, 8), P(("ta", "tb"), "fsdp")) for i in range(3)},
    "square": ((16, 16), P(("ta", "tb"), "fsdp")),
    "large": ((128, 512), P("fsdp", ("ta", "tb"))),
    "long_side_alone": ((8, 32), P(None, ("fsdp", "tb"))),
    # Exchanged along the same mesh axes as the wide ones, in other blocks.
    "in_more_blocks": ((8, 32), P(None, ("ta", "fsdp", "tb"))),
    "minor_first": ((8, 32), P("fsdp", ("tb", "ta"))),
    "stack": ((5, 8, 32), P(None, "fsdp", ("ta", "tb"))),
    "experts": ((4, 32, 8), P("fsdp", ("tb", "ta"))),
    "copies": ((8, 32), P(None, "tb")),
    # These are not shared.
    "short_side": ((8, 32), P(("ta", "tb"), "fsdp")),
    "fused": ((8, 32), P("fsdp", ("ta", "tb"))),
    "replicated": ((8, 16), P()),
}
ALONE = ("short_side", "fused", "replicated")


def axes(path, leaf):
    return MatrixAxes(split=Split(1, (16, 16)) if path == "fused" else None)


def laid_out(kind=AxisType.Auto, names=tuple(LEAVES)):
    """A tree on a 2 x 2 x 2 mesh, and the same on one device."""
    mesh = jax.make_mesh((2, 2, 2), AXES, axis_types=(kind,) * 3)
    rng = np.random.default_rng(0)
    host = {k: rng.normal(size=LEAVES[k][0]).astype(np.float32) for k in names}
    there = {
        k: jax.device_put(x, NamedSharding(mesh, LEAVES[k][1])) for k, x in host.items()
    }
    return there, {k: jnp.asarray(x) for k, x in host.items()}


def the_leaf(path, shared, mesh):
    shape, spec = LEAVES[path]
    entries = [(e,) if isinstance(e, str) else tuple(e or ()) for e in spec]
    entries += [()] * (len(shape) - len(entries))
    resolved = axes(path, None).resolve(shape)
    one = Leaf(path, shape, resolved, tuple(entries), ("float32", "float32"))
    return shared_along(one, shared, mesh)


def mapped(layout, method, tree):
    return jax.jit(lambda tree: layout.map(method, axes, tree))(tree)


def assert_equal_trees(found, expected, tolerance):
    for name, x in expected.items():
        y = np.asarray(found[name])
        np.testing.assert_allclose(y, x, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(
    ("shared", "kind"),
    [
        ("tb", AxisType.Explicit),
        pytest.param(("ta", "tb"), AxisType.Auto, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_as_one_device(shared, kind):
    tree, host = laid_out(kind)
    layout = sharded(tree, jnp.float32, shared)
    found = mapped(layout, NewtonSchulz(), tree)
    assert_equal_trees(found, mapped(local(), NewtonSchulz(), host), ROUNDING)
    for k, x in found.items():
        assert x.sharding.is_equivalent_to(tree[k].sharding, x.ndim), k


# Gram in float32, the cubic without a square, and a prescaling that needs the rows.
METHODS = {
    "gram": GramNewtonSchulz(),
    "auto": Auto(),
    "cubic": NewtonSchulz("cubic5"),
    "aol": NewtonSchulz(prescale=aol),
}


@pytest.mark.slow
@pytest.mark.parametrize("shared", ["tb", ("ta", "tb")], ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_every_method(name, shared):
    # No square: the rows that `aol` scales are those of the matrix as it is given.
    names = ("wide_0", "tall_0", "stack")
    tree, host = laid_out(names=names)
    layout = sharded(tree, jnp.float32, shared)
    found = mapped(layout, METHODS[name], tree)
    assert_equal_trees(found, mapped(local(), METHODS[name], host), ROUNDING)


@pytest.mark.parametrize("shared", ["tb", ("ta", "tb")], ids=str)
def test_with_bfloat16_on_the_wire(shared):
    names = ("wide_0", "tall_0", "large")
    tree, host = laid_out(names=names)
    found = mapped(sharded(tree, shared=shared), NewtonSchulz(), tree)
    expected = mapped(local(), NewtonSchulz(), host)
    for k, x in expected.items():
        # In a small Gram matrix much lies beside the diagonal, and averages out less.
        bar = WIRE if k == "large" else 2 * WIRE
        assert_equal_trees(found, {k: x}, bar * float(jnp.abs(x).max()))


def test_inside_shard_map():
    names = ("wide_0", "tall_0", "stack")
    tree, host = laid_out(names=names)
    layout = sharded(tree, jnp.float32, "tb")
    specs = {k: LEAVES[k][1] for k in names}

    @jax.jit
    @functools.partial(
        jax.shard_map,
        mesh=tree["stack"].sharding.mesh,
        in_specs=(specs,),
        out_specs=specs,
        check_vma=False,
    )
    def run(tree):
        return layout.map(NewtonSchulz(), axes, tree)

    expected = mapped(local(), NewtonSchulz(), host)
    assert_equal_trees(run(tree), expected, ROUNDING)


def test_a_function_of_whole_matrices_is_not_shared():
    names = ("wide_0", "square")
    tree, host = laid_out(names=names)
    layout = sharded(tree, jnp.float32, "tb")

    def f(x):
        return x @ x.T @ x / jnp.sum(x**2)

    assert_equal_trees(mapped(layout, f, tree), local().map(f, axes, host), ROUNDING)


@pytest.mark.slow
def test_an_optimizer():
    names = ("wide_0", "tall_0", "square", "stack")
    tree, host = laid_out(AxisType.Explicit, names)
    found = []
    layouts = (sharded(tree, jnp.float32, "tb"), tree), (local(), host)
    for layout, params in layouts:
        tx = optax_ortho.muon(
            0.1, labels={k: MatrixAxes() for k in names}, layout=layout
        )
        state, step = tx.init(params), jax.jit(tx.update)
        for _ in range(2):
            updates, state = step(params, state, params)
            params = optax.apply_updates(params, updates)
        found.append(params)
    assert_equal_trees(found[0], found[1], ROUNDING)


@pytest.mark.parametrize(
    ("shared", "sent"),
    # An all-reduce sends 2 m^2 (s - 1) / s, an all-gather of rows m^2 (s - 1) / s.
    [
        ("tb", {"all-reduce": (6, 5 * 2 / 2)}),
        (
            ("ta", "tb"),
            {
                "all-reduce": (6, 5 * 2 * 3 / 4),
                "all-gather": (5, 5 * 3 / 4),
            },
        ),
    ],
    ids=str,
)
def test_the_group_sends_gram_matrices_alone(shared, sent):
    m, names = 16, ("square",)
    tree, _ = laid_out(names=names)
    layout = sharded(tree, jnp.float32, shared)
    run = jax.jit(lambda tree: layout.map(NewtonSchulz(), axes, tree))
    traffic = dict(cost(run.lower(tree).compile().as_text() or "").traffic)
    pieces = traffic.pop("all-to-all")
    owners = 8 // (2 if shared == "tb" else 4)
    piece = m * m / 8 * 4
    assert (pieces.count, pieces.wire) == (2, 2 * (owners - 1) * piece)
    assert set(traffic) == set(sent)
    for kind, (count, grams) in sent.items():
        assert traffic[kind].count == count
        # One number for the scale comes before the Gram matrices.
        assert 0 <= traffic[kind].wire - grams * m * m * 4 <= 8


def test_what_is_shared():
    mesh = {"fsdp": 2, "ta": 2, "tb": 2}
    for path in LEAVES:
        for shared in (("tb",), ("ta", "tb"), ("tb", "ta"), ("fsdp",)):
            one = the_leaf(path, shared, mesh)
            spec = {a for entry in one.spec[-2:] for a in entry}
            assert one.shared in ((), shared)
            if one.shared:
                assert path not in ALONE or shared == ("fsdp",)
                assert not set(route_of(one, mesh).matrix) & set(shared)
                assert set(route_of(one, mesh).matrix) == spec - set(shared)
                # Whole rows of the shorter side, columns of the longer.
                rows, columns = kind_of(one, mesh, True).piece
                assert rows <= columns * 4
    assert the_leaf("wide_0", ("tb",), mesh).shared
    assert the_leaf("tall_0", ("tb",), mesh).shared
    assert not the_leaf("tall_0", ("tb",), {**mesh, "tb": 1}).shared


def test_one_matrix_an_owner_and_round_largest_first():
    mesh = {"fsdp": 2, "ta": 2, "tb": 2}
    leaves = [the_leaf(path, ("tb",), mesh) for path in LEAVES]
    plan = rounds(leaves, mesh, True, 2**18)
    seen = []
    for one in plan:
        units = [unit for share in one.owners for unit in share]
        seen += [
            (u.leaf, u.index + t * len(units))
            for t in range(one.repeats)
            for u in units
        ]
        if one.route.shared:
            assert all(len(share) <= 1 for share in one.owners)
            sizes = [math.prod(unit.kind.piece) for unit in units]
            assert sizes == sorted(sizes, reverse=True)
            assert one.elements >= sizes[0]
    assert len(seen) == len(set(seen))
    batches = [math.prod(shape[:-2]) for shape, _ in LEAVES.values()]
    assert len(seen) == sum(batches) - 2  # Of four experts two are here.


def test_the_plan_says_what_is_shared_and_what_it_costs():
    mesh = AbstractMesh((2, 2, 4), AXES)
    m, n = 64, 256

    def params(path):
        spec = P(("ta", "tb"), "fsdp") if path == "tall" else P("fsdp", ("ta", "tb"))
        shape = (n, m) if path == "tall" else (m, n)
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)

    tree = {path: {"kernel": params(path)} for path in ("wide", "tall", "other")}

    def plan(**how):
        tx = optax_ortho.muon(0.02, layout=sharded(tree, **how))
        return optax_ortho.plan(tx, tree)

    whole, shared = plan(), plan(shared="tb")
    assert "as they are, shared along tb" in str(whole)
    assert whole.alternatives["as they are, shared along tb"] == shared.cost
    assert shared.alternatives["as they are, not shared"] == whole.cost
    assert "fsdp" in str(shared.cost) and "shared by tb" in str(shared.cost)
    work = 5 * (4 * m * m * n + 2 * m**3)
    # Without sharing the busiest device has one matrix; shared, a quarter of one.
    assert (whole.cost.flops, shared.cost.flops) == (work, work / 4)
    assert shared.cost.ideal_flops == 3 * work / 16
    exchange = 2 * 3 * m * n / 16
    grams = 5 * 3 * m * m * 3 / 4
    assert shared.cost.wire_bytes == 2 * (exchange + grams)


def test_an_unknown_axis_is_refused():
    tree, _ = laid_out(names=("square",))
    with pytest.raises(ValueError, match=r"shared has \['tp'\], but .* 'tb'"):
        sharded(tree, shared="tp")

"""The local layout: a loop over every matrix, in one program per shape, on any mesh."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_ortho
from optax_ortho import MatrixAxes, Split, orthogonalize
from optax_ortho.layouts import Local, local
from optax_ortho.matrices import fold, last_two, unfold
from optax_ortho.states import FusedState
from optax_ortho.testing import assert_close, assert_same_types, random_like
from optax_ortho.trust_region import SPECTRAL
from tests.rows import ONE_STEP, new_params

AXES = {
    "kernel": MatrixAxes(),
    "twin": MatrixAxes(),
    "tall": MatrixAxes(),
    "stack": MatrixAxes(),
    "deep": MatrixAxes(),
    "empty": MatrixAxes(),
    "conv": MatrixAxes((0, 1, 2), (3,)),
    "heads": MatrixAxes((0,), (1, 2)),
    "stack_last": MatrixAxes((0,), (1,)),
    "qkv": MatrixAxes(split=Split(-1, (6, 2, 2))),
    "stacked_qkv": MatrixAxes(split=Split(-1, (6, 3, 3))),
    "rows": MatrixAxes(split=Split(-2, (1, 3))),
}
SHAPES = {
    "kernel": (4, 6),
    "twin": (4, 6),
    "tall": (6, 4),
    "stack": (3, 4, 6),
    "deep": (2, 2, 4, 6),
    "empty": (0, 4, 6),
    "conv": (2, 2, 1, 6),
    "heads": (4, 2, 3),
    "stack_last": (4, 6, 3),
    "qkv": (4, 10),
    "stacked_qkv": (2, 4, 12),
    "rows": (4, 6),
}
MATRIX_BYTES = 4 * 6 * 4
# Two products of order-one numbers in another order of summation.
ROUNDING = 1e-6


def axes(path, leaf):
    return AXES[path]


def cubed(x):
    """A function of one matrix that mixes all its entries."""
    return (x @ x.T) @ x / (1 + jnp.sum(x**2))


def leaf_by_leaf(f, tree, *rest):
    """`Local.map` as nothing but loops; `f` returns a tuple of matrices."""

    def on_leaf(name, *leaves):
        one = AXES[name].resolve(leaves[0].shape)
        results = []
        for blocks in zip(*(fold(leaf, one) for leaf in leaves), strict=True):
            m, n = blocks[0].shape[-2:]
            matrices = [block.reshape((-1, m, n)) for block in blocks]
            outs = [f(*xs) for xs in zip(*matrices, strict=True)]
            results.append(
                [
                    np.array([out[k] for out in outs]).reshape(blocks[0].shape)
                    for k in range(len(f(*(jnp.ones((m, n)),) * len(blocks))))
                ]
            )
        return tuple(
            unfold([jnp.asarray(block[k]) for block in results], one, leaves[0].shape)
            for k in range(len(results[0]))
        )

    return {name: on_leaf(name, tree[name], *(t[name] for t in rest)) for name in tree}


@pytest.fixture(scope="module")
def tree():
    return new_params(SHAPES)


SLOW = pytest.mark.slow


def budgets(size, *slow_sizes):
    layouts = [local(size), *(pytest.param(local(n), marks=SLOW) for n in slow_sizes)]
    return pytest.mark.parametrize("layout", layouts, ids=str)


@pytest.mark.parametrize(
    "layout",
    [
        local(5 * MATRIX_BYTES),
        local(1, unroll=2),
        pytest.param(local(1), marks=SLOW),
        pytest.param(local(2**20), marks=SLOW),
        pytest.param(local(1, unroll=True), marks=SLOW),
    ],
    ids=str,
)
def test_map_is_a_loop_over_matrices(layout, tree):
    actual = jax.jit(lambda tree: layout.map(cubed, axes, tree))(tree)
    expected = leaf_by_leaf(lambda x: (cubed(x),), tree)
    expected = {name: result for name, (result,) in expected.items()}
    assert_close(actual, expected, ROUNDING, "cubes")


@budgets(5 * MATRIX_BYTES, 2**20)
def test_several_operands_and_several_results(layout, tree):
    def both(x, y):
        return x @ y.T @ x, x - y

    other = random_like(tree, seed=1)
    actual = jax.jit(lambda *trees: layout.map(both, axes, *trees))(tree, other)
    assert_close(actual, leaf_by_leaf(both, tree, other), ROUNDING, "two results")


@budgets(5 * MATRIX_BYTES, 2**20)
def test_every_matrix_keeps_its_own_state(layout, tree):
    def count(x, state):
        new = {"total": state["total"] + x.sum(), "gram": state["gram"] + x @ x.T}
        return x * new["total"], new

    def first(x):
        return {"total": jnp.zeros(()), "gram": jnp.zeros((x.shape[0],) * 2)}

    @jax.jit
    def two_steps(tree):
        state = layout.init(first, axes, tree)
        _, state = layout.map(count, axes, tree, state=state)
        return layout.map(count, axes, tree, state=state)

    scaled, state = two_steps(tree)
    expected = leaf_by_leaf(lambda x: (2 * x.sum() * x,), tree)
    expected = {name: result for name, (result,) in expected.items()}
    assert_close(scaled, expected, 1e-5, "twice the sum")  # Sums of 24 that cancel.
    for name in ("stack", "deep"):
        gram = 2 * tree[name] @ tree[name].mT
        assert_close(state["gram"][name], gram, ROUNDING, name)
    blocks = fold(tree["stacked_qkv"], AXES["stacked_qkv"].resolve((2, 4, 12)))
    grams = state["gram"]["stacked_qkv"].blocks
    for block, gram in zip(blocks, grams, strict=True):
        assert_close(gram, 2 * block @ block.mT, ROUNDING, "a fused block")


def test_state_has_the_batch_axes_of_its_leaf(tree):
    state = local().init(lambda x: jnp.zeros(x.shape[0]), axes, tree)
    shapes = jax.tree.map(jnp.shape, state, is_leaf=lambda x: isinstance(x, jax.Array))
    assert shapes["deep"] == (2, 2, 4)
    assert shapes["stack_last"] == (3, 4)
    assert shapes["stacked_qkv"] == FusedState(((2, 4), (2, 4), (2, 4)))


def test_mixed_dtypes_stay_apart():
    tree = {"a": jnp.ones((2, 3), jnp.bfloat16), "b": jnp.ones((2, 3))}
    out = local().map(lambda x: x, last_two, tree)
    assert (out["a"].dtype, out["b"].dtype) == (jnp.bfloat16, jnp.float32)


def test_a_tree_without_leaves_passes():
    assert local().map(cubed, last_two, {}) == {}


def test_axes_that_do_not_fit_name_the_leaf():
    with pytest.raises(ValueError, match="'bias'"):
        local().map(cubed, last_two, {"bias": jnp.ones(3)})


def test_a_budget_below_one_is_refused():
    with pytest.raises(ValueError, match="batch_bytes"):
        Local(0)


# Fused leaves


@pytest.mark.parametrize(
    "whole, split, stacked",
    [
        ((8, 16), Split(-1, (8, 4, 4), scales=(1.0, 0.5, 2.0)), ()),
        pytest.param((8, 24), Split(-1, (12, 12)), (), marks=SLOW),
        pytest.param((8, 12), Split(-1, (4, 4, 4)), (), marks=SLOW),
        pytest.param((12, 8), Split(-2, (4, 8)), (), marks=SLOW),
        ((12, 8), Split(-2, (4, 8), scales=(3.0, 1.0)), (2,)),
        ((8, 16), Split(-1, (8, 4, 4)), (2, 3)),
    ],
    ids=["qkv", "gate_up", "heads", "fan_in", "fan_in stack", "deep qkv"],
)
def test_a_fused_leaf_steps_as_its_matrices_would(whole, split, stacked):
    fused = random_like(jnp.zeros(stacked + whole))
    cuts = np.cumsum(split.sizes)[:-1]
    parts = dict(enumerate(jnp.split(fused, cuts, axis=split.axis)))
    scales = split.scales or (1.0,) * len(split.sizes)

    def direction(axes):
        return optax_ortho.scale_by_muon(
            orthogonalizer=ONE_STEP, trust_region=SPECTRAL, axes=axes
        )

    tx = direction(lambda path, leaf: MatrixAxes(split=split))
    together, _ = jax.jit(tx.update)(fused, tx.init(fused))
    tx = direction(last_two)
    apart, _ = jax.jit(tx.update)(parts, tx.init(parts))
    apart = [scale * apart[i] for i, scale in enumerate(scales)]
    # Batches of other sizes round products otherwise.
    expected = jnp.concatenate(apart, axis=split.axis)
    assert_close(together, expected, 1e-5, "a fused step")


# Programs


def operations(program):
    """Every operation of a jaxpr, inner ones too."""
    for equation in program.eqns:
        yield equation
        for value in jax.tree.leaves(
            equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from operations(inner)


def traced(f, number, shape, layout):
    tree = [jax.ShapeDtypeStruct(shape, jnp.float32)] * number
    program = jax.make_jaxpr(lambda tree: layout.map(f, last_two, tree))(tree)
    return list(operations(program.jaxpr))


def products(found):
    return [op for op in found if op.primitive.name == "dot_general"]


@pytest.mark.parametrize("budget", [1, 400, 2**20])
def test_the_program_does_not_grow_with_depth(budget):
    four, twelve = (traced(cubed, n, (4, 6), local(budget)) for n in (4, 12))
    assert len(products(four)) == len(products(twelve)) == 2


@pytest.mark.parametrize("budget", [1, 400, 2**20])
def test_what_a_leaf_adds_is_only_its_load_and_its_store(budget):
    def heavy(x):
        for _ in range(20):
            x = cubed(x)
        return x

    def growth(f):
        return len(traced(f, 12, (4, 6), local(budget))) - len(
            traced(f, 4, (4, 6), local(budget))
        )

    assert growth(heavy) == growth(cubed) <= 12 * 8


@pytest.mark.parametrize(("unroll", "programs"), [(1, 2), (3, 4), (11, 12), (True, 12)])
def test_unrolled_matrices_have_code_of_their_own(unroll, programs):
    """And the rest share a loop, if there is a rest."""
    found = traced(cubed, 12, (4, 6), local(1, unroll))
    assert len(products(found)) == 2 * programs
    assert len([op for op in found if op.primitive.name == "scan"]) == (programs < 12)


def test_the_largest_matrices_are_unrolled_first():
    shapes = [(4, 6), (8, 6), (4, 6), (8, 6), (4, 6), (8, 6)]
    tree = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    layout = local(1, unroll=2)
    program = jax.make_jaxpr(lambda tree: layout.map(cubed, last_two, tree))(tree)
    # Two of (8, 6) alone, and the third needs no loop.
    loops = [op for op in program.jaxpr.eqns if op.primitive.name == "scan"]
    assert [op.params["length"] for op in loops] == [3]


@pytest.mark.parametrize("unroll", [-1, np.zeros([])], ids=["negative", "array"])
def test_an_impossible_unroll_is_refused(unroll):
    with pytest.raises((ValueError, TypeError), match="unroll"):
        local(unroll=unroll)


@pytest.mark.parametrize("shape", [(4, 6), (5, 4, 6)], ids=["leaves", "stacks"])
@pytest.mark.parametrize("budget", [1, 100, 200, 500, 2**20])
def test_no_product_is_larger_than_the_budget(shape, budget):
    for op in products(traced(cubed, 7, shape, local(budget))):
        for operand in op.invars:
            assert operand.aval.size * 4 <= max(budget, MATRIX_BYTES)


@pytest.mark.parametrize("budget", [1, 2**20])
def test_one_matrix_is_not_batched(budget):
    for op in products(traced(cubed, 1, (4, 6), local(budget))):
        assert all(operand.aval.ndim == 2 for operand in op.invars)


# Meshes

MESHED = {
    "replicated": ((8, 16), P()),
    "rows": ((8, 16), P("x", None)),
    "columns": ((8, 16), P(None, "y")),
    "tiles": ((16, 8), P("x", "y")),
    "stack": ((4, 8, 16), P("x", None, None)),
    "conv": ((2, 2, 4, 8), P(None, None, "x", "y")),
    "qkv": ((8, 16), P(None, "y")),
    "bias": ((16,), P("y")),
}
MESH_LABELS = {
    "stack*": MatrixAxes(),
    "conv": MatrixAxes((0, 1, 2), (3,)),
    "qkv": MatrixAxes(split=Split(-1, (8, 4, 4))),
    "bias": "bias",
    "**": "matrix",
}
KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}


@pytest.fixture(params=KINDS)
def mesh(request):
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(KINDS[request.param],) * 2)


def on_mesh(tree, mesh):
    return {
        name: jax.device_put(leaf, NamedSharding(mesh, MESHED[name][1]))
        for name, leaf in tree.items()
    }


def meshed_params(*names):
    return new_params({name: MESHED[name][0] for name in names or MESHED})


def two_steps(tx, params, place=lambda tree: tree):
    gradient = place(random_like(params))
    params = place(params)
    state, step = tx.init(params), jax.jit(tx.update)
    for _ in range(2):
        updates, state = step(gradient, state, params)
    return updates, state


def assert_sharded_like_params(tree, mesh):
    for name, leaf in tree.items():
        wanted = NamedSharding(mesh, MESHED[name][1])
        assert leaf.sharding.is_equivalent_to(wanted, leaf.ndim), (name, leaf.sharding)


RECIPE = optax_ortho.muon(
    0.1,
    orthogonalizer=ONE_STEP,
    weight_decay=0.1,
    labels=MESH_LABELS,
    diagnostics=True,
)


@pytest.fixture(scope="module")
def on_one_device():
    return two_steps(RECIPE, meshed_params())


def test_muon_on_a_mesh_is_muon_on_one_device(mesh, on_one_device):
    with jax.set_mesh(mesh):
        updates, state = two_steps(RECIPE, meshed_params(), lambda t: on_mesh(t, mesh))
        if AxisType.Explicit in mesh.axis_types:
            assert_sharded_like_params(updates, mesh)
            assert_sharded_like_params(moments(state), mesh)
        updates, state = jax.device_get((updates, state))
    expected, expected_state = on_one_device
    # Sums of float32 in another order.
    assert_close(updates, expected, 1e-5, "updates on a mesh")
    assert_close(state, expected_state, 1e-5, "the state on a mesh")


def moments(state):
    """The first moments of both groups."""
    trees = [mu for _, mu in optax.tree.get_all_with_path(state, "mu")]
    return {k: x for mu in trees for k, x in mu.items() if isinstance(x, jax.Array)}


def test_a_state_is_born_in_the_sharding_of_the_parameters(mesh):
    with jax.set_mesh(mesh):
        mu = moments(RECIPE.init(on_mesh(meshed_params(), mesh)))
    assert set(mu) == set(MESHED)
    assert_sharded_like_params(mu, mesh)


def test_types_of_the_state_are_stable_on_a_mesh(mesh):
    with jax.set_mesh(mesh):
        params = on_mesh(meshed_params(), mesh)
        state = RECIPE.init(params)
        before = jax.eval_shape(lambda state: state, state)
        _, after = jax.eval_shape(RECIPE.update, params, state, params)
    assert_same_types(after, before, "the state after a step")


@pytest.mark.parametrize(
    "nonfinite", ["skip_matrix", pytest.param("skip_step", marks=SLOW)]
)
def test_the_guard_holds_on_a_mesh(mesh, nonfinite):
    tx = optax_ortho.muon(
        0.1, orthogonalizer=ONE_STEP, labels=MESH_LABELS, nonfinite=nonfinite
    )
    with jax.set_mesh(mesh):
        params = on_mesh(meshed_params("bias", "rows", "tiles"), mesh)
        bad = {**params, "tiles": params["tiles"] * np.nan}
        updates, state = jax.jit(tx.update)(bad, tx.init(params), params)
        updates, state = jax.device_get((updates, state))
    zero = {name for name, u in updates.items() if not u.any()}
    assert zero == ({"tiles"} if nonfinite == "skip_matrix" else set(params))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_a_sharded_map_with_state(mesh):
    def count(x, total):
        return x * total, total + x.sum()

    tree, layout = meshed_params("rows", "stack", "tiles"), local()

    @jax.jit
    def step(tree):
        state = layout.init(lambda x: jnp.ones(()), last_two, tree)
        return layout.map(count, last_two, tree, state=state)

    with jax.set_mesh(mesh):
        out, state = jax.device_get(step(on_mesh(tree, mesh)))
    assert_close(out, tree, 0, "what was multiplied by one")
    sums = jax.tree.map(lambda x: 1 + x.sum((-2, -1)), tree)
    assert_close(state, sums, 1e-5, "sums of 128 numbers in another order")


@pytest.mark.parametrize("spec", [P("x", None), P("x", "y")], ids=str)
def test_a_tree_of_one_shape_with_many_shardings(mesh, spec):
    tree = random_like([jnp.zeros((8, 16))] * 3)
    tx = orthogonalize(ONE_STEP)
    expected, _ = tx.update(tree, tx.init(tree))
    specs = itertools.cycle([spec, P(), P(None, "y")])
    with jax.set_mesh(mesh):
        placed = [
            jax.device_put(x, NamedSharding(mesh, s))
            for x, s in zip(tree, specs, strict=False)
        ]
        updates, _ = jax.jit(tx.update)(placed, tx.init(placed))
        if AxisType.Explicit in mesh.axis_types:
            for u, x in zip(updates, placed, strict=True):
                assert u.sharding.is_equivalent_to(x.sharding, x.ndim)
        updates = jax.device_get(updates)
    assert_close(updates, expected, 1e-5, "one shape, many shardings")

"""Whole matrices every few steps, and what devices have of them in between."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_ortho
from benchmarks.aot.cost import cost
from optax_ortho import MatrixAxes, Split
from optax_ortho.layouts import owned, sharded
from optax_ortho.orthogonalizers import BlockPeriodic, Exact, orthogonalize

LEAVES = {
    "both": ((16, 24), P("f", "t")),
    "rows": ((24, 8), P("f")),
    "stack": ((3, 8, 16), P(None, None, ("f", "t"))),
    "whole": ((6, 4), P()),
    # The heads are cut, and the heads are in the fan-out.
    "heads": ((8, 4, 3), P(None, "f")),
}
AXES = {"heads": MatrixAxes((0,), (1, 2))}


def axes(path, leaf):
    return AXES.get(path, MatrixAxes())


def laid_out(kind=AxisType.Auto):
    mesh = jax.make_mesh((4, 2), ("f", "t"), axis_types=(kind,) * 2)
    rng = np.random.default_rng(0)
    host = {k: rng.normal(size=s).astype(np.float32) for k, (s, _) in LEAVES.items()}
    there = {
        k: jax.device_put(x, NamedSharding(mesh, LEAVES[k][1])) for k, x in host.items()
    }
    return there, host


def polar(x):
    u, _, vh = np.linalg.svd(np.asarray(x, np.float64), full_matrices=False)
    return u @ vh


def of_parts(x, rows, columns):
    """Algorithm 1's block step, at the RMS of a whole matrix's."""
    parts = [np.split(row, columns, -1) for row in np.split(x, rows, -2)]
    joined = np.block([[polar(part) for part in row] for row in parts])
    p, q = x.shape[-2] // rows, x.shape[-1] // columns
    return joined * np.sqrt(max(p, q) / max(x.shape[-2:]))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_whole_then_parts_then_whole(kind):
    tree, host = laid_out(kind)
    stage = BlockPeriodic(Exact(), every=3)
    tx = orthogonalize(stage, axes, sharded(tree, wire_dtype=jnp.float32))
    state, step = tx.init(tree), jax.jit(tx.update)
    flat = {k: x.reshape(8, 12) if k == "heads" else x for k, x in host.items()}
    cut = {"both": (4, 2), "rows": (4, 1), "stack": (1, 8), "whole": (1, 1)}
    cut["heads"] = (1, 4)
    for turn in range(5):
        found, state = step(tree, state)
        for k, x in flat.items():
            expected = polar(x) if turn % 3 == 0 else of_parts(x, *cut[k])
            # Orthogonal factors of well-conditioned matrices, in float32.
            np.testing.assert_allclose(
                np.reshape(found[k], x.shape), expected, 0, 1e-5, err_msg=f"{k} {turn}"
            )
            assert found[k].sharding.is_equivalent_to(tree[k].sharding, tree[k].ndim)


def test_parts_have_the_rms_of_whole_matrices():
    tree, _ = laid_out()
    tx = orthogonalize(BlockPeriodic(every=2), axes, sharded(tree))
    step = jax.jit(tx.update)
    whole, state = step(tree, tx.init(tree))
    parts, _ = step(tree, state)
    for k, x in whole.items():
        one, other = (float(jnp.sqrt(jnp.mean(y**2))) for y in (x, parts[k]))
        # Five Newton-Schulz steps leave singular values between 0.7 and 1.2.
        assert other == pytest.approx(one, rel=0.2), k


def test_steps_between_send_nothing():
    tree, _ = laid_out()
    between = orthogonalize(BlockPeriodic(), axes, sharded(tree))
    state = between.init(tree)._replace(count=1)  # A constant, so one branch is left.
    step = jax.jit(lambda tree: between.update(tree, state)[0])
    assert not cost(step.lower(tree).compile().as_text()).traffic


def test_one_device_has_whole_matrices():
    _, host = laid_out()
    tx = orthogonalize(BlockPeriodic(Exact(), every=2), axes)
    first, state = jax.jit(tx.update)(host, tx.init(host))
    second, _ = jax.jit(tx.update)(host, state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 0, 1e-6), first, second)


def test_a_recipe_trains_with_it():
    tree, _ = laid_out()
    labels = {k: axes(k, None) for k in tree}
    tx = optax_ortho.muon(
        0.1, labels=labels, orthogonalizer=BlockPeriodic(), layout=sharded(tree)
    )
    state, step = tx.init(tree), jax.jit(tx.update)
    for _ in range(2):
        updates, state = step(tree, state, tree)
    for k, x in updates.items():
        assert float(jnp.sum(x * tree[k])) < 0, k  # Downhill.
    assert "BlockPeriodic" in str(optax_ortho.summary(tx, tree))


def test_what_has_no_parts_is_refused():
    tree, _ = laid_out()
    fused = {"both": MatrixAxes(split=Split(1, (8, 16)))}
    tx = orthogonalize(BlockPeriodic(), lambda path, _: fused[path], sharded(tree))
    one = {"both": tree["both"]}
    with pytest.raises(ValueError, match="'both' is fused along axis 1 and sharded"):
        jax.jit(tx.update)(one, tx.init(one))
    with pytest.raises(TypeError, match="layouts.sharded"):
        optax_ortho.muon(
            0.1, orthogonalizer=BlockPeriodic(), layout=owned(tree, ("f", "t"))
        ).init(tree)
    with pytest.raises(ValueError, match="every"):
        BlockPeriodic(every=0)

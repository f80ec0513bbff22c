"""Any tree, shape, dtype, scale and rank: a step is finite and of its type."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import optax_ortho
from optax_ortho import MatrixAxes, checkpoints
from optax_ortho.orthogonalizers import NewtonSchulz
from optax_ortho.testing import assert_same_types
from tests.rows import ONE_STEP

LENGTHS = st.sampled_from([0, 1, 2, 3, 5])
LEAVES = st.lists(LENGTHS, min_size=0, max_size=4).map(tuple)
TREES = st.recursive(
    LEAVES.map(lambda shape: {"leaf": shape}),
    lambda inner: st.dictionaries(
        st.sampled_from("abc"), inner, min_size=1, max_size=3
    ),
    max_leaves=5,
)
DTYPES = st.sampled_from([jnp.float32, jnp.bfloat16, jnp.float16, jnp.complex64])


def new(shapes, dtype, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(scale * rng.standard_normal(shape), dtype),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def label(path, leaf):
    return MatrixAxes() if np.ndim(leaf) >= 2 else "vector"


def muon():
    return optax_ortho.muon(0.1, labels=label, orthogonalizer=ONE_STEP)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(shapes=TREES, dtypes=st.tuples(DTYPES, DTYPES), seed=st.integers(0, 99))
def test_types_of_any_tree_stay(shapes, dtypes, seed):
    if (jnp.complex64 in dtypes) and dtypes[0] != dtypes[1]:
        dtypes = (jnp.complex64, jnp.complex64)
    params, gradient = (new(shapes, dtype, seed) for dtype in dtypes)
    tx = muon()
    state = jax.eval_shape(tx.init, params)
    updates, after = jax.eval_shape(tx.update, gradient, state, params)
    assert_same_types(updates, jax.eval_shape(lambda: gradient), "the update")
    assert_same_types(after, state, "the state")
    flat = checkpoints.to_flat(tx.init(params))
    checkpoints.check_state(tx, params, checkpoints.from_flat(tx, params, flat))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    rank=st.integers(0, 4),
    exponent=st.integers(-30, 36),
    zeros=st.sets(st.integers(0, 5)),
    seed=st.integers(0, 99),
)
def test_any_matrix_gives_a_bounded_step(rank, exponent, zeros, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((6, rank)) @ rng.standard_normal((rank, 4))
    x[list(zeros)] = 0
    x = x / max(np.abs(x).max(), 1e-6) * 10.0**exponent
    found = np.asarray(ORTHOGONALIZE(jnp.asarray(x, jnp.float32)))
    assert np.isfinite(found).all()
    values = np.linalg.svd(found.astype(np.float64), compute_uv=False)
    assert values.max() <= 1.21  # The certificate of the table, and rounding.
    true_rank = int(np.linalg.matrix_rank(np.float32(x / 10.0**exponent)))
    # float32 leaves 1e-7 of a null space, which five steps enlarge by 3.44 each.
    assert (values[true_rank:] < 1e-3).all()


ORTHOGONALIZE = jax.jit(NewtonSchulz().orthogonalize)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(shape=st.tuples(LENGTHS, LENGTHS), other=st.tuples(LENGTHS, LENGTHS))
def test_a_gradient_of_another_shape_is_refused(shape, other):
    tx, params = muon(), {"a": {"kernel": jnp.ones(shape)}}
    gradient, state = {"a": {"kernel": jnp.ones(other)}}, tx.init(params)
    if shape == other:
        return
    with pytest.raises(ValueError, match="'a/kernel'") as error:
        jax.eval_shape(tx.update, gradient, state, params)
    assert str(shape) in str(error.value) and str(other) in str(error.value)

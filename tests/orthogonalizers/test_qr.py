"""Orthonormal columns: one result by every method, and finite ones by accident."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_ortho.orthogonalizers import (
    QR,
    Householder,
    RandomizedCholesky,
    ShiftedCholesky,
)
from optax_ortho.testing import assert_close

METHODS = [
    Householder(),
    ShiftedCholesky(),
    RandomizedCholesky(),
    ShiftedCholesky(passes=3),
    ShiftedCholesky(passes=2, shift=0.0),
]
every_method = pytest.mark.parametrize(
    "method",
    # The last two differ from the second in a number.
    [*METHODS[:3], *(pytest.param(m, marks=pytest.mark.slow) for m in METHODS[3:])],
    ids=str,
)


def matrix(m, n, condition=10.0, rank=None):
    rng = np.random.default_rng(0)
    u, _ = np.linalg.qr(rng.normal(size=(m, n)))
    v, _ = np.linalg.qr(rng.normal(size=(n, n)))
    s = np.geomspace(1, 1 / condition, n)
    s[rank:] = 0 if rank is not None else s[rank:]
    return jnp.asarray(u * s @ v.T, jnp.float32)


def off_orthonormal(q):
    return float(jnp.abs(q.T @ q - jnp.eye(q.shape[1])).max())


@every_method
@pytest.mark.parametrize("shape", [(200, 5), (8, 8)])
def test_it_is_the_qr_decomposition(method, shape):
    x = matrix(*shape)
    q, r = np.linalg.qr(np.asarray(x, np.float64))
    expected = q * np.sign(np.diagonal(r))
    for size in (1e-30, 1.0, 1e30):
        # Float32, at a condition number of 10.
        assert_close(jax.jit(method.qr)(x * size), expected, 1e-5, "Q")


@pytest.mark.parametrize(
    "method, condition, tolerance",
    # What each is said to reach; the shift makes two passes the least exact.
    [
        (Householder(), 1e6, 1e-5),
        (ShiftedCholesky(), 1e4, 1e-5),
        (ShiftedCholesky(3), 1e6, 1e-5),
        (RandomizedCholesky(), 1e6, 1e-5),
    ],
    ids=str,
)
def test_columns_stay_orthonormal(method, condition, tolerance):
    q = jax.jit(method.qr)(matrix(300, 32, condition))
    assert off_orthonormal(q) < tolerance


def test_two_passes_are_not_enough_for_a_bad_condition():
    q = jax.jit(ShiftedCholesky().qr)(matrix(300, 32, 1e6))
    assert off_orthonormal(q) > 1e-3


@every_method
def test_what_has_no_full_rank_is_finite(method):
    zero, ones = jnp.zeros((200, 3)), jnp.ones((200, 3))
    for x in (zero, ones, matrix(200, 3, rank=2)):
        q = jax.jit(method.qr)(x)
        assert jnp.isfinite(q).all()
        # No column is longer than 1, and what has a direction keeps it.
        assert float(jnp.linalg.norm(q, axis=0).max()) < 1 + 1e-5
        assert_close(q @ (q.T @ x), x, 1e-3, "in the space of Q")


@every_method
def test_a_stack_is_its_matrices(method):
    xs = jnp.stack([matrix(200, 5), jnp.zeros((200, 5)), jnp.ones((200, 5))])
    together = jax.jit(jax.vmap(method.qr))(xs)
    # A batched program; of zero and ones only the first column is determined.
    assert_close(together[0], jax.jit(method.qr)(xs[0]), 1e-5, "one of a stack")
    assert jnp.isfinite(together).all()


def test_methods_are_values():
    assert ShiftedCholesky(2) == ShiftedCholesky(2) != ShiftedCholesky(3)
    assert len(set(METHODS)) == len(METHODS)
    assert all(isinstance(method, QR) and not callable(method) for method in METHODS)


@pytest.mark.parametrize(
    "make, name",
    [
        (lambda: ShiftedCholesky(passes=0), "passes"),
        (lambda: ShiftedCholesky(shift=-1.0), "shift"),
        (lambda: RandomizedCholesky(oversample=0.5), "oversample"),
    ],
)
def test_what_cannot_be_is_refused(make, name):
    with pytest.raises(ValueError, match=name):
        make()

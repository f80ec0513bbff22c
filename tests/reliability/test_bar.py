"""The bar on Muon; `python -m benchmarks.reliability` has every optimizer.

Of its rows the contract has B1 to B4, B7 and B9 for every optimizer; the cases have
B8, B11, B15, B19 and B24; B6 stands in `tests/orthogonalizers`, B10 in `tests/layouts`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax
import pytest

from tests.reliability.bar import BAR, NotPromised
from tests.reliability.subjects import MUON, OURS, PEER, SHAPES, SHORT

QUICK = ("B21", "B25")
SLOW = ("B5", "B12", "B14", "B17", "B18", "B20", "B22", "B23")


@pytest.mark.parametrize(
    "row", [*QUICK, *(pytest.param(row, marks=pytest.mark.slow) for row in SLOW)]
)
def test_muon_passes(row):
    assert BAR[row](SHORT)


@pytest.mark.slow
def test_the_released_checkpoint_continues():
    assert BAR["B13"](MUON)


@pytest.mark.slow
@pytest.mark.parametrize("subject", [s for s in OURS if s is not MUON], ids=str)
def test_every_optimizer_refuses_misuse(subject):
    BAR["B16"](subject)


# The bar must be able to fail: Muon, with a promise broken.


def broken(change, shapes=SHORT.shapes):
    """Muon with a changed update."""

    def factory(**arguments):
        tx = SHORT.factory(**arguments)

        def update(updates, state, params=None, **extra):
            return change(tx, updates, state, params)

        return optax.GradientTransformationExtraArgs(tx.init, update)

    # The committed checkpoint is one of all kinds of leaves.
    return dataclasses.replace(MUON, factory=factory, shapes=shapes)


def plus_one(tx, updates, state, params):
    new, state = tx.update(updates, state, params)
    return jax.tree.map(lambda u: u + 1, new), state


def times_gradient(tx, updates, state, params):
    new, state = tx.update(updates, state, params)
    return jax.tree.map(lambda u, g: u * jnp.abs(g).max(initial=0), new, updates), state


def unguarded(tx, updates, state, params):
    new, state = tx.update(updates, state, params)
    return jax.tree.map(lambda u, g: u + 0 * g, new, updates), state


def remembers_nothing(tx, updates, state, params):
    new, _ = tx.update(updates, state, params)
    return jax.tree.map(lambda u: u.astype(jnp.float32), new), state


def poisoned(tx, updates, state, params):
    new, state = tx.update(updates, state, params)
    bad = optax.tree.norm(updates)
    return new, jax.tree.map(lambda s: s + (0 * bad).astype(s.dtype), state)


@pytest.mark.slow
@pytest.mark.parametrize(
    "row, change",
    [
        ("B1", plus_one),
        ("B2", times_gradient),
        ("B3", unguarded),
        ("B4", poisoned),
        ("B7", remembers_nothing),
        ("B13", plus_one),
        ("B22", plus_one),
    ],
)
def test_a_broken_optimizer_fails(row, change):
    with pytest.raises((AssertionError, ValueError)):
        BAR[row](broken(change, SHAPES if row == "B13" else SHORT.shapes))


@pytest.mark.slow
@pytest.mark.parametrize("row", ["B3", "B11", "B14", "B16", "B21"])
def test_the_muon_of_optax_fails(row):
    with pytest.raises(Exception) as error:
        BAR[row](PEER)
    assert not isinstance(error.value, NotPromised)

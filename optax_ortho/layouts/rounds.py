"""All rounds of a plan on one device, one after the other."""

import collections
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from optax_ortho.layouts.exchange import run_round
from optax_ortho.layouts.pieces import LANES, put_together, take_apart
from optax_ortho.layouts.plan import (
    Leaf,
    MeshShape,
    Round,
    kind_of,
    local_shape,
    order_of,
)
from optax_ortho.layouts.shared import run_shared_round
from optax_ortho.layouts.work import Work, groups


def run_rounds(
    work: Work,
    plan: Sequence[Round],
    leaves: Sequence[Leaf],
    mesh: MeshShape,
    columns: Sequence[Sequence[jax.Array]],
    state: dict[str, Any],
) -> tuple[list[list[jax.Array]], dict[str, Any]]:
    """Does the work on all matrices, where the mesh axes are manual.

    Args:
      work: what is done.
      plan: the rounds.
      leaves: the parameters.
      mesh: the size of each mesh axis.
      columns: this device's part of each leaf, for each operand.
      state: this device's states by group, with an axis for matrices in front.

    Returns:
      This device's part of each result, for each leaf, and the new state.
    """
    kinds = [kind_of(leaf, mesh, True) for leaf in leaves]
    orders = [order_of(leaf, mesh) for leaf in leaves]
    pieces = [
        [take_apart(_as_it_lies(x.astype(work.wire)), order, kind) for x in arrays]
        for order, kind, *arrays in zip(orders, kinds, *columns, strict=True)
    ]
    found: list[dict[int, Sequence[jax.Array]]] = [{} for _ in leaves]
    new: dict[str, list] = {name: [] for name in state}
    used = collections.Counter()
    before: list[jax.Array] = []
    for one in plan:
        taken = slots(one, mesh) if state else {}
        now = {
            name: jax.tree.map(lambda s, i=used[name], n=n: s[i : i + n], state[name])
            for name, n in taken.items()
        }
        used.update(taken)
        inputs = {
            (leaf, i): [x[i : i + n].astype(work.wire) for x in pieces[leaf]]
            for leaf, i, n in _taken(one)
        }
        # One round after the other: all at once they would hold every matrix at once.
        inputs, before = lax.optimization_barrier((inputs, before))
        results, now = _repeated(work, one, mesh, inputs, now)
        for (leaf, i), ys in results.items():
            found[leaf][i] = ys
        before = next(iter(results.values()))[:1]
        for name, part in now.items():
            new[name].append(part)
    shaped = [
        [
            as_leaf(leaf, mesh, [parts[i][j] for i in sorted(parts)], work.wire_back)
            for j in range(work.results)
        ]
        for leaf, parts in zip(leaves, found, strict=True)
    ]
    return shaped, {
        name: jax.tree.map(lambda *s: concatenated(s), *parts)
        for name, parts in new.items()
    }


def slots(one: Round, mesh: MeshShape) -> collections.Counter:
    """For how many states of each group a round needs room on every device."""
    most = collections.Counter()
    for share in one.owners:
        names = [name for unit in share for name in groups(unit.kind, mesh)]
        most |= collections.Counter(names)
    return collections.Counter({name: n * one.repeats for name, n in most.items()})


def _taken(one: Round) -> list[tuple[int, int, int]]:
    """Leaf, first index and number of what a round takes from its leaves."""
    units = [unit for share in one.owners for unit in share]
    if one.repeats == 1:
        return [(unit.leaf, unit.index, 1) for unit in units]
    return [(units[0].leaf, units[0].index, len(units) * one.repeats)]


def _repeated(
    work: Work, one: Round, mesh: MeshShape, inputs: dict, state: dict
) -> tuple[dict[tuple[int, int], list[jax.Array]], dict]:
    """A round as often as it repeats: one program, whatever the depth of a stack."""
    units = [unit for share in one.owners for unit in share]
    run = run_shared_round if one.route.shared else run_round
    if one.repeats == 1:
        found, state = run(
            work, one, mesh, lambda u: [x[0] for x in inputs[u.leaf, u.index]], state
        )
        flat = [ys for share in found for ys in share]
        return {
            (u.leaf, u.index): [y[None] for y in ys]
            for u, ys in zip(units, flat, strict=True)
        }, state
    ((where, arrays),) = inputs.items()

    def turn(_, now):
        xs, state = now
        found, state = run(
            work, one, mesh, lambda u: [x[u.index - where[1]] for x in xs], state
        )
        results = zip(*(ys for share in found for ys in share), strict=True)
        return None, ([jnp.stack(ys) for ys in results], state)

    def in_turns(x):
        return x.reshape((one.repeats, -1, *x.shape[1:]))

    def in_a_row(x):
        return x.reshape((-1, *x.shape[2:]))

    _, (found, state) = lax.scan(turn, None, jax.tree.map(in_turns, (arrays, state)))
    return {where: [in_a_row(y) for y in found]}, jax.tree.map(in_a_row, state)


def as_leaf(
    leaf: Leaf, mesh: MeshShape, pieces: Sequence[jax.Array], dtype: Any
) -> jax.Array:
    """This device's part of a leaf, from the pieces of its matrices in their order."""
    shape = local_shape(leaf, mesh)
    if not pieces:  # A stack of no matrices.
        return jnp.zeros(shape, dtype)
    return put_together(concatenated(pieces), order_of(leaf, mesh), shape)


def concatenated(parts: Sequence[jax.Array]) -> jax.Array:
    """Arrays one after the other; one alone as it is."""
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def _as_it_lies(x: jax.Array) -> jax.Array:
    """Keeps a layout from spreading to what an array is computed of.

    Where a piece is transposed for its owner, XLA would rather compute the momentum
    transposed, and copy all of it back at the end: 268 MB for a Llama 1B on 8 chips.
    Rows that do not fill a TPU's lanes would be padded as they lie, so those are free.
    """
    if x.shape[-1] % LANES:
        return x
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))

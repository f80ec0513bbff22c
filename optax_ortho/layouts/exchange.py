"""One round on one device: pieces to their owners, the work, and the results back.

It runs where the mesh axes are manual, inside a `jax.shard_map` or `jax.pmap`. One
all-to-all brings each owner its matrices and one brings the results back; where
parameters are replicated, each replica works on its own matrices and an all-gather
brings the results.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from optax_ortho.layouts.pieces import (
    assemble,
    blocks_of,
    divide,
    lanes,
    tiled,
    untiled,
)
from optax_ortho.layouts.plan import Kind, MeshShape, Round, Route, Unit
from optax_ortho.layouts.work import Work


def run_round(
    work: Work,
    one: Round,
    mesh: MeshShape,
    pieces: Callable[[Unit], Sequence[jax.Array]],
    state: Any,
) -> tuple[list[list[list[jax.Array]]], Any]:
    """One round.

    Args:
      work: what is done.
      one: the round.
      mesh: the size of each mesh axis.
      pieces: the ``(rows, columns)`` of a unit on this device, of each operand.
      state: of this device's units, with an axis for units in front.

    Returns:
      The pieces of the results on this device, by owner, unit and result; and the
      state.
    """
    width = lanes([unit.kind.piece for units in one.owners for unit in units])
    buffer = packed(one, width, pieces, work.wire)
    buffer, state = there_and_back(
        one.route, mesh, buffer, lambda x: _owned(work, one, mesh, x, state)
    )
    return unpacked(one, buffer, work.results), state


def there_and_back(
    route: Route, mesh: MeshShape, buffer: jax.Array, owned: Callable
) -> tuple[jax.Array, Any]:
    """Pieces to their owners, and their results back.

    Args:
      route: of the pool.
      mesh: the size of each mesh axis.
      buffer: ``(owners, ...)``, what each owner is to receive from this device.
      owned: takes what this device has received as an owner, ``(devices, ...)``, and
        returns what to send back, and more.

    Returns:
      What each owner has sent back, and the more.
    """
    replicas = math.prod(mesh[axis] for axis in route.replica)
    if replicas > 1:
        # Every replica has all pieces; each takes those of its own owners.
        buffer = buffer.reshape((replicas, -1, *buffer.shape[1:]))
        turn = lax.axis_index(route.replica)
        buffer = lax.dynamic_index_in_dim(buffer, turn, keepdims=False)
    buffer, more = owned(all_to_all(buffer, route.matrix))
    return sent_back(route, buffer), more


def sent_back(route: Route, buffer: jax.Array) -> jax.Array:
    """What each owner sends back, of what this device sends as an owner."""
    buffer = all_to_all(buffer, route.matrix)
    if route.replica:
        buffer = lax.all_gather(buffer, route.replica, tiled=True, to="invarying")
    return buffer


def all_to_all(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """The parts of the leading axis to the devices along some mesh axes."""
    return lax.all_to_all(x, axes, 0, 0, tiled=True) if axes else x


def packed(one: Round, width: int, pieces: Callable, wire: Any) -> jax.Array:
    """``(owners, n, width)``: what each owner is to receive from this device."""
    shares = []
    for units in one.owners:
        found = [tiled(x.astype(wire), width) for u in units for x in pieces(u)]
        shares.append(joined(found) if found else jnp.zeros((0, width), wire))
    rows = max(x.shape[0] for x in shares)
    return jnp.stack([lengthened(x, rows, 0) for x in shares])


def unpacked(one: Round, buffer: jax.Array, results: int) -> list:
    """The pieces in a buffer of `packed`, by owner, unit and result."""
    found = []
    for i, units in enumerate(one.owners):
        start, share = 0, []
        for unit in units:
            rows = math.prod(unit.kind.piece) // buffer.shape[-1]
            cuts = [buffer[i, start + j * rows :][:rows] for j in range(results)]
            share.append([untiled(x, unit.kind.piece) for x in cuts])
            start += rows * results
        found.append(share)
    return found


def _owned(
    work: Work, one: Round, mesh: MeshShape, buffer: jax.Array, state: Any
) -> tuple[jax.Array, Any]:
    """The work of this device's own units."""
    profiles = {tuple(unit.kind for unit in units) for units in one.owners}
    widest = max(sum(math.prod(k.piece) for k in kinds) for kinds in profiles)
    rows = widest * work.results // buffer.shape[-1]
    return by_profile(
        one, lambda kinds: _branch(work, one, mesh, kinds, rows), buffer, state
    )


def by_profile(one: Round, branch: Callable, *operands: Any) -> Any:
    """Runs the branch of this device's own kinds: one program for each mix of them."""
    profiles = [tuple(unit.kind for unit in units) for units in one.owners]
    distinct = list(dict.fromkeys(profiles))
    branches = [branch(kinds) for kinds in distinct]
    if len(branches) == 1:
        return branches[0](*operands)
    index = lax.axis_index(one.route.replica + one.route.matrix)
    which = jnp.asarray([distinct.index(kinds) for kinds in profiles], jnp.int32)
    return lax.switch(which[index], branches, *operands)


def _branch(
    work: Work, one: Round, mesh: MeshShape, kinds: Sequence[Kind], rows: int
) -> Callable:
    matrix = one.route.matrix

    def on_unit(pieces, states, kind):
        """``(devices, operands, n, width)`` of one unit, to the same of its results."""
        width = pieces.shape[-1]
        received = [untiled(pieces[:, i], kind.piece) for i in range(work.operands)]
        if work.in_blocks is not None and kind.cut is None:
            x = received[0].reshape((blocks_of(kind, (), mesh), -1, kind.piece[1]))
            back = [work.in_blocks(x, kind).reshape((-1, *kind.piece))]
        else:
            operands = [assemble(x, kind, matrix, mesh) for x in received]
            results, states = work.f(operands, states, kind)
            back = [divide(blocks, kind, matrix, mesh) for blocks in results]
        tiles = [tiled(x.astype(work.wire_back), width) for x in back]
        return jnp.stack(tiles, 1), states

    def on_run(pieces, states, kind):
        """``(devices, units, operands, n, width)`` of units of one kind."""
        units = pieces.shape[1]
        if units == 1 or pieces[:, :1].size > work.at_once:
            pairs = [on_unit(pieces[:, i], states[i], kind) for i in range(units)]
            return jnp.stack([y for y, _ in pairs], 1), [s for _, s in pairs]
        stacked = jax.tree.map(lambda *s: jnp.stack(s), *states)
        ys, stacked = jax.vmap(functools.partial(on_unit, kind=kind), (1, 0), (1, 0))(
            pieces, stacked
        )
        return ys, [jax.tree.map(lambda s, i=i: s[i], stacked) for i in range(units)]

    def run(buffer, state):
        devices, _, width = buffer.shape
        used = {name: 0 for name in state}
        start, shares, new = 0, [], {name: [] for name in state}
        for kind, same in itertools.groupby(kinds):
            units, n = len(list(same)), math.prod(kind.piece) // width
            size = units * work.operands * n
            pieces = buffer[:, start : start + size]
            pieces = pieces.reshape((devices, units, work.operands, n, width))
            start += size
            names = work.groups(kind)
            states = []
            for _ in range(units):
                blocks = []
                for name in names:
                    i = used[name]
                    blocks.append(jax.tree.map(lambda s, i=i: s[i], state[name]))
                    used[name] += 1
                states.append(tuple(blocks))
            ys, states = on_run(pieces, states, kind)
            shares.append(ys.reshape((devices, -1, width)))
            for blocks in states:
                for name, block in zip(names, blocks, strict=True):
                    new[name].append(block)
        # Of the buffer, so that an owner of nothing returns what differs by device too.
        share = joined(shares) if shares else buffer[:, :0].astype(work.wire_back)
        return lengthened(share, rows, 1), {
            name: _replaced(state[name], new[name]) for name in state
        }

    return run


def _replaced(old: Any, new: list) -> Any:
    """The states of a round, the first of them by new ones."""
    if not new:
        return old

    def on_array(whole, *parts):
        return jnp.concatenate([jnp.stack(parts), whole[len(parts) :]])

    return jax.tree.map(on_array, old, *new)


def joined(parts: Sequence[jax.Array]) -> jax.Array:
    """Tiles one after the other."""
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, -2)


def lengthened(x: jax.Array, rows: int, axis: int) -> jax.Array:
    """An array with zeros behind it."""
    missing = rows - x.shape[axis]
    if not missing:
        return x
    padding = [(0, missing if i == axis else 0) for i in range(x.ndim)]
    return jnp.pad(x, padding)

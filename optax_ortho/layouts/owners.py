"""Local gradients to whole matrices on their owners, and from owners to the parameters.

These are the halves of `optax_ortho.layouts.exchange`, apart. Between them the matrices
stay with their owner, as stacks with a slot for each. On the way in, gradients that
devices have of their own parts of a batch are averaged: a reduce-scatter whose parts
are whole matrices sends what one sends whose parts are shards.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from optax_ortho.layouts.exchange import (
    all_to_all,
    by_profile,
    joined,
    lengthened,
    packed,
    sent_back,
    unpacked,
)
from optax_ortho.layouts.pieces import (
    assemble,
    divide,
    lanes,
    take_apart,
    tiled,
    untiled,
)
from optax_ortho.layouts.plan import (
    Axes,
    Leaf,
    MeshShape,
    Round,
    kind_of,
    order_of,
)
from optax_ortho.layouts.rounds import as_leaf, concatenated, slots
from optax_ortho.layouts.shards import averaged_batch
from optax_ortho.layouts.work import groups, shape_of

Stacks = dict[str, jax.Array]


def to_owners(
    plan: Sequence[Round],
    leaves: Sequence[Leaf],
    mesh: MeshShape,
    over: Axes,
    gradients: Sequence[jax.Array],
) -> Stacks:
    """The averages of gradients, each matrix whole on its owner.

    Args:
      plan: the rounds.
      leaves: the parameters.
      mesh: the size of each mesh axis; all are manual.
      over: the mesh axes along which gradients differ, and are whole.
      gradients: this device's.

    Returns:
      The matrices of this device, ``(slots, fan_in, fan_out)`` for each shape. What it
      has no matrix for is zero.
    """
    wire = jnp.result_type(*gradients)
    given = [_whole_along(leaf, over) for leaf in leaves]
    kinds = [kind_of(leaf, mesh, False) for leaf in given]
    pieces = [
        take_apart(averaged_batch(x, leaf, mesh, over), order_of(lies, mesh), kind)
        for x, leaf, lies, kind in zip(gradients, leaves, given, kinds, strict=True)
    ]
    found: dict[str, list[jax.Array]] = {}
    for one in plan:
        owners = [
            [u._replace(kind=kinds[u.leaf]) for u in share] for share in one.owners
        ]
        as_given = one._replace(owners=tuple(map(tuple, owners)))

        def turn(piece, one=as_given):
            return _in(one, mesh, over, piece, wire)

        for name, part in _in_turns(as_given, turn, pieces).items():
            found.setdefault(name, []).append(part)
    return {name: concatenated(found[name]) for name in sorted(found)}


def from_owners(
    plan: Sequence[Round],
    leaves: Sequence[Leaf],
    mesh: MeshShape,
    stacks: Stacks,
    wire: Any,
) -> list[jax.Array]:
    """What owners have, as the parts of the parameters on this device.

    Args:
      plan: the rounds.
      leaves: the parameters.
      mesh: the size of each mesh axis; all are manual.
      stacks: as `to_owners` returns them.
      wire: the dtype that travels.

    Returns:
      This device's part of each leaf, in the dtype that travelled.
    """
    found: list[dict[int, jax.Array]] = [{} for _ in leaves]
    used = Counter()
    for one in plan:
        taken = slots(one, mesh)
        own = {name: stacks[name][used[name] :][:n] for name, n in taken.items()}
        used.update(taken)
        units = [unit for share in one.owners for unit in share]
        if one.repeats == 1:
            for unit, piece in zip(units, _out(one, mesh, own, wire), strict=True):
                found[unit.leaf][unit.index] = piece[None]
            continue

        def turn(_, own, one=one):
            return None, jnp.stack(_out(one, mesh, own, wire))

        _, ys = lax.scan(turn, None, jax.tree.map(_divided(one.repeats), own))
        found[units[0].leaf][units[0].index] = ys.reshape((-1, *ys.shape[2:]))
    return [
        as_leaf(leaf, mesh, [parts[i] for i in sorted(parts)], wire)
        for leaf, parts in zip(leaves, found, strict=True)
    ]


def _whole_along(leaf: Leaf, over: Axes) -> Leaf:
    """A parameter as its gradient lies: whole along some mesh axes, but for stacks."""
    stacked = leaf.axes.batch(len(leaf.shape))
    spec = tuple(
        axes if i in stacked else tuple(a for a in axes if a not in over)
        for i, axes in enumerate(leaf.spec)
    )
    return leaf._replace(spec=spec)


def _in_turns(one: Round, f: Callable, pieces: Sequence[jax.Array]) -> Stacks:
    """``f`` of a function from units to pieces, as often as the round repeats."""
    if one.repeats == 1:
        return f(lambda unit: pieces[unit.leaf][unit.index])
    units = [unit for share in one.owners for unit in share]
    leaf, first, _ = units[0]
    taken = pieces[leaf][first : first + len(units) * one.repeats]

    def turn(_, xs):
        return None, f(lambda unit: xs[unit.index - first])

    _, ys = lax.scan(turn, None, _divided(one.repeats)(taken))
    return {name: y.reshape((-1, *y.shape[2:])) for name, y in ys.items()}


def _in(one: Round, mesh: MeshShape, over: Axes, piece: Callable, wire: Any) -> Stacks:
    """The matrices of one round, averaged, on their owners."""
    pool = one.route.replica + one.route.matrix
    summed = tuple(axis for axis in pool if axis in over)
    equal = tuple(axis for axis in one.route.replica if axis not in over)
    matrix = tuple(axis for axis in one.route.matrix if axis not in over)
    count = math.prod(mesh[axis] for axis in summed)
    width = lanes([unit.kind.piece for units in one.owners for unit in units])
    # Divided first, so that no sum of finite gradients is infinite.
    buffer = packed(one, width, lambda unit: [piece(unit) / count], wire)
    tail = buffer.shape[1:]
    order = [pool.index(axis) for axis in summed + equal + matrix]
    buffer = buffer.reshape((*(mesh[axis] for axis in pool), *tail))
    buffer = buffer.transpose((*order, len(pool), len(pool) + 1))
    if summed:
        buffer = buffer.reshape((count, -1, *tail))
        buffer = lax.psum_scatter(buffer, summed, scatter_dimension=0, tiled=True)
    copies = math.prod(mesh[axis] for axis in equal)
    buffer = buffer.reshape((copies, -1, *tail))
    turn = lax.axis_index(equal) if equal else 0
    buffer = lax.dynamic_index_in_dim(buffer, turn, keepdims=False)
    buffer = all_to_all(buffer, matrix)
    room = slots(one._replace(repeats=1), mesh)

    def branch(kinds):
        def run(buffer):
            start, found = 0, {name: [] for name in room}
            for kind in kinds:
                n = math.prod(kind.piece) // width
                received = untiled(buffer[:, start : start + n], kind.piece)
                start += n
                blocks = assemble(received, kind, matrix, mesh)
                for name, block in zip(groups(kind, mesh), blocks, strict=True):
                    found[name].append(block)
            return {
                name: lengthened(_stacked(blocks, name, wire), room[name], 0)
                for name, blocks in found.items()
            }

        return run

    return by_profile(one, branch, buffer)


def _out(one: Round, mesh: MeshShape, own: Stacks, wire: Any) -> list[jax.Array]:
    """This device's pieces of the matrices of one round, by owner and unit."""
    route = one.route
    width = lanes([unit.kind.piece for units in one.owners for unit in units])
    rows = one.elements // width

    def branch(kinds):
        def run(own):
            used, shares = Counter(), []
            for kind in kinds:
                blocks = []
                for name in groups(kind, mesh):
                    blocks.append(own[name][used[name]].astype(wire))
                    used[name] += 1
                shares.append(tiled(divide(blocks, kind, route.matrix, mesh), width))
            devices = math.prod(mesh[axis] for axis in route.matrix)
            empty = jnp.zeros((devices, 0, width), wire)
            return lengthened(joined(shares) if shares else empty, rows, 1)

        return run

    buffer = sent_back(route, by_profile(one, branch, own))
    return [pieces[0] for share in unpacked(one, buffer, 1) for pieces in share]


def _stacked(blocks: Sequence[jax.Array], name: str, dtype: Any) -> jax.Array:
    if blocks:
        return jnp.stack(blocks)
    return jnp.zeros((0, *shape_of(name)), dtype)


def _divided(n: int) -> Callable:
    return lambda x: x.reshape((n, -1, *x.shape[1:]))

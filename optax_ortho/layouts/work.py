"""One round: pieces enter, owners work on their matrices, and results leave.

On every device, where the mesh axes are manual, a round is ``unpacked(leave(work(enter(
packed(pieces)))))``. Work without operands has nothing to enter, and work without
results nothing to leave.
"""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from optax_ortho.layouts import pack
from optax_ortho.layouts.geometry import (
    Axes,
    Kind,
    MeshShape,
    Round,
    Unit,
    block_shapes,
    column_blocks,
    mesh_size,
    stack_names,
)
from optax_ortho.matrices import (
    ColumnOrthogonalizer,
    Orthogonalizer,
)

States = dict[str, Any]
"""For each stack a pytree of arrays with an axis for slots in front."""


class Work(NamedTuple):
    """The work on one matrix, and the dtypes in which pieces are communicated.

    Attributes:
      f: takes the blocks of each operand, the state of each block, and the kind;
        returns the blocks of each result, and the new state of each block.
      operands: the number of operands; with 0 nothing enters.
      results: the number of results; with 0 nothing leaves.
      wire: the dtype of operands on their way.
      wire_back: the dtype of results on their way.
      at_once: the largest number of elements of small matrices in one batch.
      method: used in place of `f` for a matrix that is not fused, where it is not None:
        it takes column blocks, as pieces arrive, without a copy to assemble them.
      wire_dtype: the dtype to which devices that share a matrix narrow their sums.
      over: the mesh axes along which operands are terms of a sum; see `pack.enter`.
    """

    f: Callable[[list, tuple, Kind], tuple[list, Sequence]]
    operands: int
    results: int
    wire: Any
    wire_back: Any
    at_once: int
    method: ColumnOrthogonalizer | None = None
    wire_dtype: Any = None
    over: Axes = ()


def work_of(
    f: Any,
    kinds: Sequence[Kind],
    mesh: MeshShape,
    states: States,
    wire_dtype: Any,
    at_once: int,
) -> tuple[Work, Any, list[list[Any]]]:
    """The work of a function of one matrix.

    Args:
      f: an `Orthogonalizer`, or a function that takes a ``(fan_in, fan_out)`` matrix of
        each operand and the matrix's state, and returns a pytree of matrices of that
        shape and the new state.
      kinds: of the matrices of each leaf.
      mesh: the size of each mesh axis.
      states: the states of all matrices, or of one device's.
      wire_dtype: the dtype to which wider floating point is narrowed on its way.
      at_once: as in `Work`.

    Returns:
      The work; the structure of its results; and their dtypes, for each leaf.
    """
    if isinstance(f, Orthogonalizer):
        structure = jax.tree.structure(0)
        dtypes = [[jnp.dtype(kind.dtypes[1])] for kind in kinds]
        call = lambda x, state: (f.orthogonalize(x), state)  # noqa: E731
    else:
        call = f
        results = {k: _result(f, k, mesh, states) for k in dict.fromkeys(kinds)}
        structure = jax.tree.structure(results[kinds[0]])
        dtypes = [[y.dtype for y in jax.tree.leaves(results[kind])] for kind in kinds]

    def on_blocks(operands, states, kind):
        typed = [
            [x.astype(dtype) for x in blocks]
            for blocks, dtype in zip(operands, kind.dtypes[1:], strict=True)
        ]
        pairs = [call(*xs) for xs in zip(*typed, states, strict=True)]
        results = zip(*(jax.tree.leaves(y) for y, _ in pairs), strict=True)
        return list(results), [new for _, new in pairs]

    work = Work(
        on_blocks,
        len(kinds[0].dtypes) - 1,
        structure.num_leaves,
        narrowed((dtype for kind in kinds for dtype in kind.dtypes[1:]), wire_dtype),
        narrowed((dtype for column in dtypes for dtype in column), wire_dtype),
        at_once,
        f if isinstance(f, ColumnOrthogonalizer) else None,
        wire_dtype,
    )
    return work, structure, dtypes


def narrowed(dtypes: Iterable[Any], wire_dtype: Any) -> Any:
    """The dtype in which arrays are communicated: `wire_dtype`, or theirs if narrower.

    Examples:
      >>> print(narrowed([jnp.float32], jnp.bfloat16))
      bfloat16
    """
    wire = jnp.dtype(wire_dtype)

    def narrow(dtype):
        dtype = jnp.dtype(dtype)
        wider = dtype.itemsize > wire.itemsize
        return wire if wider and jnp.issubdtype(dtype, jnp.floating) else dtype

    return jnp.result_type(*map(narrow, dtypes))


def run_round(
    work: Work,
    round_: Round,
    mesh: MeshShape,
    pieces: Callable[[Unit], Sequence[jax.Array]],
    states: States,
) -> tuple[list[list[jax.Array]], States]:
    """One round.

    Args:
      work: the work on one matrix.
      round_: the round.
      mesh: the size of each mesh axis.
      pieces: gives the ``(rows, columns)`` of a unit on this device, of each operand.
      states: the states of this device's units.

    Returns:
      The pieces of each result of each unit on this device, and the new states.
    """
    route, width = round_.route, pack.common_width(round_)
    if work.operands:
        buffer = pack.packed(round_, pieces, work.wire)
        buffer = pack.enter(route, mesh, buffer, work.over)
    else:
        buffer = jnp.zeros((mesh_size(route.matrix, mesh), 0, width), work.wire)
    # One program for each mix of kinds that an owner may have, and no communication in
    # any of them: not all devices take the same.
    profiles = [tuple(unit.kind for unit in units) for units in round_.owners]
    distinct = list(dict.fromkeys(profiles))
    branches = [_on_owner(work, round_, mesh, kinds) for kinds in distinct]
    if len(branches) == 1:
        buffer, states = branches[0](buffer, states)
    else:
        which = jnp.asarray([distinct.index(kinds) for kinds in profiles], jnp.int32)
        owner = lax.axis_index(route.pool)
        buffer, states = lax.switch(which[owner], branches, buffer, states)
    if not work.results:
        return [[] for _ in round_.units], states
    return pack.unpacked(round_, pack.leave(route, buffer), work.results), states


def _on_owner(
    work: Work, round_: Round, mesh: MeshShape, kinds: Sequence[Kind]
) -> Callable:
    """The work of an owner of matrices of some kinds, from buffer to buffer."""
    matrix = tuple(axis for axis in round_.route.matrix if axis not in work.over)
    width = pack.common_width(round_)

    def on_unit(pieces, states, kind):
        """``(devices, operands, n, width)`` of one unit, to the same of its results."""
        received = [
            pack.untiled(pieces[:, i], kind.piece) for i in range(work.operands)
        ]
        if work.method is not None and kind.cut is None:
            blocks = column_blocks(kind, (), mesh)
            x = received[0].reshape((blocks, -1, kind.piece[1]))
            y = work.method.orthogonalize_blocks(x.astype(kind.dtypes[1]))
            back = [y.reshape((-1, *kind.piece))]
        else:
            operands = [pack.assemble(x, kind, matrix, mesh) for x in received]
            results, states = work.f(operands, states, kind)
            back = [pack.divide(blocks, kind, matrix, mesh) for blocks in results]
        tiles = [pack.tiled(x.astype(work.wire_back), width) for x in back]
        return jnp.stack(tiles, 1) if tiles else pieces[:, :0], states

    def on_run(pieces, states, kind):
        """``(devices, units, operands, n, width)`` of units of one kind."""
        units = pieces.shape[1]
        elements = len(pieces) * math.prod(kind.dims) * max(work.operands, 1)
        if units == 1 or elements > work.at_once:
            pairs = [on_unit(pieces[:, i], states[i], kind) for i in range(units)]
            return jnp.stack([y for y, _ in pairs], 1), [s for _, s in pairs]
        stacked = jax.tree.map(lambda *s: jnp.stack(s), *states)
        batched = jax.vmap(functools.partial(on_unit, kind=kind), (1, 0), (1, 0))
        ys, stacked = batched(pieces, stacked)
        return ys, [jax.tree.map(lambda s, i=i: s[i], stacked) for i in range(units)]

    def run(buffer, states):
        devices, start, tiles = buffer.shape[0], 0, []
        used: Counter[str] = Counter()
        new: dict[str, list] = {name: [] for name in states}

        def take(name):
            i, used[name] = used[name], used[name] + 1
            return jax.tree.map(lambda s: s[i], states[name])

        for kind, same in itertools.groupby(kinds):
            units, n = len(list(same)), math.prod(kind.piece) // width
            size = units * work.operands * n
            pieces = buffer[:, start : start + size]
            pieces = pieces.reshape((devices, units, work.operands, n, width))
            start += size
            names = stack_names(kind, mesh)
            old = [tuple(take(name) for name in names) for _ in range(units)]
            ys, blocks = on_run(pieces, old, kind)
            tiles.append(ys.reshape((devices, -1, width)))
            for of_unit in blocks:
                for name, state in zip(names, of_unit, strict=True):
                    new[name].append(state)
        # Sliced from the buffer, so that the empty branch is device-varying too.
        sent = pack.joined(tiles, buffer[:, :0].astype(work.wire_back))
        rows = round_.elements * work.results // width
        return pack.padded(sent, rows, 1), {
            name: _replaced(states[name], new[name]) for name in states
        }

    return run


def _replaced(states: Any, new: list) -> Any:
    """The states of all slots of a round, with new ones in the first of them."""
    if not new:
        return states

    def on_array(whole, *parts):
        return jnp.concatenate([jnp.stack(parts), whole[len(parts) :]])

    return jax.tree.map(on_array, states, *new)


def _result(f: Callable, kind: Kind, mesh: MeshShape, states: States) -> Any:
    """Shapes and dtypes of the results of `f` for a matrix of a kind."""
    state = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape[1:], s.dtype),
        states[stack_names(kind, mesh)[0]],
    )
    shape = block_shapes(kind, mesh)[0]
    blocks = [jax.ShapeDtypeStruct(shape, dtype) for dtype in kind.dtypes[1:]]
    return jax.eval_shape(f, *blocks, state)[0]

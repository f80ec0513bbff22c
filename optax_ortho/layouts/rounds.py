"""All rounds of a plan on one device, one after the other."""

from collections import Counter
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from optax_ortho.layouts import pack
from optax_ortho.layouts.assignment import slots_of
from optax_ortho.layouts.geometry import (
    Leaf,
    MeshShape,
    Round,
    Unit,
    column_blocks,
    kind_of,
)
from optax_ortho.layouts.work import States, Work, narrowed, run_round


def run_rounds(
    work: Work,
    plan: Sequence[Round],
    leaves: Sequence[Leaf],
    mesh: MeshShape,
    operands: Sequence[Sequence[jax.Array]],
    states: States,
) -> tuple[list[list[jax.Array]], States]:
    """The work on all matrices, where the mesh axes are manual.

    Args:
      work: the work on one matrix.
      plan: the rounds.
      leaves: the parameters.
      mesh: the size of each mesh axis.
      operands: this device's shard of each leaf, for each operand.
      states: this device's states.

    Returns:
      This device's shard of each result, for each leaf, and the new states.
    """
    kinds = [kind_of(leaf, mesh, equivariant=True) for leaf in leaves]
    shards = zip(*operands, strict=True) if operands else [()] * len(leaves)
    pieces = [
        [pack.take_apart(x.astype(work.wire), leaf, mesh, kind) for x in arrays]
        for leaf, kind, arrays in zip(leaves, kinds, shards, strict=True)
    ]
    results: list[dict[int, list[jax.Array]]] = [{} for _ in leaves]
    new: dict[str, list] = {name: [] for name in states}
    used: Counter[str] = Counter()
    before: list[jax.Array] = []
    for round_ in plan:
        slots = slots_of(round_, mesh)
        part = {
            name: jax.tree.map(lambda s, i=used[name], n=n: s[i : i + n], states[name])
            for name, n in slots.items()
        }
        used.update(slots)
        inputs = {
            (leaf, i): [x[i : i + n].astype(work.wire) for x in pieces[leaf]]
            for leaf, i, n in _ranges(round_)
        }
        # Without a barrier the compiler starts all rounds at once, and needs memory for
        # every matrix of the model.
        inputs, before = lax.optimization_barrier((inputs, before))
        outputs, part = _repeated(work, round_, mesh, inputs, part)
        for (leaf, i), ys in outputs.items():
            results[leaf][i] = ys
        before = next(iter(outputs.values()))[:1]
        for name, state in part.items():
            new[name].append(state)
    shaped = [
        [
            pack.put_together(
                [parts[i][j] for i in sorted(parts)], leaf, mesh, work.wire_back
            )
            for j in range(work.results)
        ]
        for leaf, parts in zip(leaves, results, strict=True)
    ]
    return shaped, {
        name: jax.tree.map(lambda *parts: pack.concatenated(parts), *parts)
        for name, parts in new.items()
    }


def run_shared_round(
    work: Work,
    round_: Round,
    mesh: MeshShape,
    pieces: Callable[[Unit], Sequence[jax.Array]],
    states: States,
) -> tuple[list[list[jax.Array]], States]:
    """`run_round` for matrices without state, each shared by a group of devices.

    Pieces are exchanged along the other mesh axes alone, so that each device of a group
    has columns of the whole matrix. All groups run one program, for no collective may
    be in a branch that not all devices take: a piece is padded with zeros to the
    largest of its round, and zeros do not change a polar factor.
    """
    method, route = work.method, round_.route
    assert method is not None
    units = round_.units
    blocks = column_blocks(units[0].kind, route.shared, mesh)
    dtype = jnp.result_type(*(unit.kind.dtypes[1] for unit in units))

    def slot(of_owner):
        if not of_owner:
            return jnp.zeros(round_.slot, work.wire)
        (piece,) = pieces(of_owner[0])
        missing = [n - m for n, m in zip(round_.slot, piece.shape, strict=True)]
        return jnp.pad(piece.astype(work.wire), [(0, n) for n in missing])

    buffer = pack.enter(
        route, mesh, jnp.stack([slot(units) for units in round_.owners])
    )
    x = buffer.reshape((blocks, -1, buffer.shape[-1])).astype(dtype)
    wire = narrowed([dtype], work.wire_dtype)
    y = method.orthogonalize_shared(x, route.shared, wire).astype(work.wire_back)
    buffer = pack.leave(route, y.reshape(buffer.shape))
    owners = [i for i, of_owner in enumerate(round_.owners) for _ in of_owner]
    shapes = [unit.kind.piece for unit in units]
    pairs = zip(owners, shapes, strict=True)
    return [[buffer[i, :m, :n]] for i, (m, n) in pairs], states


def _repeated(
    work: Work, round_: Round, mesh: MeshShape, inputs: dict, states: States
) -> tuple[dict[tuple[int, int], list[jax.Array]], States]:
    """The repetitions of a round in one `lax.scan`, however deep the stack is.

    Args:
      work: the work on one matrix.
      round_: the round.
      mesh: the size of each mesh axis.
      inputs: the pieces of each operand, by leaf and first index.
      states: the states of this round.

    Returns:
      The pieces of each result, by leaf and first index, and the new states.
    """
    run = run_shared_round if round_.route.shared else run_round
    if round_.repeats == 1:
        results, states = run(
            work,
            round_,
            mesh,
            lambda u: [x[0] for x in inputs[u.leaf, u.index]],
            states,
        )
        pairs = zip(round_.units, results, strict=True)
        return {(u.leaf, u.index): [y[None] for y in ys] for u, ys in pairs}, states
    ((where, arrays),) = inputs.items()

    def turn(_, now):
        xs, states = now
        results, states = run(
            work, round_, mesh, lambda u: [x[u.index - where[1]] for x in xs], states
        )
        return None, ([jnp.stack(ys) for ys in zip(*results, strict=True)], states)

    def in_turns(x):
        return x.reshape((round_.repeats, -1, *x.shape[1:]))

    def in_a_row(x):
        return x.reshape((-1, *x.shape[2:]))

    _, (ys, states) = lax.scan(turn, None, jax.tree.map(in_turns, (arrays, states)))
    return {where: [in_a_row(y) for y in ys]}, jax.tree.map(in_a_row, states)


def _ranges(round_: Round) -> list[tuple[int, int, int]]:
    """Leaf, first index and number of the matrices that a round takes."""
    units = round_.units
    if round_.repeats == 1:
        return [(unit.leaf, unit.index, 1) for unit in units]
    return [(units[0].leaf, units[0].index, len(units) * round_.repeats)]

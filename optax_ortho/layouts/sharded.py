"""The sharded layout: every matrix whole on one device, at the least communication."""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from optax_ortho.layouts.exchange import Work, run_round
from optax_ortho.layouts.pieces import block_shapes, put_together, take_apart
from optax_ortho.layouts.plan import (
    Kind,
    Leaf,
    MeshShape,
    Round,
    kind_of,
    local_shape,
    order_of,
    rounds,
)
from optax_ortho.matrices import AxesOf, Orthogonalizer, axes_at, path_of


class Laid(NamedTuple):
    """A parameter as it lies on the mesh."""

    shape: tuple[int, ...]
    dtype: str
    spec: PartitionSpec


@dataclasses.dataclass(frozen=True)
class Sharded:
    """`jax.tree.map` for matrices that lie in shards (see `sharded`)."""

    mesh: Mesh
    params: Mapping[str, Laid] = dataclasses.field(repr=False)
    wire_dtype: Any
    at_once: int

    def map(self, f: Any, axes: AxesOf, *operands: Any, state: Any = None) -> Any:
        """As `Local.map`; an `Orthogonalizer` may be handed a matrix's transpose."""
        keyed, treedef = jax.tree_util.tree_flatten_with_path(operands[0])
        columns = [treedef.flatten_up_to(operand) for operand in operands]
        leaves = [
            self._leaf(path_of(keys), axes, *arrays)
            for (keys, _), *arrays in zip(keyed, *columns, strict=True)
        ]
        if not leaves:
            return operands[0] if state is None else (operands[0], state)
        equivariant = isinstance(f, Orthogonalizer)
        one = f.orthogonalize if equivariant else f
        call = one if state is not None else lambda *xs: (one(*xs[:-1]), None)
        structure, dtypes = self._results(call, leaves, state)
        plan = rounds(leaves, self.mesh.shape, equivariant, self.at_once)
        wires = [self._wire(d) for leaf in leaves for d in leaf.dtypes[1:]]
        backs = [self._wire(d) for column in dtypes for d in column]
        work = Work(
            _on_blocks(call),
            len(columns),
            structure.num_leaves,
            lambda kind: _groups(kind, self.mesh.shape) if state is not None else (),
            jnp.result_type(*wires),
            jnp.result_type(*backs),
            self.at_once,
        )

        def body(columns, state):
            found, state = _run(work, plan, leaves, self.mesh.shape, columns, state)
            typed = [
                [x.astype(d) for x, d in zip(xs, ds, strict=True)]
                for xs, ds in zip(found, dtypes, strict=True)
            ]
            return typed, state

        specs = [self.params[leaf.path].spec for leaf in leaves]
        owned = PartitionSpec(self.mesh.axis_names)
        run = self._in_mesh(body, ([specs] * len(columns), owned), (specs, owned))
        found, new = run(columns, {} if state is None else state)
        tree = treedef.unflatten([structure.unflatten(xs) for xs in found])
        return tree if state is None else (tree, new)

    def init(self, f: Callable, axes: AxesOf, tree: Any) -> Any:
        """The states of matrices by their shape, each with its owner.

        Args:
          f: takes a zero ``(fan_in, fan_out)`` matrix and returns its state, a pytree.
          axes: the `MatrixAxes` of a leaf, from its path and the leaf.
          tree: the parameters.

        Returns:
          A dict with an entry for every shape and dtype of matrices: their states, with
          an axis for matrices in front, which lies along the whole mesh.
        """
        keyed, _ = jax.tree_util.tree_flatten_with_path(tree)
        leaves = [self._leaf(path_of(keys), axes, x) for keys, x in keyed]
        kinds = [kind_of(leaf, self.mesh.shape, False) for leaf in leaves]
        zeros = {}
        for kind in kinds:
            names, shapes = _groups(kind, self.mesh.shape), block_shapes(
                kind, self.mesh.shape
            )
            for name, shape in zip(names, shapes, strict=True):
                zeros[name] = (shape, kind.dtypes[0])
        counts = collections.Counter()
        for one in rounds(leaves, self.mesh.shape, False, self.at_once):
            counts.update(_slots(one, self.mesh.shape))

        def create():
            return {
                name: jax.tree.map(
                    lambda s, n=counts[name]: jnp.broadcast_to(s, (n, *jnp.shape(s))),
                    f(jnp.zeros(*zeros[name])),
                )
                for name in zeros
            }

        owned = PartitionSpec(self.mesh.axis_names)
        return self._in_mesh(create, (), owned)()

    def _leaf(self, path: str, axes: AxesOf, *arrays: Any) -> Leaf:
        """What a plan needs to know of a leaf.

        Raises:
          ValueError: the layout was made for other parameters.
        """
        known = self.params.get(path)
        if known is None:
            raise ValueError(f"sharded: no parameter {path!r} was given to it.")
        spec = tuple(_axes(entry) for entry in known.spec)
        spec += ((),) * (len(known.shape) - len(spec))
        dtypes = (known.dtype, *(x.dtype.name for x in arrays))
        like = jax.ShapeDtypeStruct(known.shape, known.dtype)
        return Leaf(path, known.shape, axes_at(axes, path, like), spec, dtypes)

    def _results(self, call: Callable, leaves: Sequence[Leaf], state: Any) -> Any:
        """The structure of a result, and the dtypes of each leaf's."""
        mesh = self.mesh.shape
        structure: Any = None
        seen: dict[Kind, list] = {}
        for leaf in leaves:
            kind = kind_of(leaf, mesh, False)
            if kind in seen:
                continue
            shape, name = block_shapes(kind, mesh)[0], _groups(kind, mesh)[0]
            blocks = [jax.ShapeDtypeStruct(shape, d) for d in kind.dtypes[1:]]
            one = None
            if state is not None:
                one = jax.tree.map(
                    lambda s: jax.ShapeDtypeStruct(s.shape[1:], s.dtype), state[name]
                )
            y, _ = jax.eval_shape(call, *blocks, one)
            structure = jax.tree.structure(y)
            seen[kind] = [x.dtype for x in jax.tree.leaves(y)]
        return structure, [seen[kind_of(leaf, mesh, False)] for leaf in leaves]

    def _wire(self, dtype: Any) -> Any:
        """The dtype in which something travels: never wider than itself."""
        dtype = jnp.dtype(dtype)
        narrower = (
            jnp.issubdtype(dtype, jnp.floating)
            and dtype.itemsize > jnp.dtype(self.wire_dtype).itemsize
        )
        return jnp.dtype(self.wire_dtype) if narrower else dtype

    def _in_mesh(self, f: Callable, in_specs: Any, out_specs: Any) -> Callable:
        """``f`` on every device; as it is where the mesh axes are manual already."""
        manual = jax.sharding.get_abstract_mesh().manual_axes
        if set(self.mesh.axis_names) <= set(manual):
            return f
        return jax.shard_map(
            f,
            mesh=self.mesh,
            in_specs=in_specs,
            out_specs=out_specs,
            check_vma=False,
        )


def sharded(
    params: Any, wire_dtype: Any = jnp.bfloat16, at_once: int = 2**18
) -> Sharded:
    mesh, table = None, {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        sharding = getattr(leaf, "sharding", None)
        spec = PartitionSpec()
        if isinstance(sharding, NamedSharding):
            mesh, spec = sharding.mesh, sharding.spec
        table[path_of(keys)] = Laid(tuple(leaf.shape), leaf.dtype.name, spec)
    if mesh is None:
        raise ValueError("no NamedSharding")
    return Sharded(mesh, table, wire_dtype, at_once)


def _run(
    work: Work,
    plan: Sequence[Round],
    leaves: Sequence[Leaf],
    mesh: MeshShape,
    columns: Sequence[Sequence[jax.Array]],
    state: dict,
) -> tuple[list[list[jax.Array]], dict]:
    """All rounds on one device, one after the other."""
    pieces = [
        [take_apart(x, order_of(leaf, mesh), kind_of(leaf, mesh, True)) for x in arrays]
        for leaf, *arrays in zip(leaves, *columns, strict=True)
    ]
    found: list[list[tuple[int, list[jax.Array]]]] = [[] for _ in leaves]
    used = collections.Counter()
    new = {name: [] for name in state}
    before: list[jax.Array] = []
    for one in plan:
        slots = _slots(one, mesh) if state else {}
        chunk = {
            name: jax.tree.map(lambda s, i=used[name], n=n: s[i : i + n], state[name])
            for name, n in slots.items()
        }
        used.update(slots)
        units = _units(one)
        inputs = [
            [x[i : i + n].astype(work.wire) for x in pieces[leaf]]
            for leaf, i, n in units
        ]
        # One round's matrices at a time: without a barrier all of them are exchanged
        # at once, and held.
        inputs, before = lax.optimization_barrier((inputs, before))
        by_unit = {
            (leaf, i): xs for (leaf, i, _), xs in zip(units, inputs, strict=True)
        }
        results, chunk = _repeated(work, one, mesh, by_unit, chunk)
        for (leaf, i, _), ys in zip(units, results, strict=True):
            found[leaf].append((i, ys))
        before = results[0][:1]
        for name, part in chunk.items():
            new[name].append(part)
    joined = {
        name: jax.tree.map(lambda *s: jnp.concatenate(s), *parts)
        for name, parts in new.items()
    }
    shaped = []
    for leaf, parts in zip(leaves, found, strict=True):
        ordered = [ys for _, ys in sorted(parts, key=lambda part: part[0])]
        shape = local_shape(leaf, mesh)
        shaped.append(
            [
                put_together(_joined(ys), order_of(leaf, mesh), shape)
                for ys in zip(*ordered, strict=True)
            ]
        )
    return shaped, joined


def _repeated(
    work: Work, one: Round, mesh: MeshShape, inputs: dict, state: dict
) -> tuple[list[list[jax.Array]], dict]:
    """A round as often as it repeats.

    Args:
      inputs: ``(n, rows, columns)`` of each operand, by leaf and index of the first.
    """
    if one.repeats == 1:
        results, state = run_round(
            work, one, mesh, lambda u: [x[0] for x in inputs[u.leaf, u.index]], state
        )
        return [
            [y[None] for y in unit] for share in results for unit in share
        ], state
    ((_, first), xs), *_ = inputs.items()
    turns = lambda x: x.reshape((one.repeats, -1, *x.shape[1:]))  # noqa: E731

    def turn(_, now):
        xs, chunk = now
        results, chunk = run_round(
            work, one, mesh, lambda u: [x[u.index - first] for x in xs], chunk
        )
        units = [unit for share in results for unit in share]
        return None, ([jnp.stack(ys) for ys in zip(*units, strict=True)], chunk)

    _, (ys, state) = lax.scan(turn, None, jax.tree.map(turns, (xs, state)))
    flat = lambda y: y.reshape((-1, *y.shape[2:]))  # noqa: E731
    return [[flat(y) for y in ys]], jax.tree.map(flat, state)


def _units(one: Round) -> list[tuple[int, int, int]]:
    """Leaf, first index and number of what a round takes from its leaves."""
    units = [unit for share in one.owners for unit in share]
    if one.repeats == 1:
        return [(unit.leaf, unit.index, 1) for unit in units]
    return [(units[0].leaf, units[0].index, len(units) * one.repeats)]


def _slots(one: Round, mesh: MeshShape) -> collections.Counter:
    """For how many states of each group a round needs room on every device."""
    most = collections.Counter()
    for share in one.owners:
        most |= collections.Counter(
            name for unit in share for name in _groups(unit.kind, mesh)
        )
    return collections.Counter({name: n * one.repeats for name, n in most.items()})


def _groups(kind: Kind, mesh: MeshShape) -> list[str]:
    """The name under which the state of each block is kept."""
    dtype = "" if kind.dtypes[0] == "float32" else f"_{kind.dtypes[0]}"
    return [f"{m}x{n}{dtype}" for m, n in block_shapes(kind, mesh)]


def _on_blocks(call: Callable) -> Callable:
    """A function of one matrix as one of all blocks of a fused one."""

    def on_blocks(operands, states, kind):
        typed = [
            [x.astype(d) for x in blocks]
            for blocks, d in zip(operands, kind.dtypes[1:], strict=True)
        ]
        given = states or (None,) * len(typed[0])
        pairs = [call(*xs) for xs in zip(*typed, given, strict=True)]
        results = list(zip(*(jax.tree.leaves(y) for y, _ in pairs), strict=True))
        return results, tuple(new for _, new in pairs) if states else ()

    return on_blocks


def _joined(parts: Sequence[jax.Array]) -> jax.Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def _axes(entry: Any) -> tuple[str, ...]:
    """The mesh axes in one entry of a PartitionSpec."""
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)

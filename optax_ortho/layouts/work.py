"""What is done with a matrix, and in what dtypes it travels."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_ortho.layouts.pieces import block_shapes
from optax_ortho.layouts.plan import Axes, Kind, Leaf, MeshShape, kind_of
from optax_ortho.matrices import (
    BlockOrthogonalizer,
    Orthogonalizer,
    SharedOrthogonalizer,
)


class Work(NamedTuple):
    """What is done with one matrix, and how its operands and results travel.

    Attributes:
      f: takes the blocks of each operand, the state of each block and the kind, and
        returns the blocks of each result and the new states.
      in_blocks: instead, where it is known, a function of one matrix in column blocks,
        ``(s, m, k)``, in any order of rows and columns.
      shared: the same where devices along some mesh axes have blocks of one matrix.
      operands: how many matrices it takes.
      structure: of what it returns for one.
      dtypes: of what it returns, for each leaf.
      groups: under what names the states of a kind's blocks are kept.
      wire: the dtype of operands on their way.
      wire_back: the dtype of results on their way.
      at_once: how many elements of small matrices go through one program together.
    """

    f: Callable[[list, tuple, Kind], tuple[list, tuple]]
    in_blocks: Callable[[jax.Array, Kind], jax.Array] | None
    shared: Callable[[jax.Array, Axes], jax.Array] | None
    operands: int
    structure: Any
    dtypes: Sequence[Sequence[Any]]
    groups: Callable[[Kind], Sequence[str]]
    wire: Any
    wire_back: Any
    at_once: int

    @property
    def results(self) -> int:
        """How many matrices it returns for one."""
        return self.structure.num_leaves


def work_of(
    f: Any,
    leaves: Sequence[Leaf],
    mesh: MeshShape,
    state: Any,
    wire_dtype: Any,
    at_once: int,
) -> Work:
    """The work that `f` is on some leaves.

    Args:
      f: a function of one matrix, as in `Local.map`, or an `Orthogonalizer`.
      leaves: the parameters.
      mesh: the size of each mesh axis.
      state: of all matrices, by group; None for a function without state.
      wire_dtype: what wider floating point is narrowed to on its way.
      at_once: as in `Work`.
    """
    on_matrix = f.orthogonalize if isinstance(f, Orthogonalizer) else f
    call = on_matrix if state is not None else _without_state(on_matrix)
    kinds = [kind_of(leaf, mesh, False) for leaf in leaves]
    found = {kind: _result(call, kind, mesh, state) for kind in dict.fromkeys(kinds)}
    dtypes = [[y.dtype for y in jax.tree.leaves(found[kind])] for kind in kinds]
    return Work(
        _on_blocks(call),
        _in_blocks(f) if isinstance(f, BlockOrthogonalizer) else None,
        _shared(f, wire_dtype) if isinstance(f, SharedOrthogonalizer) else None,
        len(leaves[0].dtypes) - 1,
        jax.tree.structure(found[kinds[0]]),
        dtypes,
        lambda kind: () if state is None else groups(kind, mesh),
        narrowed((dtype for leaf in leaves for dtype in leaf.dtypes[1:]), wire_dtype),
        narrowed((dtype for column in dtypes for dtype in column), wire_dtype),
        at_once,
    )


def groups(kind: Kind, mesh: MeshShape) -> list[str]:
    """The name under which the state of each block of a matrix is kept.

    Examples:
      >>> kind = Kind((4, 6), ((), ()), 1, False, None, ("bfloat16",))
      >>> groups(kind, {})
      ['4x6_bfloat16']
    """
    dtype = "" if kind.dtypes[0] == "float32" else f"_{kind.dtypes[0]}"
    return [f"{m}x{n}{dtype}" for m, n in block_shapes(kind, mesh)]


def shape_of(group: str) -> tuple[int, int]:
    """The shape of the matrices whose states are kept under a name of `groups`.

    Examples:
      >>> shape_of("4x6_bfloat16")
      (4, 6)
    """
    m, n = group.split("_")[0].split("x")
    return int(m), int(n)


def _result(f: Callable, kind: Kind, mesh: MeshShape, state: Any) -> Any:
    """What `f` returns for a matrix of a kind, by shape and dtype."""
    one = None
    if state is not None:
        one = jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s.shape[1:], s.dtype),
            state[groups(kind, mesh)[0]],
        )
    shape = block_shapes(kind, mesh)[0]
    blocks = [jax.ShapeDtypeStruct(shape, dtype) for dtype in kind.dtypes[1:]]
    return jax.eval_shape(f, *blocks, one)[0]


def narrowed(dtypes: Iterable[Any], wire_dtype: Any) -> Any:
    """The dtype in which arrays travel: the wire's, unless all are narrower."""
    wire = jnp.dtype(wire_dtype)

    def one(dtype):
        dtype = jnp.dtype(dtype)
        wider = dtype.itemsize > wire.itemsize
        return wire if wider and jnp.issubdtype(dtype, jnp.floating) else dtype

    return jnp.result_type(*map(one, dtypes))


def _without_state(f: Callable) -> Callable:
    return lambda *blocks: (f(*blocks[:-1]), None)


def _on_blocks(f: Callable) -> Callable:
    """A function of one matrix as one of all the blocks of a fused one."""

    def on_blocks(operands, states, kind: Kind):
        typed = [
            [x.astype(dtype) for x in blocks]
            for blocks, dtype in zip(operands, kind.dtypes[1:], strict=True)
        ]
        given = states or (None,) * len(typed[0])
        pairs = [f(*xs) for xs in zip(*typed, given, strict=True)]
        results = zip(*(jax.tree.leaves(y) for y, _ in pairs), strict=True)
        return list(results), tuple(new for _, new in pairs) if states else ()

    return on_blocks


def _in_blocks(orthogonalizer: BlockOrthogonalizer) -> Callable:
    def in_blocks(x, kind: Kind):
        return orthogonalizer.orthogonalize_blocks(x.astype(kind.dtypes[1]))

    return in_blocks


def _shared(orthogonalizer: SharedOrthogonalizer, wire_dtype: Any) -> Callable:
    def shared(x, axes: Axes):
        wire = narrowed([x.dtype], wire_dtype)
        return orthogonalizer.orthogonalize_shared(x, axes, wire)

    return shared

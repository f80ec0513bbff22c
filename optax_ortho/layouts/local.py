"""Layout for one device: one program per matrix shape, on any mesh.

The matrices of one shape are visited by a loop, so that depth adds no code. Small ones
are batched; large ones may be unrolled, for fewer cycles and a larger program.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from optax_ortho.checks import check_number, refuse_array
from optax_ortho.layouts.layout import (
    Layout,
    fields_of,
    on_every_device,
    sharded_like,
)
from optax_ortho.matrices import (
    AxesOf,
    MatrixAxes,
    Orthogonalizer,
    axes_at,
    fold,
    path_of,
    unfold,
)
from optax_ortho.states import (
    blocks_of,
    merge_states,
    split_state,
    state_of,
    state_structure,
)

Task = tuple[Any, ...]
"""Arguments of one call of `f`, each with one batch axis."""


@dataclasses.dataclass(frozen=True)
class Local(Layout):
    """`jax.tree.map` for matrices on one device (see `local`)."""

    batch_bytes: int = 2**18
    unroll: int | bool = 0

    has_shards = True

    def __post_init__(self):
        for name in ("batch_bytes", "unroll"):
            refuse_array(name, getattr(self, name))
        check_number("batch_bytes", self.batch_bytes, at_least=1)
        check_number("unroll", self.unroll)

    def map(
        self,
        f: Any,
        axes: AxesOf,
        *operands: Any,
        state: Any = None,
        beside: Any = None,
        scalars: Sequence[jax.Array] = (),
    ) -> Any:
        """Implements `Layout`.

        Examples:
          >>> import jax.numpy as jnp
          >>> from optax_ortho.matrices import last_two
          >>> tree = {"stack": jnp.ones((3, 2, 4)), "kernel": jnp.ones((2, 4))}
          >>> halved = local().map(lambda x: x / 2, last_two, tree)
          >>> jax.tree.map(jnp.shape, halved)
          {'kernel': (2, 4), 'stack': (3, 2, 4)}
        """
        f = f.orthogonalize if isinstance(f, Orthogonalizer) else f
        call = (lambda *task: f(*task, *scalars)) if scalars else f
        keyed, treedef = jax.tree_util.tree_flatten_with_path(operands[0])
        axes_of = [axes_at(axes, path_of(keys), leaf) for keys, leaf in keyed]
        columns = [treedef.flatten_up_to(operand) for operand in operands]
        structure = state_structure(operands[0], [x.split is not None for x in axes_of])
        fields = None
        if beside is not None:
            columns.append(structure.flatten_up_to(beside))
        if state is not None:
            states, fields = split_state(state, structure)
            columns.append(states)
        rows = list(zip(*columns, strict=True))
        tasks = [
            _tasks(row, len(operands), leaf_axes)
            for row, leaf_axes in zip(rows, axes_of, strict=True)
        ]
        results = iter(self._run(call, [task for blocks in tasks for task in blocks]))
        new: list[list] = [[] for _ in range(1 + len(columns) - len(operands))]
        for row, leaf_axes, blocks in zip(rows, axes_of, tasks, strict=True):
            ys = [next(results) for _ in blocks]
            if len(new) > 1:
                ys, *others = zip(*ys, strict=True)
                olds = row[len(operands) :]
                for column, old, parts in zip(new[1:], olds, others, strict=True):
                    value = state_of(parts, leaf_axes.split is not None)
                    column.append(jax.tree.map(_like, value, old))
            new[0].append(_join(ys, leaf_axes, row[0]))
        trees = [treedef.unflatten(new[0])]
        if beside is not None:
            trees.append(structure.unflatten(new[1]))
        if fields is not None:
            trees.append(merge_states(new[-1], structure, fields))
        return trees[0] if len(trees) == 1 else tuple(trees)

    def init(self, f: Callable, axes: AxesOf, tree: Any) -> Any:
        """Implements `Layout`; a tree like the parameters in the place of each array.

        Arrays have the batch axes of the leaf in front; a fused leaf has a
        `FusedState`.
        """
        keyed = jax.tree_util.tree_leaves_with_path(tree)
        axes_of = [axes_at(axes, path_of(keys), leaf) for keys, leaf in keyed]
        states = []
        for (_, leaf), leaf_axes in zip(keyed, axes_of, strict=True):
            batch = tuple(leaf.shape[axis] for axis in leaf_axes.batch(leaf.ndim))
            blocks = []

            def spread(x, batch=batch):
                return jnp.broadcast_to(x, batch + x.shape)

            for shape in leaf_axes.block_shapes(leaf.shape):
                fan_in, fan_out = leaf_axes.matrix_shape(shape)
                rows = fan_in + leaf_axes.rows_beside
                state = f(jnp.zeros((rows, fan_out), leaf.dtype))
                blocks.append(jax.tree.map(spread, state))
            states.append(state_of(blocks, leaf_axes.split is not None))
        structure = state_structure(tree, [x.split is not None for x in axes_of])
        return merge_states(states, structure, fields_of(f))

    def map_shards(
        self, make: Callable[[int, int], Callable], axes: AxesOf, tree: Any
    ) -> Any:
        """Implements `Layout`; every device has whole matrices."""
        return self.map(make(1, 1), axes, tree)

    def _run(self, f: Callable, tasks: list[Task]) -> list:
        """``[f(*task) for task in tasks]``, in one program for each shape."""
        results: list = [None] * len(tasks)
        left = len(tasks) if self.unroll is True else int(self.unroll)
        for members in _groups(tasks):
            *_, m, n = tasks[members[0]][0].shape
            with jax.named_scope(f"matrices_{m}x{n}"):
                ys, left = self._run_group(f, [tasks[i] for i in members], left)
            for i, y in zip(members, ys, strict=True):
                results[i] = y
        return results

    def _run_group(self, f: Callable, tasks: list[Task], left: int) -> tuple[list, int]:
        """Results of tasks of one shape, and how many more may be unrolled."""
        batch, m, n = tasks[0][0].shape
        matrix_bytes = max(m * n * tasks[0][0].dtype.itemsize, 1)
        at_once = max(self.batch_bytes // matrix_bytes, 1)
        size = min(max(at_once // max(batch, 1), 1), len(tasks))
        # The last chunk is filled up with repeats, so that one program serves all.
        padded = tasks + tasks[-1:] * (-len(tasks) % size)
        chunks = [padded[i : i + size] for i in range(0, len(padded), size)]
        loads = [functools.partial(_joined, chunk) for chunk in chunks]
        call = functools.partial(_over_batch, f, at_once)
        unrolled = min(left, len(loads))
        ys = [call(load()) for load in loads[:unrolled]]
        ys += _loop(call, loads[unrolled:])
        if size == 1:
            return ys, left - unrolled
        parts = [
            jax.tree.map(lambda y, s=i % size * batch: y[s : s + batch], ys[i // size])
            for i in range(len(tasks))
        ]
        return parts, left - unrolled


def local(batch_bytes: int = 2**18, unroll: int | bool = 0) -> Local:
    """Layout that needs no mesh, and is correct on every mesh.

    Matrices of one shape share one compiled program, whatever their number. Small ones
    are batched; larger ones take turns in a loop that reads each leaf in place. On a
    mesh with Explicit axes each leaf is gathered before the work and its result
    resharded like the leaf; on Auto axes the compiler decides.

    The loop stacks its results, which takes copies of large matrices. For GPT-2 124M,
    compiled ahead of time for one TPU v5e:

    ========================  ==========  ==========  =======
    `unroll`                     Mcycles  program MB  peak MB
    ========================  ==========  ==========  =======
    0                         20.3 + 0.6          53     1274
    24 (all 768x3072, both)   18.0 + 0.2         380     1189
    True (all 48)                   16.9         570     1068
    ========================  ==========  ==========  =======

    They are the compiler's estimates, plus copies that it excludes. The default
    is 0: program size and compile time then do not grow with depth.

    Args:
      batch_bytes: bytes of matrices in one batch. On a CPU one 256 x 256 matrix at a
        time was 7 to 12 % faster than four together; at width 32 a batch is faster by
        a quarter.
      unroll: number of matrices (of batches, if they are small) that get code of their
        own instead of a turn in a loop, the largest first; True is all. A leaf with
        batch axes counts as one.

    Returns:
      A layout, for the `layout` argument of any recipe.

    Raises:
      ValueError: `batch_bytes` below 1, or a negative `unroll`.

    Examples:
      >>> local(batch_bytes=2**24)
      Local(batch_bytes=16777216, unroll=0)
    """
    return Local(batch_bytes, unroll)


def _groups(tasks: list[Task]) -> list[list[int]]:
    """Numbers of the tasks of one shape and dtype, the largest matrices first."""
    groups: dict = {}
    for i, task in enumerate(tasks):
        arrays, structure = jax.tree.flatten(task)
        kind = structure, tuple((x.shape, x.dtype) for x in arrays)
        groups.setdefault(kind, []).append(i)
    # Unrolling saves copies, and a copy costs by its bytes.
    return sorted(groups.values(), key=lambda some: -tasks[some[0]][0].nbytes)


def _joined(chunk: list[Task]) -> Task:
    return jax.tree.map(lambda *xs: jnp.concatenate(xs), *chunk)


def _loop(call: Callable, loads: list[Callable]) -> list:
    """``[call(load()) for load in loads]``, with ``call`` compiled once."""
    if len(loads) <= 1:
        return [call(load()) for load in loads]

    def turn(i, _):
        # Behind a barrier a TPU holds a large matrix in vector memory all along.
        return i + 1, call(lax.optimization_barrier(lax.switch(i, loads)))

    _, stacked = lax.scan(turn, jnp.int32(0), length=len(loads))
    # Slices at indices that XLA does not know are one kernel, which compiles faster.
    indices = lax.optimization_barrier(tuple(map(jnp.int32, range(len(loads)))))
    read = functools.partial(
        lax.dynamic_index_in_dim, keepdims=False, allow_negative_indices=False
    )
    return [jax.tree.map(lambda y, i=i: read(y, i), stacked) for i in indices]


def _over_batch(f: Callable, at_once: int, task: Task) -> Any:
    """``f`` over the leading axis, at most `at_once` entries in flight."""
    batch = task[0].shape[0]
    if batch == 1:
        # Without a batch axis the products stay plain matrix products.
        y = f(*jax.tree.map(lambda x: x[0], task))
        return jax.tree.map(lambda y: y[None], y)
    if batch <= at_once:
        return jax.vmap(f)(*task)
    # A divisor leaves no remainder, which would be compiled a second time.
    size = max(d for d in range(1, at_once + 1) if batch % d == 0)
    return lax.map(lambda x: f(*x), task, batch_size=size if size > 1 else None)


def _tasks(row: Sequence, operands: int, axes: MatrixAxes) -> list[Task]:
    """The arguments of `f` for each block of a leaf, with one batch axis.

    Args:
      row: the leaf of every operand, then what is beside it, and its state.
      operands: the number of operands.
      axes: the resolved axes of the leaf.
    """
    batch_ndim = len(axes.batch(jnp.ndim(row[0])))

    def flat(x):
        x = on_every_device(x)
        return x.reshape((math.prod(x.shape[:batch_ndim]), *x.shape[batch_ndim:]))

    folded = [fold(on_every_device(jnp.asarray(x)), axes) for x in row[:operands]]
    states = [blocks_of(state) for state in row[operands:]]
    return [jax.tree.map(flat, task) for task in zip(*folded, *states, strict=True)]


def _join(results: Sequence, axes: MatrixAxes, leaf: Any) -> Any:
    """The results of a leaf's blocks, in the leaf's shape and sharding."""

    def unflatten(*blocks):
        return sharded_like(unfold(blocks, axes, leaf.shape), leaf)

    return jax.tree.map(unflatten, *results)


def _like(new: jax.Array, old: jax.Array) -> jax.Array:
    """A new state in the shape and sharding of the old one."""
    return sharded_like(new.reshape(old.shape), old)

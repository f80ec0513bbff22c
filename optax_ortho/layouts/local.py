"""Layout for one device: one program per matrix shape, on any mesh.

The matrices of one shape are visited by a loop, so the compiled program does not grow
with depth. Small matrices are batched up to a memory budget. Large ones may be
unrolled, which takes fewer cycles and a larger program.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from optax_ortho.boxes import state_structure
from optax_ortho.checks import check_number, refuse_array
from optax_ortho.matrices import (
    AxesOf,
    MatrixAxes,
    Orthogonalizer,
    axes_at,
    fold,
    path_of,
    unfold,
)

Task = tuple[Any, ...]
"""Arguments of one call of `f`: matrices, and with a state that, with a batch axis."""


@dataclasses.dataclass(frozen=True)
class Local:
    """`jax.tree.map` for matrices on one device (see `local`)."""

    batch_bytes: int = 2**18
    unroll: int | bool = 0

    def __post_init__(self):
        for name in ("batch_bytes", "unroll"):
            refuse_array(name, getattr(self, name))
        check_number("batch_bytes", self.batch_bytes, at_least=1)
        check_number("unroll", self.unroll)

    def map(self, f: Callable, axes: AxesOf, *operands: Any, state: Any = None) -> Any:
        """Applies a function of one matrix to every matrix of a tree.

        Args:
          f: takes one ``(fan_in, fan_out)`` matrix of each operand and returns a
            matrix of that shape, or a pytree of them. With `state` it also takes the
            matrix's state, last, and returns ``(result, new state)``. It may be an
            `Orthogonalizer`, which by its contract commutes with transposition.
          axes: the `MatrixAxes` of a leaf, from its path and the leaf.
          *operands: trees of one structure and of the same shapes.
          state: a tree as `init` makes it; None for a function without state.

        Returns:
          A tree like the operands, holding at each leaf what `f` returned, in the
          leaf's own shape and sharding; with `state`, that tree and the new state.

        Raises:
          ValueError: axes that do not fit a leaf, naming its path.

        Examples:
          >>> import jax.numpy as jnp
          >>> from optax_ortho.matrices import last_two
          >>> tree = {"stack": jnp.ones((3, 2, 4)), "kernel": jnp.ones((2, 4))}
          >>> halved = local().map(lambda x: x / 2, last_two, tree)
          >>> jax.tree.map(jnp.shape, halved)
          {'kernel': (2, 4), 'stack': (3, 2, 4)}
        """
        f = f.orthogonalize if isinstance(f, Orthogonalizer) else f
        keyed, treedef = jax.tree_util.tree_flatten_with_path(operands[0])
        axes_of = [axes_at(axes, path_of(keys), leaf) for keys, leaf in keyed]
        columns = [treedef.flatten_up_to(operand) for operand in operands]
        structure = treedef
        if state is not None:
            fused = [leaf_axes.split is not None for leaf_axes in axes_of]
            structure = state_structure(operands[0], fused)
            columns.append(structure.flatten_up_to(state))
        rows = list(zip(*columns, strict=True))
        tasks = [
            _tasks(row, len(operands), leaf_axes)
            for row, leaf_axes in zip(rows, axes_of, strict=True)
        ]
        every = [task for blocks in tasks for task in blocks]
        results: list = [None] * len(every)
        left = len(every) if self.unroll is True else int(self.unroll)
        for members in _groups(every):
            *_, m, n = every[members[0]][0].shape
            with jax.named_scope(f"matrices_{m}x{n}"):
                ys, left = self._run_group(f, [every[i] for i in members], left)
            for i, y in zip(members, ys, strict=True):
                results[i] = y
        in_order = iter(results)
        leaves, new_states = [], []
        for row, leaf_axes, some in zip(rows, axes_of, tasks, strict=True):
            ys = [next(in_order) for _ in some]
            if state is not None:
                ys, new = zip(*ys, strict=True)
                new = new if leaf_axes.split else new[0]
                new_states.append(jax.tree.map(_like, new, row[-1]))
            leaves.append(_join(ys, leaf_axes, row[0]))
        tree = treedef.unflatten(leaves)
        return tree if state is None else (tree, structure.unflatten(new_states))

    def init(self, f: Callable, axes: AxesOf, tree: Any) -> Any:
        """The state of every matrix of a tree, for `map`.

        Args:
          f: takes a zero ``(fan_in, fan_out)`` matrix and returns its state, a pytree.
          axes: the `MatrixAxes` of a leaf, from its path and the leaf.
          tree: the parameters.

        Returns:
          A tree holding at each leaf the state of its matrices, with the leaf's batch
          axes in front; for a fused leaf, a tuple of them.
        """
        keyed, _ = jax.tree_util.tree_flatten_with_path(tree)
        states, fused = [], []
        for keys, leaf in keyed:
            leaf_axes = axes_at(axes, path_of(keys), leaf)
            blocks = []
            for shape in leaf_axes.block_shapes(leaf.shape):
                batch = tuple(shape[axis] for axis in leaf_axes.batch(len(shape)))
                one = f(jnp.zeros(leaf_axes.matrix_shape(shape), leaf.dtype))
                spread = lambda x, b=batch: jnp.broadcast_to(x, b + x.shape)  # noqa: E731
                blocks.append(jax.tree.map(spread, one))
            states.append(tuple(blocks) if leaf_axes.split else blocks[0])
            fused.append(leaf_axes.split is not None)
        return state_structure(tree, fused).unflatten(states)

    def place(self, state: Any) -> Any:
        """An optimizer's state, where the compiler wants it."""
        return state

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

    They are the compiler's estimates, plus copies that it does not count. The default
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
    groups: dict[Any, list[int]] = {}
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
      row: the leaf of every operand, and its state if there is one.
      operands: the number of operands.
      axes: the resolved axes of the leaf.
    """
    batch_ndim = len(axes.batch(jnp.ndim(row[0])))

    def flat(x):
        x = on_every_device(x)
        return x.reshape((math.prod(x.shape[:batch_ndim]), *x.shape[batch_ndim:]))

    folded = [fold(on_every_device(jnp.asarray(x)), axes) for x in row[:operands]]
    # A fused leaf has a tuple of states, one a block.
    states = [state if axes.split else (state,) for state in row[operands:]]
    return [jax.tree.map(flat, task) for task in zip(*folded, *states, strict=True)]


def _join(results: Sequence, axes: MatrixAxes, leaf: Any) -> Any:
    """The results of a leaf's blocks, in the leaf's shape and sharding."""

    def unflatten(*blocks):
        return laid_out_like(unfold(blocks, axes, leaf.shape), leaf)

    return jax.tree.map(unflatten, *results)


def _like(new: jax.Array, old: jax.Array) -> jax.Array:
    """A new state in the shape and sharding of the old one."""
    return laid_out_like(new.reshape(old.shape), old)


def on_every_device(x: jax.Array) -> jax.Array:
    """The whole array on every device; on a mesh with Auto axes, the array itself."""
    sharding = jax.typeof(x).sharding
    if all(axis is None for axis in sharding.spec):
        return x
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec()))


def laid_out_like(x: jax.Array, leaf: jax.Array) -> jax.Array:
    """An array in the sharding of another; on Auto axes, the array itself."""
    sharding = jax.typeof(leaf).sharding
    if all(axis is None for axis in sharding.spec):
        return x
    return jax.sharding.reshard(x, sharding)

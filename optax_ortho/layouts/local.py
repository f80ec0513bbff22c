"""The local layout: every device does all the work, one program per stored shape.

The matrices of one shape are visited by a loop, a memory budget's worth at a time,
so the compiled program does not grow with depth and nothing larger than the budget
is stacked.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from optax_ortho.boxes import state_structure
from optax_ortho.matrices import (
    AxesOf,
    MatrixAxes,
    Orthogonalizer,
    axes_at,
    fold,
    path_of,
    unfold,
)

Numbers = tuple[jax.Array, ...]
"""0, 1, 2, ..., but the compiler does not know them."""


@dataclasses.dataclass(frozen=True)
class Local:
    """`jax.tree.map` for matrices, without regard to devices (see `local`)."""

    batch_bytes: int = 2**18

    def __post_init__(self):
        if self.batch_bytes < 1:
            raise ValueError(f"batch_bytes must be positive, got {self.batch_bytes}.")

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
        leaf_axes = [axes_at(axes, path_of(keys), leaf) for keys, leaf in keyed]
        leaves = [treedef.flatten_up_to(operand) for operand in operands]
        if state is None:
            call = lambda *xs: (f(*xs[:-1]), None)  # noqa: E731
            structure, states = treedef, [None] * len(keyed)
        else:
            fused = [one_axes.split is not None for one_axes in leaf_axes]
            call, structure = f, state_structure(operands[0], fused)
            states = structure.flatten_up_to(state)

        tasks = []
        for *arrays, one_axes, one_state in zip(
            *leaves, leaf_axes, states, strict=True
        ):
            tasks += _tasks(arrays, one_axes, one_state)
        results = iter(self._run(call, tasks))

        out, new_states = [], []
        for (_, leaf), one_axes, old in zip(keyed, leaf_axes, states, strict=True):
            blocks = one_axes.block_shapes(jnp.shape(leaf))
            pairs = [next(results) for _ in blocks]
            out.append(_join([y for y, _ in pairs], one_axes, leaf))
            new = tuple(s for _, s in pairs) if one_axes.split else pairs[0][1]
            new_states.append(new if state is None else jax.tree.map(_like, new, old))
        tree = treedef.unflatten(out)
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
        found, fused = [], []
        for keys, leaf in keyed:
            one_axes = axes_at(axes, path_of(keys), leaf)
            states = []
            for shape in one_axes.block_shapes(leaf.shape):
                batch = tuple(shape[axis] for axis in one_axes.batch(len(shape)))
                one = f(jnp.zeros(one_axes.matrix_shape(shape), leaf.dtype))
                states.append(
                    jax.tree.map(
                        lambda s, b=batch: jnp.broadcast_to(s, b + s.shape), one
                    )
                )
            found.append(tuple(states) if one_axes.split else states[0])
            fused.append(one_axes.split is not None)
        return state_structure(tree, fused).unflatten(found)

    def place(self, state: Any) -> Any:
        """An optimizer's state, where the compiler wants it."""
        return state

    def _run(self, f: Callable, tasks: list) -> list:
        """``f`` on every task; tasks of one shape share one loop."""
        groups: dict[Any, list[int]] = {}
        for i, task in enumerate(tasks):
            shapes = jax.tree.map(lambda x: (x.shape, x.dtype), task)
            groups.setdefault(str(shapes), []).append(i)
        results, numbers = [None] * len(tasks), ()
        # Most matrices first, for the numbers of a longer loop serve a shorter one.
        for members in sorted(groups.values(), key=len, reverse=True):
            m, n = tasks[members[0]][0].shape[-2:]
            with jax.named_scope(f"matrices_{m}x{n}"):
                some = [tasks[i] for i in members]
                ys, numbers = self._run_group(f, some, numbers)
            for i, y in zip(members, ys, strict=True):
                results[i] = y
        return results

    def _run_group(
        self, f: Callable, tasks: list, numbers: Numbers
    ) -> tuple[list, Numbers]:
        """One program for tasks of one shape, `batch_bytes` of them at a time."""
        batch, m, n = tasks[0][0].shape
        matrix_bytes = max(m * n * tasks[0][0].dtype.itemsize, 1)
        at_once = max(self.batch_bytes // matrix_bytes, 1)
        per_chunk = min(max(at_once // max(batch, 1), 1), len(tasks))
        if batch == per_chunk == 1:
            # No batch axis at all: the products stay plain matrix products.
            matrices = [jax.tree.map(lambda x: x[0], task) for task in tasks]
            loads = [lambda x=x: x for x in matrices]
            ys, numbers = _in_turn(lambda x: f(*x), loads, numbers)
            return jax.tree.map(lambda y: y[None], ys), numbers
        chunks = [
            # The last chunk is filled up with repeats, so that one program serves all.
            [tasks[min(i + j, len(tasks) - 1)] for j in range(per_chunk)]
            for i in range(0, len(tasks), per_chunk)
        ]

        def load(chunk):
            return jax.tree.map(lambda *xs: jnp.concatenate(xs), *chunk)

        loads = [lambda chunk=chunk: load(chunk) for chunk in chunks]
        ys, numbers = _in_turn(lambda xs: _over_batch(f, xs, at_once), loads, numbers)
        results = []
        for i in range(len(tasks)):
            chunk, j = divmod(i, per_chunk)
            start = j * batch
            results.append(jax.tree.map(lambda y, s=start: y[s : s + batch], ys[chunk]))
        return results, numbers


def local(batch_bytes: int = 2**18) -> Local:
    """The layout that needs no mesh, and is correct on every mesh.

    Matrices of one shape share one compiled program, whatever their number. Small
    ones are stacked and run together, up to `batch_bytes` of them; larger ones run
    one after another in a loop that reads each leaf where it lies.

    On a mesh with Explicit axes each leaf is gathered before the work and its result
    laid out as the leaf was; on Auto axes the compiler decides. That is right
    everywhere and optimal on one device.

    Args:
      batch_bytes: how many bytes of matrices are worked on together. On a CPU one
        256 x 256 matrix at a time was 7 to 12 % faster than four together; at width 32
        together is faster by a quarter.

    Returns:
      A layout, for the `layout` argument of any recipe.

    Raises:
      ValueError: `batch_bytes` below 1.

    Examples:
      >>> local(batch_bytes=2**24)
      Local(batch_bytes=16777216)
    """
    return Local(batch_bytes)


def _in_turn(
    f: Callable, loads: list[Callable], numbers: Numbers
) -> tuple[list, Numbers]:
    """``[f(load()) for load in loads]``, with ``f`` compiled once.

    What reads the stack at an index that the compiler does not know is one program for
    all. What reads it at 0, 1, 2, ... is compiled as often, which on a CPU takes longer
    than all the rest, so the indices come from `numbers`, which grow where they must.
    """
    if len(loads) == 1:
        return [f(loads[0]())], numbers

    def turn(i, _):
        return i + 1, f(lax.switch(i, loads))

    turns, stacked = lax.scan(turn, jnp.int32(0), length=len(loads))
    if len(numbers) < len(loads):
        known = tuple(map(jnp.int32, range(len(loads))))
        # Always the first: but the compiler does not follow a loop to its end.
        numbers = lax.cond(turns > known[-1], lambda: known, lambda: known[::-1])
    read = functools.partial(
        lax.dynamic_index_in_dim, keepdims=False, allow_negative_indices=False
    )
    ys = [
        jax.tree.map(lambda y, i=i: read(y, i), stacked) for i in numbers[: len(loads)]
    ]
    return ys, numbers


def _over_batch(f: Callable, xs: Any, at_once: int) -> Any:
    """``f`` over the leading axis, at most `at_once` entries in flight."""
    batch = jax.tree.leaves(xs)[0].shape[0]
    if batch <= at_once:
        return jax.vmap(f)(*xs)
    # A divisor leaves no remainder, which would be compiled a second time.
    size = max(d for d in range(1, at_once + 1) if batch % d == 0)
    return lax.map(lambda x: f(*x), xs, batch_size=size if size > 1 else None)


def _tasks(arrays: list, axes: MatrixAxes, state: Any) -> list[tuple]:
    """One ``(*matrices, state)`` per block of a leaf, batch axes flattened to one."""
    batch_ndim = len(axes.batch(jnp.ndim(arrays[0])))

    def flatten(x):
        return x.reshape((math.prod(x.shape[:batch_ndim]), *x.shape[batch_ndim:]))

    folded = [fold(on_every_device(jnp.asarray(x)), axes) for x in arrays]
    # A fused leaf has a tuple of states, one a block.
    states = state if axes.split and state is not None else [state] * len(folded[0])
    return [
        (
            *map(flatten, blocks),
            jax.tree.map(lambda s: flatten(on_every_device(s)), one),
        )
        for *blocks, one in zip(*folded, states, strict=True)
    ]


def _join(results: list, axes: MatrixAxes, leaf: Any) -> Any:
    """The results of a leaf's blocks, in the leaf's shape and sharding."""

    def unflatten(*blocks):
        return laid_out_like(unfold(blocks, axes, leaf.shape), leaf)

    return jax.tree.map(unflatten, *results)


def on_every_device(x: jax.Array) -> jax.Array:
    """The whole array on every device, where the mesh wants that said."""
    sharding = jax.typeof(x).sharding
    if all(axis is None for axis in sharding.spec):
        return x
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec()))


def _like(new: jax.Array, old: jax.Array) -> jax.Array:
    """A state with its batch axes apart again, where it was before."""
    return laid_out_like(new.reshape(old.shape), old)


def laid_out_like(x: jax.Array, leaf: jax.Array) -> jax.Array:
    """An array in the sharding of another, where the mesh wants that said."""
    sharding = jax.typeof(leaf).sharding
    if all(axis is None for axis in sharding.spec):
        return x
    return jax.sharding.reshard(x, sharding)

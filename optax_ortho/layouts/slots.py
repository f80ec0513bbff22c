"""Layout for the stacks of matrices that one device owns, with some slots empty.

Inside `jax.shard_map` every device has stacks of the same shapes, and a device that
owns fewer matrices than another has empty slots. Work on an empty slot of small
matrices is cheaper than a branch; large matrices get a `lax.cond` for each slot.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from optax_ortho.layouts.local import local
from optax_ortho.matrices import AxesOf, Orthogonalizer


@dataclasses.dataclass(frozen=True)
class Slots:
    """`jax.tree.map` for the stacks of one owner, ``{"768x3072": (slots, m, n)}``.

    Attributes:
      filled: for each stack, which slots of which device have a matrix.
      mesh_axes: the names of the mesh axes, all of them manual.
      batch_bytes: matrices up to this size are batched, empty slots included.
    """

    filled: Mapping[str, tuple[tuple[bool, ...], ...]]
    mesh_axes: tuple[str, ...]
    batch_bytes: int = 2**18

    def map(self, f: Any, axes: AxesOf, *operands: Any, state: Any = None) -> Any:
        """Applies a function of one matrix to every matrix; see `Local.map`.

        The result and the new state of an empty slot of large matrices are zeros and
        the old state; those of small matrices are whatever `f` makes of the slot.
        """
        f = f.orthogonalize if isinstance(f, Orthogonalizer) else f
        names = list(operands[0])
        branched = [name for name in names if self._branches(name, operands[0][name])]
        batched = [name for name in names if name not in branched]

        def only(some, tree):
            return None if tree is None else {name: tree[name] for name in some}

        rest = [only(batched, operand) for operand in operands]
        ys = local(self.batch_bytes).map(f, axes, *rest, state=only(batched, state))
        results = [ys] if state is None else list(ys)
        for name in branched:
            stacks = [operand[name] for operand in operands]
            old = None if state is None else state[name]
            ys = self._in_branches(f, name, stacks, old)
            ys = [ys] if state is None else ys
            results = [{**tree, name: y} for tree, y in zip(results, ys, strict=True)]
        results = [only(names, tree) for tree in results]
        return results[0] if state is None else tuple(results)

    def init(self, f: Callable, axes: AxesOf, tree: Any) -> Any:
        """The state of every matrix of the stacks; see `Local.init`."""
        return local(self.batch_bytes).init(f, axes, tree)

    def _branches(self, name: str, stack: jax.Array) -> bool:
        """Whether skipping the empty slots of a stack with `lax.cond` pays."""
        _, m, n = stack.shape
        large = m * n * stack.dtype.itemsize > self.batch_bytes
        return large and not all(map(all, self.filled[name]))

    def _in_branches(self, f: Callable, name: str, stacks: list, state: Any) -> Any:
        """``f`` on one slot after another, empty ones skipped."""

        def on_slot(_, slot):
            is_filled, matrices, old = slot

            def work():
                return f(*matrices) if state is None else f(*matrices, old)

            def skip():
                result = jax.eval_shape(work)
                if state is None:
                    return _zeros(result)
                return _zeros(result[0]), old

            return None, lax.cond(is_filled, work, skip)

        filled = jnp.asarray(self.filled[name])[lax.axis_index(self.mesh_axes)]
        return lax.scan(on_slot, None, (filled, stacks, state))[1]


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda y: jnp.zeros(y.shape, y.dtype), shapes)

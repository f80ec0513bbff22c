"""The layout of what an owner has: stacks of matrices, with some slots empty."""

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
      batch_bytes: matrices up to this size are worked on together, empty or not.
    """

    filled: Mapping[str, tuple[tuple[bool, ...], ...]]
    mesh_axes: tuple[str, ...]
    batch_bytes: int = 2**18

    def map(self, f: Any, axes: AxesOf, *operands: Any, state: Any = None) -> Any:
        """As `Local.map`."""
        names = list(operands[0])
        dear = [name for name in names if self._is_dear(name, operands[0][name])]
        cheap = [name for name in names if name not in dear]

        def of(tree, some):
            return None if tree is None else {name: tree[name] for name in some}

        parts = [of(operand, cheap) for operand in operands]
        together = local(self.batch_bytes).map(f, axes, *parts, state=of(state, cheap))
        found, new = (together, None) if state is None else together
        found, new = dict(found), new
        for name in dear:
            xs = [operand[name] for operand in operands]
            own = None if state is None else state[name]
            found[name], own = self._one_by_one(f, name, xs, own)
            if new is not None:
                new = {**new, name: own}
        ordered = of(found, names)
        return ordered if state is None else (ordered, of(new, names))

    def init(self, f: Callable, axes: AxesOf, tree: Any) -> Any:
        """As `Local.init`."""
        return local(self.batch_bytes).init(f, axes, tree)

    def _is_dear(self, name: str, stack: jax.Array) -> bool:
        """Whether a stack has empty slots on some device that are worth a branch."""
        _, m, n = stack.shape
        large = m * n * stack.dtype.itemsize > self.batch_bytes
        return large and not all(map(all, self.filled[name]))

    def _one_by_one(self, f: Any, name: str, xs: list, state: Any) -> Any:
        f = f.orthogonalize if isinstance(f, Orthogonalizer) else f

        def on_slot(_, slot):
            there, matrices, own = slot

            def work():
                if state is None:
                    return f(*matrices), None
                return f(*matrices, own)

            def rest():
                result = jax.eval_shape(work)[0]
                zeros = jax.tree.map(lambda y: jnp.zeros(y.shape, y.dtype), result)
                return zeros, own

            return None, lax.cond(there, work, rest)

        there = jnp.asarray(self.filled[name])[lax.axis_index(self.mesh_axes)]
        return lax.scan(on_slot, None, (there, xs, state))[1]

"""States of matrices that lie with their owners, moved to another mesh or layout.

`layouts.sharded` and `layouts.owned` keep such states in stacks by shape, in an order
that is the plan's of one mesh; `layouts.local` keeps them leaf by leaf.
"""

from typing import Any, NamedTuple

import jax
import optax

from optax_ortho.kronecker.forms import WITH_BIAS
from optax_ortho.kronecker.layers import RowAxes, parent_of
from optax_ortho.layouts import Owned, Sharded
from optax_ortho.layouts.entries import from_entries, is_of_entries, to_entries
from optax_ortho.layouts.places import Placement, placement
from optax_ortho.layouts.placing import is_stacks
from optax_ortho.layouts.plan import Leaf
from optax_ortho.layouts.stacks import from_stacks, from_tree, to_stacks, to_tree
from optax_ortho.matrices import MatrixAxes
from optax_ortho.recipes import AllOnOwners, Group
from optax_ortho.recording import recording


def move_state(
    old: optax.GradientTransformation,
    new: optax.GradientTransformation,
    params: Any,
    state: Any,
    new_params: Any = None,
) -> Any:
    """A state for the same optimizer on another mesh, or with another layout.

    What is in the stacks of owners goes where the new layout has it, and everything
    else stays as it is. Between meshes: restore on the host or on any one mesh, move,
    and lay out with ``layout.place``. All layouts take each other's states.

    Args:
      old: the optimizer that the state is of.
      new: the same one with another ``layout``.
      params: the parameters of `old`, or their shapes.
      state: its state.
      new_params: those of `new`; None is `params`.

    Returns:
      The state of `new`, with the same numbers.

    Raises:
      ValueError: the states are not of one optimizer with layouts as above.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_ortho
      >>> from jax.sharding import NamedSharding, PartitionSpec
      >>> mesh = jax.make_mesh((1,), ("fsdp",))
      >>> shards = NamedSharding(mesh, PartitionSpec("fsdp"))
      >>> params = {"kernel": jax.device_put(jnp.ones((4, 6)), shards)}
      >>> layout = optax_ortho.layouts.sharded(params)
      >>> many = optax_ortho.dion(0.02, layout=layout)
      >>> one = optax_ortho.dion(0.02)
      >>> state = move_state(many, one, params, many.init(params))
      >>> jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, one.init(params))
      True
    """
    before, source = _planned(old, params)
    after, target = _planned(new, params if new_params is None else new_params)
    # Where one has stacks the other has stacks too, or a tree of leaves.
    treedef = jax.tree.structure(max(before, after, key=_stacks), is_leaf=is_stacks)
    try:
        columns = [treedef.flatten_up_to(tree) for tree in (state, after)]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"The state is not of one optimizer with two layouts: {error}"
        ) from None
    found = []
    for part, like in zip(*columns, strict=True):
        if is_stacks(part) and is_stacks(like):
            part = to_stacks(from_stacks(part, source.rows), target.rows)
        elif is_stacks(part):
            back = to_entries if _is_of_entries(like, part, source, target) else to_tree
            part = back(from_stacks(part, source.rows), like, source.rows.leaves)
        elif is_stacks(like):
            read = (
                from_entries
                if _is_of_entries(part, like, target, source)
                else from_tree
            )
            part = to_stacks(read(part, target.rows.leaves), target.rows)
        found.append(part)
    return treedef.unflatten(found)


class _Owners(NamedTuple):
    """Who owns what, and whether momenta too lie with owners."""

    rows: Placement
    keep_all: bool


def _stacks(state: Any) -> int:
    """How much of a state is in stacks."""
    return sum(map(is_stacks, jax.tree.leaves(state, is_leaf=is_stacks)))


def _is_of_entries(tree: Any, stacks: Any, there: _Owners, here: Any) -> bool:
    """Whether a tree, in the place of which owners have stacks, is like a momentum."""
    if here is not None:
        return True  # What belongs to a matrix as a whole is in stacks here too.
    return there.keep_all and is_of_entries(tree, stacks, there.rows)


def _planned(tx: optax.GradientTransformation, params: Any) -> tuple[Any, Any]:
    """The shapes of a state, and its `_Owners`; None if there are none."""
    with recording() as events:
        shapes = jax.eval_shape(lambda params: tx.init(params), params)
    keep_all = any(isinstance(event, AllOnOwners) for event in events)
    for event in events:
        layout = getattr(event, "layout", None)
        if isinstance(event, Group) and isinstance(layout, Sharded | Owned):
            shards = layout.shards if isinstance(layout, Owned) else layout
            return shapes, _Owners(_placement(event, shards), keep_all)
    return shapes, None


def _placement(group: Group, shards: Sharded) -> Placement:
    """Of all kernels, those with a bias apart, as `kronecker.forms` has them."""
    found = [(path, leaf, label.axes) for path, leaf, label in group.leaves]
    with_bias = {parent_of(path) for path, _, axes in found if _is_row(axes)}
    together: list[Leaf] = []
    rows = {}
    for ending in ("", WITH_BIAS):
        leaves = [
            shards.leaf(path, axes, leaf.dtype)
            for path, leaf, axes in found
            if axes is not None
            and not _is_row(axes)
            and (parent_of(path) in with_bias) == bool(ending)
        ]
        own = placement(shards.plan(leaves, False), leaves, shards.reach)
        for name, places in own.rows.items():
            rows[name + ending] = [
                place and place._replace(leaf=place.leaf + len(together))
                for place in places
            ]
        together += leaves
    return Placement(tuple(together), rows)


def _is_row(axes: MatrixAxes | None) -> bool:
    return isinstance(axes, RowAxes)

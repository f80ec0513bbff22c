"""States of matrices that lie with their owners, moved to another mesh or layout.

`layouts.sharded` and `layouts.owned` keep such states in stacks by shape, in an order
that is the plan's of one mesh; `layouts.local` keeps them leaf by leaf.
"""

from types import NoneType
from typing import Any

import jax
import optax

from optax_ortho.kronecker.forms import WITH_BIAS
from optax_ortho.kronecker.layers import RowAxes, parent_of
from optax_ortho.layouts import Owned, Sharded
from optax_ortho.layouts.places import Placement, placement
from optax_ortho.layouts.placing import is_stacks
from optax_ortho.layouts.plan import Leaf
from optax_ortho.layouts.stacks import (
    from_entries,
    from_stacks,
    from_tree,
    to_entries,
    to_stacks,
    to_tree,
)
from optax_ortho.matrices import MatrixAxes
from optax_ortho.optimizers._recipe import Group
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
    and lay out with ``layout.place``. The local and the sharded layout take each
    other's states, and so do the sharded and the owned one: between the local and the
    owned layout a state goes by way of a sharded one.

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
    before, old_layout, source = _planned(old, params)
    after, new_layout, target = _planned(
        new, params if new_params is None else new_params
    )
    lies = {type(old_layout), type(new_layout)}
    # Where an owned layout has stacks, a sharded one has them for what belongs to a
    # matrix as a whole. A local one has none, and its leaves do not say what they are.
    if lies == {Owned, NoneType}:
        raise ValueError(
            "Between layouts.local and layouts.owned a state needs to go by way of "
            "layouts.sharded: move it twice."
        )
    entries = lies == {Owned, Sharded}
    read, write = (from_entries, to_entries) if entries else (from_tree, to_tree)
    # Where one has stacks the other has stacks too, or a tree of leaves.
    most = Owned if Owned in lies else Sharded
    some = before if isinstance(old_layout, most) else after
    treedef = jax.tree.structure(some, is_leaf=is_stacks)
    try:
        columns = [treedef.flatten_up_to(tree) for tree in (state, after)]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"The state is not of one optimizer with two layouts: {error}"
        ) from None
    leaves = next((there.leaves for there in (source, target) if there), ())
    found = []
    for part, like in zip(*columns, strict=True):
        if is_stacks(part) or is_stacks(like):
            taken = from_stacks(part, source) if is_stacks(part) else read(part, leaves)
            part = (
                to_stacks(taken, target)
                if is_stacks(like)
                else write(taken, like, leaves)
            )
        found.append(part)
    return treedef.unflatten(found)


def _planned(tx: optax.GradientTransformation, params: Any) -> tuple[Any, Any, Any]:
    """The shapes of a state, the layout with owners, and what they own; or None."""
    with recording() as events:
        shapes = jax.eval_shape(lambda params: tx.init(params), params)
    for event in events:
        layout = getattr(event, "layout", None)
        if isinstance(event, Group) and isinstance(layout, Sharded | Owned):
            shards = layout.shards if isinstance(layout, Owned) else layout
            return shapes, layout, _placement(event, shards)
    return shapes, None, None


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

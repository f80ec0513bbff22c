"""Each device works on the parts of matrices that it has, and nothing travels."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

from optax_ortho.layouts.local import Local
from optax_ortho.layouts.plan import Axes
from optax_ortho.matrices import AxesOf, MatrixAxes, axes_at, path_of

Cuts = tuple[int, int]


def map_parts(layout: Any, f: Callable[..., Any], axes: AxesOf, tree: Any) -> Any:
    """Applies a function to the part of every matrix that a device has.

    Args:
      layout: `Sharded`, or `Local`, with which a part is the whole.
      f: makes the function of one ``(fan_in, fan_out)`` part from the numbers of parts
        along both.
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.
      tree: the matrices.

    Returns:
      A tree like it.

    Raises:
      ValueError: a `Split` along an axis that is cut.
    """
    if isinstance(layout, Local):
        return layout.map(f(1, 1), axes, tree)
    keyed, treedef = jax.tree_util.tree_flatten_with_path(tree)
    leaves = {path_of(keys): leaf for keys, leaf in keyed}
    own = {path: axes_at(axes, path, layout.whole(path)) for path in leaves}
    specs = {path: layout.spec(path) for path in leaves}
    groups: dict[Cuts, list[str]] = {}
    for path in leaves:
        one = cuts(path, own[path], specs[path], layout.mesh.shape)
        groups.setdefault(one, []).append(path)

    def axes_of(key, _):
        return own[key]

    def on_device(parts):
        found = {}
        for one, paths in groups.items():
            members = {path: parts[path] for path in paths}
            found |= Local().map(f(*one), axes_of, members)
        return found

    lies = {path: PartitionSpec(*spec) for path, spec in specs.items()}
    found = layout.on_mesh(on_device, (lies,), lies)(leaves)
    return treedef.unflatten([found[path] for path in leaves])


def cuts(path: str, axes: MatrixAxes, spec: tuple[Axes, ...], mesh: Any) -> Cuts:
    """The numbers of parts along fan-in and fan-out.

    Raises:
      ValueError: a `Split` along an axis that is cut.
    """

    def parts(of):
        return math.prod(mesh[name] for axis in of for name in spec[axis])

    if axes.split is not None and parts((axes.split.axis,)) > 1:
        raise ValueError(
            f"Leaf {path!r} is fused along axis {axes.split.axis} and cut along it, so "
            "its parts are of several matrices. Cut another axis, or leave the Split "
            "out."
        )
    return parts(axes.fan_in), parts(axes.fan_out)

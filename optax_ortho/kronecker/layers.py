"""Layers: a kernel and the bias that is one more row of it.

With a bias, ``y = x W + b`` is ``[x 1] [W; b]``, so the two are one matrix. They are
told by name: ``bias`` or ``b`` beside the only matrix of a folder of the tree. A kernel
may be stacked, a convolution, or fused along fan-out; its bias is then too.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optax_ortho.matrices import (
    AxesOf,
    MatrixAxes,
    axes_at,
    fold,
    path_of,
    unfold,
)

BIAS = ("bias", "b")


@dataclasses.dataclass(frozen=True)
class RowAxes(MatrixAxes):
    """The axes of a bias as a matrix with one row, ``(*batch, 1, fan_out)``."""

    fan_in: tuple[int, ...] = ()

    def resolve(self, shape: Sequence[int]) -> MatrixAxes:
        """These axes counted from 0 and checked against a leaf's shape."""
        ndim = len(shape)
        as_kernel = MatrixAxes((ndim,), tuple(a % ndim for a in self.fan_out))
        fan_out = as_kernel.resolve((*shape, 1)).fan_out
        return RowAxes(fan_out=fan_out, split=self.split)


@dataclasses.dataclass(frozen=True)
class Layers:
    """The layers of a tree: which bias is a row of which kernel.

    Args:
      axes: the axes of a kernel, from its path and the leaf.
      rows: for the path of a kernel, that of its bias and its axes.
    """

    axes: AxesOf
    rows: Mapping[str, tuple[str, MatrixAxes]]

    def axes_of(self, path: str, leaf: Any) -> MatrixAxes:
        """The axes of any leaf of the tree, kernel or bias."""
        own = (axes for bias, axes in self.rows.values() if bias == path)
        found = next(own, None)
        return self.axes(path, leaf) if found is None else found

    def kernels(self, tree: Any) -> Any:
        """The tree with nothing in the place of a bias."""
        biases = {bias for bias, _ in self.rows.values()}
        return jax.tree_util.tree_map_with_path(
            lambda keys, x: optax.MaskedNode() if path_of(keys) in biases else x, tree
        )

    def map(self, layout: Any, f: Callable, tree: Any, *states: Any) -> tuple:
        """Applies a function to every layer, as one matrix.

        Args:
          layout: how the matrices are spread over devices.
          f: takes a ``(fan_in, fan_out)`` kernel, its bias ``(1, fan_out)`` or None,
            and what each of `states` holds for it; gives new ones of all of them.
          tree: kernels and biases.
          *states: trees like that of `kernels`, with the state of a kernel at each, as
            `init` makes it: a tuple of one a block for a fused kernel.

        Returns:
          The new tree and the new states.
        """
        leaves = paths_and_leaves(tree)
        keyed, treedef = jax.tree_util.tree_flatten_with_path(self.kernels(tree))
        paths = [path_of(keys) for keys, _ in keyed]
        fused = [axes_at(self.axes, path, leaves[path]).split for path in paths]
        columns = [treedef.flatten_up_to(state) for state in states]
        inside = []
        for path, split, *one in zip(paths, fused, *columns, strict=True):
            blocks = (state if split else (state,) for state in one)
            blocks = tuple(zip(self._rows_of(path, leaves), *blocks, strict=True))
            inside.append(blocks if split else blocks[0])

        def on_matrix(kernel, state):
            kernel, *new = f(kernel, *state)
            return kernel, tuple(new)

        kernels, inside = layout.map(
            on_matrix, self.axes, self.kernels(tree), state=treedef.unflatten(inside)
        )
        found, columns = paths_and_leaves(kernels), []
        for path, split, blocks in zip(
            paths, fused, treedef.flatten_up_to(inside), strict=True
        ):
            rows, *one = zip(*(blocks if split else (blocks,)), strict=True)
            columns.append([state if split else state[0] for state in one])
            if path in self.rows:
                bias, axes = self.rows[path]
                found[bias] = unfold(rows, axes, leaves[bias].shape)
        new = jax.tree_util.tree_map_with_path(
            lambda keys, _: found[path_of(keys)], tree
        )
        return new, *(
            treedef.unflatten([one[i] for one in columns]) for i in range(len(states))
        )

    def init(self, layout: Any, f: Callable, tree: Any) -> Any:
        """The state of every layer: ``f(rows, fan_out)`` of a zero matrix, as one tree.

        Args:
          layout: how the matrices are spread over devices.
          f: takes the number of rows, with that of a bias, and of columns.
          tree: kernels and biases, or their shapes.
        """

        def among(with_bias):
            kernels = jax.tree_util.tree_map_with_path(
                lambda keys, x: (
                    x
                    if (path_of(keys) in self.rows) == with_bias
                    else optax.MaskedNode()
                ),
                self.kernels(tree),
            )
            return layout.init(
                lambda x: f(x.shape[0] + with_bias, x.shape[1]), self.axes, kernels
            )

        def is_masked(x):
            return isinstance(x, optax.MaskedNode)

        keyed, treedef = jax.tree_util.tree_flatten_with_path(self.kernels(tree))
        with_bias, without = (treedef.flatten_up_to(among(b)) for b in (True, False))
        return treedef.unflatten(
            [y if is_masked(x) else x for x, y in zip(with_bias, without, strict=True)]
        )

    def _rows_of(self, path: str, leaves: Mapping[str, Any]) -> tuple:
        """The bias of each block of a kernel, None where there is none."""
        if path in self.rows:
            bias, axes = self.rows[path]
            return fold(leaves[bias], axes)
        leaf = leaves[path]
        shape = jnp.shape(leaf)
        return (None,) * len(axes_at(self.axes, path, leaf).block_shapes(shape))


def layers_of(
    tree: Any, axes: AxesOf, is_kernel: Callable[[str, Any], bool] | None = None
) -> Layers:
    """The layers of a tree.

    Args:
      tree: kernels and biases, or their shapes.
      axes: the axes of a kernel, from its path and the leaf.
      is_kernel: whether a leaf that has not the name of a bias is a kernel; None is
        always.

    Examples:
      >>> tree = {"up": {"kernel": jnp.ones((4, 6)), "bias": jnp.ones(6)}}
      >>> layers = layers_of(tree, lambda path, leaf: MatrixAxes())
      >>> layers.rows["up/kernel"][0]
      'up/bias'
    """
    folders: dict[str, list[str]] = {}
    leaves = paths_and_leaves(tree)
    for path in leaves:
        folders.setdefault(parent_of(path), []).append(path)
    rows = {}
    for members in folders.values():
        biases = [path for path in members if path.split("/")[-1] in BIAS]
        kernels = [
            path
            for path in members
            if path not in biases
            and (is_kernel is None or is_kernel(path, leaves[path]))
        ]
        if len(biases) == len(kernels) == 1:
            kernel, bias = leaves[kernels[0]], leaves[biases[0]]
            kernel_axes = axes_at(axes, kernels[0], kernel)
            found = row_axes(kernel_axes, jnp.shape(kernel), jnp.shape(bias))
            if found is not None:
                rows[kernels[0]] = (biases[0], found)
    return Layers(axes, rows)


def row_axes(
    axes: MatrixAxes, kernel: Sequence[int], bias: Sequence[int]
) -> MatrixAxes | None:
    """The axes of a bias, from those of its kernel and both shapes; None if none fit.

    A stack axis is where the kernel has it, counted from the front or from the back.

    Examples:
      >>> row_axes(MatrixAxes((1,), (0, 2)), (3, 6, 4), (3, 4)).fan_out
      (0, 1)
    """
    ndim = len(bias)
    batch = axes.batch(len(kernel))
    if ndim != len(batch) + len(axes.fan_out):
        return None
    if axes.split is not None and axes.split.axis not in axes.fan_out:
        return None  # A bias is added once, and not once a block.
    for offset in (0, ndim - len(kernel)):
        places = {axis: axis + offset for axis in batch}
        rest = [i for i in range(ndim) if i not in places.values()]
        places |= dict(zip(sorted(axes.fan_out), rest, strict=False))
        fits = len(set(places.values()) & set(range(ndim))) == ndim
        if fits and all(bias[i] == kernel[axis] for axis, i in places.items()):
            split = axes.split
            if split is not None:
                split = dataclasses.replace(split, axis=places[split.axis])
            fan_out = tuple(places[axis] for axis in axes.fan_out)
            return RowAxes(fan_out=fan_out, split=split)
    return None


def parent_of(path: str) -> str:
    """The folder of a path, as ``a/b`` of ``a/b/kernel``; empty at the top."""
    return path.rpartition("/")[0]


def paths_and_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by path."""
    keyed = jax.tree_util.tree_leaves_with_path(tree)
    return {path_of(keys): leaf for keys, leaf in keyed}

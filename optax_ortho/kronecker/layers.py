"""Layers: a kernel and the bias that is one more row of it.

With a bias, ``y = x W + b`` is ``[x 1] [W; b]``, so the two are one matrix. A bias is
recognized by its name: ``bias`` or ``b`` beside the only matrix of its module. A kernel
may be stacked, a convolution, or fused along fan-out; so is its bias then.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optax_ortho.layouts import Layout
from optax_ortho.layouts.layout import on_every_device, sharded_like
from optax_ortho.matrices import (
    AxesOf,
    MatrixAxes,
    axes_at,
    fold,
    path_of,
    unfold,
)
from optax_ortho.states import blocks_of, is_fused, state_of, state_structure

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
class KernelAxes(MatrixAxes):
    """The axes of a kernel with a bias, which is one more row of the matrix."""

    rows_beside = 1

    def resolve(self, shape: Sequence[int]) -> MatrixAxes:
        """These axes counted from 0 and checked against a leaf's shape."""
        axes = super().resolve(shape)
        return KernelAxes(axes.fan_in, axes.fan_out, axes.split)


@dataclasses.dataclass(frozen=True)
class Layers:
    """The layers of a tree: which bias is a row of which kernel.

    Args:
      axes: the axes of a kernel, from its path and the leaf.
      rows: by the path of a kernel, the path and the axes of its bias.
    """

    axes: AxesOf
    rows: Mapping[str, tuple[str, MatrixAxes]]

    def axes_of(self, path: str, leaf: Any) -> MatrixAxes:
        """The axes of any leaf of the tree, kernel or bias."""
        for bias, row_axes in self.rows.values():
            if bias == path:
                return row_axes
        axes = self.axes(path, leaf)
        kind = KernelAxes if path in self.rows else MatrixAxes
        return kind(axes.fan_in, axes.fan_out, axes.split)

    @property
    def members(self) -> set[str]:
        """The paths of all kernels with a bias, and of these biases."""
        return set(self.rows) | {bias for bias, _ in self.rows.values()}

    def kernels(self, tree: Any) -> Any:
        """The tree with an `optax.MaskedNode` in the place of each bias."""
        biases = {bias for bias, _ in self.rows.values()}
        return jax.tree_util.tree_map_with_path(
            lambda keys, x: optax.MaskedNode() if path_of(keys) in biases else x, tree
        )

    def map(
        self,
        layout: Layout,
        f: Callable,
        tree: Any,
        state: Any,
        vectors: Mapping[str, Any],
        scalars: Sequence[jax.Array],
    ) -> tuple[Any, Any]:
        """Applies a function to every layer.

        Args:
          layout: the distribution of the matrices over devices.
          f: takes a ``(fan_in, fan_out)`` kernel, its bias ``(1, fan_out)`` or None,
            its part of `vectors` and of `state`, and `scalars`; returns a new kernel,
            bias and state.
          tree: kernels and biases.
          state: as `init` returns it.
          vectors: by the path of a kernel a pytree of arrays that have its batch axes
            in front; a `FusedState` of such for a fused kernel.
          scalars: arrays of the step, the same for all layers.

        Returns:
          The new tree, and the new state.
        """

        def on_matrix(kernel, beside, state, *scalars):
            bias, vectors = beside
            kernel, bias, state = f(kernel, bias, vectors, state, *scalars)
            return kernel, (bias, vectors), state

        leaves, kernels = paths_and_leaves(tree), self.kernels(tree)
        rows, structure = self._rows(tree)
        paths = list(paths_and_leaves(kernels))
        beside = structure.unflatten(
            [_paired(rows[path], vectors[path]) for path in paths]
        )
        kernels, beside, state = layout.map(
            on_matrix,
            self.axes_of,
            kernels,
            state=state,
            beside=beside,
            scalars=scalars,
        )
        new = leaves | paths_and_leaves(kernels)
        for path, value in zip(paths, structure.flatten_up_to(beside), strict=True):
            if path in self.rows:
                bias, axes = self.rows[path]
                blocks = [row for row, _ in blocks_of(value)]
                row = unfold(blocks, axes, leaves[bias].shape)
                new[bias] = sharded_like(row, leaves[bias])
        tree = jax.tree_util.tree_map_with_path(lambda k, _: new[path_of(k)], tree)
        return tree, state

    def init(self, layout: Layout, f: Callable, tree: Any) -> Any:
        """The state of every layer, for `map`.

        Args:
          layout: the distribution of the matrices over devices.
          f: takes a zero kernel over its bias; returns the state of the layer.
          tree: kernels and biases, or their shapes.
        """
        return layout.init(f, self.axes_of, self.kernels(tree))

    def _rows(self, tree: Any) -> tuple[dict[str, Any], Any]:
        """The bias of each kernel as ``(*batch, 1, fan_out)``, or None.

        Returns:
          A `FusedState` of them for a fused kernel, by the path of the kernel; and the
          structure of a tree of states of kernels.
        """
        leaves, kernels = paths_and_leaves(tree), self.kernels(tree)
        rows, fused = {}, []
        for path, kernel in paths_and_leaves(kernels).items():
            axes = axes_at(self.axes, path, kernel)
            fused.append(axes.split is not None)
            blocks: Sequence[Any] = [None] * len(axes.block_shapes(jnp.shape(kernel)))
            if path in self.rows:
                bias, row_axes = self.rows[path]
                blocks = fold(on_every_device(leaves[bias]), row_axes)
            rows[path] = state_of(blocks, fused[-1])
        return rows, state_structure(kernels, fused)


def _paired(rows: Any, vectors: Any) -> Any:
    """Pairs of the bias and the vectors of each matrix of a kernel."""
    pairs = zip(blocks_of(rows), blocks_of(vectors), strict=True)
    return state_of(list(pairs), is_fused(rows))


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
            bias_axes = row_axes(kernel_axes, jnp.shape(kernel), jnp.shape(bias))
            if bias_axes is not None:
                rows[kernels[0]] = (biases[0], bias_axes)
    return Layers(axes, rows)


def row_axes(
    axes: MatrixAxes, kernel: Sequence[int], bias: Sequence[int]
) -> MatrixAxes | None:
    """The axes of a bias, from its kernel's axes and both shapes; None if none fit.

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
    """The module of a path, such as ``a/b`` of ``a/b/kernel``; empty at the top."""
    return path.rpartition("/")[0]


def paths_and_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by path."""
    keyed = jax.tree_util.tree_leaves_with_path(tree)
    return {path_of(keys): leaf for keys, leaf in keyed}

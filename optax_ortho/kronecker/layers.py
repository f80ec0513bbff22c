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

from optax_ortho.kronecker.forms import Entries, form_of, paths_of
from optax_ortho.layouts.local import laid_out_like, on_every_device
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

    def kernels(self, tree: Any, with_bias: bool | None = None) -> Any:
        """The tree with nothing in the place of a bias.

        Args:
          tree: kernels and biases, or their shapes.
          with_bias: keep only the kernels that have one, or none; None keeps all.
        """
        biases = {bias for bias, _ in self.rows.values()}

        def on_leaf(keys, x):
            path = path_of(keys)
            other = with_bias is not None and (path in self.rows) != with_bias
            return optax.MaskedNode() if path in biases or other else x

        return jax.tree_util.tree_map_with_path(on_leaf, tree)

    def map(
        self,
        layout: Any,
        f: Callable,
        tree: Any,
        states: Sequence[Any],
        vectors: Entries,
        scalars: Sequence[jax.Array],
    ) -> tuple:
        """Applies a function to every layer, as one matrix.

        Args:
          layout: how the matrices are spread over devices.
          f: takes a ``(fan_in, fan_out)`` kernel, its bias ``(1, fan_out)`` or None,
            what `vectors` holds for it, `scalars`, and what each of `states` holds;
            gives a new kernel, bias, and one of each state.
          tree: kernels and biases.
          states: of all kernels, each as `init` makes it.
          vectors: by the path of a kernel a pytree of arrays that have its batch axes
            in front; a tuple of such, one a block, for a fused kernel.
          scalars: of the step, the same for all layers.

        Returns:
          The new tree, and the new states.
        """
        form = form_of(layout, self.axes, self.kernels(tree))
        leaves = paths_and_leaves(tree)
        found = dict(leaves)
        new: list[dict[bool, dict]] = [{False: {}, True: {}} for _ in states]

        def on_matrix(kernel, state):
            bias, vector, flags, *own = state
            now = scalars if flags is None else flags
            kernel, bias, *own = f(kernel, bias, vector, now, *own)
            return kernel, (bias, vector, flags, *own)

        for with_bias in (False, True):
            kernels = self.kernels(tree, with_bias)
            paths, _ = paths_of(kernels)
            if not paths:
                continue
            rows = {path: self._rows(path, leaves) for path in paths}
            own = [form.entries(state, kernels, with_bias) for state in states]
            columns = [
                form.sent(kernels, rows),
                form.sent(kernels, vectors),
                form.spread(kernels, scalars),
                *own,
            ]
            moved, state = layout.map(
                on_matrix, self.axes, kernels, state=form.zipped(kernels, columns)
            )
            found |= paths_and_leaves(moved)
            new_rows, _, _, *own = form.unzipped(kernels, state)
            if with_bias:
                for path, row in form.returned(kernels, new_rows, rows).items():
                    bias, axes = self.rows[path]
                    blocks = row if axes.split else (row,)
                    whole = unfold(blocks, axes, leaves[bias].shape)
                    found[bias] = laid_out_like(whole, leaves[bias])
            for one, part in zip(new, own, strict=True):
                one[with_bias] = part
        tree = jax.tree_util.tree_map_with_path(lambda k, _: found[path_of(k)], tree)
        return tree, *map(form.merged, new)

    def init(self, layout: Any, f: Callable, tree: Any) -> tuple:
        """The states of every layer, for `map`.

        Args:
          layout: how the matrices are spread over devices.
          f: takes the number of rows, with that of a bias, and of columns; gives one of
            each state.
          tree: kernels and biases, or their shapes.
        """
        form = form_of(layout, self.axes, self.kernels(tree))
        number = len(jax.eval_shape(lambda: f(1, 1)))
        new: list[dict[bool, dict]] = [{False: {}, True: {}} for _ in range(number)]
        for with_bias in (False, True):
            kernels = self.kernels(tree, with_bias)
            if not jax.tree.leaves(kernels):
                continue

            def fresh(x, rows=int(with_bias)):
                return tuple(f(x.shape[0] + rows, x.shape[1]))

            state = layout.init(fresh, self.axes, kernels)
            for one, part in zip(new, form.unzipped(kernels, state), strict=True):
                one[with_bias] = part
        return tuple(map(form.merged, new))

    def _rows(self, path: str, leaves: Mapping[str, Any]) -> Any:
        """The bias of a kernel as a matrix with one row, None where there is none.

        For a fused kernel it is a tuple of them, one a block.
        """
        kernel = leaves[path]
        axes = axes_at(self.axes, path, kernel)
        if path in self.rows:
            bias, row_axes = self.rows[path]
            rows = tuple(fold(on_every_device(leaves[bias]), row_axes))
        else:
            rows = (None,) * len(axes.block_shapes(jnp.shape(kernel)))
        return rows if axes.split else rows[0]


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

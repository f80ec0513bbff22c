"""Any parameter leaf as a batch of matrices.

A leaf folds to ``(*batch, fan_in, fan_out)``, the way Flax stores a kernel
(``y = x @ W``). `MatrixAxes` says which axes are which; everything it does not
name is a batch axis. PyTorch stores the transpose.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from optax_ortho.states import is_boxed


@dataclasses.dataclass(frozen=True)
class Split:
    """A fused leaf: several matrices side by side along one axis.

    Args:
      axis: the axis of the leaf that is split.
      sizes: the length of each block along that axis; they add up to its length.
      scales: one factor for the step of each block; None is 1 for all.

    Raises:
      ValueError: for a size below 1, or another number of scales than of sizes.

    Examples:
      >>> Split(axis=1, sizes=(64, 16, 16))  # query, key, value under GQA
      Split(axis=1, sizes=(64, 16, 16), scales=None)
    """

    axis: int
    sizes: tuple[int, ...]
    scales: tuple[float, ...] | None = None

    def __post_init__(self):
        object.__setattr__(self, "sizes", tuple(self.sizes))
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"Split: sizes must be positive, got {self.sizes}.")
        if self.scales is not None:
            object.__setattr__(self, "scales", tuple(self.scales))
            if len(self.scales) != len(self.sizes):
                raise ValueError(
                    f"Split: {len(self.scales)} scales for {len(self.sizes)} sizes."
                )


@dataclasses.dataclass(frozen=True)
class MatrixAxes:
    """Fan-in and fan-out axes of a leaf; all others are batch axes.

    Args:
      fan_in: the axis or axes summed over in the forward pass (reduction).
      fan_out: the axis or axes of the result (output).
      split: how a fused leaf divides into matrices; None is one matrix.

    Examples:
      >>> MatrixAxes()  # a Dense kernel, or a stack of them
      MatrixAxes(fan_in=(-2,), fan_out=(-1,), split=None)
      >>> MatrixAxes(fan_in=(0, 1, 2), fan_out=3).matrix_shape((3, 3, 8, 16))
      (72, 16)
    """

    fan_in: tuple[int, ...] = (-2,)
    fan_out: tuple[int, ...] = (-1,)
    split: Split | None = None
    rows_beside: ClassVar[int] = 0  # Rows of each matrix that are in another leaf.

    def __post_init__(self):
        for name in ("fan_in", "fan_out"):
            axis = getattr(self, name)
            axes = (axis,) if isinstance(axis, int) else tuple(axis)
            object.__setattr__(self, name, axes)

    @classmethod
    def from_optax(cls, dimension_numbers: Any) -> "MatrixAxes":
        """The same axes, from an `optax.contrib.MuonDimensionNumbers`.

        Examples:
          >>> import optax
          >>> MatrixAxes.from_optax(optax.contrib.MuonDimensionNumbers(0, (1, 2)))
          MatrixAxes(fan_in=(0,), fan_out=(1, 2), split=None)
        """
        return cls(dimension_numbers.reduction_axis, dimension_numbers.output_axis)

    def resolve(self, shape: Sequence[int]) -> "MatrixAxes":
        """These axes counted from 0 and checked against a leaf's shape.

        Raises:
          ValueError: an axis out of range or named twice, or a split that does not
            fit the shape.
        """
        shape, ndim = tuple(shape), len(shape)
        named = self.fan_in + self.fan_out
        if not self.fan_in or not self.fan_out:
            raise ValueError(f"{self} needs at least one fan-in and one fan-out axis.")
        if any(not -ndim <= axis < ndim for axis in named):
            raise ValueError(f"{self} is out of range for a leaf of shape {shape}.")
        fan_in = tuple(axis % ndim for axis in self.fan_in)
        fan_out = tuple(axis % ndim for axis in self.fan_out)
        if len(set(fan_in + fan_out)) < len(named):
            raise ValueError(f"{self} names an axis of shape {shape} twice.")
        split = self.split
        if split is not None:
            if not -ndim <= split.axis < ndim:
                raise ValueError(f"{split} is out of range for shape {shape}.")
            split = dataclasses.replace(split, axis=split.axis % ndim)
            if split.axis not in fan_in + fan_out:
                raise ValueError(f"{split} must split a fan-in or fan-out axis.")
            if sum(split.sizes) != shape[split.axis]:
                raise ValueError(
                    f"{split} adds up to {sum(split.sizes)}, but axis {split.axis} of "
                    f"shape {shape} has length {shape[split.axis]}."
                )
        return MatrixAxes(fan_in, fan_out, split)

    def batch(self, ndim: int) -> tuple[int, ...]:
        """The batch axes of a leaf with `ndim` axes."""
        matrix = {axis % ndim for axis in self.fan_in + self.fan_out}
        return tuple(axis for axis in range(ndim) if axis not in matrix)

    def matrix_shape(self, shape: Sequence[int]) -> tuple[int, int]:
        """(fan_in, fan_out) of one matrix of a leaf without a split."""
        fan_in = math.prod(shape[axis] for axis in self.fan_in)
        return fan_in, math.prod(shape[axis] for axis in self.fan_out)

    def block_shapes(self, shape: Sequence[int]) -> list[tuple[int, ...]]:
        """The shapes of the blocks a leaf is split into; the leaf's own if none."""
        if self.split is None:
            return [tuple(shape)]
        axis = self.split.axis % len(shape)
        return [(*shape[:axis], size, *shape[axis + 1 :]) for size in self.split.sizes]


AxesOf = Callable[[str, Any], MatrixAxes]
"""The axes of a leaf, given its path and anything with its shape."""


def last_two(path: str, leaf: Any) -> MatrixAxes:
    """The default axes: ``(*batch, fan_in, fan_out)``.

    Raises:
      ValueError: a leaf with fewer than two axes.
    """
    if jnp.ndim(leaf) < 2:
        raise ValueError(
            f"Leaf {path!r} of shape {jnp.shape(leaf)} is not a matrix. Give it "
            "another role in `labels`, or leave it out with `optax.masked`."
        )
    return MatrixAxes()


@runtime_checkable
class Orthogonalizer(Protocol):
    """Any object that orthogonalizes ``(..., m, n)`` arrays, keeping shape and dtype.

    It is scale-free, maps zero to zero, and commutes with transposition. There is no
    ``__call__``, because `optax.inject_hyperparams` takes callables for schedules.
    """

    def orthogonalize(self, x: jax.Array) -> jax.Array:
        """Orthogonalizes ``(..., m, n)`` arrays."""
        ...


@runtime_checkable
class ColumnOrthogonalizer(Orthogonalizer, Protocol):
    """An `Orthogonalizer` that also takes a matrix in column blocks.

    The blocks are all on one device, as several devices have sent them, or spread over
    devices. It commutes with permutations of rows and of columns, as a polar factor
    does. `optax_ortho.orthogonalizers.Iteration` derives all of it from one method.
    """

    def orthogonalize_blocks(self, x: jax.Array) -> jax.Array:
        """Orthogonalizes one matrix given as ``(s, m, k)`` for ``(m, s k)``."""
        ...

    def orthogonalize_shared(
        self, x: jax.Array, axes: tuple[str, ...], wire_dtype: Any
    ) -> jax.Array:
        """Orthogonalizes one matrix of which this device has the blocks ``(s, m, k)``.

        The devices along mesh axes have the others; sums may be sent in `wire_dtype`.
        """
        ...

    def shared_cost(
        self, m: int, n: int, devices: int, wire_dtype: Any
    ) -> tuple[float, float]:
        """FLOPs, and bytes sent, of each device that shares an ``m x n`` matrix."""
        ...


def path_of(keys: Sequence[Any]) -> str:
    """A leaf's path as ``a/b/0/kernel``, equal for boxed and unboxed leaves.

    `flax.nnx.Optimizer` hands boxed leaves (``kernel`` then ``.value``) to ``init`` and
    bare arrays to ``update``; the box's key is dropped, so both have the same path.

    Examples:
      >>> leaves = jax.tree_util.tree_leaves_with_path({"a": [{"kernel": 1.0}]})
      >>> path_of(leaves[0][0])
      'a/0/kernel'
    """
    keys = keys[:-1] if is_boxed(keys) else keys
    return jax.tree_util.keystr(tuple(keys), simple=True, separator="/")


def map_with_axes(f: Callable, axes: AxesOf, tree: Any, *rest: Any) -> Any:
    """`jax.tree.map` of ``f(axes, leaf, *rest)``, with each leaf's resolved axes.

    Raises:
      ValueError: axes that do not fit a leaf, or a leaf of which each device holds
        another part; the message names its path.
    """

    def on_leaf(keys, leaf, *others):
        return f(axes_at(axes, path_of(keys), leaf), leaf, *others)

    return jax.tree_util.tree_map_with_path(on_leaf, tree, *rest)


def axes_at(axes: AxesOf, path: str, leaf: Any) -> MatrixAxes:
    """The resolved axes of one leaf; what does not fit is reported with its path."""
    _refuse_varying(path, leaf)
    try:
        return axes(path, leaf).resolve(jnp.shape(leaf))
    except ValueError as error:
        if path in str(error):
            raise
        raise ValueError(f"Leaf {path!r}: {error}") from None


def _refuse_varying(path: str, leaf: Any) -> None:
    """Refuses a leaf that differs between devices, where JAX knows that it does."""
    if not isinstance(leaf, jax.Array):
        return
    varying = jax.typeof(leaf).manual_axis_type.varying
    if varying:
        raise ValueError(
            f"Leaf {path!r} differs between the devices of mesh axis "
            f"{', '.join(sorted(map(str, varying)))}: inside jax.shard_map each would "
            "take its part for a whole matrix. Update outside of shard_map, or gather "
            "the leaf first; if each device has whole matrices of its own, say "
            "check_vma=False."
        )


def fold(leaf: jax.Array, axes: MatrixAxes) -> tuple[jax.Array, ...]:
    """A leaf as its blocks, each ``(*batch, fan_in, fan_out)``.

    Args:
      leaf: an array.
      axes: its resolved axes.

    Examples:
      >>> kernel = jnp.ones((3, 3, 8, 16))
      >>> [x.shape for x in fold(kernel, MatrixAxes((0, 1, 2), (3,)))]
      [(72, 16)]
    """
    order = axes.batch(leaf.ndim) + axes.fan_in + axes.fan_out

    def fold_block(block):
        batch = tuple(block.shape[axis] for axis in axes.batch(leaf.ndim))
        return block.transpose(order).reshape(batch + axes.matrix_shape(block.shape))

    return tuple(fold_block(block) for block in cut(leaf, axes))


def unfold(
    blocks: Sequence[jax.Array], axes: MatrixAxes, shape: Sequence[int]
) -> jax.Array:
    """The inverse of `fold`: blocks back to a leaf of the given shape."""
    order = axes.batch(len(shape)) + axes.fan_in + axes.fan_out
    inverse = [order.index(axis) for axis in range(len(shape))]

    def unfold_block(block, block_shape):
        block = block.reshape(tuple(block_shape[axis] for axis in order))
        return block.transpose(inverse)

    pairs = zip(blocks, axes.block_shapes(shape), strict=True)
    parts = [unfold_block(block, block_shape) for block, block_shape in pairs]
    if axes.split is None:
        return parts[0]
    return jnp.concatenate(parts, axis=axes.split.axis)


def cut(leaf: jax.Array, axes: MatrixAxes) -> list[jax.Array]:
    """The blocks of a fused leaf; the leaf itself if it is none."""
    if axes.split is None:
        return [leaf]
    sizes = axes.split.sizes
    edges = [sum(sizes[:i]) for i in range(1, len(sizes))]
    return jnp.split(leaf, edges, axis=axes.split.axis)

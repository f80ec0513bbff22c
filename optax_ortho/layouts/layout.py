"""The protocol of layouts, with the hooks of those in which every device sees all."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from optax_ortho.matrices import AxesOf

Make = Callable[[AxesOf, Any], optax.GradientTransformation]
"""Makes a direction from the `MatrixAxes` of a leaf and a layout."""

Marks = Any
"""A tree of numbers, one for each matrix or other leaf, with the axes of the leaf: zero
where it is finite, and NaN where it is not."""


class Across(NamedTuple):
    """The view of a guard across devices that may have different gradients.

    Attributes:
      shape: the shape of a gradient, given the path and the leaf of the parameter.
      agree: from marks of this device's gradients to marks of all, equal everywhere.
      at_gradients: selects the marks, or flags, of this device's gradients.
      at_params: selects the marks, or flags, of this device's shards of the parameters.
    """

    shape: Callable[[str, Any], tuple[int, ...]]
    agree: Callable[[Marks], Marks]
    at_gradients: Callable[[Any], Any]
    at_params: Callable[[Any], Any]


def _same(tree: Any) -> Any:
    return tree


ALONE = Across(lambda path, leaf: jnp.shape(leaf), _same, _same, _same)
"""The view of a guard where every device sees all gradients."""


class Layout(Protocol):
    """The distribution of the work on matrices over devices, and of their states.

    Optimizers use `map` and `init`, and pass the layout on. The rest is for recipes,
    the guard and reports; its defaults are right where every device sees all gradients.

    Attributes:
      sees_all: whether a device sees all matrices, so that a stage may measure them
        together or take the statistics of all layers.
      has_shards: whether `map_shards` works.
      shards: the `Sharded` layout by which matrices have owners; None if they have
        none.
      averages: whether owners average the gradients of devices.
    """

    sees_all: bool = True
    has_shards: bool = False
    shards: Any = None
    averages: bool = False

    def map(
        self,
        f: Any,
        axes: AxesOf,
        *operands: Any,
        state: Any = None,
        beside: Any = None,
        scalars: Sequence[jax.Array] = (),
    ) -> Any:
        """Applies a function of one matrix to every matrix of a tree.

        Args:
          f: takes one ``(fan_in, fan_out)`` matrix of each operand and returns a matrix
            of that shape, or a pytree of them. After the matrices it takes the matrix's
            part of `beside` and of `state`, if they are given, and then `scalars`; it
            returns ``(result, new beside, new state)`` of those given. It may be an
            `Orthogonalizer`, which by its contract commutes with transposition.
          axes: the `MatrixAxes` of a leaf, from its path and the leaf.
          *operands: trees of one structure and of the same shapes.
          state: the result of `init`, or of the `map` before; stored with owners.
          beside: small arrays that every device has, such as a bias: a tree with a
            pytree of arrays at each leaf, with the leaf's batch axes in front; a
            `FusedState` of pytrees at a fused leaf.
          scalars: arrays of the step, the same for all matrices. Without them `f` would
            close over arrays, which a `jax.shard_map` refuses on Explicit axes.

        Returns:
          A tree like the operands, with the result at each leaf, in the leaf's shape
          and sharding; in a tuple with the new `beside` and `state` if they are given.

        Raises:
          ValueError: axes or a state that do not fit a leaf; the message names its
            path.
        """
        ...

    def init(self, f: Callable, axes: AxesOf, tree: Any) -> Any:
        """The state of every matrix of a tree, for `map`.

        Args:
          f: takes a zero ``(fan_in, fan_out)`` matrix, with the `rows_beside` of its
            axes, and returns its state, a pytree of arrays.
          axes: the `MatrixAxes` of a leaf, from its path and the leaf.
          tree: the parameters.

        Returns:
          The pytree that `f` returns, with the states of all matrices in the place of
          each array.
        """
        ...

    def map_shards(
        self, make: Callable[[int, int], Callable], axes: AxesOf, tree: Any
    ) -> Any:
        """Applies a function to the part of every matrix on each device.

        Args:
          make: makes the function of one ``(fan_in, fan_out)`` part from the number of
            parts along both.
          axes: the `MatrixAxes` of a leaf, from its path and the leaf.
          tree: the matrices.

        Raises:
          ValueError: a `Split` along an axis that is sharded.
        """
        raise TypeError(f"{type(self).__name__} has no shards of matrices.")

    def specs(self, state: Any) -> Any:
        """The `PartitionSpec` of each array of an optimizer's state, or its shapes."""
        return jax.tree.map(lambda _: PartitionSpec(), state)

    def place(self, state: Any) -> Any:
        """An optimizer's state, with each array sharded as `specs` says."""
        return state

    def direction(self, make: Make, axes: AxesOf) -> optax.GradientTransformation:
        """The direction of a recipe in this layout."""
        return make(axes, self)

    def resident(self, make: Make, axes: AxesOf) -> optax.GradientTransformation:
        """A direction of several stages, with all of its state stored with owners.

        Each matrix is sent to its owner and back once, and not by every stage. The
        update of a matrix may not depend on another.
        """
        return make(axes, self)

    def fallback(
        self, tx: optax.GradientTransformation
    ) -> optax.GradientTransformation:
        """An elementwise transformation, such as AdamW, of all other parameters."""
        return tx

    def whole(self, path: str, leaf: Any) -> Any:
        """A leaf, or the shape and dtype of the whole one of which it is a shard."""
        del path
        return leaf

    def across(self) -> Across:
        """The view of a guard across devices."""
        return ALONE


def uniform(f: Callable, beside: Any, state: Any, scalars: Sequence) -> Callable:
    """A function for `map` that takes and returns both of `beside` and `state`.

    Args:
      f: the function that `map` is given.
      beside: the argument of `map`, or None.
      state: the argument of `map`, or None.
      scalars: the argument of `map`.

    Returns:
      A function of matrices and ``(beside, state)`` that returns the result and the new
      ``(beside, state)``, with () for what is not given.

    Examples:
      >>> count = uniform(lambda x, count: (2 * x, count + 1), None, 0, ())
      >>> count(3.0, ((), 7))
      (6.0, ((), 8))
    """
    given = beside is not None, state is not None

    def call(*args):
        *matrices, both = args
        passed = [x for x, is_given in zip(both, given, strict=True) if is_given]
        result = f(*matrices, *passed, *scalars)
        y, *new = result if passed else (result,)
        return y, tuple(new.pop(0) if is_given else () for is_given in given)

    return call


def given_of(result: Any, beside: Any, state: Any, new_beside: Any, new_state: Any):
    """The value of `map`: the result, with the new of `beside` and `state` if given."""
    pairs = (beside, new_beside), (state, new_state)
    new = [new for old, new in pairs if old is not None]
    return (result, *new) if new else result


def fields_of(f: Callable) -> Any:
    """The structure of a state, from the function that `init` is given."""
    matrix = jax.ShapeDtypeStruct((1, 1), jnp.float32)
    return jax.tree.structure(jax.eval_shape(f, matrix))


def on_every_device(x: jax.Array) -> jax.Array:
    """The whole array on every device; on a mesh with Auto axes, the array itself."""
    sharding = jax.typeof(x).sharding
    if all(axis is None for axis in sharding.spec):
        return x
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec()))


def sharded_like(x: jax.Array, leaf: jax.Array) -> jax.Array:
    """An array in the sharding of another; on Auto axes, the array itself."""
    sharding = jax.typeof(leaf).sharding
    if all(axis is None for axis in sharding.spec):
        return x
    return jax.sharding.reshard(x, sharding)

"""The rows of the contract table, and the parameters that they are tested on."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_ortho import MatrixAxes, Split
from optax_ortho.orthogonalizers import NewtonSchulz
from optax_ortho.testing import random_like, with_extra

# A kernel, a stack of kernels of the same shape, and a convolution.
MATRICES = {
    "conv": (2, 2, 1, 6),
    "dense": {"kernel": (4, 6)},
    "stack": (3, 4, 6),
}
# The same and what is no matrix.
MODEL = {
    "conv": (2, 2, 1, 6),
    "dense": {"bias": (6,), "kernel": (4, 6)},
    "gain": (),
    "stack": (3, 4, 6),
    "table": (5, 4),
}
CONV = MatrixAxes(fan_in=(0, 1, 2), fan_out=(3,))
LABELS = {
    "conv": CONV,
    "dense/bias": "bias",
    "dense/kernel": "matrix",
    "gain": "scalar",
    "stack": MatrixAxes(),
    "table": "embedding",
}
# The kernel as three matrices side by side, like a fused query, key and value.
FUSED = MatrixAxes(split=Split(-1, (2, 2, 2)))


def axes(path: str, leaf: Any) -> MatrixAxes:
    """The axes of `MATRICES`."""
    return CONV if path == "conv" else MatrixAxes()


def new_params(shapes: Any, dtype: Any = jnp.float32, seed: int = 100) -> Any:
    """Random parameters of some shapes."""
    structs = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, dtype),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )
    return random_like(structs, seed)


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One transformation under test.

    Attributes:
      name: the row's name in test reports.
      factory: makes the transformation from `arguments`.
      arguments: what it is made from; with a ``learning_rate`` it is an optimizer.
      shapes: the shapes of its parameters.
      extra: extra arguments that its update needs.
      matrices: the names of the leaves that it orthogonalizes.
      nonfinite: what it does with a NaN.
      decays: whether it decays its parameters.
      static_args: its arguments that `optax.inject_hyperparams` has to leave alone.
      tolerance: between two ways to compute one step in float32.
      scale_tolerance: between steps for float32 gradients of different sizes.
      variant: whether it varies another row.
      quick: whether all of its tests, not only the essential, are in the quick part.
    """

    name: str
    factory: Callable[..., optax.GradientTransformation]
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    shapes: Any = dataclasses.field(default_factory=lambda: MODEL)
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    matrices: tuple[str, ...] = ("conv", "dense/kernel", "stack")
    nonfinite: str = "skip_matrix"
    decays: bool = False
    static_args: tuple[str, ...] = ()
    # Compiled products of 4 x 6 matrices differ from each other by a few 1e-7, which
    # five Newton-Schulz steps with slope 3.4 at zero enlarge.
    tolerance: float = 2e-5
    # A factor rounds the entries of a gradient.
    scale_tolerance: float = 1e-4
    variant: bool = False
    quick: bool = False

    def __str__(self) -> str:
        return self.name

    @functools.cached_property
    def tx(self) -> optax.GradientTransformationExtraArgs:
        """The transformation; one object, so that its compiled steps are shared."""
        return with_extra(self.factory(**self.arguments), self.extra)

    @functools.cached_property
    def fused(self) -> optax.GradientTransformationExtraArgs:
        """The transformation of an optimizer, with a `FUSED` kernel."""
        labels = {**self.arguments["labels"], "dense/kernel": FUSED}
        return with_extra(
            self.factory(**{**self.arguments, "labels": labels}), self.extra
        )

    @functools.cached_property
    def injected(self) -> optax.GradientTransformation:
        """The transformation with its numbers in the state."""
        inject = optax.inject_hyperparams(self.factory, self.static_args)
        return with_extra(inject(**self.arguments), self.extra)

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformationExtraArgs:
        """The transformation with a learning rate and a sign."""
        if self.is_optimizer:
            return self.tx
        rate = optax.scale_by_learning_rate(RATE)
        return optax.with_extra_args_support(optax.chain(self.tx, rate))

    @property
    def is_optimizer(self) -> bool:
        return "learning_rate" in self.arguments

    @functools.cached_property
    def params(self) -> Any:
        return new_params(self.shapes)

    def only(self, *names: str) -> Any:
        """A tree of masks, true at the leaves of these names."""
        return jax.tree_util.tree_map_with_path(
            lambda keys, x: np.full(
                x.shape, jax.tree_util.keystr(keys, simple=True, separator="/") in names
            ),
            self.params,
        )


# Enough for what is not about the iteration, and compiled in a third of the time.
ONE_STEP = NewtonSchulz(steps=1, unsafe=True)
# Large, so that a hundred steps of RMS 0.2 times it reach a target at distance one.
RATE = 0.1


def recipe(
    name: str, factory: Callable, row: Mapping | None = None, **arguments
) -> Row:
    """A row for an optimizer with exact labels."""
    arguments = {"learning_rate": RATE, "labels": LABELS, **arguments}
    return Row(name, factory, arguments, **({} if row is None else row))


def variant(
    name: str, factory: Callable, row: Mapping | None = None, **arguments
) -> Row:
    """A row for an optimizer of which there is another row."""
    row = {"variant": True, **({} if row is None else row)}
    return recipe(name, factory, row, **{"orthogonalizer": ONE_STEP, **arguments})


def direction(name: str, factory: Callable, row: Any = None, **arguments) -> Row:
    """A row for a direction or a stage, on matrices alone."""
    row = {} if row is None else row
    row = {"nonfinite": "off", "shapes": MATRICES, **row}
    return Row(name, factory, arguments, **row)

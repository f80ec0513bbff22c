"""The optimizers under test: every one with its defaults, and Optax's Muon."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_ortho
from optax_ortho import MatrixAxes
from optax_ortho.matrices import path_of
from optax_ortho.testing import random_like, with_extra
from tests.rows import LABELS, MODEL, ONE_STEP, RATE, RECIPES, new_params

# In MKOR a bias beside its kernel is a part of it; this one stands alone.
SHAPES = {name: shape for name, shape in MODEL.items()} | {
    "dense": {"kernel": (4, 6)},
    "bias": (6,),
}
NAMES = {**{k: v for k, v in LABELS.items() if k != "dense/bias"}, "bias": "bias"}
MATRICES = ("conv", "dense/kernel", "stack")
# One of each kind, for what is not about the kinds of leaves.
SMALL = {"dense": {"kernel": (4, 6)}, "bias": (6,)}


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """One optimizer under test.

    Attributes:
      name: what the table calls it.
      factory: makes it from a rate, labels and other arguments.
      matrices: whether it orthogonalizes, so that its step has no scale.
      guarded: whether it promises to skip what is not finite.
      matmul: whether it is made of products alone: no loop, and derivatives everywhere.
      polar: whether its update is a scaled polar factor of the momentum.
      rotates: whether it commutes with rotations of both sides.
      real: whether it refuses complex leaves.
      statistics: whether its update needs statistics.
      other: arguments that make another optimizer with a state of the same kind.
      shapes: the parameters it usually stands on.
    """

    name: str
    factory: Callable
    matrices: bool = True
    guarded: bool = True
    matmul: bool = True
    polar: bool = False
    rotates: bool = False
    real: bool = False
    statistics: bool = False
    other: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    shapes: Mapping[str, Any] = dataclasses.field(default_factory=lambda: SHAPES)

    def __str__(self) -> str:
        return self.name

    @property
    def is_ours(self) -> bool:
        return self.factory is not contrib

    def new(self, labels: Mapping, params: Any, **arguments: Any) -> Any:
        """The optimizer of some parameters."""
        arguments = {"learning_rate": RATE, **arguments}
        if self.matrices:
            arguments["labels"] = dict(labels)
        tx = self.factory(**arguments)
        statistics = _statistics(labels, params) if self.statistics else None
        return with_extra(tx, {"statistics": statistics} if statistics else {})

    def standard(self, dtype: Any = jnp.float32, **arguments: Any) -> tuple[Any, Any]:
        """The optimizer and its usual parameters; asked again, the same object.

        So the checks of one optimizer share its compiled step.
        """
        return _standard(self, jnp.dtype(dtype), tuple(arguments.items()))


@functools.cache
def _standard(subject: Subject, dtype: Any, arguments: tuple) -> tuple[Any, Any]:
    params = new_params(subject.shapes, dtype)
    return subject.new(NAMES, params, **dict(arguments)), params


def contrib(learning_rate: Any, labels: Mapping, **arguments: Any) -> Any:
    """`optax.contrib.muon` with the same labels."""

    def numbers(params):
        def of_leaf(keys, leaf):
            label = labels.get(path_of(keys))
            axes = MatrixAxes() if label == "matrix" else label
            if not isinstance(axes, MatrixAxes):
                return None
            axes = axes.resolve(leaf.shape)
            return optax.contrib.MuonDimensionNumbers(axes.fan_in, axes.fan_out)

        return jax.tree_util.tree_map_with_path(of_leaf, params)

    return optax.contrib.muon(
        learning_rate, muon_weight_dimension_numbers=numbers, **arguments
    )


def _statistics(labels: Mapping, params: Any) -> dict:
    """Made-up statistics of every matrix, as MKOR needs them."""
    found: dict[str, Any] = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        path = path_of(keys)
        axes = MatrixAxes() if labels.get(path) == "matrix" else labels.get(path)
        if not isinstance(axes, MatrixAxes) or np.ndim(leaf) < 2:
            continue
        if not fits(axes, leaf):
            continue
        axes = axes.resolve(leaf.shape)
        batch = tuple(leaf.shape[axis] for axis in axes.batch(leaf.ndim))
        m, n = axes.matrix_shape(leaf.shape)
        vectors = {"a": (*batch, m), "g": (*batch, n)}
        found[path.removesuffix("/kernel")] = {
            side: jax.ShapeDtypeStruct(shape, jnp.float32)
            for side, shape in vectors.items()
        }
    return random_like(found, seed=7)


def fits(axes: MatrixAxes, leaf: Any) -> bool:
    """Misuse is for the optimizer to refuse, not for us."""
    try:
        axes.resolve(leaf.shape)
    except ValueError:
        return False
    return True


def ours(factory: Callable, **facts: Any) -> Subject:
    facts = {"other": {"learning_rate": 2 * RATE}, **facts}
    return Subject(factory.__name__, factory, **facts)


def free_of_scale(factory: Callable) -> Callable:
    """NAMO without its eps, which is in the units of the gradient."""

    def made(**arguments):
        return factory(eps=0.0, **arguments)

    made.__name__ = factory.__name__
    return made


def every_step(factory: Callable) -> Callable:
    def made(**arguments):
        return factory(update_every=1, **arguments)

    made.__name__ = factory.__name__
    return made


MUON = ours(optax_ortho.muon, polar=True, rotates=True)
# One step is enough where it is not about the iteration.
SHORT = dataclasses.replace(
    MUON,
    factory=functools.partial(optax_ortho.muon, orthogonalizer=ONE_STEP),
    shapes=SMALL,
)
DESCRIBED = [
    MUON,
    ours(optax_ortho.normuon, rotates=False),
    ours(optax_ortho.root),
    ours(optax_ortho.auon),
    ours(optax_ortho.hybrid_auon),
    ours(free_of_scale(optax_ortho.namo), rotates=True),
    ours(free_of_scale(optax_ortho.namo_d)),
    ours(optax_ortho.aro, matmul=False),
    ours(every_step(optax_ortho.fismo), matmul=False, rotates=True),
    ours(every_step(optax_ortho.mkor), matmul=False, real=True, statistics=True),
    ours(optax_ortho.dion, matmul=False),
    ours(optax_ortho.adaptive_memory_muon, polar=True, rotates=True),
    ours(optax_ortho.am_sgd, matrices=False, rotates=True),
    ours(optax_ortho.am_adamw, matrices=False, real=True),
]
# A new recipe keeps all promises, or is described above.
OURS = DESCRIBED + [
    ours(recipe) for recipe in RECIPES if recipe.__name__ not in map(str, DESCRIBED)
]
PEER = Subject(
    "optax.contrib.muon",
    contrib,
    polar=True,
    rotates=True,
    other={"ns_coeffs": (3.0, -3.2, 1.2)},
)

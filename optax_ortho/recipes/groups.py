"""The groups of a recipe: matrices to a direction, all other leaves to AdamW.

direction U of the matrices      W <- W - rate (U + weight_decay W)
AdamW, or `fallback`, of the rest, with a rate and a decay of its own
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax

from optax_ortho.dtypes import bounded, widen_float16
from optax_ortho.guard import guard
from optax_ortho.labels import Label, Labeller, resolve
from optax_ortho.labels.roles import matrix_axes
from optax_ortho.layouts import Layout, local
from optax_ortho.layouts.layout import Make
from optax_ortho.matrices import MatrixAxes, path_of
from optax_ortho.measures import measured, measured_spectrum
from optax_ortho.recipes.arguments import Common, complete
from optax_ortho.recipes.steps import decoupled_decay, with_rate_and_decay
from optax_ortho.recording import record

MATRIX, OTHER = "matrix", "other"


class Group(NamedTuple):
    """One group of a recipe, recorded at init for a summary.

    Attributes:
      name: "matrix", "other", a role, or "all".
      method: the name of its direction.
      learning_rate: its rate or schedule; None for a transformation of the user's.
      weight_decay: its decay; None likewise.
      shares_rate: whether it takes the rate of the matrices for want of its own.
      leaves: path, leaf and label of each of its leaves.
      state: its state.
      layout: the layout of matrices; None for other groups.
    """

    name: str
    method: str
    learning_rate: Any
    weight_decay: Any
    shares_rate: bool
    leaves: tuple[tuple[str, Any, Label], ...]
    state: optax.OptState
    layout: Layout | None = None


class Treatment(NamedTuple):
    """The transformation of a group, and its description in a summary."""

    tx: optax.GradientTransformation
    method: str
    learning_rate: Any = None
    weight_decay: Any = None
    shares_rate: bool = False
    layout: Layout | None = None


def matrices_else_fallback(
    name: str,
    direction: Make,
    learning_rate: Any,
    decay: Callable[[Any, Any], optax.GradientTransformation] = decoupled_decay,
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    """A recipe from its direction (see the head of this module).

    Args:
      name: the name of the direction in a summary.
      direction: makes the direction from the axes of a leaf and a layout. Each update
        is handed ``learning_rate=``, the rate of the step.
      learning_rate: rate or schedule of the matrices.
      decay: makes the transformation that adds the decay to the direction, from the
        weight decay and its mask.
      **common: the arguments that all recipes share, see `Common`.

    Returns:
      The optimizer.

    Raises:
      ValueError: a number out of range, or labels that do not fit the parameters.
      TypeError: an array where `optax.inject_hyperparams` replaced a function.
    """
    given = complete(learning_rate, common)
    labels = Remembered(resolve(given["labels"]))
    layout = local() if given["layout"] is None else given["layout"]
    matrix = _diagnosed(direction, labels, layout, given["diagnostics"])
    decayed = decay(given["weight_decay"], given["weight_decay_mask"])
    steps = with_rate_and_decay(matrix, learning_rate, decayed)
    rates = learning_rate, given["weight_decay"]
    treatments = {
        MATRIX: Treatment(steps, name, *rates, layout=layout),
        **_fallbacks(learning_rate, given, layout),
    }

    def label_of(path, leaf):
        return labels.label(path, layout.whole(path, leaf))

    def batch_axes(path, leaf):
        axes = label_of(path, leaf).axes
        return () if axes is None else axes.batch(leaf.ndim)

    split = _by_role(treatments, label_of)
    safe = guard(split, given["nonfinite"], batch_axes, layout.across())

    def placed(params):
        # The guard's counter too: all of a restored checkpoint is on one mesh.
        return layout.place(safe.init(params))

    return optax.GradientTransformationExtraArgs(placed, safe.update)


class Remembered:
    """Labels that are computed once for each path, shape and dtype."""

    def __init__(self, labels: Labeller):
        self._labels = labels
        self._known: dict[Any, Label] = {}

    def label(self, path: str, leaf: Any) -> Label:
        """The label of a leaf."""
        key = path, jnp.shape(leaf), leaf.dtype
        if key not in self._known:
            self._known[key] = self._labels.label(path, leaf)
        return self._known[key]

    def axes(self, path: str, leaf: Any) -> MatrixAxes:
        """The axes of a leaf that is a matrix; another raises a ValueError."""
        return matrix_axes(self.label(path, leaf), path, leaf)


def _diagnosed(
    direction: Make,
    labels: Remembered,
    layout: Layout,
    diagnostics: bool | str,
) -> optax.GradientTransformation:
    """The direction of the matrices in a layout, with its metrics."""
    if diagnostics and not layout.sees_all:
        raise ValueError(
            "diagnostics need all matrices, and with layouts.owned a device has "
            "some of them only: leave them out, or use layouts.sharded."
        )
    matrix = layout.direction(direction, labels.axes)
    if diagnostics:
        matrix = measured(matrix)
    if diagnostics == "spectrum":
        matrix = measured_spectrum(matrix, labels.axes, layout)
    return matrix


def _fallbacks(
    learning_rate: Any, given: Mapping[str, Any], layout: Layout
) -> dict[str, Treatment]:
    """The treatment of leaves that are no matrices: `OTHER`, and roles of their own."""
    fallback, rate = given["fallback"], given["adamw_learning_rate"]
    decay, shares_rate = given["adamw_weight_decay"], rate is None
    if fallback is None or isinstance(fallback, Mapping):
        rate = learning_rate if shares_rate else rate
        b1, b2, eps = given["adamw_b1"], given["adamw_b2"], given["adamw_eps"]
        adamw = optax.chain(
            # 1e-30 vanishes beside any square that counts, but gives its root a slope.
            widen_float16(bounded(optax.scale_by_adam(b1, b2, eps, eps_root=1e-30))),
            decoupled_decay(decay, given["weight_decay_mask"]),
            optax.scale_by_learning_rate(rate),
        )
        rest = Treatment(layout.fallback(adamw), "adamw", rate, decay, shares_rate)
    else:
        rest = Treatment(layout.fallback(fallback), "fallback")
    by_role = fallback if isinstance(fallback, Mapping) else {}
    return {OTHER: rest} | {
        role: Treatment(layout.fallback(tx), f"fallback[{role!r}]")
        for role, tx in by_role.items()
    }


def _by_role(
    treatments: Mapping[str, Treatment], label_of: Callable[[str, Any], Label]
) -> optax.GradientTransformationExtraArgs:
    """Applies to each leaf the treatment of its role, and records the groups at init.

    A role without a treatment is treated as `OTHER`.
    """

    def group_of(keys, leaf):
        role = label_of(path_of(keys), leaf).role
        return role if role in treatments else OTHER

    def groups(params):
        return jax.tree_util.tree_map_with_path(group_of, params)

    split = optax.partition({k: t.tx for k, t in treatments.items()}, groups)

    def init(params):
        state: Any = split.init(params)
        keyed = jax.tree_util.tree_leaves_with_path(params)
        for group, (_, method, rate, decay, shares_rate, spread) in treatments.items():
            leaves = tuple(
                (path_of(keys), leaf, label_of(path_of(keys), leaf))
                for keys, leaf in keyed
                if group_of(keys, leaf) == group
            )
            inner = state.inner_states[group]
            facts = group, method, rate, decay, shares_rate, leaves, inner, spread
            record(Group(*facts))
        return state

    return optax.GradientTransformationExtraArgs(init, split.update)

"""The tail that every recipe shares: groups, learning rates, decay, and the guard.

A recipe sends matrices to its own direction and every other leaf to AdamW:

    direction U of the matrices      W <- W - rate (U + weight_decay W)
    AdamW, or `fallback`, of the rest, with a rate and a decay of its own
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax

from optax_ortho import layouts
from optax_ortho.checks import check_number, is_zero, refuse_array
from optax_ortho.dtypes import bounded, keep_dtypes, widen_float16
from optax_ortho.guard import guard
from optax_ortho.labels import ROLES, Label, resolve
from optax_ortho.matrices import AxesOf, path_of
from optax_ortho.measures import measured, measured_spectrum
from optax_ortho.optimizers._arguments import DEFAULTS, Common
from optax_ortho.optimizers._owned import across, on_owners, on_parts, whole
from optax_ortho.recording import record

MATRIX, OTHER = "matrix", "other"


class RecipeState(NamedTuple):
    """Steps taken, and the states of what they are made of."""

    count: jax.typing.ArrayLike
    direction: optax.OptState
    decay: optax.OptState


class Group(NamedTuple):
    """What a recipe tells about one of its groups; `layout` is that of matrices."""

    name: str
    method: str
    learning_rate: Any
    weight_decay: Any
    shares_rate: bool
    leaves: tuple[tuple[str, Any, Label], ...]
    state: optax.OptState
    layout: Any = None


def matrices_else_fallback(
    name: str,
    direction: Callable[[AxesOf, Any], optax.GradientTransformation],
    learning_rate: Any,
    decay: Callable[[Any, Any], optax.GradientTransformation] | None = None,
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    """A recipe from its direction (see the head of this module).

    Args:
      name: what a summary calls the direction.
      direction: makes the direction from the axes of a leaf and a layout. Each update
        is handed ``learning_rate=``, the rate of the step.
      learning_rate: rate or schedule of the matrices.
      decay: makes what adds the decay to the direction, from the weight decay and its
        mask; None is `decoupled_decay`.
      **common: the arguments that all recipes share, see `Common`.

    Returns:
      The optimizer.

    Raises:
      ValueError: a number out of range, or labels that do not fit the parameters.
      TypeError: an array where `optax.inject_hyperparams` replaced a function.
    """
    given: dict[str, Any] = {**DEFAULTS, **common}
    weight_decay, mask = given["weight_decay"], given["weight_decay_mask"]
    adamw_rate, adamw_decay = given["adamw_learning_rate"], given["adamw_weight_decay"]
    shares_rate = adamw_rate is None
    adamw_rate = learning_rate if shares_rate else adamw_rate
    check_rate("learning_rate", learning_rate)
    check_rate("adamw_learning_rate", adamw_rate)
    check_number("adamw_b1", given["adamw_b1"], below=1.0)
    check_number("adamw_b2", given["adamw_b2"], below=1.0)
    check_number("adamw_eps", given["adamw_eps"])
    check_number("adamw_weight_decay", adamw_decay)
    check_number("weight_decay", weight_decay)
    if given["diagnostics"] not in (False, True, "spectrum"):
        raise ValueError(
            "diagnostics must be False, True or 'spectrum', "
            f"got {given['diagnostics']!r}."
        )
    refuse_array("weight_decay_mask", mask)
    refuse_array("layout", given["layout"])
    labels = resolve(given["labels"])
    layout = layouts.local() if given["layout"] is None else given["layout"]
    fallback = given["fallback"]

    if isinstance(layout, layouts.Owned):
        if given["diagnostics"]:
            raise ValueError(
                "diagnostics need all matrices, and with layouts.owned a device has "
                "some of them only: leave them out, or use layouts.sharded."
            )
        matrix = on_owners(direction, labels.axes, layout)
    else:
        matrix = direction(labels.axes, layout)
    if given["diagnostics"]:
        matrix = measured(matrix)
    if given["diagnostics"] == "spectrum":
        matrix = measured_spectrum(matrix, labels.axes, layout)
    b1, b2, eps = given["adamw_b1"], given["adamw_b2"], given["adamw_eps"]
    adamw = optax.chain(
        # Next to any square that counts 1e-30 is nothing, but its root has a slope.
        widen_float16(bounded(optax.scale_by_adam(b1, b2, eps, eps_root=1e-30))),
        decoupled_decay(adamw_decay, mask),
        optax.scale_by_learning_rate(adamw_rate),
    )
    by_role = isinstance(fallback, Mapping)
    own = check_roles(fallback) if by_role else {}
    rest = adamw if fallback is None or by_role else fallback
    transforms = {
        MATRIX: with_rate_and_decay(
            matrix, learning_rate, (decay or decoupled_decay)(weight_decay, mask)
        ),
        OTHER: on_parts(rest, layout),
        **{role: on_parts(one, layout) for role, one in own.items()},
    }

    def label_of(path, leaf):
        return labels.label(path, whole(layout, path, leaf))

    def group_of(keys, leaf):
        role = label_of(path_of(keys), leaf).role
        return role if role in transforms else OTHER

    def groups(params):
        return jax.tree_util.tree_map_with_path(group_of, params)

    split = optax.partition(transforms, groups)

    def init(params):
        state: Any = split.init(params)
        keyed = jax.tree_util.tree_leaves_with_path(params)
        settings: dict[str, Any] = {
            MATRIX: (name, learning_rate, weight_decay, False),
            OTHER: ("adamw", adamw_rate, adamw_decay, shares_rate),
        }
        if rest is not adamw:
            settings[OTHER] = ("fallback", None, None, False)
        for group in transforms:
            leaves = tuple(
                (path_of(keys), leaf, label_of(path_of(keys), leaf))
                for keys, leaf in keyed
                if group_of(keys, leaf) == group
            )
            inner = state.inner_states[group]
            facts = settings.get(group, (f"fallback[{group!r}]", None, None, False))
            method, rate, decayed, shared = facts
            spread = layout if group == MATRIX else None
            record(Group(group, method, rate, decayed, shared, leaves, inner, spread))
        return state

    def batch_axes(path, leaf):
        axes = label_of(path, leaf).axes
        return () if axes is None else axes.batch(leaf.ndim)

    recipe = keep_dtypes(optax.GradientTransformationExtraArgs(init, split.update))
    safe = guard(recipe, given["nonfinite"], batch_axes, across(layout))

    def placed(params):
        # All of it, the guard's counter too: a checkpoint restored into this state
        # lies on one mesh.
        return layout.place(safe.init(params))

    return optax.GradientTransformationExtraArgs(placed, safe.update)


def check_rate(name: str, rate: Any) -> None:
    """Refuses a negative or non-numeric constant rate; schedules pass."""
    if not callable(rate):
        check_number(name, rate)


def check_roles(fallback: Mapping) -> Mapping:
    """Refuses a fallback for a role that no leaf can have, or for the matrices."""
    unknown = set(fallback) - (set(ROLES) - {MATRIX})
    if unknown:
        raise ValueError(
            f"fallback has no such role: {sorted(unknown)}; roles that are not "
            f"orthogonalized are {sorted(set(ROLES) - {MATRIX})}."
        )
    return fallback


def decoupled_decay(
    weight_decay: Any,
    mask: Any,
    add: Callable[[Any], optax.GradientTransformation] = optax.add_decayed_weights,
) -> optax.GradientTransformation:
    """Adds decayed parameters; its state has one structure whatever the number is.

    Without decay the parameters are not needed, so they need not be given.
    """
    decay = optax.identity() if is_zero(weight_decay) else add(weight_decay)
    return decay if mask is None else optax.masked(decay, mask)


def with_rate_and_decay(
    direction: optax.GradientTransformation,
    learning_rate: Any,
    decay: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Steps of ``-rate (direction + decay)``.

    It counts the steps itself, and not in `optax.scale_by_learning_rate`, because the
    stages of the direction are handed the rate too.
    """
    direction = optax.with_extra_args_support(direction)

    def init(params):
        count = jnp.zeros([], jnp.int32)
        return RecipeState(count, direction.init(params), decay.init(params))

    def update(updates, state, params=None, **extra):
        rate: Any = learning_rate
        if callable(learning_rate):
            rate = learning_rate(state.count)
        updates, direction_state = direction.update(
            updates, state.direction, params, **{**extra, "learning_rate": rate}
        )
        updates, decay_state = decay.update(updates, state.decay, params)
        updates = jax.tree.map(lambda u: -rate * u, updates)
        count = optax.safe_increment(state.count)
        return updates, RecipeState(count, direction_state, decay_state)

    return optax.GradientTransformationExtraArgs(init, update)

"""The arguments that all recipes share: types, documentation, defaults and checks."""

from collections.abc import Mapping
from typing import Any, TypedDict

import optax

from optax_ortho.checks import check_number, refuse_array
from optax_ortho.labels import ROLES
from optax_ortho.layouts import Layout


class Common(TypedDict, total=False):
    """The types of the shared arguments, and their documentation in every recipe.

    Attributes:
      weight_decay: decoupled decay of the matrices, multiplied by the learning rate.
      weight_decay_mask: a tree of booleans, or a function from the parameters to one:
        the leaves that decay, matrices and others. None is all.
      labels: the role of each leaf. None decides by name and shape;
        `optax_ortho.label(model)` is exact.
      layout: the distribution of the matrices over devices; None is
        `layouts.local()`.
      nonfinite: the treatment of NaNs and infinities in a gradient: "skip_matrix"
        skips that matrix (or other leaf), "skip_step" all of them, "off" lets them
        pass.
      diagnostics: whether the state keeps metrics for `optax_ortho.diagnostics`:
        False, True, or "spectrum" for those that need singular values too.
      fallback: instead of AdamW, a transformation with its own learning rate, or a dict
        of them by role, where missing roles keep AdamW.
      adamw_learning_rate: AdamW's rate or schedule; None is `learning_rate`.
      adamw_b1: AdamW's decay of the first moment.
      adamw_b2: AdamW's decay of the second moment.
      adamw_eps: added to the root of AdamW's second moment.
      adamw_weight_decay: decoupled decay of AdamW's leaves.
    """

    weight_decay: Any
    weight_decay_mask: Any
    labels: Any
    layout: Layout | None
    nonfinite: str
    diagnostics: bool | str
    fallback: optax.GradientTransformation | Mapping | None
    adamw_learning_rate: optax.ScalarOrSchedule | None
    adamw_b1: Any
    adamw_b2: Any
    adamw_eps: Any
    adamw_weight_decay: Any


DEFAULTS: Common = {
    "weight_decay": 0.0,
    "weight_decay_mask": None,
    "labels": None,
    "layout": None,
    "nonfinite": "skip_matrix",
    "diagnostics": False,
    "fallback": None,
    "adamw_learning_rate": None,
    "adamw_b1": 0.9,
    "adamw_b2": 0.95,
    "adamw_eps": 1e-8,
    "adamw_weight_decay": 0.0,
}


def complete(learning_rate: Any, common: Mapping[str, Any]) -> dict[str, Any]:
    """The shared arguments with their defaults, checked.

    Args:
      learning_rate: rate or schedule of the matrices.
      common: the shared arguments that were given.

    Returns:
      All of them. `adamw_learning_rate` stays None where AdamW takes `learning_rate`.

    Raises:
      ValueError: a number out of range, or a role that no leaf can have.
      TypeError: an array where `optax.inject_hyperparams` replaced a function.
    """
    complete = {**DEFAULTS, **common}
    check_rate("learning_rate", learning_rate)
    if complete["adamw_learning_rate"] is not None:
        check_rate("adamw_learning_rate", complete["adamw_learning_rate"])
    check_number("adamw_b1", complete["adamw_b1"], below=1.0)
    check_number("adamw_b2", complete["adamw_b2"], below=1.0)
    for name in ("adamw_eps", "adamw_weight_decay", "weight_decay"):
        check_number(name, complete[name])
    if complete["diagnostics"] not in (False, True, "spectrum"):
        raise ValueError(
            "diagnostics must be False, True or 'spectrum', "
            f"got {complete['diagnostics']!r}."
        )
    for name in ("weight_decay_mask", "layout"):
        refuse_array(name, complete[name])
    if isinstance(complete["fallback"], Mapping):
        _check_roles(complete["fallback"])
    return complete


def check_rate(name: str, rate: Any) -> None:
    """Refuses a negative or non-numeric constant rate; schedules pass.

    Raises:
      ValueError: the rate is negative or not a number.
    """
    if not callable(rate):
        check_number(name, rate)


def _check_roles(fallback: Mapping) -> None:
    """Refuses a fallback for a role that no leaf can have, or for the matrices."""
    others = set(ROLES) - {"matrix"}
    unknown = sorted(set(fallback) - others)
    if unknown:
        raise ValueError(
            f"fallback has no such role: {unknown}; roles that are not "
            f"orthogonalized are {sorted(others)}."
        )

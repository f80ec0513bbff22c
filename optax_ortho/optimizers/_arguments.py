"""The arguments that every recipe shares, in one place.

A recipe takes them as ``**common: Unpack[Common]``; `recipe` writes them out in its
signature, which `optax.inject_hyperparams` reads, and in its docstring.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypedDict, TypeVar, cast

import optax

Factory = TypeVar("Factory", bound=Callable)


class Common(TypedDict, total=False):
    """The types of the shared arguments."""

    weight_decay: Any
    weight_decay_mask: Any
    labels: Any
    layout: Any
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

# As it stands under the Args of a function.
DOCUMENTATION = """\
      weight_decay: decoupled decay of the matrices, multiplied by the learning rate.
      weight_decay_mask: a tree of booleans, or a function of the parameters that gives
        one: which leaves decay, matrices and others. None is all.
      labels: which leaf is a matrix. None decides by name and shape;
        `optax_ortho.label(model)` is exact.
      layout: how the matrices are spread over devices; None is `layouts.local()`.
      nonfinite: what a NaN or infinity in a gradient does: "skip_matrix" skips that
        matrix (or other leaf), "skip_step" all of them, "off" lets it pass.
      diagnostics: whether the state keeps figures for `optax_ortho.diagnostics`:
        False, True, or "spectrum" for those that need singular values too.
      fallback: instead of AdamW, a transformation with its own learning rate, or a dict
        of them by role, where roles that are missing keep AdamW.
      adamw_learning_rate: AdamW's rate or schedule; None is `learning_rate`.
      adamw_b1: AdamW's decay of the first moment.
      adamw_b2: AdamW's decay of the second moment.
      adamw_eps: added to the root of AdamW's second moment.
      adamw_weight_decay: decoupled decay of AdamW's leaves.
"""


class Made(optax.GradientTransformationExtraArgs):
    """A transformation that remembers how it was made, so it can be pickled."""

    def __reduce__(self):
        return _make, self.__dict__["made_from"]


def _make(factory: Callable, args: tuple, kwargs: dict) -> Any:
    return factory(*args, **kwargs)


def picklable(factory: Factory) -> Factory:
    """Lets what a factory makes be pickled, if its arguments can be.

    Args:
      factory: a function of a module, which pickle finds by its name.

    Returns:
      The factory; what it makes is pickled as a call of it.
    """

    @functools.wraps(factory)
    def remembering(*args, **kwargs):
        made = Made(*factory(*args, **kwargs))
        made.__dict__["made_from"] = remembering, args, kwargs
        return made

    return cast(Factory, remembering)


def recipe(factory: Factory) -> Factory:
    """Writes the shared arguments out where a recipe says ``**common``.

    Raises:
      TypeError: the recipe is called with an argument that it does not have.

    Examples:
      >>> @recipe
      ... def sgd(learning_rate, **common):
      ...     return optax.sgd(learning_rate)
      >>> list(inspect.signature(sgd).parameters)[:3]
      ['learning_rate', 'weight_decay', 'weight_decay_mask']
    """
    signature = inspect.signature(factory)
    *own, _ = signature.parameters.values()
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value)
        for name, value in DEFAULTS.items()
    ]
    signature = signature.replace(parameters=[*own, *shared])

    @functools.wraps(factory)
    def checked(*args, **kwargs):
        signature.bind(*args, **kwargs)
        return factory(*args, **kwargs)

    checked.__dict__["__signature__"] = signature
    checked = picklable(checked)
    doc = factory.__doc__ or ""
    checked.__doc__ = doc.replace("\n    Returns:", f"{DOCUMENTATION}\n    Returns:", 1)
    return cast(Factory, checked)

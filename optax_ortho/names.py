"""Names of methods and layouts in tables."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from jax.sharding import AbstractMesh, Mesh


def short_name(value: Any) -> str:
    """The class of a value, and its arguments that are not the default.

    Examples:
      >>> from optax_ortho.orthogonalizers import NewtonSchulz
      >>> short_name(NewtonSchulz("polar_express", eps=1e-7))
      'NewtonSchulz(coefficients=polar_express, eps=1e-07)'
      >>> short_name(NewtonSchulz())
      'NewtonSchulz'
    """
    if isinstance(value, Mesh | AbstractMesh):
        return " x ".join(f"{axis} {size}" for axis, size in value.shape.items())
    for name in ("__name__", "name"):
        if hasattr(value, name):
            return getattr(value, name)
    if not dataclasses.is_dataclass(value):
        return repr(value)
    usual = _usual(value)
    given = [
        f"{field.name}={short_name(getattr(value, field.name))}"
        for field in dataclasses.fields(value)
        if field.repr and short_name(getattr(value, field.name)) != usual(field)
    ]
    kind = type(value).__name__
    return f"{kind}({', '.join(given)})" if given else kind


def _usual(value: Any) -> Callable[[dataclasses.Field], str | None]:
    """The names of default values, after a class has settled those that are None."""
    parameters = inspect.signature(type(value)).parameters.values()
    if any(parameter.default is parameter.empty for parameter in parameters):
        return _default
    usual = type(value)()
    return lambda field: short_name(getattr(usual, field.name))


def _default(field: dataclasses.Field) -> str | None:
    if field.default is not dataclasses.MISSING:
        return short_name(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return short_name(field.default_factory())
    return None

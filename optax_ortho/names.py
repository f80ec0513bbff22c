"""What a table calls a method or a layout."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jax.sharding import AbstractMesh, Mesh


def short_name(value: Any) -> str:
    """The kind of a value, and what it has that is not the default.

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
    """What a field holds where nothing is said, after the defaults are settled."""
    try:
        usual = type(value)()
    except TypeError:  # Some field has no default.
        return _default
    return lambda field: short_name(getattr(usual, field.name))


def _default(field: dataclasses.Field) -> str | None:
    if field.default is not dataclasses.MISSING:
        return short_name(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return short_name(field.default_factory())
    return None

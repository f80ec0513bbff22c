"""Paths by pattern: ``*`` stands for part of a name, ``**`` for any number of names."""

import dataclasses
import difflib
import functools
import re
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp

from optax_ortho.labels.roles import Label, as_label, matrix_axes
from optax_ortho.matrices import MatrixAxes


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern covers a path, name by name.

    Examples:
      >>> matches("blocks/*/up/kernel", "blocks/3/up/kernel")
      True
      >>> matches("**/kernel", "kernel"), matches("head", "head/kernel")
      (True, False)
    """
    return _compiled(pattern).fullmatch(f"{path}/") is not None


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    def of_name(name):
        if name == "**":
            return "(?:[^/]+/)*"
        return "[^/]*".join(map(re.escape, name.split("*"))) + "/"

    return re.compile("".join(map(of_name, pattern.split("/"))))


@dataclasses.dataclass(frozen=True)
class Patterns:
    """Ordered rules; the first whose pattern covers the path says what the leaf is.

    Args:
      rules: pairs of a pattern and a role, a `MatrixAxes` or a `Label`.

    Examples:
      >>> rules = Patterns((("**/kernel", "matrix"), ("**", "vector")))
      >>> rules.label("mlp/bias", jnp.ones(4)).role
      'vector'
    """

    rules: tuple[tuple[str, str | MatrixAxes | Label], ...]

    def find(self, path: str) -> str | MatrixAxes | Label | None:
        """The value of the first rule that covers a path, or None."""
        values = (value for pattern, value in self.rules if matches(pattern, path))
        return next(values, None)

    def label(self, path: str, leaf: Any) -> Label:
        """The label of a leaf.

        Raises:
          ValueError: no rule covers the path.
        """
        value = self.find(path)
        if value is None:
            raise ValueError(
                f"No label for the leaf {path!r} of shape {jnp.shape(leaf)}. Add "
                f"{{{path!r}: role}} to the labels, or a last rule {{'**': role}} for "
                "every leaf without one."
            )
        return as_label(value, path, jnp.shape(leaf))

    def axes(self, path: str, leaf: Any) -> MatrixAxes:
        """The axes of a leaf that is a matrix."""
        return matrix_axes(self.label(path, leaf), path, leaf)

    def check_used(self, paths: Iterable[str], optional: bool = False) -> None:
        """Refuses a pattern that covers no path, which is most often a typing error.

        Args:
          paths: of the leaves.
          optional: patterns may cover nothing, as where one set of overrides serves
            models with a head of their own and with a tied one.

        Raises:
          ValueError: such a pattern, with the paths that come near it.

        Examples:
          >>> rules = Patterns((("lm_head/kernel", "head"),))
          >>> rules.check_used(["embed/embedding"], optional=True)
        """
        if optional:
            return
        paths = list(paths)
        for pattern, _ in self.rules:
            if not any(matches(pattern, path) for path in paths):
                near = difflib.get_close_matches(pattern, paths, n=2, cutoff=0.4)
                near = " or ".join(map(repr, near or paths[:1]))
                raise ValueError(
                    f"The override {pattern!r} covers no leaf of {len(paths)}; "
                    f"near it is {near}. '*' stands for part of a name and '**' for "
                    "any number of names; a pattern covers the whole path. With "
                    "optional=True it may cover none."
                )

"""Inverse factors, kept up to date by one vector at a time.

A factor L is a running second moment of a vector v, and what is kept is J = L^-1. When
w v v^T is added to L, J changes by a matrix of rank one (Sherman and Morrison):

    absorb(J, v, w)   J - w (J v)(J v)^T / (1 + w v^T J v)

The rules differ in how they forget, with a decay d of 0.95:

    Damped           absorb(d J + (1 - d) I, v, 1)     MKOR's released code
    MovingAverage    absorb(J / d, v, 1 - d)           J^-1 <- d J^-1 + (1 - d) v v^T
    Printed          d J + (1 - d) / (d^2 (1 + d (1 - d) v^T J v)) (J v)(J v)^T
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax

from optax_ortho.checks import check_number


@runtime_checkable
class Rule(Protocol):
    """A rule by which an inverse factor forgets and absorbs."""

    def absorb(self, inverse: jax.Array, v: jax.Array) -> jax.Array:
        """The new (d, d) inverse, after a vector of length d."""
        ...


@dataclasses.dataclass(frozen=True)
class Damped:
    """A pull towards the identity, then the whole of v v^T: MKOR's released code.

    Args:
      decay: how much of the inverse stays, in [0, 1).

    Raises:
      ValueError: `decay` outside [0, 1).

    Examples:
      >>> print(Damped().absorb(jnp.eye(2), jnp.array([1.0, 0.0])))
      [[0.5 0. ]
       [0.  1. ]]
    """

    decay: float = 0.95

    def __post_init__(self):
        check_number("decay", self.decay, below=1.0)

    def absorb(self, inverse: jax.Array, v: jax.Array) -> jax.Array:
        """The new inverse."""
        eye = jnp.eye(len(v), dtype=inverse.dtype)
        return sherman_morrison(self.decay * inverse + (1 - self.decay) * eye, v)


@dataclasses.dataclass(frozen=True)
class MovingAverage:
    """The exact inverse of ``decay L + weight v v^T``.

    Args:
      decay: how much of the factor stays, in (0, 1).
      weight: of v v^T; None is ``1 - decay``.

    Raises:
      ValueError: `decay` outside (0, 1), or a negative `weight`.

    Examples:
      >>> rule = MovingAverage(decay=0.5)
      >>> print(rule.absorb(jnp.eye(2), jnp.array([1.0, 0.0])))
      [[1. 0.]
       [0. 2.]]
    """

    decay: float = 0.95
    weight: float | None = None

    def __post_init__(self):
        check_number("decay", self.decay, at_least=1e-6, below=1.0)
        if self.weight is not None:
            check_number("weight", self.weight)

    def absorb(self, inverse: jax.Array, v: jax.Array) -> jax.Array:
        """The new inverse."""
        weight = 1 - self.decay if self.weight is None else self.weight
        return sherman_morrison(inverse / self.decay, v, weight)


@dataclasses.dataclass(frozen=True)
class Printed:
    """The formula as MKOR's paper prints it, which is no inverse: its sign is plus.

    So it amplifies what it should damp: a vector of length 10, absorbed 20 times, makes
    J 2.6 million along it, where the exact inverse is 0.016.

    Args:
      decay: the paper's gamma, in (0, 1).

    Raises:
      ValueError: `decay` outside (0, 1).
    """

    decay: float = 0.95

    def __post_init__(self):
        check_number("decay", self.decay, at_least=1e-6, below=1.0)

    def absorb(self, inverse: jax.Array, v: jax.Array) -> jax.Array:
        """The new inverse."""
        d = self.decay
        u, size = _image(inverse, v)
        weight = (1 - d) / (d**2 * (1 + d * (1 - d) * size))
        return d * inverse + weight * u[:, None] * u[None, :]


RULES = {"damped": Damped(), "ema": MovingAverage(), "printed": Printed()}
"""The rules by the names of optimizers' arguments."""


def as_rules(rule: Any) -> tuple[Rule, Rule]:
    """The rules of inputs and outputs, from what an optimizer was given.

    Raises:
      ValueError: an unknown name, or no rule.
    """
    pair = rule if isinstance(rule, tuple) else (rule, rule)
    rules: Any = tuple(RULES.get(r) if isinstance(r, str) else r for r in pair)
    if len(rules) != 2 or not all(isinstance(r, Rule) for r in rules):
        raise ValueError(
            f"rule must be one of {', '.join(map(repr, RULES))}, a Rule, or a "
            f"pair of them for inputs and outputs; got {rule!r}."
        )
    return rules


def sherman_morrison(inverse: jax.Array, v: jax.Array, weight: Any = 1.0) -> jax.Array:
    """The inverse of ``L + weight v v^T``, from the inverse of a symmetric L.

    Args:
      inverse: (d, d).
      v: (d,).
      weight: at least 0.

    Examples:
      >>> print(sherman_morrison(jnp.eye(2), jnp.array([1.0, 0.0])))
      [[0.5 0. ]
       [0.  1. ]]
    """
    u, size = _image(inverse, v)
    return inverse - weight / (1 + weight * size) * u[:, None] * u[None, :]


def _image(inverse: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """J v and v^T J v."""
    u = jnp.matmul(inverse, v, precision=lax.Precision.HIGHEST)
    return u, jnp.dot(v, u, precision=lax.Precision.HIGHEST)

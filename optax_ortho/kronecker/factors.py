"""The two inverse factors of a layer, kept bounded.

The stabilizers differ in what they do with a J whose largest entry is above 2:

    Reset    both J <- I at the next step, which absorbs nothing    MKOR's released code
    Blend    J <- 0.9 J + 0.1 I before it absorbs                   MKOR's paper

Started at I, a `Damped` J has eigenvalues in (0, 1], so its stabilizer never acts. A
`MovingAverage` grows by 1 / d a step in every direction that is not seen, and needs
one. `Printed` doubles along what it sees, which a `Blend` that keeps more than half
does not hold.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from optax_ortho.checks import check_number
from optax_ortho.kronecker.rank_one import Rule


@runtime_checkable
class Stabilizer(Protocol):
    """A rule that keeps an inverse factor bounded.

    Attributes:
      starts_due: whether a fresh factor is due for a reset.
    """

    starts_due: bool

    def step(
        self, rule: Rule, inverse: jax.Array, v: jax.Array, due: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The new inverse, and whether the layer's factors are now due for a reset."""
        ...


@dataclasses.dataclass(frozen=True)
class Reset:
    """A factor with a large entry has both factors of its layer start over.

    The step that starts over does nothing else, and the first step of all is one.

    Args:
      threshold: the largest entry that passes.

    Raises:
      ValueError: a negative `threshold`.
    """

    threshold: float = 2.0
    starts_due = True

    def __post_init__(self):
        check_number("threshold", self.threshold)

    def step(
        self, rule: Rule, inverse: jax.Array, v: jax.Array, due: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The new inverse, and whether it became too large."""
        new = rule.absorb(inverse, v)
        large = jnp.abs(new).max(initial=0) > self.threshold
        return jnp.where(due, jnp.eye(len(v), dtype=new.dtype), new), large & ~due


@dataclasses.dataclass(frozen=True)
class Blend:
    """A factor with a large entry is mixed with the identity before it absorbs.

    Args:
      threshold: the largest entry that passes (the paper's epsilon, not stated there).
      keep: how much of the factor stays (the paper's zeta, not stated there).

    Raises:
      ValueError: a negative `threshold`, or `keep` outside [0, 1).
    """

    threshold: float = 2.0
    keep: float = 0.9
    starts_due = False

    def __post_init__(self):
        check_number("threshold", self.threshold)
        check_number("keep", self.keep, below=1.0)

    def step(
        self, rule: Rule, inverse: jax.Array, v: jax.Array, due: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The new inverse; a reset is never due."""
        large = jnp.abs(inverse).max(initial=0) > self.threshold
        eye = jnp.eye(len(v), dtype=inverse.dtype)
        mixed = self.keep * inverse + (1 - self.keep) * eye
        return rule.absorb(jnp.where(large, mixed, inverse), v), jnp.zeros_like(due)


LARGEST = 1e6
"""A step that makes an entry larger is not made: squares in a norm would overflow."""


class Factors(NamedTuple):
    """The inverse factors of one layer's inputs and outputs, and what is due."""

    input_inverse: Any
    output_inverse: Any
    reset_input: Any
    reset_output: Any


def step_factors(
    rules: tuple[Rule, Rule],
    stabilizer: Stabilizer,
    factors: Factors,
    a: jax.Array,
    g: jax.Array,
) -> Factors:
    """The factors after one more pair of vectors; unchanged if it is not finite.

    Args:
      rules: how the factors of inputs and of outputs forget and absorb.
      stabilizer: the rule that keeps them bounded.
      factors: of one layer, in any dtype, which they keep.
      a: the mean input, (fan_in,) and 1 for a bias.
      g: the output gradient, (fan_out,).
    """

    def side(rule, inverse, v, due):
        new, large = stabilizer.step(rule, inverse.astype(v.dtype), v, due)
        return new.astype(inverse.dtype), large

    # Each side has both start over, and the outputs come second.
    left, left_large = side(rules[0], factors.input_inverse, a, factors.reset_input)
    due = factors.reset_output | left_large
    right, right_large = side(rules[1], factors.output_inverse, g, due)
    finite = jnp.isfinite(a).all() & jnp.isfinite(g).all()
    sizes = [jnp.abs(x).max(initial=0) for x in (left, right)]
    sound = finite & (jnp.maximum(*sizes) <= LARGEST)
    return Factors(
        jnp.where(sound, left, factors.input_inverse),
        jnp.where(sound, right, factors.output_inverse),
        jnp.where(finite, left_large | right_large, factors.reset_input),
        jnp.where(finite, right_large, factors.reset_output),
    )

"""The step's scale from a matrix's shape alone: one constant factor a matrix.

An orthogonal (fan_in, fan_out) matrix has spectral norm 1 and an RMS of
1 / sqrt(max(fan_in, fan_out)), so the factor says which norm of the step is the same
for all shapes:

    match_rms(r)    r sqrt(max(fan_in, fan_out))     RMS r, as AdamW's (Moonlight)
    JORDAN          sqrt(max(1, fan_out / fan_in))   Keller Jordan's Muon
    SPECTRAL        sqrt(fan_out / fan_in)           RMS-to-RMS operator norm 1 (dion)
    UNSCALED        1                                spectral norm 1

References:
  Liu et al., `Muon is Scalable for LLM Training <https://arxiv.org/abs/2502.16982>`_,
  2025, section 2.2
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_ortho.checks import check_number, refuse_array
from optax_ortho.matrices import AxesOf, MatrixAxes, last_two, map_with_axes


@dataclasses.dataclass(frozen=True)
class ShapeFactor:
    """A named function of a matrix's shape.

    A value and not a bare function, because `optax.inject_hyperparams` takes functions
    for schedules.

    Args:
      name: how it prints.
      of: the factor for ``(fan_in, fan_out)``, both at least 1.

    Examples:
      >>> JORDAN.of(256, 1024)
      2.0
      >>> ShapeFactor("tenth", lambda fan_in, fan_out: 0.1)
      tenth
    """

    name: str
    of: Callable[[int, int], float] = dataclasses.field(compare=False)

    def __repr__(self) -> str:
        return self.name


JORDAN = ShapeFactor("JORDAN", lambda fan_in, fan_out: max(1, fan_out / fan_in) ** 0.5)
SPECTRAL = ShapeFactor("SPECTRAL", lambda fan_in, fan_out: (fan_out / fan_in) ** 0.5)
UNSCALED = ShapeFactor("UNSCALED", lambda fan_in, fan_out: 1.0)


def match_rms(rms: float = 0.2) -> ShapeFactor:
    """The factor that gives an orthogonal matrix of any shape the same RMS.

    Args:
      rms: root mean square of the update per unit of learning rate; AdamW's is about
        0.2 to 0.4, so 0.2 lets both share a rate (Moonlight).

    Raises:
      ValueError: a negative `rms`.

    Examples:
      >>> match_rms(0.2).of(256, 1024)
      6.4
    """
    check_number("rms", rms)
    return ShapeFactor(f"match_rms({rms})", lambda *fans: rms * math.sqrt(max(fans)))


def by_shape(
    factor: ShapeFactor = match_rms(),  # noqa: B008 (a frozen value)
    axes: AxesOf = last_two,
) -> optax.GradientTransformationExtraArgs:
    """Multiplies each matrix by a factor of its shape.

    The blocks of a fused leaf get the factors of their own shapes, times the `scales`
    of its `Split`.

    Args:
      factor: one of this module's, or a `ShapeFactor` of your own.
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.

    Returns:
      A transformation without state.

    Raises:
      TypeError: `factor` is not a `ShapeFactor`.

    Examples:
      >>> tx = by_shape(SPECTRAL)
      >>> updates, _ = tx.update(jnp.ones((2, 8)), tx.init(jnp.ones((2, 8))))
      >>> float(updates[0, 0])
      2.0
    """
    refuse_array("trust_region", factor)
    if not isinstance(factor, ShapeFactor):
        raise TypeError(f"by_shape takes a ShapeFactor, got {factor!r}.")

    def scale(one_axes: MatrixAxes, leaf: jax.Array) -> jax.Array:
        return leaf * jnp.asarray(_factors(factor, one_axes, leaf.shape), leaf.dtype)

    return optax.with_extra_args_support(
        optax.stateless(lambda updates, params: map_with_axes(scale, axes, updates))
    )


def as_stage(
    scale: ShapeFactor | optax.GradientTransformation, axes: AxesOf
) -> optax.GradientTransformation:
    """The `by_shape` of a factor; a whole stage as it is.

    Raises:
      TypeError: `scale` is neither.
    """
    if isinstance(scale, optax.GradientTransformation):
        return scale
    return by_shape(scale, axes)


def _factors(factor: ShapeFactor, axes: MatrixAxes, shape: tuple[int, ...]) -> Any:
    """The factor of a leaf: a number or, of a fused leaf, an array to broadcast."""
    fans = [axes.matrix_shape(block) for block in axes.block_shapes(shape)]
    factors = [factor.of(*fan) if min(fan) > 0 else 1.0 for fan in fans]
    if axes.split is None:
        return factors[0]
    if axes.split.scales is not None:
        factors = np.multiply(factors, axes.split.scales)
    along = np.repeat(factors, axes.split.sizes)
    return along.reshape([-1 if i == axes.split.axis else 1 for i in range(len(shape))])

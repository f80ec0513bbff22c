"""The step's scale for updates of Frobenius norm 1, which are not orthogonal (AuON)."""

import math

from optax_ortho.checks import check_number
from optax_ortho.trust_region.shape import ShapeFactor


def match_unit_norm(rms: float = 0.2) -> ShapeFactor:
    """The factor that gives a matrix of norm 1 the same RMS, whatever its shape.

    Args:
      rms: root mean square of the update per unit of learning rate.

    Raises:
      ValueError: a negative `rms`.

    Examples:
      >>> match_unit_norm(0.2).of(25, 100)
      10.0
    """
    check_number("rms", rms)
    name = f"match_unit_norm({rms})"
    return ShapeFactor(name, lambda fan_in, fan_out: rms * math.sqrt(fan_in * fan_out))

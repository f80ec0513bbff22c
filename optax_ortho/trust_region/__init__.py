"""Stage 4: the scale of the step."""

from optax_ortho.trust_region.shape import JORDAN as JORDAN
from optax_ortho.trust_region.shape import SPECTRAL as SPECTRAL
from optax_ortho.trust_region.shape import UNSCALED as UNSCALED
from optax_ortho.trust_region.shape import ShapeFactor as ShapeFactor
from optax_ortho.trust_region.shape import by_shape as by_shape
from optax_ortho.trust_region.shape import match_rms as match_rms

__all__ = ["JORDAN", "SPECTRAL", "UNSCALED", "ShapeFactor", "by_shape", "match_rms"]

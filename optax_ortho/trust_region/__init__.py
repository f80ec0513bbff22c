"""Stage 4: the scale of the step."""

from optax_ortho.trust_region.confidence_radius import (
    ConfidenceRadiusState as ConfidenceRadiusState,
)
from optax_ortho.trust_region.confidence_radius import (
    confidence_radius as confidence_radius,
)
from optax_ortho.trust_region.normalized import normalized as normalized
from optax_ortho.trust_region.shape import JORDAN as JORDAN
from optax_ortho.trust_region.shape import SPECTRAL as SPECTRAL
from optax_ortho.trust_region.shape import UNSCALED as UNSCALED
from optax_ortho.trust_region.shape import ShapeFactor as ShapeFactor
from optax_ortho.trust_region.shape import by_shape as by_shape
from optax_ortho.trust_region.shape import match_rms as match_rms
from optax_ortho.trust_region.softmax_radius import (
    SoftmaxRadiusState as SoftmaxRadiusState,
)
from optax_ortho.trust_region.softmax_radius import softmax_radius as softmax_radius
from optax_ortho.trust_region.unit_norm import match_unit_norm as match_unit_norm

__all__ = [
    "ConfidenceRadiusState",
    "JORDAN",
    "SPECTRAL",
    "ShapeFactor",
    "SoftmaxRadiusState",
    "UNSCALED",
    "by_shape",
    "confidence_radius",
    "match_rms",
    "match_unit_norm",
    "normalized",
    "softmax_radius",
]

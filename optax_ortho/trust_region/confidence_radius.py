"""A step scaled by how far apart the logits are already, without a derivative.

    gap      d(x) = max_k z_k - min_k z_k, or the largest minus the second largest
    scale    p <- clip(pi / (mean_x d(x) + eps), floor, cap) p

The scale falls as a model becomes confident. It is a heuristic of the authors of
`softmax_radius`, whose r is not bounded by it: the step itself is not looked at.

References:
  Sao, `ghosts-of-softmax <https://github.com/piyush314/ghosts-of-softmax>`_,
  RhoScaledAdam, 2026
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_ortho.checks import check_number
from optax_ortho.trust_region.softmax_radius import check_given


class ConfidenceRadiusState(NamedTuple):
    """The last scale."""

    confidence_scale: jax.Array


def confidence_radius(
    floor: Any = 0.01, cap: Any = 1.0, *, gap: str = "maxmin", eps: Any = 1e-6
) -> optax.GradientTransformationExtraArgs:
    """Multiplies every step by pi over the mean gap of the logits, within bounds.

    Its ``update`` needs ``params`` and ``logits_fn=``, as `softmax_radius` does. It may
    stand anywhere in a chain.

    Args:
      floor: the smallest scale.
      cap: the largest scale.
      gap: "maxmin", the largest logit minus the smallest, or "top2", minus the second.
      eps: added to the mean gap, in units of logits.

    Returns:
      The transformation. Logits that are not finite give a step of zero.

    Raises:
      ValueError: an argument out of range; in ``update``, no ``logits_fn`` or params.

    Examples:
      >>> tx = confidence_radius()
      >>> w = jnp.array([6.2831853, 0.0])
      >>> updates, _ = tx.update(w, tx.init(w), w, logits_fn=lambda w: w)
      >>> print((updates / w)[0].round(4))
      0.5
    """
    check_number("floor", floor)
    check_number("cap", cap)
    check_number("eps", eps)
    if gap not in ("maxmin", "top2"):
        raise ValueError(f"gap must be 'maxmin' or 'top2', got {gap!r}.")

    def init(params):
        del params
        return ConfidenceRadiusState(jnp.ones([], jnp.float32))

    def update(updates, state, params=None, *, logits_fn: Any = None, **extra):
        del state, extra
        check_given(logits_fn, params, "confidence_radius")
        logits = logits_fn(params).astype(jnp.float32)
        if gap == "top2":
            top, _ = jax.lax.top_k(logits, 2)
            gaps = top[..., 0] - top[..., 1]
        else:
            gaps = logits.max(-1) - logits.min(-1)
        scale = jnp.clip(jnp.pi / (jnp.mean(gaps) + eps), floor, cap)
        scale = jnp.where(jnp.isfinite(gaps).all(), scale, 0).astype(jnp.float32)
        updates = jax.tree.map(lambda u: (scale * u).astype(u.dtype), updates)
        return updates, ConfidenceRadiusState(scale)

    return optax.GradientTransformationExtraArgs(init, update)

"""AuON, in its authors' first and current versions.

Their norms and brakes are computed over a whole tensor, with any number of axes.
"""

from collections.abc import Callable
from typing import Any

import optax

import optax_ortho
from optax_ortho.momentum import nesterov
from optax_ortho.normalizers import cosh_rms
from optax_ortho.orthogonalizers import NewtonSchulz
from optax_ortho.trust_region import JORDAN, UNSCALED, by_shape
from tests.golden.sources.common import averaged, last_two, matrices


def auon(
    dtype: Any,
    *,
    lr: float = 0.24,
    momentum: float = 0.95,
    weight_decay: float = 0.0,
    gamma: float = 1.5,
):
    """AuON, in float32 whatever `dtype` is."""
    del dtype
    brake = cosh_rms(gamma, normalize=False, eps=1e-7, axes=None)
    return optax_ortho.auon(
        lr,
        momentum,
        normalize=brake,
        trust_region=UNSCALED,
        weight_decay=weight_decay,
        labels=matrices(last_two),
        fallback=braked(lr, momentum, weight_decay, brake),
    )


def hybrid_auon(
    dtype: Any,
    *,
    lr: float = 0.24,
    momentum: float = 0.95,
    weight_decay: float = 0.0,
    gamma: float = 1.5,
    ns_steps: int = 5,
):
    """HybridAuON; what has one axis is not orthogonalized, and is braked."""
    brake = cosh_rms(gamma, normalize=False, eps=1e-7, axes=None)
    return optax_ortho.hybrid_auon(
        lr,
        momentum,
        orthogonalizer=NewtonSchulz(
            "keller_jordan", ns_steps, dtype, eps=1e-7, unsafe=True
        ),
        normalize=brake,
        trust_region=UNSCALED,
        weight_decay=weight_decay,
        labels=matrices(last_two),
        fallback=braked(lr, momentum, weight_decay, brake),
    )


def braked(lr: float, beta: float, weight_decay: float, brake: Any):
    """AuON of leaves that are no matrices."""
    return optax.chain(
        optax_ortho.ortho_chain(momentum=nesterov(beta), normalize=brake),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(lr),
    )


def first_version(
    dtype: Any,
    *,
    lr: float = 0.02,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_steps: int = 5,
):
    """The optimizer of Auon_Adam_train.py, which does not read `ns_steps`."""
    del ns_steps

    def halved(updates, params):
        return optax.tree.cast(optax.tree.cast(updates, dtype), "float32")

    return optax_ortho.auon(
        lr,
        momentum=optax.chain(averaged(momentum, nesterov), optax.stateless(halved)),
        normalize=cosh_rms(1.0, eps=1e-7, axes=None),
        trust_region=by_shape(JORDAN, lambda path, leaf: last_two(leaf.ndim)),
        labels=matrices(last_two, vectors=None),
    )


BUILDERS: dict[tuple[str, str], Callable[..., optax.GradientTransformation]] = {
    ("ryyzn9/AuON", "AuON"): auon,
    ("ryyzn9/AuON", "HybridAuON"): hybrid_auon,
    ("ryyzn9/AuON", "auon"): first_version,
}
"""By repository and class."""

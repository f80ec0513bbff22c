"""NorMuon, as its authors and dion wrote it."""

from collections.abc import Callable, Mapping
from typing import Any

import optax

import optax_ortho
from optax_ortho.momentum import heavy_ball
from optax_ortho.normalizers import neuron_rms
from optax_ortho.orthogonalizers import NewtonSchulz
from optax_ortho.trust_region import (
    JORDAN,
    SPECTRAL,
    UNSCALED,
    by_shape,
    match_rms,
)
from tests.golden.sources.common import (
    averaged,
    call,
    chosen,
    flattened,
    last_two,
    matrices,
)
from tests.golden.sources.muon import DionAdam, JordanAdam


def normuon(
    dtype: Any,
    *,
    muon: Mapping[str, Any],
    aux_adam: Mapping[str, Any] | None = None,
    nesterov: bool = True,
    ns_steps: int = 5,
):
    """zichongli5/NorMuon, normuon.py.

    A convolution is orthogonalized as (out, in * kh * kw), but the neurons of the
    normalization, and the shape factor, belong to its last two axes, (kh, kw).
    """
    return call(authors, dtype, aux_adam, nesterov, ns_steps, **muon)


def authors(
    dtype: Any,
    aux_adam: Mapping[str, Any] | None,
    look_ahead: bool,
    ns_steps: int,
    *,
    lr: float = 0.02,
    momentum: float = 0.95,
    beta2: float = 0.95,
    weight_decay: float = 0.0,
):
    adam = call(JordanAdam, **aux_adam or {})
    return optax_ortho.normuon(
        lr,
        momentum=averaged(momentum, look_ahead),
        orthogonalizer=NewtonSchulz("keller_jordan", ns_steps, dtype, eps=1e-7),
        normalize=neuron_rms(beta2, 1e-10, axes=of_last_two),
        trust_region=by_shape(JORDAN, of_last_two),
        weight_decay=weight_decay,
        labels=matrices(lambda n: flattened(n) if n == 4 else last_two(n), aux_adam),
        adamw_learning_rate=adam.lr,
        adamw_b1=adam.betas[0],
        adamw_b2=adam.betas[1],
        adamw_eps=adam.eps,
        adamw_weight_decay=adam.weight_decay,
    )


def of_last_two(path: str, leaf: Any) -> optax_ortho.MatrixAxes:
    return last_two(leaf.ndim)


def dion_normuon(
    dtype: Any,
    *,
    lr: float = 0.01,
    mu: float = 0.95,
    muon_beta2: float = 0.95,
    weight_decay: float = 0.01,
    cautious_wd: bool = False,
    epsilon: float = 1e-8,
    nesterov: bool = False,
    adjust_lr: str | None = "spectral_norm",
    flatten: bool = False,
    use_polar_express: bool = True,
    aux: Mapping[str, Any] | None = None,
):
    """microsoft/dion, dion/normuon.py; neurons belong to the last two axes.

    Its AdamW group inherits what it does not set.
    """
    factors = {"spectral_norm": SPECTRAL, "rms_norm": match_rms(0.2), None: UNSCALED}
    inherited = {"lr": lr, "weight_decay": weight_decay, "epsilon": epsilon}
    adam = call(DionAdam, **{**inherited, **(aux or {})})
    coefficients = "polar_express" if use_polar_express else "you5"
    return optax_ortho.normuon(
        lr,
        momentum=heavy_ball(mu, nesterov),
        orthogonalizer=NewtonSchulz(coefficients, 5, dtype, eps=epsilon),
        normalize=neuron_rms(muon_beta2, 1e-8, axes=of_last_two),
        trust_region=chosen("adjust_lr", adjust_lr, factors),
        cautious=cautious_wd,
        weight_decay=weight_decay,
        labels=matrices(flattened if flatten else last_two, aux),
        adamw_learning_rate=adam.lr,
        adamw_b1=adam.beta1,
        adamw_b2=adam.beta2,
        adamw_eps=adam.epsilon,
        adamw_weight_decay=adam.weight_decay,
    )


BUILDERS: dict[tuple[str, str], Callable[..., optax.GradientTransformation]] = {
    ("zichongli5/NorMuon", "SingleDeviceNorMuonWithAuxAdam"): normuon,
    ("zichongli5/NorMuon", "NorMuonWithAuxAdam"): normuon,
    ("microsoft/dion", "NorMuon"): dion_normuon,
}
"""By repository and class."""

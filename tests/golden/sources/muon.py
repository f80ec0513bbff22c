"""Muon, as its authors and its peers wrote it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

import optax_ortho
from optax_ortho.momentum import heavy_ball
from optax_ortho.orthogonalizers import NewtonSchulz, clamped_frobenius
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


class JordanMuon(NamedTuple):
    lr: float = 0.02
    momentum: float = 0.95
    weight_decay: float = 0.0


class JordanAdam(NamedTuple):
    lr: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-10
    weight_decay: float = 0.0


def keller_jordan(
    dtype: Any,
    *,
    muon: Mapping[str, Any],
    aux_adam: Mapping[str, Any] | None = None,
    nesterov: bool = True,
    ns_steps: int = 5,
):
    """KellerJordan/Muon, muon.py.

    A convolution is orthogonalized as (out, in * kh * kw), but its shape factor is
    computed from the gradient's last two axes, which are (kh, kw).
    """
    group = call(JordanMuon, **muon)
    adam = call(JordanAdam, **aux_adam or {})
    return optax_ortho.muon(
        group.lr,
        momentum=averaged(group.momentum, nesterov),
        orthogonalizer=NewtonSchulz("keller_jordan", ns_steps, dtype, eps=1e-7),
        trust_region=by_shape(JORDAN, lambda path, leaf: last_two(leaf.ndim)),
        weight_decay=group.weight_decay,
        labels=matrices(lambda n: flattened(n) if n == 4 else last_two(n), aux_adam),
        adamw_learning_rate=adam.lr,
        adamw_b1=adam.betas[0],
        adamw_b2=adam.betas[1],
        adamw_eps=adam.eps,
        adamw_weight_decay=adam.weight_decay,
    )


def moonlight(
    dtype: Any,
    *,
    lr: float = 1e-3,
    wd: float = 0.1,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_steps: int = 5,
    adamw_betas: tuple[float, float] = (0.9, 0.95),
    adamw_eps: float = 1e-8,
):
    """MoonshotAI/Moonlight, examples/toy_train.py."""
    return optax_ortho.muon(
        lr,
        momentum=heavy_ball(momentum, nesterov),
        orthogonalizer=NewtonSchulz("keller_jordan", ns_steps, dtype, eps=1e-7),
        weight_decay=wd,
        labels=matrices(last_two),
        fallback=moonlight_adamw(lr, *adamw_betas, adamw_eps, wd),
    )


def moonlight_adamw(lr: float, b1: float, b2: float, eps: float, wd: float):
    """An AdamW that adds eps to the root of the moment before correcting its bias."""
    scale_by_adam = optax.inject_hyperparams(optax.scale_by_adam)
    return optax.chain(
        scale_by_adam(b1, b2, eps=lambda t: eps / jnp.sqrt(1 - b2 ** (t + 1))),
        optax.add_decayed_weights(wd),
        optax.scale_by_learning_rate(lr),
    )


def torch_optim(
    dtype: Any,
    *,
    lr: float = 1e-3,
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
    eps: float = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: str | None = None,
):
    """torch.optim.Muon."""
    factors = {None: JORDAN, "original": JORDAN, "match_rms_adamw": match_rms(0.2)}
    return optax_ortho.muon(
        lr,
        momentum=averaged(momentum, nesterov),
        orthogonalizer=NewtonSchulz(
            [ns_coefficients],
            ns_steps,
            dtype,
            eps=eps,
            prescale=clamped_frobenius,
            unsafe=True,
        ),
        trust_region=chosen("adjust_lr_fn", adjust_lr_fn, factors),
        weight_decay=weight_decay,
        labels=matrices(last_two, vectors=None),
    )


class DionAdam(NamedTuple):
    lr: float
    weight_decay: float
    epsilon: float
    beta1: float = 0.9
    beta2: float = 0.95


def dion_muon(
    dtype: Any,
    *,
    lr: float = 0.01,
    mu: float = 0.95,
    weight_decay: float = 0.01,
    epsilon: float = 1e-8,
    nesterov: bool = False,
    adjust_lr: str | None = "spectral_norm",
    flatten: bool = False,
    use_polar_express: bool = True,
    cautious_wd: bool = False,
    aux: Mapping[str, Any] | None = None,
):
    """microsoft/dion, dion/muon.py; its AdamW group inherits what it does not set."""
    factors = {"spectral_norm": SPECTRAL, "rms_norm": match_rms(0.2), None: UNSCALED}
    inherited = {"lr": lr, "weight_decay": weight_decay, "epsilon": epsilon}
    adam = call(DionAdam, **{**inherited, **(aux or {})})
    coefficients = "polar_express" if use_polar_express else "you5"
    recipe = optax_ortho.muon
    if cautious_wd:  # NorMuon without its normalization is Muon.
        normuon = optax_ortho.normuon
        recipe = partial(normuon, normalize=optax.identity(), cautious=True)
    return recipe(
        lr,
        momentum=heavy_ball(mu, nesterov),
        orthogonalizer=NewtonSchulz(coefficients, 5, dtype, eps=epsilon),
        trust_region=chosen("adjust_lr", adjust_lr, factors),
        weight_decay=weight_decay,
        labels=matrices(flattened if flatten else last_two, aux),
        adamw_learning_rate=adam.lr,
        adamw_b1=adam.beta1,
        adamw_b2=adam.beta2,
        adamw_eps=adam.epsilon,
        adamw_weight_decay=adam.weight_decay,
    )


BUILDERS: dict[tuple[str, str], Callable[..., optax.GradientTransformation]] = {
    ("KellerJordan/Muon", "SingleDeviceMuonWithAuxAdam"): keller_jordan,
    ("KellerJordan/Muon", "MuonWithAuxAdam"): keller_jordan,
    ("MoonshotAI/Moonlight", "Muon"): moonlight,
    ("pytorch/pytorch", "Muon"): torch_optim,
    ("microsoft/dion", "Muon"): dion_muon,
}
"""By repository and class."""

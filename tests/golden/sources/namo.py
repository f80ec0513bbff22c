"""NAMO and NAMO-D, as their authors wrote them."""

import math
from typing import Any

import jax.numpy as jnp

import optax_ortho
from optax_ortho import MatrixAxes, Split
from optax_ortho.orthogonalizers import Exact, NewtonSchulz
from optax_ortho.trust_region import match_rms
from tests.golden.sources.common import Unsupported, averaged, flattened
from tests.golden.sources.muon import moonlight_adamw

CLASSES = {"NAMO": optax_ortho.namo, "NAMO_D": optax_ortho.namo_d}


def namo(
    *,
    cls: str,
    bf16_newton_schulz: bool = True,
    lr: float = 1e-2,
    wd: float = 0.1,
    momentum: float = 0.95,
    mu2: float = 0.99,
    adamnorm_eps: float = 1e-8,
    nesterov: bool = True,
    ns_steps: int = 5,
    scale_coeff: float = 0.2,
    use_exact_svd: bool = False,
    col_state_clamp_c: float | None = None,
    adamw_betas: tuple[float, float] = (0.9, 0.95),
    adamw_eps: float = 1e-8,
    adamw_wd: float | None = None,
):
    """minxin-zhg/namo, src/namo.py; its AdamW has NAMO's learning rate."""
    if cls not in CLASSES:
        raise Unsupported(f"optax_ortho has no counterpart of {cls}")
    own = {}
    if cls == "NAMO_D":
        c = 0.75 if col_state_clamp_c is None else col_state_clamp_c
        own = {"c": c if 0 < c <= 1 else 0.0}  # Others switch it off.
    elif col_state_clamp_c is not None:
        raise Unsupported(f"{cls} has no col_state_clamp_c")
    dtype = jnp.bfloat16 if bf16_newton_schulz else jnp.float32
    newton_schulz = NewtonSchulz(
        "keller_jordan", ns_steps, dtype, eps=1e-7, unsafe=True
    )
    wd_adamw = wd if adamw_wd is None else adamw_wd
    return CLASSES[cls](
        lr,
        momentum,
        mu2,
        adamnorm_eps,
        momentum=averaged(momentum, nesterov),
        orthogonalizer=Exact() if use_exact_svd else newton_schulz,
        trust_region=match_rms(scale_coeff),
        weight_decay=wd,
        labels=lambda path, leaf: of_leaf(path, leaf) if leaf.ndim > 1 else "vector",
        fallback=moonlight_adamw(lr, *adamw_betas, adamw_eps, wd_adamw),
        **own,
    )


def of_leaf(path: str, leaf: Any) -> MatrixAxes:
    """A convolution is one matrix, but its shape factor is computed from (out, in)."""
    axes = flattened(leaf.ndim)
    if leaf.ndim == 2:
        return axes
    fan_in, fan_out = axes.matrix_shape(leaf.shape)
    *_, n_in, n_out = leaf.shape
    scale = math.sqrt(max(n_in, n_out) / max(fan_in, fan_out))
    split = Split(axis=leaf.ndim - 1, sizes=(n_out,), scales=(scale,))
    return MatrixAxes(axes.fan_in, axes.fan_out, split)

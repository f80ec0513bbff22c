"""What each author's optimizer is in optax_ortho.

One small function a source: it takes the dtype of Newton-Schulz and the recorded
hyperparameters by their own names, with the defaults of the source, and returns the
optimizer of a whole tree. A hyperparameter that its signature does not name makes the
case unsupported, and so none is ever ignored. To add a source, write its function and
enter it in `BUILDERS`.

PyTorch stores weights as (out, in) and Flax as (in, out). `flax_order` is the one place
that says where an axis goes; the axes of a source are written as PyTorch counts them.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

import optax_ortho
from optax_ortho.momentum import ema, heavy_ball, nesterov
from optax_ortho.orthogonalizers import NewtonSchulz, clamped_frobenius
from optax_ortho.trust_region import (
    JORDAN,
    SPECTRAL,
    UNSCALED,
    ShapeFactor,
    by_shape,
    match_rms,
)

Axes = Callable[[int], optax_ortho.MatrixAxes]
"""The matrix axes of a Flax leaf with that many axes."""


class Unsupported(Exception):
    """Why a case cannot be replayed."""


def flax_order(ndim: int) -> tuple[int, ...]:
    """PyTorch's axes in the order in which Flax stores them.

    (out, in) becomes (in, out), also under batch axes in a 3-D leaf, and the kernel of
    a convolution, (out, in, *window), becomes (*window, in, out).
    """
    if ndim < 4:
        return (*range(ndim - 2), *reversed(range(max(0, ndim - 2), ndim)))
    return (*range(2, ndim), 1, 0)


def as_flax(ndim: int, fan_out: Any, fan_in: Any) -> optax_ortho.MatrixAxes:
    """PyTorch's axes as those of the Flax leaf."""
    order = flax_order(ndim)
    return optax_ortho.MatrixAxes(
        fan_in=tuple(map(order.index, fan_in)), fan_out=tuple(map(order.index, fan_out))
    )


def last_two(ndim: int) -> optax_ortho.MatrixAxes:
    """PyTorch's batched matrices, (..., out, in)."""
    return as_flax(ndim, fan_out=[ndim - 2], fan_in=[ndim - 1])


def flattened(ndim: int) -> optax_ortho.MatrixAxes:
    """PyTorch's ``view(out, -1)``."""
    return as_flax(ndim, fan_out=[0], fan_in=range(1, ndim))


def matrices(axes: Axes, vectors: Any = True) -> Callable[[str, Any], Any]:
    """Labels: leaves of two axes and more are matrices.

    Args:
      axes: of the matrices.
      vectors: the hyperparameters of the other leaves' optimizer, None if there are
        none recorded.
    """

    def label(path, leaf):
        if leaf.ndim >= 2:
            return axes(leaf.ndim)
        if vectors is None:
            raise Unsupported(f"no hyperparameters for the 1-D parameter {path!r}")
        return "vector"

    return label


def call(function: Callable, *args: Any, **hyper: Any) -> Any:
    """Calls a function that has to know every hyperparameter."""
    known = inspect.signature(function).parameters
    if unknown := sorted(hyper.keys() - known.keys()):
        raise Unsupported(f"optax_ortho has no counterpart of {', '.join(unknown)}")
    return function(*args, **hyper)


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

    A convolution is orthogonalized as (out, in * kh * kw), but its shape factor is that
    of the gradient's last two axes, which are (kh, kw).
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
    if cautious_wd:
        raise Unsupported("optax_ortho has no cautious weight decay")
    factors = {"spectral_norm": SPECTRAL, "rms_norm": match_rms(0.2), None: UNSCALED}
    inherited = {"lr": lr, "weight_decay": weight_decay, "epsilon": epsilon}
    adam = call(DionAdam, **{**inherited, **(aux or {})})
    coefficients = "polar_express" if use_polar_express else "you5"
    return optax_ortho.muon(
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


def averaged(beta: float, look_ahead: bool) -> optax.GradientTransformation:
    """The momentum of sources that average gradients."""
    return nesterov(beta) if look_ahead else ema(beta)


def chosen(name: str, value: Any, choices: Mapping[Any, ShapeFactor]) -> ShapeFactor:
    """The shape factor that a source calls by some name."""
    if value not in choices:
        raise Unsupported(f"optax_ortho has no counterpart of {name}={value!r}")
    return choices[value]


BUILDERS: dict[tuple[str, str], Callable[..., optax.GradientTransformation]] = {
    ("KellerJordan/Muon", "SingleDeviceMuonWithAuxAdam"): keller_jordan,
    ("KellerJordan/Muon", "MuonWithAuxAdam"): keller_jordan,
    ("MoonshotAI/Moonlight", "Muon"): moonlight,
    ("pytorch/pytorch", "Muon"): torch_optim,
    ("microsoft/dion", "Muon"): dion_muon,
}
"""By repository and class."""

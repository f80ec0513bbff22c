"""MKOR: second-order steps at first-order cost; MKOR-H turns first-order later.

For every layer with kernel W and bias b, gradient G of [W; b] (fan_in + 1 x fan_out),
mean input a (1 last) and output gradient g, summed over samples, one step is

    factors       every 10th step, J_a <- absorb(0.95 J_a + 0.05 I, a), J_g alike
                  with absorb(J, v) = J - (J v)(J v)^T / (1 + v^T J v)
    precondition  U <- J_a G J_g,  U <- U (|G_W| + |G_b|) / (|U_W| + |U_b|)
    momentum      M <- beta M + (1 - beta) U
    scale         U <- 0.2 M / rms(M)
    step          [W; b] <- [W; b] - learning_rate (U + weight_decay [W; b])

The factors start at I, and the first step that is due leaves them there. The published
optimizers follow the preconditioning by a base optimizer and no scale:

    released code    base=optax.trace(0.9) and the like; rule="damped"
    paper            the same with rule="printed"
    exact inverse    rule="ema"
    hkor             rule=(MovingAverage(), MovingAverage(weight=0.05**2)); it clips by
                     KL divergence in place of keeping the norm, which is not here

The loss needs more than its gradient; see `value_and_grad_with_statistics`.

References:
  Mozaffari, Li, Zhang and Mehri Dehnavi, `MKOR: Momentum-Enabled Kronecker-Factor-Based
  Optimizer Using Rank-1 Updates <https://arxiv.org/abs/2306.01685>`_, 2023
"""

from collections.abc import Callable
from typing import Any, Unpack

import optax

from optax_ortho.chain import OrthoState as MkorState  # noqa: F401 (its public name)
from optax_ortho.chain import ortho_chain
from optax_ortho.checks import refuse_array
from optax_ortho.guard import guard, stacked_axes
from optax_ortho.inputs import refuse_complex
from optax_ortho.kronecker import (
    LossRate,
    Rule,
    Stabilizer,
    layers_of,
    precondition,
    to_rms,
    with_biases,
)
from optax_ortho.labels import resolve
from optax_ortho.layouts import Layout
from optax_ortho.matrices import AxesOf, last_two
from optax_ortho.momentum import ema
from optax_ortho.recipes import Common, matrices_else_fallback, recipe_of


def scale_by_mkor(
    beta: Any = 0.9,
    *,
    rule: str | Rule | tuple[Rule, Rule] = "damped",
    stabilizer: Stabilizer | None = None,
    update_every: Any = 10,
    warmup_steps: Any = 0,
    clip: Any = 100.0,
    factor_dtype: Any = None,
    switch: LossRate | None = None,
    base: optax.GradientTransformation | None = None,
    mu_dtype: Any = None,
    axes: AxesOf = last_two,
    layout: Layout | None = None,
    nonfinite: str | None = "skip_matrix",
) -> optax.GradientTransformationExtraArgs:
    """MKOR's direction, for a tree of kernels and their biases (see `mkor`).

    Its update needs ``statistics=``, a tree with ``{"a": a, "g": g}`` in the place of
    each layer, and with a `switch` also ``value=``, the loss. A bias belongs to the
    kernel beside it.

    Args:
      beta: decay of the momentum M, in [0, 1).
      rule: the update of the inverse factors: "damped", "ema" or "printed",
        another `kronecker.Rule`, or a pair of them for inputs and outputs.
      stabilizer: the bound on the factors; None is ``Blend()`` for "ema" and
        ``Reset()`` for the others.
      update_every: steps between updates of the factors.
      warmup_steps: the number of first steps that each update the factors.
      clip: entries of the statistics are clipped to plus and minus this; None clips
        nothing.
      factor_dtype: dtype in which the factors are kept, None for float32; bfloat16
        halves their memory.
      switch: the end of preconditioning, for good; ``kronecker.LossRate()`` makes it
        MKOR-H, and each update then needs ``value=``, the loss.
      base: the stages after the preconditioning, instead of momentum and scale.
      mu_dtype: dtype of M; None is the parameter's own.
      axes: the `MatrixAxes` of a kernel, from its path and the leaf.
      layout: the distribution of the matrices over devices; None is
        `layouts.local()`.
      nonfinite: "skip_matrix", "skip_step" or "off"; None is for a direction inside
        a guarded recipe. A statistic that is not finite
        leaves the factors of its layer as they are.

    Returns:
      The direction, without learning rate and sign.

    Raises:
      ValueError: an argument out of range; at init a leaf that is not a matrix and not
        a bias of one; at update, statistics that are missing or do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx = optax.chain(scale_by_mkor(), optax.scale_by_learning_rate(0.01))
      >>> params = {"up": {"kernel": jnp.ones((4, 6)), "bias": jnp.ones(6)}}
      >>> statistics = {"up": {"a": jnp.ones(4), "g": jnp.ones(6)}}
      >>> updates, state = tx.update(params, tx.init(params), statistics=statistics)
      >>> updates["up"]["bias"].shape
      (6,)
    """
    refuse_array("mu_dtype", mu_dtype)

    def direction(tree):
        refuse_complex("mkor", tree)
        layers = layers_of(tree, axes)
        preconditioned = precondition(
            rule,
            stabilizer,
            update_every=update_every,
            warmup_steps=warmup_steps,
            clip=clip,
            dtype=factor_dtype,
            switch=switch,
            axes=axes,
            layout=layout,
        )
        follow = ema(beta, mu_dtype) if base is None else base
        chain = ortho_chain(
            momentum=optax.chain(preconditioned, follow),
            trust_region=to_rms(0.2, axes) if base is None else None,
        )
        return guard(chain, nonfinite, stacked_axes(layers.axes_of))

    return _made_for_each_tree(direction)


def _build(name, direction, learning_rate, *, switch, **common):
    labels = resolve(common["labels"])
    name = name if switch is None else "mkor-h"

    def optimizer(tree):
        given: Any = {**common, "labels": with_biases(labels, tree)}
        return matrices_else_fallback(name, direction, learning_rate, **given)

    return _made_for_each_tree(optimizer)


def _made_for_each_tree(
    make: Callable[[Any], optax.GradientTransformation],
) -> optax.GradientTransformationExtraArgs:
    """A transformation that depends on the structure of the tree that it transforms.

    It is made at once too, so that wrong arguments are refused where they are given.
    """
    make({})

    def update(updates, state, params=None, **extra):
        return make(updates).update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(
        lambda params: make(params).init(params), update
    )


@recipe_of(scale_by_mkor, build=_build)
def mkor(
    learning_rate: optax.ScalarOrSchedule,
    beta: Any = 0.9,
    *,
    rule: str | Rule | tuple[Rule, Rule] = "damped",
    stabilizer: Stabilizer | None = None,
    update_every: Any = 10,
    warmup_steps: Any = 0,
    clip: Any = 100.0,
    factor_dtype: Any = None,
    switch: LossRate | None = None,
    base: optax.GradientTransformation | None = None,
    mu_dtype: Any = None,
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    """MKOR for matrices and their biases, AdamW for everything else.

    Each ``update`` needs ``statistics=``, which `value_and_grad_with_statistics` gives
    with the loss and its gradient. Layers that should keep plain gradients, such as an
    output head, are left to the fallback by their label. A bias takes part in its
    kernel's decay too, unless masked.

    The loss should be a mean over samples of natural size: g grows with a scaled loss,
    and both statistics are clipped. Data-parallel code that computes its own gradients
    averages statistics as it does gradients (``pmean``); under `jax.jit` of sharded
    arrays there is nothing to do. `optax.MultiSteps` hands on the statistics of its
    last part only.

    Args:
      learning_rate: step size of the layers, or a schedule of the step count. The
        update of a layer has an RMS of 0.2 times it, unless there is a `base`.

    Returns:
      The optimizer.

    Raises:
      ValueError: an argument out of range; at init labels that do not fit the
        parameters; at update, statistics that are missing or do not fit.
      TypeError: an array where `optax.inject_hyperparams` replaced a function, or at
        init a complex leaf.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_ortho
      >>> params = {"up": {"kernel": jnp.ones((4, 6)), "bias": jnp.ones(6)}}
      >>> tx = optax_ortho.mkor(learning_rate=0.02)
      >>> statistics = {"up": {"a": jnp.ones(4), "g": jnp.ones(6)}}
      >>> state = tx.init(params)
      >>> updates, state = tx.update(params, state, params, statistics=statistics)
      >>> updates["up"]["kernel"].shape
      (4, 6)
    """
    ...

"""Gradients between inverse factors: the second-order part of MKOR.

    U <- R^-1 G L^-1,   U <- U (|G_W| + |G_b|) / (|U_W| + |U_b|)

for the gradient G of a kernel with its bias as last row, R the second moment of the
layer's inputs (1 for the bias last) and L the moment of its output gradients.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from optax_ortho import layouts
from optax_ortho.checks import check_number, refuse_array
from optax_ortho.kronecker.factors import (
    Blend,
    Factors,
    Reset,
    Stabilizer,
    step_factors,
)
from optax_ortho.kronecker.layers import Layers, layers_of
from optax_ortho.kronecker.rank_one import MovingAverage, Rule, as_rules
from optax_ortho.kronecker.rescale import joined, norm_of_parts, parted
from optax_ortho.kronecker.statistics import of_layers
from optax_ortho.kronecker.switch import LossRate
from optax_ortho.layouts import Layout
from optax_ortho.matrices import AxesOf, last_two
from optax_ortho.orthogonalizers.prescale import to_unit


class KroneckerState(NamedTuple):
    """Steps taken, each layer's inverse factors, and the state of the switch."""

    kronecker_count: jax.Array
    input_inverse: Any
    output_inverse: Any
    reset_input: Any
    reset_output: Any
    switch: Any


def precondition(
    rule: str | Rule | tuple[Rule, Rule] = "damped",
    stabilizer: Stabilizer | None = None,
    *,
    update_every: Any = 10,
    warmup_steps: Any = 0,
    clip: Any = 100.0,
    dtype: Any = None,
    switch: LossRate | None = None,
    axes: AxesOf = last_two,
    layout: Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Preconditions each layer by the inverse moments of its inputs and gradients.

    Args:
      rule: how the factors forget and absorb: a name of `RULES`, a `Rule`, or a pair
        of them for inputs and outputs.
      stabilizer: what keeps them bounded; None is ``Blend()`` for "ema" and
        ``Reset()`` for the others.
      update_every: steps between updates of the factors.
      warmup_steps: they are updated at each of the first steps.
      clip: statistics are clipped to plus and minus this; None clips nothing.
      dtype: of the factors as they are stored; None is float32.
      switch: when to leave gradients as they are, for good; None is never.
      axes: the `MatrixAxes` of a kernel, from its path and the leaf.
      layout: how the matrices are spread over devices; None is `layouts.local()`.

    Returns:
      A transformation, whose update needs ``statistics=``, and ``value=``, the loss, if
      there is a `switch`. Every layer keeps the norm of its gradient.

    Raises:
      ValueError: a number out of range, an owned layout, or at update missing
        statistics.
    """
    check_number("update_every", update_every, at_least=1)
    check_number("warmup_steps", warmup_steps)
    if clip is not None:
        check_number("clip", clip)
    refuse_array("factor_dtype", dtype)
    dtype = jnp.float32 if dtype is None else dtype
    layout = layouts.local() if layout is None else layout
    if not layout.sees_all:
        raise ValueError(
            "MKOR needs statistics of all devices, so its layout is one of local, "
            f"sharded and replicated, got one of type {type(layout).__name__}."
        )
    rules = as_rules(rule)
    if stabilizer is None:
        stabilizer = Blend() if isinstance(rules[0], MovingAverage) else Reset()

    def init(params):
        due = jnp.array(stabilizer.starts_due)

        def fresh(x):
            left, right = (jnp.eye(d, dtype=dtype) for d in x.shape)
            return Factors(left, right, due, due)

        factors = layers_of(params, axes).init(layout, fresh, params)
        switched = () if switch is None else switch.init()
        count = jnp.zeros([], jnp.int32)
        return KroneckerState._make((count, *factors, switched))

    def update(updates, state, params=None, **extra):
        del params
        layers: Layers = layers_of(updates, axes)
        statistics = of_layers(layers, updates, extra.get("statistics"), clip)
        count, *old, switched = state
        due = (count % update_every == 0) | (count < warmup_steps)
        second_order = jnp.array(True)
        if switch is not None:
            switched = switch.update(switched, _loss(extra))
            second_order = switched.second_order
            due &= second_order

        def on_layer(kernel, bias, vectors, factors, due, second_order):
            a, g = vectors
            if bias is not None:
                a = jnp.concatenate([a, jnp.ones(1, a.dtype)])
            factors = lax.cond(
                due,
                lambda: step_factors(rules, stabilizer, factors, a, g),
                lambda: factors,
            )
            gradient, power = to_unit(joined(kernel, bias))
            between = lambda: _between(factors, gradient, bias is not None)  # noqa: E731
            if switch is None:
                new = between()
            else:
                new = lax.cond(second_order, between, lambda: gradient)
            kernel, bias = parted(new / power, kernel, bias)
            return kernel, bias, factors

        updates, factors = layers.map(
            layout,
            on_layer,
            updates,
            Factors._make(old),
            statistics,
            (due, second_order),
        )
        count = optax.safe_increment(count)
        return updates, KroneckerState._make((count, *factors, switched))

    return optax.GradientTransformationExtraArgs(init, update)


def _between(factors: Factors, gradient: jax.Array, with_bias: bool) -> jax.Array:
    """The preconditioned gradient of a layer, with the norm that it had."""
    left, right = (
        inverse.astype(gradient.dtype)
        for inverse in (factors.input_inverse, factors.output_inverse)
    )
    highest = lax.Precision.HIGHEST
    new = jnp.matmul(left, gradient, precision=highest)
    new = jnp.matmul(new, right, precision=highest)
    before, after = (norm_of_parts(x, with_bias) for x in (gradient, new))
    return jnp.where(after > 0, before / jnp.where(after > 0, after, 1), 0) * new


def _loss(extra: dict[str, Any]) -> Any:
    if extra.get("value") is None:
        raise ValueError(
            "A switch by the loss needs the loss of each step: "
            "update(gradient, state, params, statistics=..., value=loss)."
        )
    return extra["value"]

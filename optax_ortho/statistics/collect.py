"""The loss, its gradient, and statistics for Kronecker-factored optimizers."""

from collections.abc import Callable
from typing import Any

from optax_ortho.checks import check_number
from optax_ortho.labels import resolve
from optax_ortho.labels.model import is_module


def value_and_grad_with_statistics(
    loss_fn: Callable,
    labels: Any = None,
    *,
    has_aux: bool = False,
    clip: float | None = 100.0,
    wrt: Any = None,
) -> Callable:
    """`jax.value_and_grad` that also returns the statistics of every layer.

    The statistics of a layer are its mean input and the gradient of the loss in its
    output, summed over samples. Dense layers and convolutions are read, of Flax NNX
    and Linen alike, also stacked, scanned, rematerialized or under `jax.vmap`, and
    wherever they are called; the model is not changed. It costs one mean of each
    layer's input and of its output's gradient.

    Args:
      loss_fn: takes an NNX model, or the parameters of a Linen model, first; it gives
        the loss, a mean over samples, or ``(loss, aux)``. Others may follow.
      labels: the labels of a recipe; layers whose kernels are matrices are read. None
        is all layers of an NNX model, and kernels with two axes of a Linen model.
      has_aux: whether `loss_fn` returns ``(loss, aux)``.
      clip: entries of each sample are clipped to plus and minus this before they are
        averaged, as MKOR does; None clips nothing.
      wrt: the variables of an NNX model to differentiate; None is `nnx.Param`.

    Returns:
      A function like `loss_fn` that gives ``(loss, gradient, statistics)``, the last a
      nested dict with ``{"a": (*batch, fan_in), "g": (*batch, fan_out)}`` at the path
      of each layer, with the axes of a stack in front.

    Raises:
      ValueError: `clip` is not positive.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> import optax_ortho
      >>> model = nnx.Linear(4, 6, rngs=nnx.Rngs(0))
      >>> def loss_fn(model, x):
      ...     return jnp.mean(model(x) ** 2)
      >>> optimizer = nnx.Optimizer(model, optax_ortho.mkor(0.01), wrt=nnx.Param)
      >>> @nnx.jit
      ... def train_step(model, optimizer, x):
      ...     loss, gradient, statistics = value_and_grad_with_statistics(loss_fn)(
      ...         model, x
      ...     )
      ...     optimizer.update(model, gradient, statistics=statistics)
      ...     return statistics
      >>> statistics = train_step(model, optimizer, jnp.ones((2, 4)))
      >>> jax.tree.map(jnp.shape, statistics)
      {'a': (4,), 'g': (6,)}
    """
    if clip is not None:
        check_number("clip", clip)

    def wrapped(model, *args, **kwargs):
        if is_module(model, "flax.nnx"):
            from optax_ortho.statistics import flax_nnx

            given = None if labels is None else resolve(labels)
            f = flax_nnx.value_and_grad(loss_fn, given, has_aux, clip, wrt)
        else:
            f = linen
        return f(model, *args, **kwargs)

    def linen(params, *args, **kwargs):
        from optax_ortho.statistics import flax_linen

        f = flax_linen.value_and_grad(loss_fn, resolve(labels), has_aux, clip)
        return f(params, *args, **kwargs)

    return wrapped

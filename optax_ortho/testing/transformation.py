"""Checks of transformations: stages, directions and optimizers alike."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from optax_ortho.testing.trees import (
    assert_close,
    assert_same_types,
    check,
    random_like,
    stack,
)

F32, BF16, F16 = jnp.float32, jnp.bfloat16, jnp.float16
DTYPES = ((F32, F32), (BF16, BF16), (F16, F16), (F32, BF16), (BF16, F32))


def check_transformation(
    tx: optax.GradientTransformation,
    params: Any,
    extra: Mapping[str, Any] | None = None,
    tolerance: float = 1e-5,
) -> None:
    """Runs all checks of this module.

    Args:
      tx: a stage, a direction or an optimizer.
      params: float32 parameters that it can be used with.
      extra: the extra arguments that its ``update`` needs.
      tolerance: largest difference between two ways to compute a result in float32,
        over the largest entry of a leaf.

    Raises:
      AssertionError: a promise is broken; the message says which.

    Examples:
      >>> import optax_ortho
      >>> params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
      >>> check_transformation(optax_ortho.momentum.nesterov(0.9), params)
      >>> check_transformation(optax.trace(0.9), params)
      Traceback (most recent call last):
      AssertionError: float32 parameters, bfloat16 gradients: the update: ...
    """
    tx = with_extra(tx, {} if extra is None else extra)
    check_one_trace(tx, params)
    check_dtypes(tx, params)
    check_abstract_init(tx, params)
    check_unexpected_arguments(tx, params)
    check_map_params(tx, params)
    check_zero_gradient(tx, params)
    check_jit(tx, params, tolerance)
    check_vmap(tx, params, tolerance)
    check_multi_steps(tx, params, tolerance)
    check_partition(tx, params, tolerance)


def with_extra(
    tx: optax.GradientTransformation, extra: Mapping[str, Any]
) -> optax.GradientTransformationExtraArgs:
    """The transformation with some extra arguments of its update bound."""
    update = optax.with_extra_args_support(tx).update
    if extra:
        update = functools.partial(update, **extra)
    return optax.GradientTransformationExtraArgs(tx.init, update)


def check_one_trace(
    tx: optax.GradientTransformation, params: Any, steps: int = 10
) -> None:
    """Checks that a jitted step is traced once and never again."""
    traces = []

    @jax.jit
    def counted(*arguments):
        traces.append(None)
        return tx.update(*arguments)

    step, state = jax.jit(tx.update), tx.init(params)
    for seed in range(steps):
        gradient = random_like(params, seed)
        counted.eval_shape(gradient, state, params)  # Traces without compiling.
        updates, state = step(gradient, state, params)
        params = optax.apply_updates(params, updates)
    check(len(traces) == 1, f"{steps} steps were traced {len(traces)} times.")


def check_dtypes(
    tx: optax.GradientTransformation,
    params: Any,
    pairs: Sequence[tuple[Any, Any]] = DTYPES,
) -> None:
    """Checks that updates have the gradients' dtype and that no state changes type.

    Args:
      tx: the transformation.
      params: its parameters.
      pairs: dtypes of parameters and gradients. With the last pair the state is also
        carried through `jax.lax.scan` and `jax.lax.cond`.
    """
    for dtypes in pairs:
        what = "{} parameters, {} gradients".format(*map(np.dtype, dtypes))
        planned, gradient = (_cast(params, dtype) for dtype in dtypes)
        state = jax.eval_shape(tx.init, planned)
        updates, new_state = jax.eval_shape(tx.update, gradient, state, planned)
        assert_same_types(updates, gradient, f"{what}: the update")
        assert_same_types(new_state, state, f"{what}: the state after a step")

    def every_second_step(state, gradient, params):
        def body(state, go):
            def take():
                return tx.update(gradient, state, params)[1]

            return lax.cond(go, take, lambda: state), None

        return lax.scan(body, state, jnp.array([True, False]))[0]

    scanned = jax.eval_shape(every_second_step, state, gradient, planned)
    assert_same_types(scanned, state, "the state after a scan")


def _cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), tree)


def check_abstract_init(tx: optax.GradientTransformation, params: Any) -> None:
    """Checks that the types of a state can be computed from shapes alone."""
    shapes, state = jax.eval_shape(lambda: params), tx.init(params)
    planned = jax.eval_shape(tx.init, shapes)
    assert_same_types(planned, jax.eval_shape(lambda: state), "a planned state")


def check_unexpected_arguments(tx: optax.GradientTransformation, params: Any) -> None:
    """Checks that extra arguments meant for other transformations are ignored."""
    update = with_extra(tx, {"an_argument_that_nobody_expects": 1}).update
    jax.eval_shape(update, params, tx.init(params), params)


def check_map_params(tx: optax.GradientTransformation, params: Any) -> None:
    """Checks that `optax.tree.map_params` finds its way through the state."""
    state = tx.init(params)
    mapped = optax.tree.map_params(tx, lambda x: x, state)
    assert_close(mapped, state, 0, "a state mapped by the identity")


def check_zero_gradient(tx: optax.GradientTransformation, params: Any) -> None:
    """Checks that a first gradient of zero gives an update of exactly zero.

    With weight decay this holds for parameters of zero only.
    """
    zeros = optax.tree.zeros_like(params)
    updates, _ = jax.jit(tx.update)(zeros, tx.init(params), params)
    assert_close(updates, zeros, 0, "a zero gradient")


def check_jit(
    tx: optax.GradientTransformation, params: Any, tolerance: float = 1e-5
) -> None:
    """Checks that `jax.jit` does not change a step."""
    gradient, state = random_like(params), tx.init(params)
    eager = tx.update(gradient, state, params)
    jitted = jax.jit(tx.update)(gradient, state, params)
    assert_close(jitted, eager, tolerance, "a jitted step")


def check_vmap(
    tx: optax.GradientTransformation, params: Any, tolerance: float = 1e-5
) -> None:
    """Checks that `jax.vmap` over gradients gives the same steps as a loop."""
    gradients, state = [random_like(params, seed) for seed in range(3)], tx.init(params)
    step = jax.jit(tx.update)
    loop = stack([step(gradient, state, params) for gradient in gradients])
    together = jax.jit(jax.vmap(tx.update, in_axes=(0, None, None)))
    batched = together(stack(gradients), state, params)
    assert_close(batched, loop, tolerance, "steps under vmap")


def check_multi_steps(
    tx: optax.GradientTransformation, params: Any, tolerance: float = 1e-5
) -> None:
    """Checks that `optax.MultiSteps` gives zero, then a step with the mean gradient."""
    first, second = random_like(params, seed=0), random_like(params, seed=1)
    both = optax.MultiSteps(tx, every_k_schedule=2)
    step = jax.jit(both.update)
    waiting, state = step(first, both.init(params), params)
    assert_close(waiting, optax.tree.zeros_like(params), 0, "a step not yet due")
    updates, _ = step(second, state, params)
    mean = jax.tree.map(lambda x, y: (x + y) / 2, first, second)
    expected, _ = jax.jit(tx.update)(mean, tx.init(params), params)
    assert_close(updates, expected, tolerance, "a step with the mean")


def check_partition(
    tx: optax.GradientTransformation, params: Any, tolerance: float = 1e-5
) -> None:
    """Checks that leaves masked by `optax.partition` do not change the others."""
    leaves, treedef = jax.tree.flatten(params)
    groups = treedef.unflatten(["step", "stay"][i % 2] for i in range(len(leaves)))
    halved = optax.partition({"step": tx, "stay": optax.set_to_zero()}, groups)
    gradient = random_like(params)
    updates, _ = jax.jit(halved.update)(gradient, halved.init(params), params)
    whole, _ = jax.jit(tx.update)(gradient, tx.init(params), params)
    expected = jax.tree.map(
        lambda u, group: u if group == "step" else jnp.zeros_like(u), whole, groups
    )
    assert_close(updates, expected, tolerance, "half of the leaves")

"""B7 to B9, B14, B15, B17, B18 and B24: what kind of program a step is."""

import contextlib
import functools
from typing import Any

import flax.serialization
import jax
import jax.export
import jax.numpy as jnp
import optax
from jax import lax

from optax_ortho import checkpoints, testing
from optax_ortho.testing import assert_close, random_like
from tests.reliability.bar_numbers import NotPromised, difference, finite, option, step
from tests.reliability.subjects import NAMES, SMALL, Subject
from tests.rows import RATE, new_params

TOLERANCE = 2e-5  # As in the contract: five steps enlarge what rounding leaves.


def b7(subject: Subject) -> str:
    """Updates have the gradients' dtype, and no state changes its type."""
    tx, params = subject.standard()
    testing.check_dtypes(tx, params)
    return f"{len(testing.transformation.DTYPES)} pairs, scan and cond"


def b8(subject: Subject) -> str:
    """A step is traced once, and has no loop of unknown length around products."""
    tx, params = subject.standard()
    testing.check_one_trace(tx, params)
    factory = functools.partial(injectable, subject, params)
    injected = optax.inject_hyperparams(factory)(learning_rate=RATE)
    traces, state = [], injected.init(params)

    @jax.jit
    def one(gradient, state):
        traces.append(None)
        return injected.update(gradient, state, params)

    for rate in (0.1, 0.2, 0.3):
        state = optax.tree.set(state, learning_rate=jnp.asarray(rate))
        _, state = one(random_like(params), state)
    assert len(traces) == 1, f"{len(traces)} traces for three rates"
    if not subject.matmul:
        return "1 trace; a decomposition loops"
    program = str(jax.make_jaxpr(injected.update)(random_like(params), state, params))
    assert "while[" not in program, "a while loop"
    return "1 trace, no while"


def injectable(subject: Subject, params: Any, learning_rate: Any) -> Any:
    return subject.new(NAMES, params, learning_rate=learning_rate)


def b9(subject: Subject) -> str:
    """Compiled, scanned and batched steps equal plain ones."""
    tx, params = subject.standard()
    tolerance = 1e-4 if not subject.matmul else TOLERANCE
    testing.check_jit(tx, params, tolerance)
    testing.check_vmap(tx, params, tolerance)
    gradients = [random_like(params, seed) for seed in range(3)]
    state, one, loop = tx.init(params), jax.jit(tx.update), []
    for gradient in gradients:
        updates, state = one(gradient, state, params)
        loop.append(updates)

    def body(state, gradient):
        updates, state = tx.update(gradient, state, params)
        return state, updates

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *gradients)
    _, scanned = jax.jit(lambda s: lax.scan(body, s, stacked))(tx.init(params))
    worst = difference(scanned, jax.tree.map(lambda *x: jnp.stack(x), *loop))
    assert worst < tolerance, f"a scan differs by {worst:.0e}"
    return f"{worst:.0e}"


def b14(subject: Subject) -> str:
    """The state contains no settings: new ones take effect after a restore."""
    tx, params = subject.standard()
    changed, _ = subject.standard(**subject.other)
    gradient = random_like(params)
    assert_close(changed.init(params), tx.init(params), 0, "the state")
    _, state = step(tx, gradient, params)
    one = jax.jit(changed.update)
    saved = flax.serialization.to_bytes(state)
    state = flax.serialization.from_bytes(tx.init(params), saved)
    updates, _ = one(gradient, state, params)
    old, _ = jax.jit(tx.update)(gradient, state, params)
    assert difference(updates, old) > 1e-3, "the new setting has no effect"
    return "new settings count"


def b15(subject: Subject) -> str:
    """A whole step can be exported for three platforms, serialized and loaded."""
    tx, params = subject.standard()
    state = tx.init(params)
    checkpoints.register_for_export(state)

    def train(params, state):
        gradient = jax.grad(
            lambda p: sum(jnp.sum(jnp.abs(x) ** 2) for x in jax.tree.leaves(p))
        )(params)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    one = jax.jit(train)
    try:
        exported = jax.export.export(one, platforms=("cpu", "cuda", "tpu"))
        data = exported(params, state).serialize()
    except NotImplementedError as error:
        raise NotPromised(str(error)[:60]) from None
    again = jax.export.deserialize(bytearray(data)).call(params, state)
    assert_close(again, one(params, state), TOLERANCE, "an exported step")
    return f"{len(data) / 1e3:.0f} kB"


def wrappers(tx: Any, params: Any) -> dict[str, Any]:
    """The optimizer in every wrapper of Optax."""
    return {
        "chain": optax.chain(optax.clip(10.0), tx),
        "apply_if_finite": optax.apply_if_finite(tx, 3),
        "MultiSteps": optax.MultiSteps(tx, 2),
        "masked": optax.masked(tx, jax.tree.map(lambda _: True, params)),
        "partition": optax.partition(
            {"all": tx}, lambda p: jax.tree.map(lambda _: "all", p)
        ),  # noqa: E501
        "conditionally_transform": optax.conditionally_transform(
            tx, lambda count, **extra: count >= 0
        ),
        "lookahead": optax.lookahead(tx, sync_period=2, slow_step_size=0.5),
        "schedule_free": optax.contrib.schedule_free(tx, learning_rate=RATE),
    }


def b17(subject: Subject) -> str:
    """Steps in Optax's wrappers, alone and nested, are finite."""
    tx, params = subject.standard()
    tx = optax.GradientTransformationExtraArgs(tx.init, jax.jit(tx.update))
    gradient = random_like(params)
    known = wrappers(tx, params)
    known["nested"] = optax.apply_if_finite(optax.chain(known["masked"]), 3)
    for name, outer in known.items():
        if name == "lookahead":
            both = optax.LookaheadParams.init_synced(params)
            updates, state = outer.update(gradient, outer.init(both), both)
        else:
            update = optax.with_extra_args_support(outer).update
            if name == "MultiSteps":
                update = outer.update
            updates, state = update(gradient, outer.init(params), params)
        finite(updates, name)
        finite(jax.tree.leaves(state), name)
    # Optax's own names collide; the documented field is the stage.
    if subject.is_ours:
        rate = optax.tree.get(tx.init(params), "skipped")
        assert rate is not None, "tree.get finds no field"
    return f"{len(known)} wrappers"


def b18(subject: Subject) -> str:
    """JAX's debugging switches find nothing."""
    switches = {
        "jax_debug_nans": True,
        "jax_debug_infs": True,
        "jax_numpy_rank_promotion": "raise",
        "jax_enable_checks": True,
        "jax_numpy_dtype_promotion": "strict",
        "jax_check_tracer_leaks": True,
    }
    for dtype in ("float32", "bfloat16"):
        params = new_params(subject.shapes, jnp.dtype(dtype))
        tx, gradient = subject.new(NAMES, params), random_like(params)
        with contextlib.ExitStack() as stack:
            for name, value in switches.items():
                stack.enter_context(option(name, value))
            finite(step(tx, gradient, params), dtype)
            finite(step(tx, optax.tree.zeros_like(params), params), f"{dtype} zeros")
    tx, params = subject.standard()
    gradient, state = random_like(params), tx.init(params)
    one = jax.jit(tx.update)
    one(gradient, state, params)
    with jax.transfer_guard("disallow"):
        one(gradient, state, params)
    params = new_params(SMALL)  # Every operation is compiled alone.
    tx = subject.new(NAMES, params)
    with jax.disable_jit():
        finite(tx.update(random_like(params), tx.init(params), params), "without jit")
    return f"{len(switches) + 2} switches"


def b24(subject: Subject) -> str:
    """Temporary memory of a donated step on 12 matrices of 256 x 256."""
    kernel = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    params = {f"layer_{i}": {"kernel": kernel} for i in range(12)}
    labels = {f"layer_{i}/kernel": "matrix" for i in range(12)}
    tx = subject.new(labels, params)
    state = jax.eval_shape(tx.init, params)

    def train(params, state, gradient):
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(train, donate_argnums=(0, 1)).lower(params, state, params)
    memory = compiled.compile().memory_analysis()
    ratio = memory.temp_size_in_bytes / nbytes(params)
    kept = nbytes(state) / nbytes(params)
    # With one momentum, four times the parameters.
    limit = 2 * (1 + kept)
    assert ratio < limit, f"{ratio:.2f} times the parameters, state {kept:.1f}"
    return f"{ratio:.2f} x, state {kept:.1f} x"


def nbytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

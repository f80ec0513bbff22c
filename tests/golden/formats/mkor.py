"""Runs of Mohammad-Mozaffari/mkor: layers whose inputs and output gradients are given.

    {case}/init/w{i}, b{i}             weights (out, in) and biases at the start
    {case}/step{t}/x{i}, gout{i}       input and loss gradient in the output, by row
    {case}/step{t}/w{i}, b{i}          after the step
    {case}/step{t}/pg_w{i}, pg_b{i}    what the inner optimizer saw
    {case}/step{t}/Rinv{i}, Linv{i}    the inverse factors, at some of the steps

A layer is a Linen `Dense` and the loss ``sum(gout * y)``, so the statistics come from
where a user has them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_ortho
from optax_ortho.kronecker import KroneckerState
from tests.golden.compare import Comparison, largest
from tests.golden.sets import GoldenSet, cases_of, tolerance
from tests.golden.sources.common import Unsupported, call


class Case(NamedTuple):
    """The settings of a case, with the source's defaults.

    ``stat_decay`` and ``stabilization_factor`` change nothing in the source.
    """

    dims: Sequence[Sequence[int]]
    bias: Sequence[bool]
    lr: float = 1e-3
    batch: int | None = None
    seed: int | None = None
    steps: int | None = None
    inv_freq: int = 10
    warmup_steps: int = 0
    clipping_value: float = 100.0
    grad_scale: float = 1.0
    grad_accum_steps: int = 1
    half_precision: bool = True
    sgd_layers: Sequence[int] = ()
    optimizer: str = "sgd"
    stat_decay: float = 0.95
    stabilization_factor: float = 0.1
    force_reset: int | None = None
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    betas: Sequence[float] = (0.9, 0.999)
    eps: float = 1e-8


def reads(golden: GoldenSet) -> bool:
    """Whether the set says that it is of the package and stored as above."""
    keys = " ".join(golden.facts.get("keys", {}))
    source = str(golden.facts.get("source_repo", "")).lower()
    return source.endswith("/mkor") and "{case}/step{t}/gout{i}" in keys


def comparisons(golden: GoldenSet) -> Iterator[tuple[str, Callable[[], Comparison]]]:
    """Each case, and what compares it."""
    for name, facts in cases_of(golden.facts).items():
        yield name, partial(compare, golden.arrays, name, facts)


def compare(
    arrays: Mapping[str, np.ndarray], name: str, facts: Mapping[str, Any]
) -> Comparison:
    """Trains the layers; the worst of weights, gradients and factors decides."""
    tol = facts.get("tol", facts.get("err32"))
    known = {k: v for k, v in facts.items() if k not in ("tol", "err32")}
    case = call(Case, **known)
    if case.half_precision:
        raise Unsupported("optax_ortho computes no factors in float16")
    if case.grad_accum_steps != 1:
        raise Unsupported("statistics are not accumulated over parts of a batch")
    layers = range(len(case.dims))

    def stored(key):
        return arrays.get(f"{name}/{key}")

    def params_at(key, prefix=""):
        found = {}
        for i in layers:
            parts = {"kernel": stored(f"{key}/{prefix}w{i}").T}
            if case.bias[i]:
                parts["bias"] = stored(f"{key}/{prefix}b{i}")
            found[f"layer{i}"] = parts
        return found

    def loss_fn(params, inputs, gradients):
        total = 0.0
        for i in layers:
            dense = nn.Dense(case.dims[i][0], use_bias=case.bias[i])
            y = dense.apply({"params": params[f"layer{i}"]}, inputs[i])
            total += jnp.sum(gradients[i] * y)
        return total

    base = inner_optimizer(case)
    inner = optax.chain(base, optax.scale_by_learning_rate(case.lr))
    arguments = {
        "update_every": case.inv_freq,
        "warmup_steps": case.warmup_steps,
        "clip": case.clipping_value,
    }
    labels = {f"layer{i}/kernel": "head" for i in case.sgd_layers}
    labels |= {"**/kernel": "matrix", "**/bias": "bias"}
    tx = optax_ortho.mkor(
        case.lr, base=base, labels=labels, fallback=inner, **arguments
    )
    plain = optax_ortho.mkor(
        1.0, base=optax.identity(), labels=labels, fallback=optax.sgd(1.0), **arguments
    )
    both = {"weights": tx, "gradients": plain}
    # Clipped by row where the model is read; grad_scale divides before that.
    read = optax_ortho.value_and_grad_with_statistics(
        loss_fn, labels, clip=case.clipping_value
    )

    @jax.jit
    def step(params, states, inputs, gradients):
        scaled = [g / case.grad_scale for g in gradients]
        _, _, statistics = read(params, inputs, scaled)
        gradient = jax.grad(loss_fn)(params, inputs, gradients)
        updates = {}
        for key, one in both.items():
            updates[key], states[key] = one.update(
                gradient, states[key], params, statistics=statistics
            )
        params = optax.apply_updates(params, updates["weights"])
        return params, states, jax.tree.map(jnp.negative, updates["gradients"])

    params = jax.tree.map(jnp.asarray, params_at("init"))
    states = {key: one.init(params) for key, one in both.items()}
    limit, compared, t = tolerance(jnp.float32, tol, None, 0.0), [], 1

    def add(found, expected, size=1.0):
        error = largest(np.asarray(found) - expected)
        compared.append(Comparison(error, limit * max(size, 1.0)))

    while stored(f"step{t}/x0") is not None:
        if case.force_reset == t - 1:
            states = {key: with_reset(state) for key, state in states.items()}
        given = [
            [jnp.asarray(stored(f"step{t}/{kind}{i}")) for i in layers]
            for kind in ("x", "gout")
        ]
        params, states, preconditioned = step(params, states, *given)
        for layer, parts in params_at(f"step{t}").items():
            for part, weight in parts.items():
                add(params[layer][part], weight)
        for layer, parts in params_at(f"step{t}", "pg_").items():
            for part, gradient in parts.items():  # Of any size, unlike weights.
                add(preconditioned[layer][part], gradient, largest(gradient))
        for i in layers:
            for key, inverse in factors(states["weights"], f"layer{i}"):
                expected = stored(f"step{t}/{key}{i}")
                if expected is not None and i not in case.sgd_layers:
                    add(inverse, expected)
        t += 1
    if not compared:
        raise Unsupported("no steps are stored")
    return max(compared, key=lambda comparison: comparison.closeness)


def inner_optimizer(case: Case) -> optax.GradientTransformation:
    """PyTorch's SGD or Adam, without the rate."""
    decay = optax.add_decayed_weights(case.weight_decay)
    if case.optimizer == "adam":
        return optax.chain(decay, optax.scale_by_adam(*case.betas, case.eps))
    if case.optimizer != "sgd" or case.dampening:
        raise Unsupported(f"no counterpart of {case.optimizer=}, {case.dampening=}")
    if not case.momentum:
        return decay
    return optax.chain(decay, optax.trace(case.momentum, case.nesterov))


def kronecker_states(state: Any) -> Iterator[KroneckerState]:
    """The states of factors inside a state."""
    for leaf in jax.tree.leaves(state, is_leaf=is_kronecker):
        if is_kronecker(leaf):
            yield leaf


def is_kronecker(node: Any) -> bool:
    return isinstance(node, KroneckerState)


def with_reset(state: Any) -> Any:
    """The state, with the factors of all inputs due for a reset."""

    def due(node):
        if not is_kronecker(node):
            return node
        flags = jax.tree.map(jnp.ones_like, node.reset_input)
        return node._replace(reset_input=flags)

    return jax.tree.map(due, state, is_leaf=is_kronecker)


def factors(state: Any, layer: str) -> list[tuple[str, Any]]:
    """The stored name and the value of a layer's inverse factors."""
    (found,) = kronecker_states(state)
    return [
        (name, tree[layer]["kernel"])
        for name, tree in (
            ("Rinv", found.input_inverse),
            ("Linv", found.output_inverse),
        )
    ]

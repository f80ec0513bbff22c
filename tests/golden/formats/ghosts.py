"""Step controllers on a small network (ghosts-of-softmax).

{case}/X, {case}/y            inputs and labels
{case}/init/p{i}              weights and biases of the layers, PyTorch's, in order
{case}/step{t}/p{i}           the same after each step
{case}/step{t}/scalars        adam, sgd: [.., .., .., .., learning rate used, .., r]
                              rsa: [.., rho, learning rate used]
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_ortho import diagnostics
from optax_ortho.momentum import heavy_ball
from optax_ortho.trust_region import confidence_radius, softmax_radius
from tests.golden.compare import Comparison, arrays_under, largest
from tests.golden.sets import GoldenSet, tolerance
from tests.golden.sources.common import Unsupported, call

ACTIVATIONS: dict[str, Callable] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
}


class Recorded(NamedTuple):
    """An optimizer, its rate at each step, and which scalars it tells."""

    tx: optax.GradientTransformation
    rates: Sequence[float]
    figures: Callable[[dict, float], list]
    scalars: Sequence[int]


def reads(golden: GoldenSet) -> bool:
    """Whether a set comes from that repository."""
    return str(golden.facts.get("source_repo", "")).endswith("ghosts-of-softmax")


def comparisons(golden: GoldenSet) -> Iterator[tuple[str, Callable[[], Comparison]]]:
    """Each case, and what compares it."""
    for name, case in golden.facts["cases"].items():
        yield name, partial(replay_case, golden, name, case)


def replay_case(golden: GoldenSet, name: str, case: Mapping[str, Any]) -> Comparison:
    """Trains the recorded network from its recorded start."""
    builder = BUILDERS.get(case["kind"])
    if builder is None:
        raise Unsupported(f"optax_ortho has no counterpart of {case['kind']!r}")
    if case["act"] not in ACTIVATIONS:
        raise Unsupported(f"the activation {case['act']!r} is not known")
    recorded: Recorded = call(builder, **case["kw"])
    arrays = arrays_under(golden.arrays, f"{name}/")
    x, y = jnp.asarray(arrays["X"]), jnp.asarray(arrays["y"].astype(np.int32))
    activation = ACTIVATIONS[case["act"]]

    def logits(params):
        hidden = x
        for i, (kernel, bias) in enumerate(params):
            hidden = hidden @ kernel + bias[None, :]
            if i < len(params) - 1:
                hidden = activation(hidden)
        return hidden

    def loss(params):
        losses = optax.softmax_cross_entropy_with_integer_labels(logits(params), y)
        return losses.mean()

    @jax.jit
    def step(params, state):
        grads = jax.grad(loss)(params)
        updates, state = recorded.tx.update(grads, state, params, logits_fn=logits)
        return optax.apply_updates(params, updates), state

    def stored(when):
        leaves = [arrays[f"{when}/p{i}"] for i in range(2 * len(case["dims"]) - 2)]
        return [(w.T, b) for w, b in zip(leaves[::2], leaves[1::2], strict=True)]

    params = start = jax.tree.map(jnp.asarray, stored("init"))
    state = recorded.tx.init(params)
    errors, change = [], 0.0
    for t, rate in enumerate(recorded.rates, start=1):
        params, state = step(params, state)
        expected = stored(f"step{t}")
        errors += jax.tree.leaves(difference(params, expected))
        change = max([change, *jax.tree.leaves(difference(expected, start))])
        told = arrays[f"step{t}/scalars"][list(recorded.scalars)]
        found = np.asarray(recorded.figures(diagnostics(state), rate), np.float64)
        errors.append(largest((found - told) / np.maximum(1, np.abs(told))))
    tol = case.get("tol", case.get("err32"))
    return Comparison(float(np.max(errors)), tolerance(jnp.float32, tol, None, change))


def difference(one: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: largest(np.asarray(a) - np.asarray(b)), one, other)


def controlled(
    direction: optax.GradientTransformation, rates: Sequence[float], r: Any, mode: str
) -> Recorded:
    """The controller after an optimizer whose rate changes with every step."""
    if mode not in ("cap", "set"):
        raise Unsupported(f"optax_ortho has no counterpart of mode={mode!r}")
    table = jnp.asarray(rates)
    rate = optax.scale_by_learning_rate(lambda t: table[t])
    tx = optax.chain(direction, rate, softmax_radius(r, mode=mode))

    def figures(told, rate):
        scale = told["radius_scale"]
        return [rate * scale, told["radius_ratio"] * scale]

    return Recorded(tx, rates, figures, (4, 6))


def scale_by_adam(betas: Sequence[float], eps: float, steps: int) -> Any:
    """`optax.scale_by_adam` with the bias corrections of float64, as recorded.

    In float32 the first ones are wrong by 1e-5, which later steps magnify.
    """
    m_now, v_now = (
        jnp.asarray(1 - np.power(beta, np.arange(1, steps + 1)), jnp.float32)
        for beta in betas
    )
    moments = [optax.ema(beta, debias=False) for beta in betas]

    def init(params):
        return [jnp.zeros([], jnp.int32), *(moment.init(params) for moment in moments)]

    def update(updates, state, params=None):
        t, m_state, v_state = state
        m, m_state = moments[0].update(updates, m_state)
        squares = jax.tree.map(jnp.square, updates)
        v, v_state = moments[1].update(squares, v_state)
        updates = jax.tree.map(
            lambda m, v: m / m_now[t] / (jnp.sqrt(v / v_now[t]) + eps), m, v
        )
        return updates, [t + 1, m_state, v_state]

    return optax.GradientTransformation(init, update)


def adam(
    *,
    lrs: Sequence[float],
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    r: float = 1.0,
    mode: str = "cap",
) -> Recorded:
    """AdamCore and its controller, experiments/lrspike/run.py."""
    return controlled(scale_by_adam(betas, eps, len(lrs)), lrs, r, mode)


def sgd(
    *,
    lrs: Sequence[float],
    mom: float = 0.0,
    nesterov: bool = False,
    wd: float = 0.0,
    r: float = 1.0,
    mode: str = "cap",
) -> Recorded:
    """torch.optim.SGD and the controller, tutorials/02_momentum_controller.ipynb."""
    direction = optax.chain(
        optax.add_decayed_weights(wd), heavy_ball(mom, nesterov=nesterov)
    )
    return controlled(direction, lrs, r, mode)


def rho_scaled_adam(
    *,
    steps: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    rhoCap: float = 1.0,
    rhoFloor: float = 0.01,
    rhoMethod: str = "minmax",
) -> Recorded:
    """RhoScaledAdam, src/ghosts/control.py; its decay is added to the gradient."""
    tx = optax.chain(
        optax.add_decayed_weights(weight_decay),
        scale_by_adam(betas, eps, steps),
        confidence_radius(
            rhoFloor, rhoCap, gap="top2" if rhoMethod == "top2" else "maxmin"
        ),
        optax.scale_by_learning_rate(lr),
    )

    def figures(told, rate):
        return [rate * told["confidence_scale"]]

    return Recorded(tx, [lr] * steps, figures, (2,))


BUILDERS = {"adam": adam, "sgd": sgd, "rsa": rho_scaled_adam}
"""By the kind of a case."""

"""NAMO's sets: numbered parameters, and states after every step.

init/p<i>, grads/g<i>            start and gradients, the latter along an axis of steps
<case>/step<t>/p<i>              parameters after step t
<case>/step<t>/v<i>, .../V<i>    second moments of NAMO and NAMO-D
<case>/final/m<i>                the last momentum, (out, rest); may be left out
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_ortho.blocks import length
from tests.golden.compare import Comparison, largest, to_flax
from tests.golden.sets import GoldenSet, tolerance
from tests.golden.sources import call
from tests.golden.sources.namo import namo, of_leaf


def reads(golden: GoldenSet) -> bool:
    return "minxin-zhg/namo" in str(golden.facts.get("source_repo"))


def comparisons(
    golden: GoldenSet,
) -> Iterator[tuple[str, Callable[[], Comparison]]]:
    for name, hyper in golden.facts["cases"].items():
        yield name, partial(replay_case, golden, name, hyper)


def replay_case(golden: GoldenSet, name: str, hyper: Mapping[str, Any]) -> Comparison:
    """The worst of parameters, second moments and momenta."""
    steps = range(1, golden.facts["steps"] + 1)
    numbers = [str(i) for i in range(len(golden.facts["shapes"]))]
    params = {i: to_flax(golden.arrays[f"init/p{i}"], 0) for i in numbers}
    grads = {i: to_flax(golden.arrays[f"grads/g{i}"], 1) for i in numbers}
    hyper = {"cls" if key == "class" else key: x for key, x in hyper.items()}
    tx = call(namo, **hyper)
    path, seconds, momenta = train(tx, params, grads)

    def stored(key, i):
        """A recorded array along an axis of steps, None if there is none."""
        keys = [f"{name}/step{t}/{key}{i}" for t in steps]
        if keys[0] not in golden.arrays:
            return None
        return np.stack([golden.arrays[key] for key in keys])

    errors, changes, others = [], [], []
    for i in numbers:
        expected = to_flax(stored("p", i), 1)
        errors.append(largest(path[i] - expected))
        changes.append(largest(expected - params[i]))
        if i not in seconds:  # No matrix.
            continue
        for key in ("v", "V"):
            if (v := stored(key, i)) is not None:
                others.append(relative(seconds[i].reshape(v.shape), v, f"{key}{i}"))
        if (m := golden.arrays.get(f"{name}/final/m{i}")) is None:
            continue
        out_first = momenta[i].transpose(-1, -2, *range(momenta[i].ndim - 2))
        others.append(relative(out_first.reshape(m.shape), m, f"m{i}"))
    dtype = jnp.bfloat16 if hyper.get("bf16_newton_schulz") else jnp.float32
    limit = tolerance(dtype, None, own_distance(golden, name), max(changes))
    worst = Comparison(float(np.max(errors)), limit)
    return max([worst, *others], key=lambda comparison: comparison.closeness)


def own_distance(golden: GoldenSet, name: str) -> float | None:
    """The error of a run in bfloat16 relative to the same run in float32, if any."""
    cases = golden.facts["cases"]
    wanted = {**cases[name], "bf16_newton_schulz": False}
    twin = next((other for other in cases if cases[other] == wanted), None)
    if twin is None:
        return None
    pairs = [
        (golden.arrays[key], golden.arrays[key.replace(f"{name}/", f"{twin}/", 1)])
        for key in arrays_in(golden, f"{name}/step")
        if key.split("/")[-1].startswith("p")
    ]
    return max(largest(x - y) for x, y in pairs)


def arrays_in(golden: GoldenSet, prefix: str) -> list[str]:
    return [key for key in golden.arrays if key.startswith(prefix)]


def relative(found: np.ndarray, expected: np.ndarray, what: str) -> Comparison:
    """States are compared by their own size, in float32 in every run."""
    return Comparison(largest(found - expected) / largest(expected), 1e-5, what)


def train(tx: optax.GradientTransformation, params: Any, grads: Any) -> Any:
    """Parameters and second moments after each step, and the last momenta."""

    def step(carry, grad):
        params, state = carry
        updates, state = tx.update(grad, state, params)
        params = optax.apply_updates(params, updates)
        rms = optax.tree.get(state, "moment_rms")
        return (params, state), (params, rms)

    params, grads = jax.tree.map(jnp.asarray, (params, grads))
    init = (params, tx.init(params))
    (_, state), (path, rms) = jax.lax.scan(step, init, grads)
    momenta = matrices_of(optax.tree.get(state, "momentum").mu)
    seconds = {}
    for i, root in matrices_of(rms).items():
        root = root[0] if isinstance(root, tuple) else root
        axes, shape = of_leaf(i, params[i]), params[i].shape
        n = length(shape, axes.fan_in + axes.fan_out)
        n //= max(int(np.prod(root.shape[1:])), 1)  # How many entries one norm has.
        square = n * np.asarray(root, np.float64) ** 2
        # From (*window, in) to (in, *window).
        seconds[i] = np.moveaxis(square, -1, 1) if square.ndim > 1 else square
    return jax.tree.map(np.asarray, (path, seconds, momenta))


def matrices_of(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {i: x for i, x in tree.items() if not isinstance(x, optax.MaskedNode)}

"""Sets of NorMuon's normalization by itself, on orthogonalized inputs.

modded-nanogpt    in/<x>, out/<x>, buf/<x>: inputs, results and running means, along an
                  axis of steps, of a batch of matrices
dion              u/<x>, whole/<x>: inputs and results along an axis of steps; v/<x>:
                  the last running means; shard<W>/<x>: the results of W row shards
                  that were normalized each by itself
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optax_ortho.normalizers import neuron_rms
from tests.golden.compare import Comparison, arrays_under, largest
from tests.golden.sets import GoldenSet, source_of, tolerance
from tests.golden.sources import Unsupported

SPEEDRUN = "NorMuonAndAdam._apply_normuon_variance_reduction"
DION = "_normuon_normalization_core"


def reads(golden: GoldenSet) -> bool:
    return source_of(golden.facts, {}).cls in (SPEEDRUN, DION)


def comparisons(
    golden: GoldenSet,
) -> Iterator[tuple[str, Callable[[], Comparison]]]:
    if source_of(golden.facts, {}).cls == SPEEDRUN:
        for name, x in arrays_under(golden.arrays, "in/").items():
            out, v = (golden.arrays[f"{key}/{name}"] for key in ("out", "buf"))
            yield name, partial(replay_speedrun, golden, x, out, v)
        return
    for name, x in arrays_under(golden.arrays, "u/").items():
        out, v = (golden.arrays[f"{key}/{name}"] for key in ("whole", "v"))
        yield f"whole/{name}", partial(replay_dion, golden, x, out, v)
    for key in golden.arrays:
        if key.startswith("shard"):
            yield key, refuse_shards


def replay_speedrun(golden: GoldenSet, x: Any, out: Any, v: Any) -> Comparison:
    said = re.search(r"clamp_min\(([\d.e-]+)\)", golden.facts["format"])
    if said is None:
        raise Unsupported("the set does not say what keeps the divisor from zero")
    floor = float(said[1]) ** 0.5
    stage = neuron_rms(golden.facts["beta2"], 0.0, floor=floor, over="short")
    return replayed(stage, x, out, v)


def replay_dion(golden: GoldenSet, x: Any, out: Any, v: Any) -> Comparison:
    found = replayed(neuron_rms(golden.facts["beta2"], 1e-8), x, out, v[None])
    return found


def refuse_shards() -> Comparison:
    raise Unsupported(
        "a step of optax_ortho does not depend on the number of devices: the norm that "
        "is kept is the norm of the whole matrix"
    )


def replayed(stage: Any, x: Any, out: Any, v: Any) -> Comparison:
    """Runs a stage; PyTorch's (out, in) are the last two axes of its arrays.

    Args:
      stage: the stage.
      x: inputs along an axis of steps.
      out: results.
      v: the running means after the last of the steps, along an axis of steps.
    """

    def step(state, update):
        update, state = stage.update(update, state)
        return state, (update, state.neuron_variance)

    inputs = jnp.asarray(x).mT
    _, (results, means) = jax.lax.scan(step, stage.init(inputs[0]), inputs)
    means = np.asarray(means)[-len(v) :]
    size = largest(v)
    limit = tolerance(jnp.float32, None, None, 0)
    return max(
        Comparison(largest(np.asarray(results.mT) - out), limit),
        Comparison(largest(means.reshape(v.shape) - v) / size, limit, "running means"),
        key=lambda comparison: comparison.closeness,
    )

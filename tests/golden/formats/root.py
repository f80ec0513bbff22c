"""ROOT: matrices too large to store, and parameters in bfloat16.

big/<name>/row, col       which entries of the update are stored
big/<name>/grad_check     the input there
big/<name>/update         the update there, without its factor of the shape
big/<name>/row_norms_first64    the norms of the update's first rows

The json says how the input is drawn from a seed, the coefficients, the threshold that
was found and the norm of the update. The other cases are stored as in any set.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import optax_ortho
from optax_ortho.orthogonalizers import frobenius
from optax_ortho.orthogonalizers.quantile import quantile_of_magnitudes
from optax_ortho.trust_region import UNSCALED
from tests.golden.compare import Comparison, largest, to_flax, train
from tests.golden.sets import GoldenSet, cases_of, dtype_of, source_of, tolerance
from tests.golden.sources import Unsupported, call
from tests.golden.sources.root import BUILDERS, THRESHOLD_EPS, orthogonalizer

DRAWN = re.compile(
    r"\(([\d.e-]+)\*default_rng\(seed\)\.standard_t\((\d+), shape\)\)"
    r"\.astype\(float32\)"
)


def reads(golden: GoldenSet) -> bool:
    cases = [{}, *cases_of(golden.facts).values()]
    return any(of_root(golden, case) for case in cases)


def of_root(golden: GoldenSet, case: Mapping[str, Any]) -> bool:
    return source_of(golden.facts, case)[:2] in BUILDERS


def comparisons(golden: GoldenSet) -> Iterator[tuple[str, Callable[[], Comparison]]]:
    from tests.golden.replay import replay_case  # It imports the formats.

    for name, case in cases_of(golden.facts).items():
        half = of_root(golden, case) and dtype_of(case) == jnp.bfloat16
        compare = compare_in_bfloat16 if half else replay_case
        yield name, partial(compare, golden, name, case)
    for name, facts in golden.facts.get("big", {}).items():
        yield f"big/{name}", partial(compare_big, golden, name, facts)


def compare_in_bfloat16(
    golden: GoldenSet, name: str, case: Mapping[str, Any]
) -> Comparison:
    """Trains parameters that are themselves bfloat16, as the source does.

    They are on a grid whose spacing, up to 2^-7 of a parameter, is larger than a step.
    Two computations of a step that differ in their last bit end on the same point or on
    neighbors, so the tolerance has to be at least one spacing.
    """
    source = source_of(golden.facts, case)[:2]
    tx = call(BUILDERS[source], jnp.bfloat16, **case["hyper"])

    def stored(key, lead, dtype):
        arrays = {p: to_flax(golden.arrays[f"{key}/{p}"], lead) for p in case["params"]}
        return jax.tree.map(lambda x: jnp.asarray(x, dtype), arrays)

    found = train(tx, stored("param", 0, jnp.bfloat16), stored("grad", 1, jnp.bfloat16))
    expected = stored(f"out/{name}", 1, jnp.float32)
    errors = [largest(found[p].astype(np.float32) - expected[p]) for p in expected]
    spacing = 2**-7 * max(map(largest, expected.values()))
    return Comparison(float(np.max(errors)), spacing, "one spacing of the parameters")


def compare_big(golden: GoldenSet, name: str, facts: Mapping[str, Any]) -> Comparison:
    """One step from zero momentum with a drawn gradient."""
    stored = {
        key: golden.arrays[f"big/{name}/{key}"]
        for key in ("row", "col", "update", "grad_check", "row_norms_first64")
    }
    gradient = drawn(facts)
    at = stored["row"], stored["col"]
    if largest(gradient[at] - stored["grad_check"]) > 0:
        raise Unsupported("another input is drawn from the seed than was recorded")
    nesterov = re.search(r"nesterov=(True|False)", facts["note"])
    if nesterov is None:
        raise Unsupported("the note does not say whether to look ahead")
    flax = jnp.asarray(gradient.T)
    threshold = jax.jit(quantile_of_magnitudes)(flax, 0.9) + THRESHOLD_EPS
    # In its words and in float32, because the last bits decide what is lost.
    size = np.abs(gradient)
    taken_out = np.sign(gradient) * np.maximum(size - np.float32(threshold), 0)
    lost = lost_in_norm(gradient - taken_out)
    short, long = sorted(facts["shape"])
    tx = optax_ortho.scale_by_root(
        nesterov=nesterov[1] == "True",
        eps=THRESHOLD_EPS,
        orthogonalizer=orthogonalizer(
            jnp.float32,
            table={f"({short}, {long})": facts["coeffs"]},
            prescale=lambda x, eps=0.0: (1 - lost) * frobenius(x) + eps,
        ),
        trust_region=UNSCALED,
    )
    update, _ = jax.jit(tx.update)(flax, tx.init(flax))
    update = np.asarray(update).T
    norms = np.linalg.norm(update, axis=1)
    stored_norms = stored["row_norms_first64"]
    errors = {
        "entries": largest(update[at] - stored["update"]),
        # Of sums of thousands of squares: their typical error.
        "row norms": rms(norms[: len(stored_norms)] - stored_norms),
        "threshold": abs(float(threshold) - facts["threshold"]),
        # It is a sum of millions of squares.
        "norm, relative": abs(np.linalg.norm(norms) / facts["fro"] - 1),
    }
    worst = max(errors, key=lambda key: np.nan_to_num(errors[key], nan=np.inf))
    limit = tolerance(jnp.float32, facts.get("tol"), None, 0.0)
    return Comparison(float(errors[worst]), limit, f"worst: {worst}")


def lost_in_norm(x: np.ndarray) -> float:
    """The share of a norm that PyTorch loses on a CPU.

    It adds float32 squares in eight running sums, one after another, and of 2048 x 8192
    entries loses 1.6e-3. That moves the update by 7e-5; it is taken over here, so that
    the rest can be compared to 1e-5.
    """
    squares = x.ravel()[: x.size - x.size % 8].reshape(-1, 8) ** 2
    running = np.add.accumulate(squares, axis=0, dtype=np.float32)[-1]
    exact = np.sum(squares, dtype=np.float64)
    return 1 - float(np.sqrt(np.sum(running, dtype=np.float32) / exact))


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))


def drawn(facts: Mapping[str, Any]) -> np.ndarray:
    """The input, as the json says in NumPy's words."""
    words = DRAWN.fullmatch(facts["grad"])
    if words is None:
        raise Unsupported(f"no way to draw {facts['grad']!r}")
    scale, freedom = float(words[1]), int(words[2])
    random = np.random.default_rng(facts["seed"])
    return (scale * random.standard_t(freedom, facts["shape"])).astype(np.float32)

"""FISMO: a float64 oracle of the published equations; nobody's code."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

import optax_ortho
from optax_ortho.orthogonalizers import Exact, NewtonSchulz
from optax_ortho.trust_region import UNSCALED
from tests.golden.compare import Comparison, largest
from tests.golden.formats import stepped
from tests.golden.formats.aro import found
from tests.golden.sets import GoldenSet
from tests.golden.sources.common import Unsupported, call

ORTHOGONALIZERS = {"svd": Exact(), "ns5": NewtonSchulz()}
TOLERANCE = 1e-5


def reads(golden: GoldenSet) -> bool:
    keys = ("{case}/step{t}/p{i}", "{case}/final/P{i}", "{case}/final/Q{i}")
    return stepped.has_keys(golden, *keys)


def comparisons(golden: GoldenSet) -> Iterator[tuple[str, Callable[[], Comparison]]]:
    for name, case in golden.facts["cases"].items():
        yield name, partial(replay, golden, name, case)


def as_published(*, lr: float, beta: float, gamma: float, mu: float, orth: str):
    """Algorithm 1, from P = I, Q = I, without a scale and without weight decay."""
    if orth not in ORTHOGONALIZERS:
        raise Unsupported(f"optax_ortho has no counterpart of orth={orth!r}")
    return optax_ortho.fismo(
        lr,
        beta,
        gamma,
        mu,
        normalize_stats=False,
        orthogonalizer=ORTHOGONALIZERS[orth],
        trust_region=UNSCALED,
        labels=lambda path, leaf: "matrix",
    )


def replay(golden: GoldenSet, name: str, case: Mapping[str, Any]) -> Comparison:
    """Trains as a case says; P has the paper's m rows, which are fan_out."""
    hyper = {key: case[key] for key in case if key not in ("tol", "err32")}
    tx = call(as_published, **hyper)

    def states(state: Any, i: int) -> dict[str, tuple[np.ndarray, float]]:
        momentum = found(state, "MomentumState", "mu")[f"p{i}"].T
        factors = {
            key: found(state, "Factors", key.lower())[f"p{i}"] for key in ("P", "Q")
        }
        values = {**factors, "m": momentum}
        return {
            key: (value, TOLERANCE * max(1, largest(value)))
            for key, value in values.items()
        }

    every = range(len(golden.facts["shapes"]))
    return stepped.compare(golden, name, tx, every, states, lambda i: TOLERANCE)

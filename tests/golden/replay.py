"""Replays recorded runs of the authors' own code through optax_ortho.

    python -m tests.golden.replay [DIR]

Every set of DIR (see `tests.golden.sets`) is run through the public API, with the
shapes, hyperparameters and methods that its json states. One line a case is printed,

    set case max_abs_error tolerance ok|FAIL|unsupported reason

and then ``N ok, N FAIL, N unsupported``; the exit code is 1 on any FAIL. A case of an
optimizer is compared after every step and in every parameter. A method of a set of
orthogonalizers is a case, and once more, as ``method/bf16``, if it was also run in
bfloat16; the input that comes nearest to its tolerance gives the line.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tests.golden import formats, missing
from tests.golden.compare import Comparison, arrays_under, largest, to_flax, train
from tests.golden.methods import method
from tests.golden.sets import (
    GoldenSet,
    cases_of,
    dtype_of,
    read_set,
    source_of,
    tolerance,
)
from tests.golden.sources import BUILDERS, Unsupported, call

DATA = Path(__file__).parent / "data"


class Line(NamedTuple):
    set: str
    case: str
    error: float | None
    tolerance: float | None
    verdict: str
    reason: str = ""

    def __str__(self):
        figures = ("-" if x is None else f"{x:.2e}" for x in self[2:4])
        words = [self.set, self.case, *figures, self.verdict, self.reason]
        return " ".join(words).rstrip()


def replay(directory: Path) -> Iterator[Line]:
    """The line of every case of every set."""
    for path in sorted(directory.glob("*.json")):
        yield from replay_set(read_set(path))


def replay_set(golden: GoldenSet) -> Iterator[Line]:
    """The line of every case of a set."""
    for name, compare in comparisons(golden):
        yield line(golden.name, name, compare)


def comparisons(golden: GoldenSet) -> Iterator[tuple[str, Callable[[], Comparison]]]:
    """Each case, and what compares it."""
    for one_format in formats.FORMATS:
        if one_format.reads(golden):
            yield from one_format.comparisons(golden)
            return
    for name, case in cases_of(golden.facts).items():
        yield name, partial(replay_case, golden, name, case)
    for name, facts in golden.facts.get("methods", {}).items():
        for suffix, dtype in (("", jnp.float32), ("_bf16", jnp.bfloat16)):
            results = arrays_under(golden.arrays, f"out{suffix}/{name}/")
            if results:
                title = f"{name}{suffix.replace('_', '/')}"
                yield title, partial(replay_method, golden, facts, dtype, results)


def line(set_name: str, case: str, compare: Callable[[], Comparison]) -> Line:
    """Runs one case; an error in it is a failure and does not stop the others."""
    try:
        with jax.default_matmul_precision("highest"):
            found = compare()
    except Unsupported as why:
        return Line(set_name, case, None, None, "unsupported", str(why))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return Line(set_name, case, None, None, "FAIL", reason)
    verdict = "ok" if found.error <= found.tolerance else "FAIL"
    return Line(set_name, case, found.error, found.tolerance, verdict, found.what)


def replay_case(golden: GoldenSet, name: str, case: Mapping[str, Any]) -> Comparison:
    """Trains with a recorded optimizer on recorded gradients."""
    source = source_of(golden.facts, case)
    builder = BUILDERS.get((source.repo, source.cls))
    if builder is None:
        raise Unsupported(missing.reason(source.cls, source.text))
    dtype = dtype_of(case)
    tx = call(builder, dtype, **case["hyper"])
    ill_posed = [*golden.facts.get("ill_posed_params", ()), *case.get("ill_posed", ())]
    names = [param for param in case["params"] if param not in ill_posed]
    if not names:
        raise Unsupported("every parameter is ill-posed")

    def stored(key, lead):
        return {p: to_flax(golden.arrays[f"{key}/{p}"], lead) for p in names}

    params, grads = stored("param", lead=0), stored("grad", lead=1)
    expected = stored(f"out/{name}", lead=1)
    found = train(tx, params, grads)
    errors = [largest(found[p] - expected[p]) for p in names]
    change = max(largest(expected[p] - params[p]) for p in names)
    tol = case.get("tol", case.get("err32"))
    limit = tolerance(dtype, tol, _vs_float32(golden, case), change)
    return Comparison(float(np.max(errors)), limit)


def _vs_float32(golden: GoldenSet, case: Mapping[str, Any]) -> Any:
    """The error of a run relative to its float32 run, or of another run like it."""
    cls = source_of(golden.facts, case).cls
    others = cases_of(golden.facts).values()
    same = [other for other in others if source_of(golden.facts, other).cls == cls]
    for one in (case, *same):
        tol = one.get("tol")
        if isinstance(tol, Mapping) and "vs_fp32" in tol:
            return tol["vs_fp32"]
    return None


def replay_method(
    golden: GoldenSet,
    facts: Mapping[str, Any],
    dtype: Any,
    results: Mapping[str, np.ndarray],
) -> Comparison:
    """Orthogonalizes the recorded inputs; the worst of them decides."""
    orthogonalizer = method(facts["desc"], dtype)
    found = []
    for name, expected in results.items():
        x = jnp.asarray(golden.arrays[f"in/{name}"])
        error = largest(np.asarray(orthogonalizer.orthogonalize(x)) - expected)
        floor, vs = (facts.get(key, {}).get(name) for key in ("tol", "vs_bf16"))
        limit = tolerance(dtype, floor, vs, largest(expected))
        found.append(Comparison(error, limit, f"worst input: {name}"))
    return max(found, key=lambda comparison: comparison.closeness)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Replays recorded optimizer runs.")
    parser.add_argument("directory", metavar="DIR", nargs="?", type=Path, default=DATA)
    directory = parser.parse_args(argv).directory
    if not any(directory.glob("*.json")):
        parser.error(f"there is no golden set (json and npz) in {directory}")
    counts = Counter()
    for result in replay(directory):
        print(result, flush=True)
        counts[result.verdict] += 1
    verdicts = ("ok", "FAIL", "unsupported")
    print(", ".join(f"{counts[verdict]} {verdict}" for verdict in verdicts))
    return 1 if counts["FAIL"] else 0


if __name__ == "__main__":
    sys.exit(main())

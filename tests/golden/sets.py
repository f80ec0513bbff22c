"""Reading golden sets: a json of facts beside an npz of arrays.

param/<p>, grad/<p>, out/<case>/<p>    an optimizer: start, gradients and parameters,
                                       the last two with a leading axis of steps
in/<x>, out/<method>/<x>               an orthogonalizer: inputs and results
out_bf16/<method>/<x>                  the same, run in bfloat16
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np


class GoldenSet(NamedTuple):
    name: str
    facts: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


class Source(NamedTuple):
    """The code that ran: ``owner/name``, class or function, and its description."""

    repo: str
    cls: str
    text: str


def read_set(path: Path) -> GoldenSet:
    """The set of a json and the npz beside it."""
    return GoldenSet(
        path.stem, json.loads(path.read_text()), np.load(path.with_suffix(".npz"))
    )


def cases_of(facts: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The facts of each case; a set that lists none is one case, ``all``."""
    cases = facts.get("cases") or {}
    if isinstance(cases, list):
        cases = {f"c{i}": {} for i in range(len(cases))}
    if not cases and "methods" not in facts:
        cases = {"all": {}}
    return dict(cases)


def source_of(facts: Mapping[str, Any], case: Mapping[str, Any]) -> Source:
    """The source of a case, from its own facts or else from its set's."""
    source = case.get("source") or facts.get("source") or {}
    if not isinstance(source, Mapping):
        source = {"text": source}
    descriptions = [
        facts.get(key) for key in ("source_repo", "path", "paths", "warning")
    ]
    if "impl" in case:
        descriptions.append(facts.get("sources", {}).get(case["impl"]))
    repo = str(source.get("repo") or facts.get("source_repo") or "")
    cls = source.get("cls") or source.get("func") or case.get("class") or ""
    text = " ".join(str(fact) for fact in (*source.values(), *descriptions) if fact)
    return Source(repo.removeprefix("https://github.com/"), cls, text)


def dtype_of(case: Mapping[str, Any]) -> Any:
    """The dtype of Newton-Schulz: a bfloat16 run is measured against a float32 one."""
    tol = case.get("tol")
    if not numbers(tol):
        return jnp.bfloat16 if "bf16" in case.get("desc", "") else jnp.float32
    in_bfloat16 = isinstance(tol, Mapping) and "vs_fp32" in tol
    return jnp.bfloat16 if in_bfloat16 else jnp.float32


def tolerance(dtype: Any, floor: Any, vs_float32: Any, change: float) -> float:
    """The largest error that passes.

    Args:
      dtype: the dtype of the recorded run.
      floor: the error of the source's own float32 run.
      vs_float32: the error of its bfloat16 run relative to its float32 run, if known.
      change: the largest change of a parameter, or entry of a result.
    """
    if dtype == jnp.float32:
        return max(1e-5, 10 * max(numbers(floor), default=0.0))
    known = numbers(vs_float32)
    return 2 * max(known) if known else 2**-7 * change


def numbers(tree: Any) -> list[float]:
    """The numbers of a json value, however deep they are."""
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    if isinstance(tree, list):
        return [number for branch in tree for number in numbers(branch)]
    return [float(tree)] if isinstance(tree, (int, float)) else []

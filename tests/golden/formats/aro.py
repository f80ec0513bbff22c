"""ARO: two codes that are not the authors', run in float64.

The rotation is on fan_out and known up to the signs of its columns.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import optax

import optax_ortho
from optax_ortho.normalizers import row_norm, sinkhorn
from optax_ortho.trust_region import SPECTRAL, UNSCALED, match_rms
from tests.golden.compare import Comparison, largest
from tests.golden.formats import stepped
from tests.golden.sets import GoldenSet, numbers
from tests.golden.sources.common import Unsupported, call, chosen


def reads(golden: GoldenSet) -> bool:
    return stepped.has_keys(golden, "{case}/step{t}/p{i}", "{case}/final/R{i}")


def comparisons(golden: GoldenSet) -> Iterator[tuple[str, Callable[[], Comparison]]]:
    for name, case in golden.facts["cases"].items():
        yield name, partial(replay, golden, name, case)


def gimbal(
    *, lr: float, momentum: float, sinkhorn_iters: int = 5, weight_decay: float = 0.1
):
    """tasmaikeni13/gimbal, src/gimbal/torch/aro.py: algorithm 1 of the paper."""
    base = sinkhorn(sinkhorn_iters, simultaneous=True)
    return on_fan_out(lr, momentum, base=base, weight_decay=weight_decay)


def dion(
    *,
    lr: float = 0.01,
    mu: float = 0.95,
    weight_decay: float = 0.01,
    base_opt: str = "sinkhorn",
    adjust_lr: str | None = "rms_norm",
):
    """microsoft/dion, branch dev/aro, dion/aro.py."""
    factors = {"rms_norm": match_rms(0.2), "spectral_norm": SPECTRAL, None: UNSCALED}
    bases = {
        "sinkhorn": sinkhorn(5),
        "row_norm": row_norm(),
        "sign": optax.scale_by_sign(),
    }
    if base_opt not in bases:
        raise Unsupported(f"optax_ortho has no counterpart of base_opt={base_opt!r}")
    return on_fan_out(
        lr,
        mu,
        base=bases[base_opt],
        trust_region=chosen("adjust_lr", adjust_lr, factors),
        weight_decay=weight_decay,
    )


def on_fan_out(*args: Any, **kwargs: Any) -> optax.GradientTransformation:
    """Rows of (fan_out, fan_in), kept however small they are."""
    labels = lambda path, leaf: "matrix"  # noqa: E731
    return optax_ortho.aro(*args, side="fan_out", cutoff=0.0, labels=labels, **kwargs)


BUILDERS = {"gimbal": gimbal, "dion": dion}
NOT_HYPER = ("impl", "err32_per_param_per_step", "max_abs_first_update")


def replay(golden: GoldenSet, name: str, case: Mapping[str, Any]) -> Comparison:
    """Trains as a case says.

    Nothing is recorded of the float32 error of R. It enters the update, relative to its
    largest entry; where QR is ill-conditioned columns turn together, by more than that.
    """
    facts = golden.facts
    if case["impl"] not in BUILDERS:
        raise Unsupported(f"optax_ortho has no counterpart of {case['impl']}")
    hyper = {key: value for key, value in case.items() if key not in NOT_HYPER}
    tx = call(BUILDERS[case["impl"]], **hyper)
    ill_posed = {str(i) for i in facts.get("ill_posed_params", ())}
    well_posed = [i for i in range(len(facts["shapes"])) if str(i) not in ill_posed]
    if not well_posed:
        raise Unsupported("every parameter is ill-posed")

    def tolerance(i: int) -> float:
        float32 = numbers(case.get("err32_per_param_per_step", {}).get(str(i), []))
        return max(1e-5, 10 * max(float32, default=0.0))

    def states(state: Any, i: int) -> dict[str, tuple[np.ndarray, float]]:
        momentum = found(state, "MomentumState", "mu")[f"p{i}"].T
        if f"{name}/final/R{i}" not in golden.arrays:
            return {"m": (momentum, 1e-5)}
        r = np.asarray(found(state, "RotationState", "rotation")[f"p{i}"])
        stored = golden.arrays[f"{name}/final/R{i}"]
        first = golden.arrays[f"{name}/step1/p{i}"] - golden.arrays[f"init/p{i}"]
        return {
            "m": (momentum, 1e-5),
            "R": (r * np.sign((r * stored).sum(0)), 10 * tolerance(i) / largest(first)),
        }

    return stepped.compare(golden, name, tx, well_posed, states, tolerance)


def found(state: Any, kind: str, field: str) -> Any:
    """A field of the one state of some kind."""
    pairs = optax.tree.get_all_with_path(state, field)
    (value,) = [x for keys, x in pairs if keys[-1].tuple_name == kind]
    return value

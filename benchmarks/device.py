"""The error and time of each method on this device, and the settings to use.

    python -m benchmarks.device
    python -m benchmarks.device --quick
    python -m benchmarks.device --shapes 1024x1024 1024x4096

It measures on the first device that JAX finds, for float32 matrices of the shapes of
GPT-2 and of a Llama of 1B; ``--quick`` takes three shapes, a minute on a CPU. The
methods take turns, so that other load on the machine slows all of them alike; a time is
the minimum over turns. A method slower than three times the best gets no more turns. On
a busy machine run it twice.

Errors are relative to the same polynomial in float64, for a matrix with normal entries
and for a matrix whose singular values go down to 1e-4 of the largest. The last lines
are Python code that sets, for each shape, the fastest method whose errors are at most
as large as `NewtonSchulz`'s in bfloat16 and whose largest singular value is the
table's.
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optax_ortho.orthogonalizers import Auto, GramNewtonSchulz, NewtonSchulz
from optax_ortho.orthogonalizers.kernels import Mosaic, Triton

RESULTS = Path(__file__).parent / "results/device.json"
GPT2 = ("768x768", "768x2304", "768x3072", "3072x768")
LLAMA = ("2048x2048", "2048x512", "2048x8192", "8192x2048")
QUICK = ("256x256", "256x1024", "1024x256")

USUAL = "NewtonSchulz(dtype=jnp.bfloat16)"
DEFAULTS = (USUAL, "NewtonSchulz()", "GramNewtonSchulz()")
METHODS = {
    "cpu": ("NewtonSchulz()", "GramNewtonSchulz()"),
    "tpu": (
        "NewtonSchulz()",
        'NewtonSchulz(precision="high")',
        "GramNewtonSchulz(dtype=jnp.bfloat16)",
        'GramNewtonSchulz(precision="high")',
        "NewtonSchulz(products=Mosaic())",
        "NewtonSchulz(products=Mosaic(memory=2**26))",
        "NewtonSchulz(dtype=jnp.bfloat16, products=Mosaic())",
        "NewtonSchulz(dtype=jnp.bfloat16, products=Mosaic(block=256))",
        "GramNewtonSchulz(dtype=jnp.bfloat16, products=Mosaic())",
    ),
    "gpu": (
        "NewtonSchulz()",
        'NewtonSchulz(precision="highest")',
        "GramNewtonSchulz(dtype=jnp.bfloat16)",
        "GramNewtonSchulz(dtype=jnp.float16)",
        "NewtonSchulz(dtype=jnp.bfloat16, products=Triton())",
        "NewtonSchulz(dtype=jnp.bfloat16, products=Triton(block=64, warps=4))",
        "GramNewtonSchulz(dtype=jnp.float16, products=Triton())",
    ),
}
NAMES = {
    "GramNewtonSchulz": GramNewtonSchulz,
    "Mosaic": Mosaic,
    "NewtonSchulz": NewtonSchulz,
    "Triton": Triton,
    "jnp": jnp,
}
# The minimum length of a turn (s), and the minimum gain that is worth a setting.
TURN, GAIN = 0.02, 1.05

Shape = tuple[int, int]


class Metrics(NamedTuple):
    """The measurements of one method on matrices of one shape.

    Args:
      seconds: time of one matrix, the minimum over turns.
      errors: errors relative to float64, by matrix.
      largest: the largest singular value of all results, over the table's.
      compile_s: seconds of tracing and compiling.
    """

    seconds: float
    errors: dict[str, float]
    largest: float
    compile_s: float


def method(expression: str) -> Any:
    return eval(expression, dict(NAMES))


def default(shape: Shape, platform: str) -> str:
    """The expression of the method that `Auto` chooses."""
    chosen = Auto().method(shape, jnp.float32, platform)
    return next(name for name in DEFAULTS if method(name) == chosen)


@functools.lru_cache(1)
def cases(short: int, long: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The matrices whose errors are measured, and their correct results."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(short, long)) / long**0.5
    rotation = np.linalg.qr(rng.normal(size=(short, short)))[0]
    uneven = rotation @ (np.geomspace(1, 1e-4, short)[:, None] * x)
    matrices = {"normal": x.astype(np.float32), "uneven": uneven.astype(np.float32)}
    return {name: (x, reference(x)) for name, x in matrices.items()}


def reference(x: np.ndarray) -> np.ndarray:
    """The polynomial of a matrix that is not tall, in float64."""
    coefficients = NewtonSchulz().coefficients
    y = x.astype(np.float64)
    y /= np.linalg.norm(y)
    for a, b, c in coefficients.for_steps(coefficients.steps):
        p = y @ y.T
        y = a * y + (b * p + c * p @ p) @ y
    return y


def measure(
    shape: Shape, expressions: list[str], turns: int
) -> tuple[dict[str, Metrics], dict[str, str]]:
    """The metrics of every method that runs, and the errors of the others."""

    def oriented(x):
        return x.T if shape[0] > shape[1] else x

    matrices = cases(min(shape), max(shape))
    arrays = {name: jnp.asarray(oriented(x)) for name, (x, _) in matrices.items()}
    metrics_of, programs, failures = {}, {}, {}
    for expression in expressions:
        try:
            started = time.perf_counter()
            f = jax.jit(method(expression).orthogonalize)
            program = f.lower(arrays["normal"]).compile()
            compile_s = time.perf_counter() - started
            results = {
                name: oriented(np.asarray(program(x), np.float64))
                for name, x in arrays.items()
            }
        except Exception as error:  # A device may refuse any of them, in many ways.
            failures[expression] = f"{type(error).__name__}: {error}"[:500]
            continue
        programs[expression] = program
        errors = {
            name: float(np.linalg.norm(results[name] - y) / np.linalg.norm(y))
            for name, (_, y) in matrices.items()
        }
        most = max(map(largest, results.values())) / table_largest()
        metrics_of[expression] = Metrics(0.0, errors, most, compile_s)
    seconds = take_turns(programs, arrays["normal"], turns)
    return {
        name: metrics._replace(seconds=seconds[name])
        for name, metrics in metrics_of.items()
    }, failures


def largest(y: np.ndarray) -> float:
    """The largest singular value of a matrix that is not tall."""
    return float(np.linalg.eigvalsh(y @ y.T)[-1] ** 0.5)


def table_largest() -> float:
    coefficients = NewtonSchulz().coefficients
    return coefficients.certificate(coefficients.steps).maximum


def take_turns(
    programs: dict[str, Callable], x: jax.Array, turns: int
) -> dict[str, float]:
    """The minimum seconds of one call of each program."""

    def seconds(program, calls):
        y = x
        started = time.perf_counter()
        for _ in range(calls):
            y = program(y)  # Calls depend on each other; the host waits for the last.
        jax.block_until_ready(y)
        return (time.perf_counter() - started) / calls

    best = {name: seconds(program, 1) for name, program in programs.items()}
    for _ in range(turns):
        for name, program in programs.items():
            if best[name] <= 3 * min(best.values()):
                calls = max(1, round(TURN / best[name]))
                best[name] = min(best[name], seconds(program, calls))
    return best


def choose(metrics_of: dict[str, Metrics], at_hand: str) -> str:
    """The fastest method whose errors are no larger than the usual one's.

    Args:
      metrics_of: the metrics by expression.
      at_hand: the default, which is kept unless another method is clearly faster.
    """
    if USUAL not in metrics_of:
        return at_hand
    limit = max(metrics_of[USUAL].errors.values())
    seconds = {
        name: metrics.seconds
        for name, metrics in metrics_of.items()
        # Rounding alone makes errors differ by less.
        if max(metrics.errors.values()) <= 1.1 * limit and metrics.largest <= 1.05
    }
    best = min(seconds, key=lambda name: seconds[name])
    if at_hand in seconds and seconds[at_hand] <= GAIN * seconds[best]:
        return at_hand
    return best


def what_to_set(chosen: dict[Shape, str], defaults: dict[Shape, str]) -> str:
    """Python code that sets the method chosen for each shape."""
    if chosen == defaults:
        return "# Nothing: the default is the fastest here."
    text = "".join(chosen.values())
    lines = ["import jax.numpy as jnp"] if "jnp" in text else []
    lines += ["import optax_ortho"]
    used = [name for name in ("GramNewtonSchulz", "NewtonSchulz") if name in text]
    from_ = "from optax_ortho.orthogonalizers import "
    lines += [from_ + ", ".join(["Auto", *used])]
    for kernel in ("Mosaic", "Triton"):
        if kernel in text:
            lines += [f"from optax_ortho.orthogonalizers.kernels import {kernel}"]
    lines += ["", "METHODS = {"]
    lines += [f"    {shape}: {expression}," for shape, expression in chosen.items()]
    lines += [
        "}",
        "",
        "def orthogonalizer(x):",
        "    return METHODS.get(x.shape, Auto()).orthogonalize(x)",
        "",
        "optimizer = optax_ortho.muon(learning_rate, orthogonalizer=orthogonalizer)",
    ]
    return "\n".join(lines)


def report(
    metrics_of: dict[str, Metrics], failures: dict[str, str], at_hand: str, chosen: str
) -> str:
    titles = ("ms", "normal", "uneven", "largest", "compile s")
    rows = [f"{'':64}" + "".join(f"{title:>10}" for title in titles)]
    for name, metrics in metrics_of.items():
        marks = ("*" if name == at_hand else " ") + (">" if name == chosen else " ")
        errors = "".join(f"{error:10.1e}" for error in metrics.errors.values())
        rows.append(
            f"{marks}{name:62}{1e3 * metrics.seconds:10.3f}{errors}"
            f"{metrics.largest:10.3f}{metrics.compile_s:10.1f}"
        )
    rows += [f"  {name:62} {' '.join(why.split())}" for name, why in failures.items()]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device")
    add = parser.add_argument
    add("--shapes", nargs="+", default=[*GPT2, *LLAMA], help="such as 768x3072")
    add("--quick", action="store_true", help=f"only {' '.join(QUICK)}")
    add("--turns", type=int, default=20)
    add("--output", type=Path, default=RESULTS, help=f"instead of {RESULTS.name}")
    options = parser.parse_args()
    shapes = list(QUICK) if options.quick else options.shapes

    device, platform = jax.devices()[0], jax.default_backend()
    print(f"{device.device_kind}, jax {jax.__version__}")
    print("* by default   > to set   largest: singular value, over the table's\n")
    expressions = [USUAL, *METHODS.get(platform, METHODS["gpu"])]
    results, chosen, defaults = {}, {}, {}
    for text in shapes:
        m, n = map(int, text.split("x"))
        shape = m, n
        metrics_of, failures = measure(shape, expressions, options.turns)
        defaults[shape] = default(shape, platform)
        chosen[shape] = choose(metrics_of, defaults[shape])
        print(
            text, report(metrics_of, failures, defaults[shape], chosen[shape]), sep="\n"
        )
        print(flush=True)
        results[text] = {
            "figures": {
                name: metrics._asdict() for name, metrics in metrics_of.items()
            },
            "failures": failures,
        }
    to_set = what_to_set(chosen, defaults)
    content = {
        "command": " ".join(["python -m benchmarks.device", *sys.argv[1:]]),
        "versions": {"jax": jax.__version__},
        "device": device.device_kind,
        "platform": platform,
        "results": results,
        "set": to_set,
    }
    options.output.write_text(json.dumps(content, indent=1) + "\n")
    print(to_set)


if __name__ == "__main__":
    main()

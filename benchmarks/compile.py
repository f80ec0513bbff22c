"""Compile cost of one update for a tree in which every matrix has another shape.

    python -m benchmarks.compile
    python -m benchmarks.compile --optimizers all --repeats 3
    python -m benchmarks.compile --shapes 10 --optimizers contrib_muon muon root

One program per shape is what XLA has to compile, so this is the worst case of compile
time; `benchmarks.step` has the usual one. On a CPU, matrix products and sums are calls
of a library. Any other fusion is a kernel that LLVM compiles, at 10 to 20 ms each, but
equal kernels are compiled once: the number of different ones is what takes the time.

Seconds are CPU seconds of all cores. The optimizers are traced and compiled in turns
and the least of all turns counts. In brackets: the ratio to the first optimizer.
"""

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from benchmarks.aot.hlo import NAME, Program, parse
from benchmarks.step import CONTENDERS

FAN_INS = (64, 96, 128, 192, 256)
FAN_OUTS = (64, 80, 96, 128, 192, 256, 384, 512)


class Counts(NamedTuple):
    """Size of a compiled program.

    Args:
      instructions: in the optimized program.
      kernels: different ones that LLVM compiles.
      lapack: calls of LAPACK and other custom calls.
    """

    instructions: int
    kernels: int
    lapack: int


def shapes(number: int) -> list[tuple[int, int]]:
    """Different shapes, wide, square and tall, spread evenly over all.

    Raises:
      ValueError: more than there are.
    """
    every = list(itertools.product(FAN_INS, FAN_OUTS))
    if not 0 < number <= len(every):
        raise ValueError(f"There are 1 to {len(every)} shapes, got {number}.")
    return [every[i * len(every) // number] for i in range(number)]


def counts(text: str) -> Counts:
    """Counts of an optimized CPU program, from ``compiled.as_text()``."""
    program = parse(text)
    every = [i for c in program.computations.values() for i in c.values()]
    loops = [i for i in every if i.opcode == "fusion" and "kind=kLoop" in i.attributes]
    kernels = {_body(program, i.called("calls")[0]) for i in loops}
    lapack = sum(i.opcode == "custom-call" for i in every)
    return Counts(len(every), len(kernels), lapack)


def _body(program: Program, name: str) -> tuple:
    """A computation without the names of its instructions."""
    computation = program.computations[name]
    numbers = {name: str(k) for k, name in enumerate(computation)}

    def without_names(text: str) -> str:
        return NAME.sub(lambda match: numbers.get(match[1], ""), text)

    return tuple(
        (
            i.opcode,
            i.shape,
            without_names(i.inside),
            # Metadata and backend hints stand last.
            without_names(i.attributes.partition(", metadata=")[0]),
        )
        for i in computation.values()
    )


def lowered(name: str, number: int) -> jax.stages.Lowered:
    """One update of an optimizer in `benchmarks.step.CONTENDERS`, traced."""
    arrays = {
        f"layer_{i}": jax.ShapeDtypeStruct(shape, jnp.float32)
        for i, shape in enumerate(shapes(number))
    }
    params = {layer: {"kernel": x} for layer, x in arrays.items()}
    # Only MKOR looks at them.
    statistics = {
        layer: {
            "a": jax.ShapeDtypeStruct(x.shape[:1], x.dtype),
            "g": jax.ShapeDtypeStruct(x.shape[1:], x.dtype),
        }
        for layer, x in arrays.items()
    }
    tx = CONTENDERS[name].make([f"{layer}/kernel" for layer in arrays])
    tx = optax.with_extra_args_support(tx)

    def step(gradients, state, params, statistics):
        updates, state = tx.update(gradients, state, params, statistics=statistics)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(tx.init, params)
    return jax.jit(step).lower(params, state, params, statistics)


def measure(names: list[str], number: int, repeats: int) -> dict[str, dict[str, Any]]:
    results: dict[str, dict[str, Any]] = {
        name: {"trace_cpu_s": [], "compile_cpu_s": []} for name in names
    }
    for _ in range(repeats):
        for name, result in results.items():
            jax.clear_caches()
            started = time.process_time()
            program = lowered(name, number)
            traced = time.process_time()
            compiled = program.compile()
            result["trace_cpu_s"].append(traced - started)
            result["compile_cpu_s"].append(time.process_time() - traced)
            result |= counts(compiled.as_text() or "")._asdict()
    return results


def report(results: dict[str, dict[str, Any]], number: int) -> str:
    columns = {
        "trace cpu s": lambda r: min(r["trace_cpu_s"]),
        "compile cpu s": lambda r: min(r["compile_cpu_s"]),
        "instructions a shape": lambda r: r["instructions"] / number,
        "kernels a shape": lambda r: r["kernels"] / number,
    }
    rows = [f"{'':20}" + "".join(f"{title:>22}" for title in columns)]
    first = next(iter(results.values()))
    for name, result in results.items():
        values = [figure(result) for figure in columns.values()]
        ratios = [figure(result) / figure(first) for figure in columns.values()]
        cells = [f"{v:.3g} ({r:.2f})" for v, r in zip(values, ratios, strict=True)]
        rows.append(f"{name:20}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compile")
    add = parser.add_argument
    default = ["contrib_muon", "muon", "normuon", "root"]
    add("--optimizers", nargs="+", choices=["all", *CONTENDERS], default=default)
    add("--shapes", type=int, default=len(FAN_INS) * len(FAN_OUTS))
    add("--repeats", type=int, default=2)
    add("--output", type=Path, help="a JSON file to write")
    options = parser.parse_args()
    names = list(CONTENDERS) if "all" in options.optimizers else options.optimizers
    results = measure(names, options.shapes, options.repeats)
    print(f"{options.shapes} shapes, {jax.devices()[0]}")
    print(report(results, options.shapes))
    if options.output is not None:
        content = {
            "command": " ".join(["python -m benchmarks.compile", *sys.argv[1:]]),
            "versions": {"jax": jax.__version__, "optax": optax.__version__},
            "shapes": options.shapes,
            "results": results,
        }
        options.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()

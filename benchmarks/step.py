"""What does one optimizer step cost, against `optax.contrib.muon` in the same run?

    python -m benchmarks.step
    python -m benchmarks.step --layers 24 --repeats 1

The tree is GPT-2's hidden matrices: a fused QKV, a projection and two MLP kernels a
layer. Both optimizers get the same gradients, with labels made by hand. They take
turns, so that whatever else the machine does slows both alike; the step time is the
least of all turns. Compile time is that of XLA alone, tracing stands beside it.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_ortho


def gpt2_shapes(layers: int, width: int) -> dict[str, tuple[int, int]]:
    shapes = {
        "qkv": (width, 3 * width),
        "proj": (width, width),
        "up": (width, 4 * width),
        "down": (4 * width, width),
    }
    return {
        f"block_{i}/{name}": shape
        for i in range(layers)
        for name, shape in shapes.items()
    }


def optimizers(names: list[str]) -> dict[str, optax.GradientTransformation]:
    by_hand = dict.fromkeys(names, optax.contrib.MuonDimensionNumbers())
    return {
        "optax.contrib.muon": optax.contrib.muon(
            0.01, muon_weight_dimension_numbers=by_hand
        ),
        "optax_ortho.muon": optax_ortho.muon(
            0.01, labels=dict.fromkeys(names, "matrix")
        ),
    }


def residual(update: np.ndarray) -> float:
    """||O O^T - I||_F / sqrt(rank) of an update scaled to mean singular value 1."""
    values = np.linalg.svd(np.asarray(update, np.float64), compute_uv=False)
    values /= values.mean()
    return float(np.sqrt(np.mean((values**2 - 1) ** 2)))


def measure(
    layers: int, width: int, repeats: int
) -> dict[str, dict[str, float | list[float]]]:
    rng = np.random.default_rng(0)
    shapes = gpt2_shapes(layers, width)
    params, gradients = (
        {
            name: jnp.asarray(0.02 * rng.normal(size=shape), jnp.float32)
            for name, shape in shapes.items()
        }
        for _ in range(2)
    )
    results: dict[str, dict] = {}
    compiled = {}
    for name, tx in optimizers(list(shapes)).items():

        def step(gradients, state, params, tx=tx):
            updates, state = tx.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        state = tx.init(params)
        started = time.perf_counter()
        lowered = jax.jit(step).lower(gradients, state, params)
        traced = time.perf_counter()
        program = lowered.compile()
        compiled[name] = program, state
        after, _ = program(gradients, state, params)
        results[name] = {
            "trace_s": traced - started,
            "compile_s": time.perf_counter() - traced,
            "instructions": (program.as_text() or "").count(" = "),
            "residual": float(
                np.mean([residual(after[key] - params[key]) for key in shapes])
            ),
            "step_s": [],
        }
    for _ in range(repeats):
        for name, (program, state) in compiled.items():
            started = time.perf_counter()
            jax.block_until_ready(program(gradients, state, params))
            results[name]["step_s"].append(time.perf_counter() - started)
    return results


def report(results: dict[str, dict]) -> str:
    peer, ours = results["optax.contrib.muon"], results["optax_ortho.muon"]
    rows = [f"{'':14}{'optax.contrib':>14}{'optax_ortho':>14}{'ratio':>8}"]
    for key, unit in (
        ("step_s", "ms"),
        ("trace_s", "ms"),
        ("compile_s", "ms"),
        ("instructions", ""),
        ("residual", ""),
    ):
        figures = [np.min(result[key]) for result in (peer, ours)]
        ratio = figures[1] / figures[0]
        if unit:
            figures = [1e3 * figure for figure in figures]
        title = f"{key.removesuffix('_s')} {unit}".strip()
        rows.append(f"{title:14}{figures[0]:14.4g}{figures[1]:14.4g}{ratio:8.2f}")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--output", type=Path, help="a JSON file to write")
    options = parser.parse_args()
    results = measure(options.layers, options.width, options.repeats)
    print(f"{options.layers} layers, width {options.width}, {jax.devices()[0]}")
    print(report(results))
    if options.output is not None:
        content = {"versions": {"jax": jax.__version__, "optax": optax.__version__}}
        options.output.write_text(json.dumps(content | results, indent=1) + "\n")


if __name__ == "__main__":
    main()

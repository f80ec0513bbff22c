"""The cost of one optimizer step, for several optimizers in the same run.

    python -m benchmarks.step
    python -m benchmarks.step --layers 24 --repeats 1
    python -m benchmarks.step --optimizers muon normuon namo root
    python -m benchmarks.step --optimizers contrib_muon muon torch_muon
    OPENBLAS_NUM_THREADS=1 python -m benchmarks.step --optimizers all

The tree is GPT-2's hidden matrices: a fused QKV, a projection and two MLP kernels for
each layer. All optimizers get the same gradients and explicit labels. They take turns,
so that other load on the machine slows all of them alike; the step time is the minimum
over turns. They are also compiled in turns, three times each, and the minimum counts,
because the first compilation in a process takes longer. Compile time excludes tracing,
which has its own column. The ratio to the first optimizer is in brackets. LAPACK's
threads spin after a QR or an eigendecomposition, into the turn of the next optimizer;
one thread is fair to all. `peers` are included if they are installed.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_ortho
from benchmarks.peers import PEERS, prepare

COMPILATIONS = 3


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


class Contender(NamedTuple):
    """An optimizer of named matrices, and the period of its work in steps."""

    make: Callable[[list[str]], optax.GradientTransformation]
    period: int = 1


def contrib_muon(names: list[str]) -> optax.GradientTransformation:
    dimensions = {"kernel": optax.contrib.MuonDimensionNumbers()}
    by_hand = {name.removesuffix("/kernel"): dimensions for name in names}
    return optax.contrib.muon(0.01, muon_weight_dimension_numbers=by_hand)


def ours(recipe: Callable, period: int = 1, **arguments: Any) -> Contender:
    def make(names: list[str]) -> optax.GradientTransformation:
        return recipe(0.01, labels=dict.fromkeys(names, "matrix"), **arguments)

    return Contender(make, period)


def whole_tree(recipe: Callable) -> Contender:
    """A recipe that treats all leaves alike."""
    return Contender(lambda names: recipe(0.01))


CONTENDERS = {
    "contrib_muon": Contender(contrib_muon),
    "adamw": whole_tree(optax.adamw),
    "muon": ours(optax_ortho.muon),
    "normuon": ours(optax_ortho.normuon),
    "root": ours(optax_ortho.root),
    "auon": ours(optax_ortho.auon),
    "hybrid_auon": ours(optax_ortho.hybrid_auon),
    "namo": ours(optax_ortho.namo),
    "namo_d": ours(optax_ortho.namo_d),
    "aro": ours(optax_ortho.aro),
    "fismo": ours(optax_ortho.fismo, update_every=1),
    "fismo_every_10": ours(optax_ortho.fismo, period=10, update_every=10),
    "mkor": ours(optax_ortho.mkor, update_every=1),
    "mkor_every_10": ours(optax_ortho.mkor, period=10, update_every=10),
    "dion": ours(optax_ortho.dion),
    "adaptive_memory_muon": ours(optax_ortho.adaptive_memory_muon),
    "am_sgd": whole_tree(optax_ortho.am_sgd),
    "am_adamw": whole_tree(optax_ortho.am_adamw),
}


def residual(update: np.ndarray) -> float:
    """||O O^T - I||_F / sqrt(rank) of an update scaled to mean singular value 1."""
    values = np.linalg.svd(np.asarray(update, np.float64), compute_uv=False)
    values /= values.mean()
    return float(np.sqrt(np.mean((values**2 - 1) ** 2)))


def measure(
    names: list[str], layers: int, width: int, repeats: int
) -> dict[str, dict[str, float | list[float]]]:
    rng = np.random.default_rng(0)
    shapes = gpt2_shapes(layers, width)

    def normal(shape):
        return jnp.asarray(0.02 * rng.normal(size=shape), jnp.float32)

    params, gradients = (
        {layer: {"kernel": normal(shape)} for layer, shape in shapes.items()}
        for _ in range(2)
    )
    # Used by MKOR only.
    statistics = {
        layer: {"a": normal(shape[:1]), "g": normal(shape[1:])}
        for layer, shape in shapes.items()
    }
    results: dict[str, dict] = {name: {} for name in names}
    contenders, states, compiled = {}, {}, {}
    for name in names:
        if name in PEERS:
            continue
        tx = CONTENDERS[name].make([f"{layer}/kernel" for layer in shapes])
        tx = optax.with_extra_args_support(tx)
        contenders[name], states[name] = tx, jax.jit(tx.init)(params)
    seconds = {name: [] for name in contenders}
    for _ in range(COMPILATIONS):
        for name, tx in contenders.items():
            arguments = gradients, states[name], params, statistics
            compiled[name], trace_and_compile_s = _compiled(tx, arguments)
            seconds[name].append(trace_and_compile_s)
    for name, program in compiled.items():
        after, _ = program(gradients, states[name], params, statistics)
        moved = [after[layer]["kernel"] - params[layer]["kernel"] for layer in shapes]
        trace_s, compile_s = map(min, zip(*seconds[name], strict=True))
        results[name] = {
            "step_s": [],
            "trace_s": trace_s,
            "compile_s": compile_s,
            "instructions": (program.as_text() or "").count(" = "),
            "residual": float(np.mean([residual(update) for update in moved])),
            "state_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(states[name])),
        }
    peers = {}
    for name in names:
        if name in PEERS and PEERS[name].is_installed():
            peers[name], results[name] = _peer(name, params, gradients)
    for _ in range(repeats):
        for name, peers_step in peers.items():
            started = time.perf_counter()
            peers_step()
            results[name]["step_s"].append(time.perf_counter() - started)
        for name, program in compiled.items():
            period = CONTENDERS[name].period
            started = time.perf_counter()
            for _ in range(period):
                _, states[name] = program(gradients, states[name], params, statistics)
            jax.block_until_ready(states[name])
            results[name]["step_s"].append((time.perf_counter() - started) / period)
    return results


def _compiled(
    tx: optax.GradientTransformationExtraArgs, arguments: tuple
) -> tuple[Callable, tuple[float, float]]:
    """A newly compiled step, and the seconds of its tracing and compiling."""

    def step(gradients, state, params, statistics):
        updates, state = tx.update(gradients, state, params, statistics=statistics)
        return optax.apply_updates(params, updates), state

    started = time.perf_counter()
    lowered = jax.jit(step).lower(*arguments)
    traced = time.perf_counter()
    program = lowered.compile()
    return program, (traced - started, time.perf_counter() - traced)


def _peer(name: str, params: dict, gradients: dict) -> tuple[Callable, dict]:
    """The step of an installed peer, and its metrics so far."""
    arrays = [[np.asarray(x) for x in jax.tree.leaves(t)] for t in (params, gradients)]
    prepared = prepare(name, *arrays)
    metrics = {
        "step_s": [],
        "residual": float(np.mean([residual(update) for update in prepared.moved])),
        "state_bytes": prepared.state_bytes,
        "versions": prepared.versions,
    }
    return prepared.step, metrics


def report(results: dict[str, dict]) -> str:
    columns = {
        "step ms": lambda r: 1e3 * min(r["step_s"]),
        "trace ms": lambda r: 1e3 * r["trace_s"],
        "compile ms": lambda r: 1e3 * r["compile_s"],
        "instructions": lambda r: r["instructions"],
        "residual": lambda r: r["residual"],
        "state MB": lambda r: r["state_bytes"] / 1e6,
    }
    rows = [f"{'':22}" + "".join(f"{title:>18}" for title in columns)]
    first = next(result for result in results.values() if result)
    for name, result in results.items():
        if not result:
            rows.append(f"{name:22}  {PEERS[name].package} is not installed")
            continue
        cells = []
        for metric in columns.values():
            try:
                value = metric(result)
                cells.append(f"{value:.4g} ({value / metric(first):.2f})")
            except KeyError:  # A peer compiles nothing.
                cells.append("–")
        rows.append(f"{name:22}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step")
    add = parser.add_argument
    add(
        "--optimizers",
        nargs="+",
        choices=["all", *CONTENDERS, *PEERS],
        default=["contrib_muon", "muon"],
    )
    add("--layers", type=int, default=6)
    add("--width", type=int, default=256)
    add("--repeats", type=int, default=20)
    add("--output", type=Path, help="a JSON file to write")
    options = parser.parse_args()
    names = list(CONTENDERS) if "all" in options.optimizers else options.optimizers
    results = measure(names, options.layers, options.width, options.repeats)
    print(f"{options.layers} layers, width {options.width}, {jax.devices()[0]}")
    print(report(results))
    if options.output is not None:
        content = {
            "command": " ".join(["python -m benchmarks.step", *sys.argv[1:]]),
            "versions": {"jax": jax.__version__, "optax": optax.__version__},
            "results": results,
        }
        options.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()

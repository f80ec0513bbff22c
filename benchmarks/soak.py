"""Training for 2,000 steps, some of them with bad gradients.

    python -m benchmarks.soak
    python -m benchmarks.soak --steps 500 --seed 7 --optimizers muon dion

A noisy quadratic is trained three times from the same start: with clean gradients, with
bad ones, and with bad ones after `optax.clip_by_global_norm`, which most training loops
use. In a random quarter of the first nine tenths of the steps, random leaves get a NaN,
infinities, zeros, a spike of 1e6 or of 1e30, denormal numbers, or a gradient of one
row. The state must be finite after every step. With the clip, the distance from the
optimum must end at most three times as large as with clean gradients, or at a twentieth
of the initial distance. Without the clip a finite spike stays in the momentum until it
decays, so the last distance is only reported.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import optax_ortho
from benchmarks.reliability import PAGE
from optax_ortho.testing import random_like
from tests.reliability.subjects import NAMES, OURS, SHAPES, Subject
from tests.rows import new_params

RESULTS = Path(__file__).parent / "results" / "soak.json"
BEGIN, END = "<!-- begin soak -->", "<!-- end soak -->"


def spoil(key: jax.Array, gradient: Any) -> Any:
    """A gradient with one random accident on random leaves."""
    kind_key, key = jax.random.split(key)
    kind = jax.random.randint(kind_key, (), 0, 8)

    def on_leaf(key, x):
        first = jnp.arange(x.size).reshape(x.shape) == 0
        row = jnp.arange(x.size).reshape(x.shape) < (x.shape[-1] if x.ndim else 1)
        accidents = [
            jnp.where(first, jnp.nan, x),
            jnp.where(first, jnp.inf, x),
            jnp.full_like(x, -jnp.inf),
            jnp.zeros_like(x),
            1e6 * x,
            1e30 * x,
            1e-40 * x,
            jnp.where(row, x, 0),
        ]
        hit = jax.random.bernoulli(key)
        stacked = jnp.stack([a.astype(x.dtype) for a in accidents])
        return jnp.where(hit, stacked[kind], x)

    leaves, treedef = jax.tree.flatten(gradient)
    keys = jax.random.split(key, len(leaves))
    return treedef.unflatten(map(on_leaf, keys, leaves))


def train(subject: Subject, dtype: Any, steps: int, seed: int) -> dict[str, Any]:
    params = new_params(SHAPES, dtype)
    target = jax.tree.map(jnp.add, params, random_like(params, seed=1))
    rate = optax.linear_schedule(0.1, 0.001, steps)
    tx = optax.with_extra_args_support(subject.new(NAMES, params, learning_rate=rate))
    clip = optax.clip_by_global_norm(3.0)

    def distance(params):
        gaps = jax.tree.map(lambda p, t: (p - t).astype(jnp.float32), params, target)
        return optax.tree.norm(gaps)

    @jax.jit
    def run(is_bad, is_clipped):
        def body(carry, i):
            params, state, finite = carry
            noise, lot, accident = jax.random.split(
                jax.random.fold_in(jax.random.key(seed), i), 3
            )
            keys = jax.random.split(noise, len(jax.tree.leaves(params)))
            keys = jax.tree.unflatten(jax.tree.structure(params), list(keys))
            gradient = jax.tree.map(
                lambda p, t, k: p - t + 0.1 * jax.random.normal(k, p.shape, p.dtype),
                params,
                target,
                keys,
            )
            now = is_bad & (i < 0.9 * steps) & jax.random.bernoulli(lot, 0.25)
            gradient = choose(now, spoil(accident, gradient), gradient)
            clipped, _ = clip.update(gradient, clip.init(params))
            gradient = choose(is_clipped, clipped, gradient)
            updates, state = tx.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            finite &= all_finite((params, state))
            return (params, state, finite), distance(params)

        carry = params, tx.init(params), jnp.asarray(True)
        (_, state, finite), distances = lax.scan(body, carry, jnp.arange(steps))
        return finite, distances[-1], optax_ortho.diagnostics(state)["skipped"]

    start = float(distance(params))
    _, clean, _ = map(np.asarray, run(False, False))
    raw_finite, raw, skipped = map(np.asarray, run(True, False))
    finite, after, _ = map(np.asarray, run(True, True))
    on_course = bool(after <= max(3 * clean, start / 20))
    return {
        "finite": bool(finite and raw_finite),
        "on_course": on_course,
        "start": start,
        "clean": float(clean),
        "bad_and_clipped": float(after),
        "bad": float(
            np.minimum(raw, np.finfo(np.float32).max)
        ),  # JSON has no infinity.
        "skipped": int(skipped),
    }


def choose(flag: jax.Array, this: Any, that: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(flag, x, y), this, that)


def all_finite(tree: Any) -> jax.Array:
    flags = [jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]
    return jnp.stack(flags).all()


def table(results: dict[str, dict], steps: int, seed: int) -> str:
    """The table of the page."""
    lines = [
        f"{steps} steps, seed {seed}: distance from the optimum, before and after.",
        "",
        "| optimizer, dtype | start | clean | bad, clipped | bad, unclipped | skipped "
        "| state | course |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        numbers = [result[k] for k in ("start", "clean", "bad_and_clipped", "bad")]
        shown = " | ".join(f"{x:.3g}" for x in numbers)
        finite = "finite" if result["finite"] else "FAIL: not finite"
        course = "back" if result["on_course"] else "FAIL: lost"
        skipped = result["skipped"]
        lines.append(f"| {name} | {shown} | {skipped} | {finite} | {course} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    names = [str(subject) for subject in OURS]
    parser.add_argument("--optimizers", nargs="+", choices=names, default=names)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    saved = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    same = (saved.get("steps"), saved.get("seed")) == (options.steps, options.seed)
    results = saved["results"] if same else {}
    print(f"{options.steps} steps, seed {options.seed}")
    for subject in OURS:
        if str(subject) not in options.optimizers:
            continue
        for dtype in (jnp.float32, jnp.bfloat16):
            name = f"{subject} {np.dtype(dtype)}"
            results[name] = train(subject, dtype, options.steps, options.seed)
            print(name, results[name], flush=True)
    facts = {"steps": options.steps, "seed": options.seed, "results": results}
    RESULTS.write_text(json.dumps(facts, indent=1) + "\n")
    if len(results) == 2 * len(OURS):
        before, rest = PAGE.read_text().split(BEGIN)
        text = table(results, options.steps, options.seed)
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")
    failed = [k for k, x in results.items() if not (x["finite"] and x["on_course"])]
    print(f"{len(results) - len(failed)} ok, {len(failed)} FAIL {failed or ''}")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()

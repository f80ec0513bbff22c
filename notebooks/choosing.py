# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Choosing an optimizer
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/optax-ortho/optax_ortho/blob/main/notebooks/choosing.ipynb)
#
# All optimizers share one scale of learning rates and one set of arguments, so changing
# the optimizer means changing one word. This notebook tries several optimizers at
# several rates on a small task, which you can replace by your own model. It takes two
# minutes on two CPU cores.

# %%
import importlib.util
import os

if importlib.util.find_spec("optax_ortho") is None:  # As on Colab.
    from IPython import get_ipython

    get_ipython().run_line_magic("pip", "install -q 'optax_ortho[flax,plot]'")

STEPS = int(os.environ.get("NOTEBOOK_STEPS", 200))  # Tests take fewer.

# %%
import functools
import sysconfig
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import optax_ortho
from optax_ortho import plots

# %% [markdown]
# ## A task
#
# An MLP predicts the next byte of Python's standard library from sixteen bytes.


# %%
class MLP(nnx.Module):
    def __init__(self, rngs, context=16, width=256):
        self.embed = nnx.Embed(256, width // context, rngs=rngs)
        self.up = nnx.Linear(width, 2 * width, rngs=rngs)
        self.down = nnx.Linear(2 * width, width, rngs=rngs)
        self.head = nnx.Linear(width, 256, rngs=rngs)

    def __call__(self, context):
        x = self.embed(context).reshape(len(context), -1)
        return self.head(nnx.relu(self.down(nnx.relu(self.up(x)))))


def loss_fn(model, tokens):
    logits = model(tokens[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, -1]).mean()


files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
text = np.frombuffer(b"\n".join(file.read_bytes() for file in files), np.uint8)
unseen, text = text[: len(text) // 20], text[len(text) // 20 :]


def batches(data, seed, number, size=256, length=17):
    rng = np.random.default_rng(seed)
    starts = rng.integers(len(data) - length, size=(number, size))
    return jnp.asarray(data[starts[..., None] + np.arange(length)], jnp.int32)


validation = batches(unseen, seed=1, number=1, size=4096)[0]

# %% [markdown]
# ## One run
#
# All steps are one compiled program. The rate is an argument, so that each optimizer is
# compiled once.


# %%
graph, _ = nnx.split(MLP(nnx.Rngs(0)))
EVERY = max(1, STEPS // 20)


@functools.partial(jax.jit, static_argnames="make")
def some_steps(make, rate, params, state, tokens):
    tx = make(rate)

    def step(carry, tokens):
        params, state = carry
        gradient = jax.grad(lambda p: loss_fn(nnx.merge(graph, p), tokens))(params)
        updates, state = tx.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, state), _ = jax.lax.scan(step, (params, state), tokens)
    return params, state, loss_fn(nnx.merge(graph, params), validation)


def train(make, rate, seed=0):
    """Validation losses, and seconds per step."""
    params = nnx.state(MLP(nnx.Rngs(seed)))
    state, points, seconds = make(rate).init(params), [], []
    tokens = batches(text, seed=(0, seed), number=STEPS // EVERY * EVERY)
    for chunk in tokens.reshape(-1, EVERY, *tokens.shape[1:]):
        start = time.perf_counter()
        result = some_steps(make, rate, params, state, chunk)
        params, state, loss = jax.block_until_ready(result)
        seconds.append((time.perf_counter() - start) / EVERY)
        points.append(((len(points) + 1) * EVERY, float(loss)))
    return np.array(points), min(seconds)


# %% [markdown]
# ## Several optimizers, each at several rates
#
# The rate of the other leaves is the same everywhere, so that only the treatment of the
# matrices differs. AdamW needs smaller rates and NAMO larger ones; the best rate should
# not be at the edge of the tried range.

# %%
labels = optax_ortho.label(MLP(nnx.Rngs(0)))
shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, STEPS // 10, STEPS)
RECIPES = {
    "muon": optax_ortho.muon,
    "normuon": optax_ortho.normuon,
    "root": optax_ortho.root,
    "namo": optax_ortho.namo,
    "adaptive_memory_muon": optax_ortho.adaptive_memory_muon,
}
RATES = (0.005, 0.01, 0.02, 0.04)
FACTORS = {"namo": 4, "optax.adamw": 1 / 4}


def ours(recipe):
    return lambda rate: recipe(
        lambda step: rate * shape(step),
        labels=labels,
        adamw_learning_rate=lambda step: 0.003 * shape(step),
    )


candidates = {name: ours(recipe) for name, recipe in RECIPES.items()}
candidates["optax.adamw"] = lambda rate: optax.adamw(
    lambda step: rate * shape(step), b2=0.95
)

runs_at_best = {}
for name, make in candidates.items():
    rates = [rate * FACTORS.get(name, 1) for rate in RATES]
    runs = {rate: train(make, rate) for rate in rates}
    best = min(runs, key=lambda rate: runs[rate][0][-1, 1])
    runs_at_best[name] = runs[best]
    across = "  ".join(f"{rate:g}: {runs[rate][0][-1, 1]:.3f}" for rate in rates)
    print(f"{name:22} {across}  {1e3 * runs[best][1]:5.1f} ms a step")

# %%
plots.curves(
    {name: points for name, (points, _) in runs_at_best.items()},
    ylabel="validation loss, nats a byte",
    highlight="muon",
    reference="optax.adamw",
    headline="Each at the best of its rates",
)

# %% [markdown]
# One seed and one small task show that a method works, but not which one is best. A few
# more seeds cost little, and show whether a difference is significant:

# %%
for name in ("muon", "normuon"):
    losses = [train(candidates[name], 0.01, seed)[0][-1, 1] for seed in range(3)]
    print(f"{name:8} {np.mean(losses):.3f} +- {np.std(losses, ddof=1):.3f}")

# %% [markdown]
# [How to choose](https://github.com/optax-ortho/optax_ortho/blob/main/docs/choose.md)
# lists all optimizers with their cost and memory, and says when to use which.

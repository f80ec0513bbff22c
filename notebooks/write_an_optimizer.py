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
# # A new optimizer in twenty lines
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/optax-ortho/optax_ortho/blob/main/notebooks/write_an_optimizer.ipynb)
#
# A new idea usually changes one stage. Write that stage, and get the chain, the labels,
# the guard against NaN, layouts and checkpoints with it. This takes one minute on two
# CPU cores.

# %%
import importlib.util
import os

if importlib.util.find_spec("optax_ortho") is None:  # As on Colab.
    from IPython import get_ipython

    get_ipython().run_line_magic("pip", "install -q 'optax_ortho[flax,plot]'")

STEPS = int(os.environ.get("NOTEBOOK_STEPS", 200))  # Tests take fewer.

# %%
import sysconfig
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import optax_ortho
from optax_ortho import plots, testing

# %% [markdown]
# ## The idea
#
# Take momentum at two speeds, a fast average of gradients and a slow one (AdEMAMix,
# [arXiv 2409.03137](https://arxiv.org/abs/2409.03137)), and orthogonalize their sum.
# Only the first stage is new. A state is a NamedTuple of arrays, created at init, whose
# dtypes do not change.


# %%
class TwoSpeedsState(NamedTuple):
    fast: optax.Updates
    slow: optax.Updates


def two_speeds(fast=0.9, slow=0.99, weight=1.0):
    """M = EMA_fast(G) + weight EMA_slow(G)."""

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return TwoSpeedsState(zeros, zeros)

    def update(updates, state, params=None):
        def averaged(beta, m, g):
            return (beta * m + (1 - beta) * g).astype(m.dtype)

        state = TwoSpeedsState(
            jax.tree.map(partial(averaged, fast), state.fast, updates),
            jax.tree.map(partial(averaged, slow), state.slow, updates),
        )
        return jax.tree.map(lambda f, s: f + weight * s, *state), state

    return optax.GradientTransformation(init, update)


def muon_of_two_speeds(learning_rate, *, fast=0.9, slow=0.99, weight=1.0, **common):
    momentum = two_speeds(fast, slow, weight)
    return optax_ortho.muon(learning_rate, momentum=momentum, **common)


# %% [markdown]
# That is all. `common` stands for the arguments of every recipe: `labels`, `layout`,
# `weight_decay`, `adamw_learning_rate`, `nonfinite`.
#
# ## Does it keep the contract?
#
# The functions of `optax_ortho.testing` check in your own tests what every optimizer
# here promises: one trace, fixed dtypes, zero updates for zero gradients, the same
# results under `jax.jit`, `jax.vmap`, `optax.MultiSteps` and `optax.partition`, and
# NaNs that do not spread.

# %%
params = {"kernel": jnp.ones((4, 6)), "bias": jnp.zeros(6)}
tx = muon_of_two_speeds(0.1)
testing.check_transformation(tx, params)
testing.check_scale_free(tx, params, factors=(1e-20, 1e20), leaves=["kernel"])
testing.check_skips(
    tx, params, skipped={"kernel": jnp.ones((4, 6), bool), "bias": jnp.zeros(6, bool)}
)
testing.check_decreases(tx, params)
print("It does.")

# %% [markdown]
# A broken promise raises an error that says which one, and where. This stage returns
# its state as the update, in a wider dtype than the gradient's:


# %%
def careless(beta=0.9):
    def update(updates, state, params=None):
        state = jax.tree.map(lambda m, g: beta * m + (1 - beta) * g, state, updates)
        return state, state

    return optax.GradientTransformation(partial(jax.tree.map, jnp.zeros_like), update)


try:
    testing.check_dtypes(careless(), params)
except AssertionError as error:
    print(error)

# %% [markdown]
# ## Does it help?
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


# %%
graph, _ = nnx.split(MLP(nnx.Rngs(0)))
EVERY = max(1, STEPS // 20)


@partial(jax.jit, static_argnames="tx")
def some_steps(tx, params, state, tokens):
    def step(carry, tokens):
        params, state = carry
        gradient = jax.grad(lambda p: loss_fn(nnx.merge(graph, p), tokens))(params)
        updates, state = tx.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, state), _ = jax.lax.scan(step, (params, state), tokens)
    return params, state, loss_fn(nnx.merge(graph, params), validation)


def train(tx, seed):
    """Validation losses."""
    params = nnx.state(MLP(nnx.Rngs(seed)))
    state, losses = tx.init(params), []
    tokens = batches(text, seed=(0, seed), number=STEPS // EVERY * EVERY)
    for chunk in tokens.reshape(-1, EVERY, *tokens.shape[1:]):
        params, state, loss = some_steps(tx, params, state, chunk)
        losses.append(float(loss))
    steps = EVERY * np.arange(1, len(losses) + 1)
    return np.stack([steps, losses], 1)


labels = optax_ortho.label(MLP(nnx.Rngs(0)))
rate = optax.warmup_cosine_decay_schedule(0.0, 0.02, STEPS // 10, STEPS)
rest = optax.warmup_cosine_decay_schedule(0.0, 0.003, STEPS // 10, STEPS)
recipes = {"muon": optax_ortho.muon, "two speeds": muon_of_two_speeds}
losses = {}
for name, recipe in recipes.items():
    tx = recipe(rate, labels=labels, adamw_learning_rate=rest)
    runs = np.array([train(tx, seed) for seed in range(3)])
    losses[name] = runs.mean(axis=0)
    ends = runs[:, -1, 1]
    print(f"{name:11} {ends.mean():.3f} +- {ends.std(ddof=1):.3f}")

# %%
plots.curves(
    losses,
    ylabel="validation loss, nats a byte",
    highlight="two speeds",
    headline="Mean of three seeds",
)

# %% [markdown]
# The difference is within the spread of the seeds: here the idea does not help. That is
# how most ideas end, and it took only a minute to find out. An idea that helps becomes
# part of the library in six steps:
# [CONTRIBUTING](https://github.com/optax-ortho/optax_ortho/blob/main/CONTRIBUTING.md).

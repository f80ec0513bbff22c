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
# # Surviving a spike of the learning rate
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/optax-ortho/optax_ortho/blob/main/notebooks/softmax_trust_region.ipynb)
#
# The Taylor series of cross-entropy converges up to a singularity of the softmax. About
# a longer step the gradient contains no information. `softmax_radius` compares each
# step with that radius and shortens it if it is longer. It takes one minute on two CPU
# cores.

# %%
import importlib.util
import os

if importlib.util.find_spec("optax_ortho") is None:  # As on Colab.
    from IPython import get_ipython

    get_ipython().run_line_magic("pip", "install -q 'optax_ortho[flax,plot]'")

STEPS = int(os.environ.get("NOTEBOOK_STEPS", 200))  # Tests take fewer.

# %%
import sysconfig
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import optax_ortho
from optax_ortho import plots, trust_region

# %% [markdown]
# ## A task, and a rate with a spike
#
# An MLP predicts the next byte of Python's standard library from sixteen bytes. In the
# middle of the run the learning rate is 100 times too large for five steps, as after a
# bug in a schedule or a restart with another batch size.


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
SPIKE = STEPS // 2


def spiked(peak):
    calm = optax.warmup_cosine_decay_schedule(0.0, peak, STEPS // 10, STEPS)
    return lambda step: (
        calm(step) * jnp.where((step >= SPIKE) & (step < SPIKE + 5), 100.0, 1.0)
    )


labels = optax_ortho.label(MLP(nnx.Rngs(0)))
muon = optax_ortho.muon(spiked(0.02), labels=labels, adamw_learning_rate=spiked(0.003))
guarded = optax.chain(muon, trust_region.softmax_radius(1.0))
adamw = optax.adamw(spiked(0.005), b2=0.95)

# %% [markdown]
# ## Training
#
# The stage comes last in its chain, after learning rate and sign. Its update needs
# `logits_fn`, the logits of the batch as a function of the parameters, which other
# transformations ignore.


# %%
def train(tx):
    """Validation losses, and the radius ratio of each step if it is measured."""
    graph, params = nnx.split(MLP(nnx.Rngs(0)))
    tx = optax.with_extra_args_support(tx)

    @jax.jit
    def step(params, state, tokens):
        def logits_fn(params):
            return nnx.merge(graph, params)(tokens[:, :-1])

        gradient = jax.grad(lambda p: loss_fn(nnx.merge(graph, p), tokens))(params)
        updates, state = tx.update(gradient, state, params, logits_fn=logits_fn)
        params = optax.apply_updates(params, updates)
        return params, state, loss_fn(nnx.merge(graph, params), validation)

    state, losses, ratios = tx.init(params), [], []
    for tokens in batches(text, seed=0, number=STEPS):
        params, state, loss = step(params, state, tokens)
        losses.append(float(loss))
        ratios.append(optax_ortho.diagnostics(state).get("radius_ratio", jnp.nan))
    steps = np.arange(1, STEPS + 1)
    return np.stack([steps, losses], 1), np.stack([steps, np.array(ratios)], 1)


ways = {"adamw": adamw, "muon": muon, "muon, softmax_radius": guarded}
results = {name: train(tx) for name, tx in ways.items()}
for name, (losses, _) in results.items():
    before, worst = losses[SPIKE - 1, 1], losses[SPIKE:, 1].max()
    print(
        f"{name:21} {before:.3f} before, {worst:.3f} at worst, {losses[-1, 1]:.3f} last"
    )

# %%
plots.curves(
    {name: losses for name, (losses, _) in results.items()},
    ylabel="validation loss, nats a byte",
    highlight="muon, softmax_radius",
    headline="A hundred times the learning rate, for five steps",
    scale="log",
)

# %% [markdown]
# ## The length of steps
#
# `diagnostics` contains the ratio of every step to the radius. It is below one in
# normal training, where steps are not changed, and above one by the factor that a step
# is too long.

# %%
ratios = results["muon, softmax_radius"][1]
calm = np.delete(ratios[:, 1], slice(SPIKE, SPIKE + 5))
print(f"calm steps: median {np.median(calm):.2f}, {np.mean(calm > 1):.0%} above 1")
print("spike:", " ".join(f"{ratio:.1f}" for ratio in ratios[SPIKE : SPIKE + 5, 1]))

plots.curves(
    {"radius ratio": ratios},
    ylabel="step over radius",
    highlight="radius ratio",
    headline="How long each step was, before it was scaled",
    scale="log",
)

# %% [markdown]
# It costs about one forward and one forward-mode pass of the model in every step, or
# less with `stride`, which uses a part of the batch. See [its
# page](https://github.com/optax-ortho/optax_ortho/blob/main/docs/algorithms/softmax_radius.md).

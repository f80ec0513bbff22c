# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart: a Flax model, its labels, an optimizer
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/optax-ortho/optax_ortho/blob/main/notebooks/quickstart.ipynb)
#
# A small GPT learns the bytes of Python's standard library, with AdamW and with Muon.
# It takes one minute on two CPU cores.

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
from optax_ortho import plots

# %% [markdown]
# ## The model
#
# Two blocks of attention and MLP, written without any thought of the optimizer.


# %%
class Block(nnx.Module):
    def __init__(self, width, heads, rngs):
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.mlp_norm = nnx.RMSNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x):
        x += self.attention(self.norm(x), mask=nnx.make_causal_mask(x[..., 0]))
        return x + self.down(nnx.relu(self.up(self.mlp_norm(x))))


class GPT(nnx.Module):
    def __init__(self, rngs, vocabulary=256, context=64, width=64, heads=4):
        self.token = nnx.Embed(vocabulary, width, rngs=rngs)
        self.position = nnx.Embed(context, width, rngs=rngs)
        self.blocks = nnx.List([Block(width, heads, rngs) for _ in range(2)])
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, vocabulary, use_bias=False, rngs=rngs)

    def __call__(self, tokens):
        x = self.token(tokens) + self.position(jnp.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


# %% [markdown]
# ## Which leaf is a matrix
#
# `label` traces the forward pass, for the shape of a batch, and reads the role of every
# parameter from what the program does with it. Kernels with three axes, as of
# attention, become matrices with the right fan-in and fan-out; embeddings, the output
# head, norms and biases are left to AdamW. The column `how` names the source of each
# label.

# %%
model = GPT(nnx.Rngs(0))
labels = optax_ortho.label(model, jax.ShapeDtypeStruct((32, 64), jnp.int32))
print(labels)

# %% [markdown]
# ## The optimizer
#
# One learning rate is for the matrices, one for the other leaves. `summary` describes
# the optimizer before the first step.

# %%
rate = optax.warmup_cosine_decay_schedule(0.0, 0.02, STEPS // 10, STEPS)
rest = optax.warmup_cosine_decay_schedule(0.0, 0.004, STEPS // 10, STEPS)
muon = optax_ortho.muon(
    rate, weight_decay=0.1, labels=labels, adamw_learning_rate=rest, diagnostics=True
)
print(optax_ortho.summary(muon, nnx.state(model, nnx.Param)))

# %% [markdown]
# ## Training, as usual

# %%
folder = Path(sysconfig.get_path("stdlib"))
files = sorted(folder.glob("*.py"))
text = np.frombuffer(b"\n".join(file.read_bytes() for file in files), np.uint8)
held_out, text = text[: len(text) // 20], text[len(text) // 20 :]


def batch(data, seed, size=32, context=64):
    starts = np.random.default_rng(seed).integers(len(data) - context, size=size)
    return jnp.asarray(data[starts[:, None] + np.arange(context + 1)], jnp.int32)


def loss_fn(model, tokens):
    logits = model(tokens[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


@nnx.jit
def train_step(model, optimizer, tokens):
    loss, gradient = nnx.value_and_grad(loss_fn)(model, tokens)
    optimizer.update(model, gradient)
    return loss


def train(tx):
    model = GPT(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    validate = nnx.jit(loss_fn)
    unseen, points = batch(held_out, seed=0, size=128), []
    for step in range(1, STEPS + 1):
        train_step(model, optimizer, batch(text, seed=(1, step)))
        if step % max(1, STEPS // 40) == 0:
            points.append((step, validate(model, unseen)))
    return np.array(points, float), optimizer


# %%
adamw = optax.adamw(rest, b2=0.95, weight_decay=0.1)
losses = {"optax.adamw": train(adamw)[0]}
losses["optax_ortho.muon"], optimizer = train(muon)

plots.curves(
    losses,
    ylabel="validation loss, nats a byte",
    highlight="optax_ortho.muon",
    reference="optax.adamw",
    headline="The same model, data and seed",
)

# %% [markdown]
# ## Diagnostics
#
# `diagnostics` returns scalars for any metrics writer, among them the number of
# matrices that were skipped because of a non-finite gradient, and the RMS of the last
# update per unit of learning rate.

# %%
for name, value in optax_ortho.diagnostics(optimizer.opt_state).items():
    print(f"{name:22} {value:.4g}")

# %% [markdown]
# Next: [the four stages](stages.ipynb), [labels for your model](labels.ipynb), and
# [which optimizer to choose](choosing.ipynb).

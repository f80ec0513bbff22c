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
# # The four stages and their singular values
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/optax-ortho/optax_ortho/blob/main/notebooks/stages.ipynb)
#
# Momentum, orthogonalize, normalize or clamp, trust-region scale: the effect of each
# stage on the gradient of a real layer. It takes half a minute on two CPU cores.

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
from optax_ortho import orthogonalizers, plots

# %% [markdown]
# ## A gradient from training
#
# An MLP predicts the next byte of Python's standard library from sixteen bytes. It is
# first trained for some steps, so that gradient and momentum are typical of training.


# %%
class MLP(nnx.Module):
    def __init__(self, rngs, context=16, width=256):
        self.embed = nnx.Embed(256, width // context, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)
        self.head = nnx.Linear(width, 256, rngs=rngs)

    def __call__(self, context):
        x = self.embed(context).reshape(len(context), -1)
        return self.head(nnx.relu(self.down(nnx.relu(self.up(x)))))


def loss_fn(model, tokens):
    logits = model(tokens[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, -1]).mean()


files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
text = np.frombuffer(b"\n".join(file.read_bytes() for file in files), np.uint8)


def batch(step, size=512, length=17):
    starts = np.random.default_rng(step).integers(len(text) - length, size=size)
    return jnp.asarray(text[starts[:, None] + np.arange(length)], jnp.int32)


# %%
model = MLP(nnx.Rngs(0))
tx = optax_ortho.normuon(
    0.01, labels=optax_ortho.label(model), adamw_learning_rate=0.003
)
optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)


@nnx.jit
def train_step(model, optimizer, tokens):
    loss, gradient = nnx.value_and_grad(loss_fn)(model, tokens)
    optimizer.update(model, gradient)
    return loss


losses = [train_step(model, optimizer, batch(step)) for step in range(STEPS)]
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")

# %% [markdown]
# ## The output of each stage
#
# `stage_outputs` runs one update and returns the input of the chain and the output of
# each of its stages. The gradient of a layer is loud in a few directions and faint in
# most: its largest singular value is many times the median, and a hundred times the
# smallest. Momentum does not change that. Orthogonalization does: it sets all singular
# values to about one, so that faint directions are learned as fast as loud ones.

# %%
gradient = nnx.grad(loss_fn)(model, batch(STEPS))
arguments = gradient, optimizer.opt_state, nnx.state(model, nnx.Param)
(stages,) = optax_ortho.stage_outputs(tx, *nnx.as_pure(arguments))
layer = {name: output.up.kernel for name, output in stages._asdict().items()}
plots.spectra(layer)

# %% [markdown]
# The third stage, NorMuon's normalization, evens out the lengths of neurons; singular
# values stay within a small factor of each other. The trust region multiplies by one
# number, here such that the update has AdamW's usual RMS.

# %%
for name, kernel in layer.items():
    rms = jnp.sqrt(jnp.mean(kernel**2))
    neurons = jnp.linalg.norm(kernel, axis=0)
    spread = jnp.std(neurons) / jnp.mean(neurons)
    print(f"{name:14} RMS {rms:.2e}   neurons' lengths vary by {spread:.1%}")

# %% [markdown]
# ## The second stage alone
#
# Newton-Schulz moves every singular value along a polynomial, step by step. Keller
# Jordan's coefficients are fast and stop within 0.7 to 1.2; Polar Express' converge.

# %%
plots.coefficients("keller_jordan", "polar_express_8")

# %% [markdown]
# Any stage can be replaced. Here is an optimizer with another orthogonalizer, and with
# a custom stage in place of the normalization.


# %%
def clamp_neurons(limit=1.2):
    """Clamps the length of neurons to `limit` times the average."""

    def clamped(updates, params):
        del params

        def on_leaf(u):
            if u.ndim != 2:
                return u
            lengths = jnp.linalg.norm(u, axis=0)
            return u * jnp.minimum(1.0, limit * lengths.mean() / (lengths + 1e-30))

        return jax.tree.map(on_leaf, updates)

    return optax.stateless(clamped)


mixed = optax_ortho.muon(
    0.01,
    labels=optax_ortho.label(model),
    adamw_learning_rate=0.003,
    orthogonalizer=orthogonalizers.Exact(),
    normalize=clamp_neurons(),
)
print(optax_ortho.summary(mixed, nnx.state(model, nnx.Param)))

# %% [markdown]
# Next: [which optimizer to choose](choosing.ipynb), and [a new one in twenty
# lines](write_an_optimizer.ipynb).

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
# # Labels for your model
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/optax-ortho/optax_ortho/blob/main/notebooks/labels.ipynb)
#
# Orthogonalization is for the hidden matrices: not for embeddings, heads, norms and
# biases. `label` reads from the modules which leaf is which, for an MLP, a CNN, a GPT
# with and without scan, and low-rank adapters. It takes ten seconds on two CPU cores.

# %%
import importlib.util

if importlib.util.find_spec("optax_ortho") is None:  # As on Colab.
    from IPython import get_ipython

    get_ipython().run_line_magic("pip", "install -q 'optax_ortho[flax,plot]'")

# %%
import jax.numpy as jnp
import matplotlib.pyplot as plt
from flax import nnx

import optax_ortho
from optax_ortho import MatrixAxes, Split

# %% [markdown]
# ## An MLP
#
# A kernel of `nnx.Linear` is (fan_in, fan_out). The last one makes logits, which
# nothing in its module says but its name: `head`, `classifier`, `logits` and others are
# known.


# %%
class MLP(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(1000, 64, rngs=rngs)
        self.up = nnx.Linear(64, 256, rngs=rngs)
        self.down = nnx.Linear(256, 64, rngs=rngs)
        self.head = nnx.Linear(64, 1000, rngs=rngs)


print(optax_ortho.label(MLP(nnx.Rngs(0))))

# %% [markdown]
# ## A CNN
#
# A convolution is a matrix from its patches to its channels. A grouped one has a matrix
# for each group, down to the vectors of a depthwise one, and is left to AdamW.


# %%
class CNN(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 32, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(32, rngs=rngs)
        self.depthwise = nnx.Conv(32, 32, (3, 3), feature_group_count=32, rngs=rngs)
        self.pointwise = nnx.Conv(32, 64, (1, 1), use_bias=False, rngs=rngs)
        self.grouped = nnx.Conv(64, 64, (3, 3), feature_group_count=4, rngs=rngs)
        self.classifier = nnx.Linear(64, 10, rngs=rngs)


print(optax_ortho.label(CNN(nnx.Rngs(0))))

# %% [markdown]
# ## A GPT, its blocks in a list
#
# Attention has kernels with three axes: (width, heads, head width) for queries, keys
# and values, and (heads, head width, width) for the output. Fan-in and fan-out can
# consist of several axes.


# %%
class Block(nnx.Module):
    def __init__(self, rngs, width=64, heads=4):
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.mlp_norm = nnx.RMSNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)


class Listed(nnx.Module):
    def __init__(self, rngs, layers=2, width=64):
        self.token = nnx.Embed(256, width, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(layers)])
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, 256, use_bias=False, rngs=rngs)


print(optax_ortho.label(Listed(nnx.Rngs(0))))

# %% [markdown]
# ## The same GPT, scanned
#
# `nnx.vmap` creates all blocks at once, and every leaf gets a leading axis of layers,
# here in brackets. Norm scales and biases now have two axes, and look like matrices to
# a method that counts axes.


# %%
class Scanned(nnx.Module):
    def __init__(self, rngs, layers=12, width=64):
        self.token = nnx.Embed(256, width, rngs=rngs)
        self.blocks = nnx.vmap(Block)(rngs.split(layers))
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, 256, use_bias=False, rngs=rngs)


print(optax_ortho.label(Scanned(nnx.Rngs(0))))

# %% [markdown]
# ## Low-rank adapters
#
# `nnx.LoRA` keeps its adapters in variables of another type. With a frozen base model
# only the adapters are trained, and they are matrices.


# %%
class Adapted(nnx.Module):
    def __init__(self, rngs, width=64):
        self.up = nnx.LoRALinear(width, 4 * width, lora_rank=4, rngs=rngs)
        self.down = nnx.LoRALinear(4 * width, width, lora_rank=4, rngs=rngs)


adapted = Adapted(nnx.Rngs(0))
labels = optax_ortho.label(adapted)
print(labels)
tx = optax_ortho.muon(0.01, labels=labels)
optimizer = nnx.Optimizer(adapted, tx, wrt=nnx.LoRAParam)

# %% [markdown]
# ## Parameters without a module
#
# Names and shapes say much, and what they do not say is not guessed: a kernel with
# three axes is refused, or left to AdamW, until somebody says which axes are which.

# %%
params = {
    "attn": {"qkv": {"kernel": jnp.zeros((64, 3, 4, 16))}},
    "mlp": {"kernel": jnp.zeros((64, 256)), "bias": jnp.zeros(256)},
}
overrides = {"attn/qkv/kernel": MatrixAxes((0,), (1, 2, 3), Split(1, (1, 1, 1)))}
print(optax_ortho.label(params, overrides=overrides))

# %% [markdown]
# ## The result of counting axes
#
# `optax.contrib.muon` takes every leaf with two axes unless told otherwise.


# %%
def shares(model):
    """Fractions of parameters: right, missed and wrong, for ours and by two axes."""
    rows = list(optax_ortho.label(model))
    sizes = {path: jnp.prod(jnp.array(shape)) for path, shape, _ in rows}
    total = sum(sizes.values())

    def part(chosen):
        return float(sum(sizes[path] for path, *_ in filter(chosen, rows)) / total)

    def is_matrix(row):
        return row[2].role == "matrix"

    def has_two_axes(row):
        return len(row[1]) == 2

    return {
        "optax_ortho": (part(is_matrix), 0.0, 0.0),
        "optax.contrib.muon": (
            part(lambda row: is_matrix(row) and has_two_axes(row)),
            part(lambda row: is_matrix(row) and not has_two_axes(row)),
            part(lambda row: has_two_axes(row) and not is_matrix(row)),
        ),
    }


models = {"MLP": MLP, "CNN": CNN, "GPT, listed": Listed, "GPT, scanned": Scanned}
figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
looks = {
    "hidden matrices, orthogonalized": "#2f80c8",
    "hidden matrices, left to Adam": "#c3cad4",
    "other leaves, orthogonalized": "#d9590b",
}
rows = [
    (f"{name}\n{method}", parts)
    for name, model in models.items()
    for method, parts in shares(model(nnx.Rngs(0))).items()
]
start = [0.0] * len(rows)
for i, (meaning, color) in enumerate(looks.items()):
    width = [parts[i] for _, parts in rows]
    axes.barh([name for name, _ in rows], width, left=start, color=color, label=meaning)
    start = [a + b for a, b in zip(start, width, strict=True)]
axes.invert_yaxis()
axes.set_xlim(0, 1)
axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
axes.set_xlabel("of the parameters")
axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
axes.set_title("What is orthogonalized", loc="left", weight="bold")
axes.spines[["top", "right", "left"]].set_visible(False)
axes.tick_params(length=0)
plt.show()

# %% [markdown]
# Next: [the plan of many devices](sharding.ipynb).

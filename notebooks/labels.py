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
# biases. `label` traces the forward pass of a model, in shapes alone, and reads which
# leaf is which from what the program does with it: here for an MLP, a CNN, a GPT with
# and without scan, low-rank adapters, and a function in plain JAX. It takes half a
# minute on two CPU cores.

# %%
import importlib.util

if importlib.util.find_spec("optax_ortho") is None:  # As on Colab.
    from IPython import get_ipython

    get_ipython().run_line_magic("pip", "install -q 'optax_ortho[flax,plot]'")

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from flax import nnx

import optax_ortho

TOKENS = jax.ShapeDtypeStruct((8, 32), jnp.int32)
IMAGES = jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.float32)

# %% [markdown]
# ## An MLP
#
# `label` takes the model and what it is called with, of which the shape is enough. The
# column `how` names the source of each label. The last matrix makes the logits, which
# its name does not say: it is a head because only the output follows.


# %%
class MLP(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(1000, 64, rngs=rngs)
        self.up = nnx.Linear(64, 256, rngs=rngs)
        self.down = nnx.Linear(256, 64, rngs=rngs)
        self.last = nnx.Linear(64, 1000, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        return self.last(x + self.down(nnx.relu(self.up(x))))


mlp = optax_ortho.label(MLP(nnx.Rngs(0)), TOKENS)
print(mlp)

# %% [markdown]
# ## A CNN
#
# A convolution is a matrix from its patches to its channels. A grouped one has a matrix
# for each group, down to the vectors of a depthwise one, and is left to AdamW. The stem
# sees the images themselves, which is noted: whether such layers are orthogonalized is
# a choice, `policy=optax_ortho.Policy(input_layers=False)`.


# %%
class CNN(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 32, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(32, rngs=rngs)
        self.depthwise = nnx.Conv(32, 32, (3, 3), feature_group_count=32, rngs=rngs)
        self.pointwise = nnx.Conv(32, 64, (1, 1), use_bias=False, rngs=rngs)
        self.grouped = nnx.Conv(64, 64, (3, 3), feature_group_count=4, rngs=rngs)
        self.classifier = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, images):
        x = nnx.relu(self.norm(self.stem(images)))
        x = nnx.relu(self.pointwise(self.depthwise(x)))
        return self.classifier(self.grouped(x).mean((1, 2)))


cnn = optax_ortho.label(CNN(nnx.Rngs(0)), IMAGES)
print(cnn)

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

    def __call__(self, x):
        x += self.attention(self.norm(x))
        return x + self.down(nnx.relu(self.up(self.mlp_norm(x))))


class Listed(nnx.Module):
    def __init__(self, rngs, layers=2, width=64):
        self.token = nnx.Embed(256, width, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(layers)])
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, 256, use_bias=False, rngs=rngs)

    def __call__(self, tokens):
        x = self.token(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


listed = optax_ortho.label(Listed(nnx.Rngs(0)), TOKENS)
print(listed)

# %% [markdown]
# ## The same GPT, scanned
#
# `nnx.vmap` creates all blocks at once, and every leaf gets a leading axis of layers,
# here in brackets. Norm scales and biases now have two axes, and look like matrices to
# a method that counts axes. The program scans over them, so each layer is a matrix.


# %%
class Scanned(nnx.Module):
    def __init__(self, rngs, layers=12, width=64):
        self.token = nnx.Embed(256, width, rngs=rngs)
        self.blocks = nnx.vmap(Block)(rngs.split(layers))
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, 256, use_bias=False, rngs=rngs)

    def __call__(self, tokens):
        layers = nnx.scan(lambda x, block: block(x), out_axes=nnx.Carry)
        return self.head(self.norm(layers(self.token(tokens), self.blocks)))


scanned = optax_ortho.label(Scanned(nnx.Rngs(0)), TOKENS)
print(scanned)

# %% [markdown]
# ## Low-rank adapters
#
# `nnx.LoRA` keeps its adapters in variables of another type. With a frozen base model
# only the adapters are trained, and they are matrices. `wrt` says so, as it does to
# `nnx.Optimizer`; adapters that another library adds are read in the same way.


# %%
class Adapted(nnx.Module):
    def __init__(self, rngs, width=64):
        self.up = nnx.LoRALinear(width, 4 * width, lora_rank=4, rngs=rngs)
        self.down = nnx.LoRALinear(4 * width, width, lora_rank=4, rngs=rngs)
        self.head = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x):
        return self.head(x + self.down(nnx.relu(self.up(x))))


adapted = Adapted(nnx.Rngs(0))
x = jax.ShapeDtypeStruct((8, 64), jnp.float32)
labels = optax_ortho.label(adapted, x, wrt=nnx.LoRAParam)
print(labels)
tx = optax_ortho.muon(0.01, labels=labels)
optimizer = nnx.Optimizer(adapted, tx, wrt=nnx.LoRAParam)

# %% [markdown]
# ## A function in plain JAX
#
# A function is labelled with its parameters and its inputs, whatever made them: Haiku,
# Equinox, or nobody. Experts are a stack of matrices, the router that chooses them is
# left to AdamW, and the result of `qkv` is taken apart: with `split`, each of its three
# blocks is orthogonalized by itself.


# %%
def forward(params, x):
    q, k, v = jnp.split(x @ params["qkv"], 3, axis=-1)
    x = x + jax.nn.softmax(q @ k.T) @ v @ params["out"]
    weights, chosen = jax.lax.top_k(x @ params["router"], 2)
    mix = jax.nn.softmax(weights)[..., None] * jax.nn.one_hot(chosen, 4)
    y = jax.nn.relu(jnp.einsum("td,edf->tef", x, params["up"]))
    y = jnp.einsum("tef,efd->ted", y, params["down"])
    return (x + jnp.einsum("ted,tke->td", y, mix)) @ params["logits"]


params = {
    "qkv": jnp.zeros((64, 192)),
    "out": jnp.zeros((64, 64)),
    "router": jnp.zeros((64, 4)),
    "up": jnp.zeros((4, 64, 256)),
    "down": jnp.zeros((4, 256, 64)),
    "logits": jnp.zeros((64, 10)),
}
x = jax.ShapeDtypeStruct((32, 64), jnp.float32)
print(optax_ortho.label(forward, params, x, split="qkv"))

# %% [markdown]
# ## Names and shapes alone
#
# Without a function, names and shapes say what they can. A stack of experts is not
# guessed: it is refused, or left to AdamW, until somebody says which axes are which.

# %%
overrides = {
    "qkv": optax_ortho.MatrixAxes(0, 1, optax_ortho.Split(1, (64, 64, 64))),
    "up": optax_ortho.MatrixAxes(1, 2),
    "down": optax_ortho.MatrixAxes(1, 2),
}
print(optax_ortho.label(params, overrides=overrides))

# %% [markdown]
# ## The result of counting axes
#
# `optax.contrib.muon` takes every leaf with two axes unless told otherwise.


# %%
def shares(rows):
    """Fractions of parameters: right, missed and wrong, for ours and by two axes."""
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


models = {"MLP": mlp, "CNN": cnn, "GPT, listed": listed, "GPT, scanned": scanned}
figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
looks = {
    "hidden matrices, orthogonalized": "#2f80c8",
    "hidden matrices, left to Adam": "#c3cad4",
    "other leaves, orthogonalized": "#d9590b",
}
rows = [
    (f"{name}\n{method}", parts)
    for name, labels in models.items()
    for method, parts in shares(labels).items()
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

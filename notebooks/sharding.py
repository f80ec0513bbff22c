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
# # Sharded on a TPU: one owner for each matrix
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/optax-ortho/optax_ortho/blob/main/notebooks/sharding.ipynb)
#
# Under FSDP and on 2-D meshes a hidden matrix is sharded over several devices, but an
# orthogonalization needs the whole matrix. `layouts.sharded` therefore assigns each
# matrix to one device. This notebook shows the assignment, the work and the
# communication without a TPU. It takes half a minute on two CPU cores.

# %%
import importlib.util
import os

# Without an accelerator, simulate eight devices on this CPU.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

if importlib.util.find_spec("optax_ortho") is None:  # As on Colab.
    from IPython import get_ipython

    get_ipython().run_line_magic("pip", "install -q 'optax_ortho[flax,plot]'")

# %%
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

import optax_ortho
from optax_ortho import layouts, plots

# %% [markdown]
# ## A model on a mesh without devices
#
# These are the shapes of a GPT with 12 layers and width 768 on a mesh of fsdp 4 x
# tensor 2. An `AbstractMesh` has names and sizes but no devices.

# %%
mesh = AbstractMesh((4, 2), ("fsdp", "tensor"))
KERNELS = {
    "attention/query": ((768, 768), ("fsdp", "tensor")),
    "attention/key": ((768, 768), ("fsdp", "tensor")),
    "attention/value": ((768, 768), ("fsdp", "tensor")),
    "attention/out": ((768, 768), ("tensor", "fsdp")),
    "mlp/up": ((768, 3072), ("fsdp", "tensor")),
    "mlp/down": ((3072, 768), ("tensor", "fsdp")),
}


def on(mesh, layers=12):
    return {
        f"layer_{i}": {
            name: {
                "kernel": jax.ShapeDtypeStruct(
                    shape,
                    jnp.float32,
                    sharding=NamedSharding(mesh, PartitionSpec(*spec)),
                )
            }
            for name, (shape, spec) in KERNELS.items()
        }
        for i in range(layers)
    }


params = on(mesh)
tx = optax_ortho.muon(0.02, layout=layouts.sharded(params))
plan = optax_ortho.plan(tx, params)
print(plan)

# %%
plots.plan(plan)

# %% [markdown]
# Every bar is a matrix, in the row of the device that orthogonalizes it. A round is one
# all-to-all of pieces, the work, and one all-to-all of results; it ends with its
# busiest owner.
#
# ## The same on devices
#
# Create the layout from the sharded parameters and train as usual. Two layers are
# enough to see that the result equals one device's, up to the rounding of pieces to
# bfloat16.

# %%
sizes = (4, 2) if jax.device_count() == 8 else (jax.device_count(), 1)
devices = np.array(jax.devices()).reshape(sizes)
placed = Mesh(devices, ("fsdp", "tensor"))


rng = np.random.default_rng(0)


def filled(leaf):
    values = rng.normal(size=leaf.shape).astype(leaf.dtype)
    return jax.device_put(values, leaf.sharding)


params = jax.tree.map(filled, on(placed, layers=2))
gradient = jax.tree.map(filled, on(placed, layers=2))


def compiled(tx):
    def step(gradient, state, params):
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.jit(tx.init)(params)
    return jax.jit(step).lower(gradient, state, params).compile(), state


ways = {
    "optax.contrib.muon": optax.contrib.muon(0.02),
    "layouts.local()": optax_ortho.muon(0.02),
    "layouts.sharded()": optax_ortho.muon(0.02, layout=layouts.sharded(params)),
}
programs = {name: compiled(tx) for name, tx in ways.items()}
results = {
    name: program(gradient, state, params)[0]
    for name, (program, state) in programs.items()
}


def distance(tree, other):
    return optax.tree.norm(optax.tree.sub(tree, other))


away = distance(results["layouts.sharded()"], results["layouts.local()"])
moved = distance(params, results["layouts.local()"])
print(f"sharded differs from local by {away / moved:.2e} of the update")

# %% [markdown]
# The collectives of the compiled programs, and the time of a step. Eight devices of one
# CPU share its cores, so that work repeated on every device takes longer.

# %%
KINDS = "all-gather|all-to-all|all-reduce|reduce-scatter|collective-permute"


def seconds(program, state):
    start = time.perf_counter()
    jax.block_until_ready(program(gradient, state, params))
    return time.perf_counter() - start


for name, (program, state) in programs.items():
    collectives = re.findall(rf" ({KINDS})(?:-start)?\(", program.as_text())
    counts = ", ".join(
        f"{collectives.count(kind)} {kind}" for kind in sorted(set(collectives))
    )
    took = min(seconds(program, state) for _ in range(5))
    print(f"{name:20} {1e3 * took:5.0f} ms a step   {counts}")

# %% [markdown]
# [Many devices](https://github.com/optax-ortho/optax_ortho/blob/main/docs/scaling.md)
# describes the other layouts: replicated under `jax.pmap`, momentum stored on the
# owner, several slices, and more devices than matrices.

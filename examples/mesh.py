"""Shardings of a GPT's parameters and batches over data x fsdp x tensor."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import optax_ortho
from optax_ortho.matrices import path_of

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(None, ("data", "fsdp"))  # Micro-batches, then windows.
# Layers whose input is sharded over tensor, because the previous layer's output is.
ROW_PARALLEL = ("out", "down")


def new_mesh(data: int, fsdp: int, tensor: int, devices: Sequence[Any]) -> Mesh:
    """A mesh; an fsdp of -1 takes all remaining devices."""
    if fsdp == -1:
        fsdp = len(devices) // (data * tensor)
    if data * fsdp * tensor != len(devices):
        raise SystemExit(
            f"data {data} x fsdp {fsdp} x tensor {tensor} does not match the "
            f"{len(devices)} devices."
        )
    return Mesh(np.array(devices).reshape(data, fsdp, tensor), AXES)


def in_shards(params: Any, labels: optax_ortho.Labels, mesh: Mesh) -> Any:
    """The sharding of every parameter.

    A matrix is sharded over fsdp on one side and over tensor on the other, if these
    divide it; vectors are replicated.

    Args:
      params: the parameters, or their shapes.
      labels: their roles.
      mesh: a mesh with the axes `AXES`.
    """

    def on_leaf(keys, leaf):
        path = path_of(keys)
        label = labels.label(path, leaf)
        spec: list[str | None] = [None] * leaf.ndim
        if leaf.ndim > 1 and label.axes is not None:
            sides = {"fsdp": label.axes.fan_in, "tensor": label.axes.fan_out}
            if path.split("/")[-2] in ROW_PARALLEL:
                sides = {"fsdp": label.axes.fan_out, "tensor": label.axes.fan_in}
        elif label.role == "embedding":
            sides = {"fsdp": (1,), "tensor": (0,)}
        elif label.role == "head":
            sides = {"fsdp": (0,), "tensor": (1,)}
        else:
            sides = {}
        for name, side in sides.items():
            fits = [i for i in side if leaf.shape[i] % mesh.shape[name] == 0]
            if fits:
                spec[fits[0]] = name
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(on_leaf, params)

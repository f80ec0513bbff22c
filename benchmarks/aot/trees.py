"""Trees of the matrices of known models, as shapes on a mesh.

They contain only matrices, in float32, as ``(..., fan_in, fan_out)``. Unrolled models
have a leaf for the kernel of each layer, scanned ones a leaf for each kind of kernel.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Shapes = dict[str, tuple[int, ...]]

# Kernels whose fan-in carries the tensor-parallel axis.
ROW_PARALLEL = ("proj", "fc_out", "o", "down")


def gpt2(layers: int = 12, width: int = 768) -> Shapes:
    """GPT-2 124M: four matrices a layer, with a fused QKV."""
    kinds = {
        "qkv": (width, 3 * width),
        "proj": (width, width),
        "fc": (width, 4 * width),
        "fc_out": (4 * width, width),
    }
    return _listed(layers, kinds)


def scanned(layers: int = 12, width: int = 768) -> Shapes:
    """GPT-2 124M with the kernels of all layers stacked."""
    return {
        path.removeprefix("h_0/"): (layers, *shape)
        for path, shape in gpt2(1, width).items()
    }


def llama(layers: int = 16, width: int = 2048) -> Shapes:
    """Llama 3.2 1B: seven matrices a layer, grouped-query attention."""
    kinds = {
        **{"q": (width, width), "k": (width, width // 4), "v": (width, width // 4)},
        **{"o": (width, width), "gate": (width, 4 * width), "up": (width, 4 * width)},
        "down": (4 * width, width),
    }
    return _listed(layers, kinds)


def moe(layers: int = 12, width: int = 768, experts: int = 8) -> Shapes:
    """GPT-2 124M with a stack of eight experts in every MLP."""
    kinds = {
        "qkv": (width, 3 * width),
        "proj": (width, width),
        "experts/fc": (experts, width, 4 * width),
        "experts/fc_out": (experts, 4 * width, width),
    }
    return _listed(layers, kinds)


TREES: dict[str, Callable[..., Shapes]] = {
    "gpt2": gpt2,
    "llama": llama,
    "scanned": scanned,
    "moe": moe,
}


def tree(name: str, mesh: Mesh, sharding: str, **sizes: int) -> Any:
    """A tree of `ShapeDtypeStruct` with `NamedSharding`.

    Args:
      name: one of `TREES`.
      mesh: from `topologies.mesh`, for the same sharding.
      sharding: "single" or "replicated"; "fsdp", the longer axis over all devices;
        "fsdp_tp", columns over ``tp`` and rows over ``fsdp`` or the other way round;
        "groups", the same with ``(tp, group)`` in the place of ``tp``;
        "expert", as "fsdp", but experts are sharded over their stack axis.
      **sizes: layers, width or experts, if other than the model's own.
    """
    leaves: dict = {}
    for path, shape in TREES[name](**sizes).items():
        spec = partition(path, shape, sharding)
        *folders, leaf = [*path.split("/"), "kernel"]
        place = functools.reduce(lambda d, key: d.setdefault(key, {}), folders, leaves)
        place[leaf] = jax.ShapeDtypeStruct(
            shape, jnp.float32, sharding=NamedSharding(mesh, spec)
        )
    return leaves


def partition(path: str, shape: tuple[int, ...], sharding: str) -> PartitionSpec:
    """The spec of one leaf under a sharding (see `tree`).

    Examples:
      >>> partition("h_0/fc", (768, 3072), "fsdp")
      P(None, 'd')
      >>> partition("h_0/proj", (768, 768), "fsdp_tp")
      P('tp', 'fsdp')
    """
    names = path.split("/")
    stacked = [None] * (len(shape) - 2)
    if sharding in ("single", "replicated"):
        return PartitionSpec()
    if sharding == "expert" and "experts" in names:
        return PartitionSpec("d")
    if sharding in ("fsdp_tp", "groups"):
        tp = "tp" if sharding == "fsdp_tp" else ("tp", "group")
        axes = (tp, "fsdp") if names[-1] in ROW_PARALLEL else ("fsdp", tp)
    else:
        axes = ("d", None) if shape[-2] >= shape[-1] else (None, "d")
    return PartitionSpec(*stacked, *axes)


def _listed(layers: int, kinds: Shapes) -> Shapes:
    return {
        f"h_{i}/{name}": shape for i in range(layers) for name, shape in kinds.items()
    }

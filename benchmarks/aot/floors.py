"""Lower bounds for layouts of whole matrices, from shapes and shardings alone."""

import math
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding

STEPS = 5


class Floor(NamedTuple):
    """Lower bounds for one device and one step.

    Args:
      wire: bytes sent to bring every matrix to its owner and its update back, in
        bfloat16.
      flops: operations of five Newton-Schulz steps, shared equally.
      arguments: bytes of parameters, gradients and one momentum.
    """

    wire: float
    flops: float
    arguments: float


def floor(params: Any, wire_bytes: int = 2) -> Floor:
    """The floor of a tree of shapes with `NamedSharding`."""
    leaves = jax.tree.leaves(params)
    return Floor(
        sum(wire(leaf, wire_bytes) for leaf in leaves),
        sum(newton_schulz_flops(leaf.shape) for leaf in leaves) / _devices(leaves[0]),
        3 * sum(shard_bytes(leaf) for leaf in leaves),
    )


def wire(leaf: jax.ShapeDtypeStruct, wire_bytes: int = 2) -> float:
    """Bytes that a device sends to bring each matrix to an owner and the result back.

    With stacks sharded over b devices, D = devices / b of them share the same E
    entries. If these are stored in g shards with D / g copies of each, then an owner
    needs the g - 1 shards that it does not hold, E (g - 1) / g entries, and the D - 1
    others need a shard of the result, E / g entries each. A device sends 1 / D of both.
    That is 2 E / D (D - 1) / D if all devices have different shards, and E (D - 1) / D,
    only an all-gather of the results, if the leaf is replicated.
    """
    over_stacks, over_matrices = _shards(leaf)
    entries = math.prod(leaf.shape) / over_stacks
    devices = _devices(leaf) / over_stacks
    g = over_matrices
    gathered = entries * (g - 1) / g
    returned = (devices - 1) * entries / g
    return wire_bytes * (gathered + returned) / devices


def newton_schulz_flops(shape: tuple[int, ...]) -> float:
    """FLOPs of five steps on every matrix of a stack, with three products each."""
    m, n = sorted(shape[-2:])
    return math.prod(shape[:-2]) * STEPS * (4 * m * m * n + 2 * m**3)


def shard_bytes(leaf: jax.ShapeDtypeStruct) -> int:
    """Bytes of a leaf on one device."""
    shape = leaf.shape
    if leaf.sharding is not None:
        shape = leaf.sharding.shard_shape(shape)
    return math.prod(shape) * leaf.dtype.itemsize


def _devices(leaf: jax.ShapeDtypeStruct) -> int:
    return _sharding(leaf).mesh.size


def _sharding(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
    assert isinstance(leaf.sharding, NamedSharding), leaf
    return leaf.sharding


def _shards(leaf: jax.ShapeDtypeStruct) -> tuple[int, int]:
    """The numbers of devices that a leaf's stack and matrix axes are sharded over."""
    parts = _sharding(leaf).shard_shape(leaf.shape)
    ratios = [size // part for size, part in zip(leaf.shape, parts, strict=True)]
    return math.prod(ratios[:-2]), math.prod(ratios[-2:])

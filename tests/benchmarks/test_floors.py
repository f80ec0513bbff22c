"""Trees, shardings and floors: sizes that are known, and bounds against a program."""

import doctest
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.aot import floors, hlo, trees
from benchmarks.aot.floors import floor, wire

SHARDINGS = {"fsdp": ("d",), "fsdp_tp": ("fsdp", "tp")}


def mesh(sharding: str) -> Mesh:
    axes = SHARDINGS.get(sharding, ("d",))
    return Mesh(
        np.array(jax.devices()).reshape((8,) if len(axes) == 1 else (4, 2)), axes
    )


def tree(name: str, sharding: str, **sizes: int):
    return trees.tree(name, mesh(sharding), sharding, **sizes)


@pytest.mark.parametrize(
    ("name", "leaves", "millions"),
    [
        ("gpt2", 48, 84.9),
        ("scanned", 4, 84.9),
        ("llama", 112, 973.1),
        ("moe", 48, 481.3),
    ],
)
def test_sizes_of_models(name, leaves, millions):
    shapes = [leaf.shape for leaf in jax.tree.leaves(tree(name, "fsdp"))]
    assert len(shapes) == leaves
    assert round(sum(map(math.prod, shapes)) / 1e6, 1) == millions


@pytest.mark.parametrize("name", trees.TREES)
@pytest.mark.parametrize("sharding", ["fsdp", "fsdp_tp"])
def test_every_device_has_an_eighth(name, sharding):
    for leaf in jax.tree.leaves(tree(name, sharding)):
        assert floors.shard_bytes(leaf) * 8 == math.prod(leaf.shape) * 4


def test_floors_of_gpt2():
    """37.2 MB on eight devices however they are arranged; 148.6 MB if all have all."""
    for sharding, megabytes in (
        ("fsdp", 37.16),
        ("fsdp_tp", 37.16),
        ("replicated", 148.64),
    ):
        found = floor(tree("gpt2", sharding))
        assert round(found.wire / 1e6, 2) == megabytes
        assert round(found.flops / 1e9, 1) == 190.3
    assert round(floor(tree("llama", "fsdp")).wire / 1e6, 1) == 425.7


def test_experts_on_their_own_devices_do_not_travel():
    leaves = tree("moe", "expert", layers=1)["h_0"]
    assert wire(leaves["experts"]["fc"]["kernel"]) == 0
    assert wire(leaves["proj"]["kernel"]) > 0


def sends_of_an_exchange(spec, shape, grid) -> float:
    """Entries sent in all, if device k owns the k-th part of what it shares in."""
    places = np.array(jax.devices()).reshape(grid)
    names = ("x", "y")[: len(grid)]
    sharding = NamedSharding(Mesh(places, names), spec)
    held = sharding.devices_indices_map(shape)
    holders: dict[str, set] = {}
    for device, index in held.items():
        holders.setdefault(str(index), set()).add(device)
    part = math.prod(sharding.shard_shape(shape))
    sent = 0.0
    for owner in held:  # It owns an eighth of the matrices, so of every shard.
        for devices in holders.values():
            if owner not in devices:
                sent += part / 8  # In, from one of its holders.
            sent += part / 8 * len(devices - {owner})  # Out, to all of them.
    return sent


@pytest.mark.parametrize(
    ("spec", "grid"),
    [
        (P(None, "x"), (8,)),
        (P(), (8,)),
        (P("x", "y"), (4, 2)),
        (P("x"), (4, 2)),
        (P(None, "y"), (4, 2)),
    ],
)
def test_the_floor_is_an_exchange_with_owners(spec, grid):
    shape = (16, 32)
    names = ("x", "y")[: len(grid)]
    of = NamedSharding(Mesh(np.array(jax.devices()).reshape(grid), names), spec)
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=of)
    total = 2 * sends_of_an_exchange(spec, shape, grid)
    assert wire(leaf) == pytest.approx(total / 8)


@pytest.mark.parametrize("module", [hlo, trees], ids=lambda m: m.__name__)
def test_examples(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed

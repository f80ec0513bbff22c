"""What a compiled step may send and contain, on eight devices of a CPU.

tests/benchmarks/test_tpu.py asks the same of the compiler for TPUs.
"""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

import optax_ortho
from benchmarks.aot.contenders import a_matrix, contrib_muon
from benchmarks.aot.floors import floor
from benchmarks.aot.measure import Metrics, measure
from benchmarks.aot.trees import tree
from optax_ortho.layouts import local, sharded
from optax_ortho.orthogonalizers import NewtonSchulz

MESHES = {"fsdp": ((8,), ("d",)), "fsdp_tp": ((4, 2), ("fsdp", "tp"))}
every_mesh = pytest.mark.parametrize("sharding", MESHES)


@functools.cache
def figures(sharding: str, name: str, layers: int, steps: int) -> tuple[Metrics, list]:
    """Of a step of Muon, and the parameters' shapes."""
    shape, names = MESHES[sharding]
    mesh = Mesh(np.array(jax.devices()).reshape(shape), names)
    params = tree(name, mesh, sharding, layers=layers, width=64)
    tx = optax_ortho.muon(
        0.1,
        orthogonalizer=NewtonSchulz(steps=steps),
        labels=a_matrix,
        layout=sharded(params),
    )
    return measure(tx, params, "cpu"), jax.tree.leaves(params)


@every_mesh
def test_each_matrix_goes_to_its_owner_and_back(sharding):
    found, params = figures(sharding, "scanned", 8, 5)
    # A CPU's compiler widens the bfloat16 of the wire.
    assert found.wire_mb["all-to-all"] == pytest.approx(floor(params, 4).wire / 1e6)
    assert found.collectives["all-to-all"] % 2 == 0
    # The flags of the guard.
    assert set(found.wire_mb) == {"all-to-all", "all-reduce"}
    assert found.wire_mb["all-reduce"] < 0.01 * found.wire_mb["all-to-all"]


@pytest.mark.slow
@every_mesh
@pytest.mark.parametrize("recipe", ["normuon", "namo_d", "aro", "dion", "fismo"])
def test_every_optimizer_sends_each_matrix_once(recipe, sharding):
    shape, names = MESHES[sharding]
    mesh = Mesh(np.array(jax.devices()).reshape(shape), names)
    params = tree("scanned", mesh, sharding, layers=8, width=64)
    # In its other steps, where it reads all of its state.
    rare = {"update_every": 10} if recipe == "fismo" else {}
    make = functools.partial(getattr(optax_ortho, recipe), 0.1, **rare)
    tx = make(labels=a_matrix, layout=sharded(params))
    found = measure(tx, params, "cpu").wire_mb
    once = floor(params, 4).wire / 1e6
    assert found["all-to-all"] == pytest.approx(once)
    # Norms of rows and columns, and the marks of the guard.
    assert sum(found.values()) < 1.15 * once


@every_mesh
def test_iterations_send_nothing(sharding):
    few, _ = figures(sharding, "scanned", 8, 2)
    many, _ = figures(sharding, "scanned", 8, 5)
    assert many.gflop > 2 * few.gflop
    assert many.collectives == few.collectives and many.wire_mb == few.wire_mb


@pytest.mark.parametrize(("name", "budget"), [("scanned", 80), ("gpt2", 320)])
def test_instructions_of_one_more_layer(name, budget):
    """Four matrices, in a stack of each kind or each a leaf; the peer needs 1700."""
    shallow, _ = figures("fsdp", name, 8, 2)
    deep, _ = figures("fsdp", name, 32, 2)
    assert deep.instructions - shallow.instructions < budget * (32 - 8)


@pytest.mark.slow
def test_one_device_compiles_a_fifth_of_the_instructions_of_the_peer():
    """Twenty-four layers, one matrix at a time."""
    mesh = Mesh(np.array(jax.devices()[:1]), ("d",))
    params = tree("gpt2", mesh, "single", layers=24, width=64)
    tx = optax_ortho.muon(0.1, labels=a_matrix, layout=local(batch_bytes=1))
    ours, theirs = (measure(each, params, "cpu") for each in (tx, contrib_muon(params)))
    assert ours.instructions <= 0.2 * theirs.instructions

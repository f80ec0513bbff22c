"""The same programs through the TPU compiler, where it is installed."""

import pytest

pytest.importorskip("libtpu")

import jax  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental.topologies import get_topology_desc  # noqa: E402
from jax.sharding import Mesh  # noqa: E402

from benchmarks import owned  # noqa: E402
from benchmarks.aot import topologies  # noqa: E402
from benchmarks.aot.contenders import contender  # noqa: E402
from benchmarks.aot.cost import Traffic, cost  # noqa: E402
from benchmarks.aot.floors import floor  # noqa: E402
from benchmarks.aot.measure import measure  # noqa: E402
from benchmarks.aot.trees import tree  # noqa: E402
from examples.owned_step import AXIS  # noqa: E402
from optax_ortho import layouts  # noqa: E402
from tests.benchmarks.programs import KNOWN, text  # noqa: E402


@pytest.mark.parametrize("name", KNOWN)
def test_collectives(name):
    devices = topologies.mesh("v5e:2x4", "fsdp").devices
    kind, *metrics = KNOWN[name].traffic
    found = cost(text(KNOWN[name], devices, "tpu"))
    assert found.traffic == {kind: Traffic(*metrics)}
    assert not found.unknown_loops


@pytest.mark.slow
def test_a_step_of_muon():
    mesh = topologies.mesh("v5e:2x4", "fsdp")
    params = tree("gpt2", mesh, "fsdp", layers=1, width=128)
    metrics = measure(contender("muon/local", params), params, "tpu")
    bound = floor(params)
    assert metrics.gflop >= bound.flops / 1e9
    assert sum(metrics.wire_mb.values()) >= bound.wire / 1e6
    assert metrics.mcycles > 0 and metrics.program_mb > 0


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["fsdp", "fsdp_tp"])
def test_a_sharded_step_is_at_the_floor(sharding):
    """An all-to-all in and one out a round, and only the guard's flags beside them."""
    params = tree(
        "gpt2", topologies.mesh("v5e:2x4", sharding), sharding, layers=8, width=256
    )
    metrics = measure(contender("muon/sharded", params), params, "tpu")
    assert metrics.wire_mb["all-to-all"] == pytest.approx(floor(params).wire / 1e6)
    flags = sum(metrics.wire_mb.values()) - metrics.wire_mb["all-to-all"]
    assert flags < 0.01 * metrics.wire_mb["all-to-all"]
    # The arguments are parameters, gradients and momentum; beside them there is room
    # for all matrices once more, and little else.
    assert metrics.temp_mb < 1.2 * metrics.argument_mb / 3


@pytest.mark.slow
def test_slices_are_found_and_nothing_travels_between_them():
    two = get_topology_desc(platform="tpu", topology_name="v5e:2x4", num_slices=2)
    mesh = Mesh(np.array(two.devices).reshape(2, 8), ("slice", "d"))
    params = tree("gpt2", mesh, "fsdp", layers=8, width=256)
    assert layouts.sharded(params).dcn == ("slice",)
    alone = tree(
        "gpt2", topologies.mesh("v5e:2x4", "fsdp"), "fsdp", layers=8, width=256
    )
    found = measure(contender("muon/sharded", params), params, "tpu")
    assert found.wire_mb["all-to-all"] == pytest.approx(floor(alone).wire / 1e6)
    assert set(found.wire_mb) == {"all-to-all", "all-reduce"}


@pytest.mark.slow
def test_owners_send_their_updates_and_nothing_else_beyond_adamw():
    size = owned.Size(layers=8, width=256, heads=4, context=128, vocabulary=1000)
    mesh = Mesh(topologies.mesh("v5e:2x4", "fsdp").devices, (AXIS,))
    graph, params, labels = owned.model(size, mesh)
    layout = layouts.owned(params, AXIS)
    with jax.numpy_rank_promotion("allow"):  # The model is Flax's.
        adamw, muon = (
            owned.compiled_cost(graph, params, tx, layout, size)
            for tx in owned.contenders(labels, layout).values()
        )
    matrices = jax.tree.leaves(params["blocks"])
    entries = sum(x.size for x in matrices if x.ndim > 2)
    updates = 2 * entries / 8 * 7 / 8 / 1e6
    beyond = owned.sent(muon) - owned.sent(adamw)
    # The guard's flags are some hundred bytes.
    assert beyond == pytest.approx(updates, rel=1e-2)


def test_unknown_chip():
    with pytest.raises(ValueError, match="v9"):
        topologies.mesh("v9:2x2", "fsdp")

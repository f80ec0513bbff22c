"""The same programs through the TPU compiler, where it is installed."""

import pytest

pytest.importorskip("libtpu")

from benchmarks.aot import topologies  # noqa: E402
from benchmarks.aot.contenders import contender  # noqa: E402
from benchmarks.aot.cost import Traffic, cost  # noqa: E402
from benchmarks.aot.floors import floor  # noqa: E402
from benchmarks.aot.measure import measure  # noqa: E402
from benchmarks.aot.trees import tree  # noqa: E402
from tests.benchmarks.programs import KNOWN, text  # noqa: E402


@pytest.mark.parametrize("name", KNOWN)
def test_collectives(name):
    devices = topologies.mesh("v5e:2x4", "fsdp").devices
    kind, *figures = KNOWN[name].traffic
    found = cost(text(KNOWN[name], devices, "tpu"))
    assert found.traffic == {kind: Traffic(*figures)}
    assert not found.unknown_loops


@pytest.mark.slow
def test_a_step_of_muon():
    mesh = topologies.mesh("v5e:2x4", "fsdp")
    params = tree("gpt2", mesh, "fsdp", layers=1, width=128)
    figures = measure(contender("muon/local", params), params, "tpu")
    bound = floor(params)
    assert figures.gflop >= bound.flops / 1e9
    assert sum(figures.wire_mb.values()) >= bound.wire / 1e6
    assert figures.mcycles > 0 and figures.program_mb > 0


def test_unknown_chip():
    with pytest.raises(ValueError, match="v9"):
        topologies.mesh("v9:2x2", "fsdp")

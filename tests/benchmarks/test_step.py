"""The side-by-side step: contenders, and peers that may not be installed."""

import pytest

from benchmarks import step
from benchmarks.peers import PEERS, Peer

FULL = {"step_s": [0.2, 0.1], "trace_s": 1.0, "compile_s": 2.0, "instructions": 500}
FULL |= {"residual": 0.3, "state_bytes": 4_000_000}
OF_A_PEER = {"step_s": [0.05], "residual": 0.3, "state_bytes": 2_000_000}


def test_ratios_are_to_the_first_that_is_there():
    results = {"torch_muon": {}, "muon": FULL, "pytorch_optimizer": OF_A_PEER}
    _, missing, muon, peer = step.report(results).splitlines()
    assert "torch is not installed" in missing
    assert muon.split()[1:3] == ["100", "(1.00)"]
    assert peer.split()[1:] == ["50", "(0.50)", *"–––", "0.3", "(1.00)", "2", "(0.50)"]


@pytest.mark.slow
def test_a_peer_that_is_not_there_stops_nothing(monkeypatch):
    monkeypatch.setitem(PEERS, "torch_muon", Peer("no_such_package", lambda *_: None))
    results = step.measure(["torch_muon", "adamw"], layers=1, width=8, repeats=2)
    assert results["torch_muon"] == {}
    assert len(results["adamw"]["step_s"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_a_peer_orthogonalizes_too(name):
    pytest.importorskip(PEERS[name].package)
    results = step.measure([name, "contrib_muon"], layers=1, width=32, repeats=1)
    # The same five steps, theirs in bfloat16.
    expected = results["contrib_muon"]["residual"]
    assert results[name]["residual"] == pytest.approx(expected, rel=0.05)
    assert results[name]["state_bytes"] == 4 * 12 * 32**2

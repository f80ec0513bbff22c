"""Rows are kept one after another, whatever stops the run, and shown as a table."""

import io
import json

import pytest
from rich.console import Console

from benchmarks.aot import command, table, topologies
from benchmarks.aot.command import Choice
from benchmarks.aot.floors import Floor
from benchmarks.aot.measure import Metrics
from tests.benchmarks.test_floors import mesh

ONE = Choice(["gpt2"], ["v5e:2x4/fsdp"], ["contrib_muon", "muon/local", "muon/none"])
METRICS = Metrics(
    wire_mb={"all-gather": 40.0, "all-reduce": 2.5},
    collectives={"all-gather": 3, "all-reduce": 4},
    gflop=190.26,
    mcycles=2.654,
    copied_mb=(546.0, 1092.0),  # A million and two million cycles at 546 bytes each.
    argument_mb=127.4,
    temp_mb=65.0,
    peak_mb=176.0,
    program_mb=0.0,
    instructions=4679,
    compile_cpu_s=32.0,
)


def a_row(model, place, optimizer, compiler):
    if optimizer == "muon/none":
        raise KeyboardInterrupt
    one = {"tree": model, "mesh": place, "optimizer": optimizer}
    one["floor"] = Floor(37.16e6, 190.26e9, 127401984)._asdict()
    return {**one, "figures": METRICS._asdict(), "versions": {compiler: "1"}}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The command with its arguments; rows are made up, jax stands for a compiler."""
    monkeypatch.setattr(command, "row", a_row)

    def call(*arguments, compiler="jax"):
        monkeypatch.setattr("sys.argv", ["benchmark", *arguments])
        path = tmp_path / "results/rows.json"
        command.run("benchmark", compiler, "aot", path, ONE, ONE)

    return call


def kept(tmp_path) -> dict:
    return json.loads((tmp_path / "results/rows.json").read_text())["rows"]


def test_an_interrupted_run_keeps_what_it_has(run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run()
    names = [f"gpt2 v5e:2x4/fsdp {name}" for name in ONE.optimizers[:2]]
    assert list(kept(tmp_path)) == names
    assert kept(tmp_path)[names[0]]["versions"] == {"jax": "1"}


def test_missing_leaves_out_what_is_kept(run, tmp_path, capsys):
    run("--optimizers", "contrib_muon")
    run("--optimizers", "contrib_muon", "muon/local", "--missing")
    printed = capsys.readouterr().out
    assert len(kept(tmp_path)) == 2
    assert printed.count("fsdp contrib_muon") == 1
    assert printed.count("fsdp muon/local") == 1


def test_a_compiler_that_is_not_there(run, capsys):
    with pytest.raises(SystemExit):
        run(compiler="no-such-compiler")
    assert "optax_ortho[aot]" in capsys.readouterr().err


def printed(*rows) -> list[str]:
    console = Console(file=io.StringIO(), width=118)
    console.print(table.show("title", list(rows)))
    return console.file.getvalue().splitlines()


def test_the_floor_stands_above_its_rows():
    one = a_row("gpt2", "v5e:2x4/fsdp", "muon/local", "jax")
    lines = printed(one)
    (floor,) = (i for i, line in enumerate(lines) if "floor" in line and "gpt2" in line)
    assert lines[floor].split()[3:6] == ["37.2", "–", "190.3"]
    cells = lines[floor + 1].split()
    assert cells[:4] == ["muon/local", "42.5", "7", "190.3"]
    assert "2.65 + 1.0..2.0" in lines[floor + 1]


def test_a_refused_row_says_why(monkeypatch):
    monkeypatch.setattr(topologies, "mesh", lambda name, sharding: mesh(sharding))
    one = table.row("gpt2:1", "v5e/single", "muon/none", "jax")
    assert "not a recipe/layout" in one["error"] and "figures" not in one
    assert any("not a recipe/layout" in line for line in printed(one))

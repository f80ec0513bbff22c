"""The training example: what it prints, what it saves, and how it ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from examples import report, text, train_gpt
from examples.history import History

ROOT = Path(__file__).parents[1]
SMALL = ["--layers", "2", "--width", "16", "--heads", "2", "--context", "16"]
SMALL += ["--batch", "2", "--validation", "2", "--validate-every", "2"]


@pytest.fixture(scope="module")
def demo(corpus, tmp_path_factory):
    """One small run of everything: what it printed, and its folder."""
    folder = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-m", "examples.train_gpt", "--steps", "4", *SMALL]
    command += ["--data", str(corpus), "--output", str(folder), "--seeds", "0", "1"]
    run = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    )
    return run.stdout, folder


def environment() -> dict[str, str]:
    return {**os.environ, "XLA_FLAGS": "", "COLUMNS": "100"}


@pytest.mark.slow
def test_labels_come_first_and_the_table_last(demo):
    printed, _ = demo
    assert printed.index("blocks/attention/query/kernel") < printed.index("After 4")
    for title in ("optax.adamw", "optax.contrib.muon", "optax_ortho.muon"):
        assert title in printed[printed.index("After 4") :]


@pytest.mark.slow
def test_a_plot_and_a_record_are_saved(demo):
    _, folder = demo
    assert (folder / "train_gpt.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((folder / "train_gpt.json").read_text())
    names = [(h["name"], h["seed"]) for h in record["histories"]]
    assert len(names) == len(set(names)) == 6
    for history in record["histories"]:
        assert len(history["step_seconds"]) == 4
        assert [point[0] for point in history["validation"]] == [2, 4]


@pytest.mark.slow
def test_all_optimizers_start_alike(demo):
    """The first training loss is taken before the first update."""
    _, folder = demo
    histories = json.loads((folder / "train_gpt.json").read_text())["histories"]
    for seed in (0, 1):
        first = [h["train_loss"][0] for h in histories if h["seed"] == seed]
        # The same program on the same numbers, compiled into different steps.
        np.testing.assert_allclose(first, first[0], rtol=1e-5)


@pytest.mark.slow
def test_interrupt_leaves_the_table_of_what_was_reached(corpus, tmp_path):
    command = [sys.executable, "-u", "-m", "examples.train_gpt", "--steps", "100000"]
    command += [*SMALL, "--data", str(corpus), "--output", str(tmp_path)]
    run = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    for line in run.stdout:
        if "Compiling" in line:
            break
    run.send_signal(signal.SIGINT)
    printed, _ = run.communicate(timeout=120)
    assert run.returncode == 130
    assert "Interrupted" in printed and "optax_ortho.muon" in printed
    assert (tmp_path / "train_gpt.json").exists()


def test_rates_by_name_and_for_all():
    options = train_gpt.parse(["--lr", "0.5", "muon=0.25"])
    assert options.lr.pop("muon") == 0.25
    assert options.lr == dict.fromkeys(options.lr, 0.5) and "adamw" in options.lr


@pytest.mark.parametrize("rate", ["moun=0.1", "fast"])
def test_a_wrong_rate_is_refused(rate, capsys):
    with pytest.raises(SystemExit):
        train_gpt.parse(["--lr", rate])
    assert "--lr" in capsys.readouterr().err


def test_batches_depend_on_seed_and_step_alone():
    data = np.arange(200, dtype=np.uint8)
    one = text.windows(data, 4, 8, seed=(0, 3))
    np.testing.assert_array_equal(one, text.windows(data, 4, 8, seed=(0, 3)))
    assert (one != text.windows(data, 4, 8, seed=(0, 4))).any()
    assert one.shape == (4, 9)


def test_validation_text_is_held_out(tmp_path):
    for i in range(40):
        (tmp_path / f"{i:02}.txt").write_text(f"<{i:02}>" * 50)
    train, validation = (t.tobytes() for t in text.load(tmp_path, context=8))
    assert b"<19>" in validation and b"<39>" in validation
    assert b"<19>" not in train and b"<39>" not in train


def test_steps_to_the_reference():
    def history(name, losses):
        result = History(name, name, 0.1, seed=0)
        for i, loss in enumerate(losses, start=1):
            result.step_seconds.append(0.5)
            result.validation.append((i, 0.5 * i, loss))
        return result

    adamw = history("adamw", [3.0, 2.0, 1.5, 1.0])
    fast = history("muon", [2.0, 0.9, 0.8, 0.7])
    references = {0: adamw}
    assert report._to_reference([fast], references) == ("2 (0.50)", "1.0 (0.50)")
    slow = history("muon", [3.0, 2.9, 2.8, 2.7])
    assert report._to_reference([slow], references) == ("not yet", "not yet")


@pytest.mark.slow
def test_a_step_with_owners_learns():
    command = [sys.executable, "-m", "examples.owned_step", "--devices", "4"]
    command += ["--steps", "6", "--width", "16"]
    run = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    )
    first, last = (float(line.split()[-1]) for line in run.stdout.splitlines())
    assert last < first - 1

"""The pretraining job: killed it goes on, and any split of it is the same job."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from examples import dry_run
from examples.job import new_job
from examples.loader import batches, load
from examples.mesh import new_mesh
from examples.pretrain_gpt import parse, train
from optax_ortho.matrices import path_of

ROOT = Path(__file__).parents[1]
TINY = "--layers 2 --width 32 --context 16 --batch 8 --validation 8 --warmup 2".split()


def launched(output, *arguments, devices=1):
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        # As the suite's own programs are compiled.
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    command = [sys.executable, "-m", "examples.pretrain_gpt", *TINY, *arguments]
    return subprocess.Popen(
        [*command, "--output", str(output)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(*processes):
    for process in processes:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said[-2000:]


def losses(output):
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines)}


@pytest.mark.slow
def test_a_killed_job_goes_on_to_the_same_last_bit(tmp_path):
    steps = ("--steps", "40", "--save-every", "4")
    finished(launched(tmp_path / "whole", *steps))
    process = launched(tmp_path / "killed", *steps)
    metrics = tmp_path / "killed" / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 10:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert max(losses(tmp_path / "killed")) < 40
    finished(launched(tmp_path / "killed", *steps))
    found, expected = (losses(tmp_path / name) for name in ("killed", "whole"))
    assert found == expected and len(expected) == 40
    # A step that was done twice stands there once.
    assert len(metrics.read_text().splitlines()) == 40


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    mesh = "--steps 4 --data-parallel 2 --fsdp 2 --tensor 2".split()
    finished(launched(tmp_path / "one", *mesh, devices=8))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    two = (
        *mesh,
        *("--processes", "2"),
        *("--coordinator", f"127.0.0.1:{port}"),
    )
    both = [
        launched(tmp_path / "two", *two, "--process", str(i), devices=4)
        for i in range(2)
    ]
    finished(*both)
    found, expected = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert len(found) == 4
    for step, loss in expected.items():
        # Gradients are summed in another order.
        assert found[step] == pytest.approx(loss, abs=1e-4)


@pytest.mark.slow
def test_micro_batches_make_up_a_batch(tmp_path):
    found = []
    for count in ("1", "4"):
        output = tmp_path / count
        options = parse([*TINY, "--steps", "3", "--accumulate", count])
        options = options.__class__(**{**vars(options), "output": output})
        train(options, new_job(options, new_mesh(1, -1, 1, jax.devices()[:1])))
        found.append(losses(output))
    for step, loss in found[0].items():
        assert found[1][step] == pytest.approx(loss, abs=1e-4)


def test_a_dry_run_says_what_a_step_costs():
    pytest.importorskip("libtpu")
    options = parse(
        [*TINY, "--dry-run", "--topology", "v5e:2x2", "--width", "64", "--unroll", "1"]
    )
    said = dry_run.report(options)
    for words in (
        "blocks/up/kernel",
        "muon",
        "along fan_in",
        "GB temporary",
        "MB sent",
    ):
        assert words in said, said


def test_the_preset_stands_in_for_what_is_not_said():
    options = parse(["--preset", "llama-1b", "--layers", "3"])
    assert (options.layers, options.kv_heads, options.bfloat16) == (3, 8, True)
    assert parse([]).steps == 200
    with pytest.raises(SystemExit, match="neither"):
        wrong = parse(["--optimizer", "mion"])
        new_job(wrong, new_mesh(1, 1, 1, jax.devices()[:1]))


def test_parameters_lie_along_both_axes():
    job = new_job(parse(TINY), new_mesh(2, 2, 2, jax.devices()))
    lies = {
        path_of(keys): leaf.sharding.spec
        for keys, leaf in jax.tree_util.tree_leaves_with_path(job.params)
    }
    assert lies["blocks/up/kernel"] == P(None, "fsdp", "tensor")
    assert lies["blocks/down/kernel"] == P(None, "tensor", "fsdp")
    assert lies["blocks/attention/query/kernel"] == P(None, "fsdp", "tensor", None)
    assert lies["blocks/attention/out/kernel"] == P(None, "tensor", None, "fsdp")
    assert lies["token/embedding"] == P("tensor", "fsdp")
    assert lies["norm/scale"] == P(None)
    with pytest.raises(SystemExit, match="does not match the 8 devices"):
        new_mesh(3, 1, 1, jax.devices())


# The loader

TOKENS = np.arange(1000, dtype=np.uint16)


def test_parts_of_processes_make_up_the_batch():
    whole = batches(TOKENS, 9, 8, seed=1)
    parts = [batches(TOKENS, 9, 8, 1, process, 2) for process in range(2)]
    for _ in range(20):
        together = np.concatenate([next(part) for part in parts])
        expected = next(whole)
        assert sorted(map(tuple, together)) == sorted(map(tuple, expected))


def test_an_epoch_has_every_window_once():
    reader = batches(TOKENS, 9, 37, seed=0)
    epochs = [np.concatenate([next(reader) for _ in range(3)]) for _ in range(2)]
    for epoch in epochs:
        assert sorted(epoch[:, 0]) == list(range(0, 999, 9))
        assert (np.diff(epoch) == 1).all()
    assert (epochs[0] != epochs[1]).any()


def test_a_reader_goes_on_where_it_stopped():
    reader, other = (batches(TOKENS, 9, 8, seed=0) for _ in range(2))
    for _ in range(5):
        next(reader)
    other.set_state(json.loads(json.dumps(reader.get_state())))
    np.testing.assert_array_equal(next(other), next(reader))


def test_shards_of_tokens(tmp_path):
    np.save(tmp_path / "a.npy", TOKENS[:600])
    np.save(tmp_path / "b.npy", TOKENS[600:])
    tokens, held_out = load(tmp_path, 9)
    np.testing.assert_array_equal(np.concatenate([tokens, held_out]), TOKENS)
    assert len(held_out) == 50
    alone, _ = load(tmp_path / "a.npy", 9)
    np.testing.assert_array_equal(alone, TOKENS[: len(alone)])

"""Two processes train, and one continues on another mesh."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint
import pytest

from tests.layouts import process
from tests.layouts.process import SHAPES, STEPS

ROOT = Path(__file__).parents[2]
# Products of order-one numbers, summed in another order.
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where two processes of four devices each left a checkpoint and a result."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "tests.layouts.process", address, "2"]
    running = [
        subprocess.Popen(
            [*command, str(index), str(folder)],
            cwd=ROOT,
            env={**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    printed = [run.communicate(timeout=300)[0] for run in running]
    assert [run.returncode for run in running] == [0, 0], "\n".join(printed)
    return folder


def expected(steps: int) -> dict[str, np.ndarray]:
    """What one device reaches."""
    one = jax.make_mesh((1, 1), ("f", "t"), devices=jax.devices()[:1])
    params = process.on(one, 0)
    state = process.optimizer(params).init(params)
    params, _ = process.train(one, params, state, range(1, 1 + steps))
    return jax.device_get(params)


def assert_equal(found, expected):
    for name in SHAPES:
        np.testing.assert_allclose(
            found[name], expected[name], rtol=0, atol=ROUNDING, err_msg=name
        )


@pytest.mark.slow
def test_two_processes_train_as_one_device(folder):
    assert_equal(np.load(folder / "trained.npz"), expected(2 * STEPS))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 4), (8, 1)])
def test_one_process_continues_on_another_mesh(folder, shape):
    mesh = jax.make_mesh(shape, ("f", "t"))
    params = process.on(mesh, 0)
    state = process.optimizer(params).init(params)
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        target = {"params": params, "state": state}
        saved = checkpointer.restore(folder / "saved", target)
    for name, x in saved["params"].items():
        assert x.sharding.is_equivalent_to(params[name].sharding, x.ndim), name
    steps = range(1 + STEPS, 1 + 2 * STEPS)
    params, _ = process.train(mesh, saved["params"], saved["state"], steps)
    assert_equal(params, np.load(folder / "trained.npz"))

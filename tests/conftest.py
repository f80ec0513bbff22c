"""Eight devices on one CPU, and an error wherever ranks would be promoted silently."""

import os

DEVICES = "--xla_force_host_platform_device_count=8"
# Thousands of small programs run once or twice each, and most of the suite's time went
# into making them fast: XLA's CPU compiler is asked not to.
HASTE = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
# What the user sets comes last and wins.
theirs = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = f"{DEVICES} {HASTE} {theirs}"

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.devices()  # Reads the flags, and the compiler for TPUs does not know all of them.
os.environ["XLA_FLAGS"] = f"{DEVICES} {theirs}"


@pytest.fixture
def float64():
    """Double precision, for tests of promises that hold in it too."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A text that a small model learns in a few steps."""
    path = tmp_path_factory.mktemp("text") / "own.txt"
    path.write_bytes(b"the quick brown fox jumps over the lazy dog. " * 200)
    return path

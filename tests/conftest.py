"""Eight devices on one CPU, and an error wherever ranks would be promoted silently."""

import os

# JAX reads it when it is first imported.
DEVICES = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}".strip()

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def float64():
    """Double precision, for tests of promises that hold in it too."""
    with jax.enable_x64(True):
        yield

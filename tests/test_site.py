"""The site builds without a warning, and has an entry for every public name."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("furo")
inventory = pytest.importorskip("sphinx.util.inventory")

import optax_ortho  # noqa: E402
from optax_ortho import (  # noqa: E402
    bases,
    checkpoints,
    constraints,
    kronecker,
    layouts,
    momentum,
    normalizers,
    orthogonalizers,
    plots,
    recipes,
    trust_region,
    wrappers,
)

PACKAGES = (
    *(optax_ortho, bases, checkpoints, constraints, kronecker),
    *(layouts, momentum, normalizers, orthogonalizers, plots, recipes),
    *(trust_region, wrappers),
)


@pytest.mark.slow
def test_the_site(tmp_path):
    docs = Path(__file__).parents[1] / "docs"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run([*command, docs, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = inventory.InventoryFile.loads(
        (tmp_path / "objects.inv").read_bytes(), uri=""
    )
    entries = {name for names in found.data.values() for name in names}
    missing = [
        f"{package.__name__}.{name}"
        for package in PACKAGES
        for name in package.__all__
        if f"{package.__name__}.{name}" not in entries
    ]
    assert not missing

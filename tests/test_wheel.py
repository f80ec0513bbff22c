"""The wheel holds the package, and works outside the checkout."""

import email
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import optax_ortho

CHECKOUT = Path(__file__).parents[1]
# Flax and the test tools are hidden: the package itself needs jax and optax only.
IMPORTED = """
import sys
for name in ("flax", "chex", "pytest", "matplotlib", "rich", "orbax"):
    sys.modules[name] = None
import jax.numpy as jnp, optax_ortho
assert optax_ortho.__file__.startswith(sys.argv[1]), optax_ortho.__file__
params = {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}
tx = optax_ortho.muon(0.01)
updates, _ = tx.update(params, tx.init(params), params)
print(updates["kernel"].shape, optax_ortho.__version__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_wheel_works_outside_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    result = subprocess.run(
        [sys.executable, "-c", IMPORTED, str(site)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert result.stdout.split() == ["(2,", "3)", optax_ortho.__version__]


@pytest.mark.slow
def test_wheel_holds_the_package_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "optax_ortho/py.typed" in names
    tops = {name.split("/")[0] for name in names}
    assert all(top.startswith("optax_ortho") for top in tops), tops
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_its_readme_renders(wheel):
    """Tables render as on PyPI, and every link is absolute."""
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("METADATA"))
    metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Description-Content-Type"] == "text/markdown"
    page = metadata.get_payload()
    tokens = MarkdownIt("commonmark").enable("table").parse(page)
    inline = [token for token in tokens if token.type == "inline"]
    assert sum(token.type == "table_open" for token in tokens) == 4
    assert not [token.content for token in inline if "|--" in token.content]
    links = [
        child.attrs[attribute]
        for token in inline
        for child in token.children
        for attribute in ("href", "src")
        if attribute in child.attrs
    ]
    assert links and all(link.startswith("https://") for link in links), links

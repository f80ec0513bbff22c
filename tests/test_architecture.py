"""The tree is the design: imports point down, and nothing private is imported."""

import ast
import re
import sys
from pathlib import Path

import pytest

import optax_ortho

ROOT = Path(optax_ortho.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
# The lowest first; a module imports from its own package and from lower rows.
LAYERS = (
    ("states",),
    ("checks", "recording", "names", "tables", "dtypes", "matrices"),
    ("blocks", "inputs", "layouts", "labels"),
    ("chain", "frames", "guard", "measures", "statistics"),
    ("momentum", "orthogonalizers", "normalizers", "trust_region", "constraints"),
    ("bases", "kronecker"),
    ("recipes",),
    ("optimizers",),
    ("checkpoints", "planning", "report", "stages", "testing", "wrappers"),
    ("plots",),
    ("__init__",),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
OUTSIDE = {"jax", "optax", "numpy"}
STANDARD = set(sys.stdlib_module_names)


def imports(path: Path) -> list[str]:
    """The modules that a file imports, at the top or inside a function."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += names if node.module == "optax_ortho" else [node.module or ""]
    return found


def room(path: Path) -> str:
    if path.name == "__main__.py":  # A command uses the public names of the package.
        return "__main__"
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    here = room(path)
    for name in imports(path):
        if name.startswith("optax_ortho."):
            there = name.split(".")[1]
            if there in RANK:  # Else a name of the package, such as __version__.
                allowed = there == here or RANK[there] < RANK[here]
                assert allowed, f"{here} imports {there}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_private_leaves_its_room(path):
    for node in ast.walk(ast.parse(path.read_text())):
        module = getattr(node, "module", None) or ""
        if isinstance(node, ast.ImportFrom) and module.startswith("optax_ortho."):
            names = [*module.split("."), *(alias.name for alias in node.names)]
            private = [name for name in names if re.match("_[^_]", name)]
            assert names[1] == room(path) or not private, private


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_public_names_of_few_packages(path):
    outside = [name for name in imports(path) if not name.startswith("optax_ortho")]
    for name in outside:
        parts = name.split(".")
        assert not any(part.startswith("_") for part in parts[1:]), name
    folder = path.parent.name in ("labels", "statistics")
    flax = folder and path.name.startswith("flax_")
    third_party = {name.split(".")[0] for name in outside} - STANDARD
    drawn = {"matplotlib"} if room(path) == "plots" else set()
    assert third_party <= OUTSIDE | ({"flax"} if flax else set()) | drawn


def test_every_module_has_a_layer():
    assert {room(path) for path in MODULES} == set(RANK)


def test_contributing_lists_the_layers():
    page = (ROOT.parent / "CONTRIBUTING.md").read_text()
    lines = re.findall(r"^\| (\d+) \| `(\w+)` \|", page, re.MULTILINE)
    expected = [
        (str(layer), room) for layer, rooms in enumerate(LAYERS, 1) for room in rooms
    ]
    assert lines == expected


def test_all_is_what_the_package_offers():
    assert list(optax_ortho.__all__) == sorted(optax_ortho.__all__)
    for name in optax_ortho.__all__:
        assert getattr(optax_ortho, name).__doc__, f"{name} has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) <= 300

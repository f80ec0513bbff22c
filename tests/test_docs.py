"""The examples of the README and of docs/ run, in order, each page in one session."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITHOUT_EXAMPLES = ("api", "benchmarks.md", "algorithms/index.md")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def name(page):
    return str(page.relative_to(ROOT)).removeprefix("docs/")


@pytest.mark.parametrize(
    "page", [p for p in PAGES if not name(p).startswith(WITHOUT_EXAMPLES)], ids=name
)
def test_examples_run(page):
    blocks = BLOCK.findall(page.read_text())
    assert blocks, f"{page.name} has no example"
    session: dict = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), session)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_to_files_hold(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    for target in targets:
        assert (page.parent / target).exists(), target

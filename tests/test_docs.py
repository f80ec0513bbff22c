"""The examples of the README and of docs/ run, in order, each page in one session.

A text block right below an example is what the example prints; ``...`` stands for what
may differ.
"""

import contextlib
import doctest
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITHOUT_EXAMPLES = ("api", "benchmarks.md", "algorithms/index.md", "notebooks.md")
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n*^```text\n(?P<output>.*?)^```)?",
    re.MULTILINE | re.DOTALL,
)


def name(page):
    return str(page.relative_to(ROOT)).removeprefix("docs/")


def run(page, text):
    """Runs the examples of a page, and holds them to what it says that they print."""
    session: dict = {}
    blocks = list(BLOCK.finditer(text))
    for block in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block["code"], page, "exec"), session)
        if block["output"] is None:
            continue
        given = "".join(f"{line.rstrip()}\n" for line in printed.getvalue().splitlines())
        checker = doctest.OutputChecker()
        if not checker.check_output(block["output"], given, doctest.ELLIPSIS):
            raise AssertionError(f"{page} says\n{block['output']}\nand prints\n{given}")
    return len(blocks)


@pytest.mark.parametrize(
    "page", [p for p in PAGES if not name(p).startswith(WITHOUT_EXAMPLES)], ids=name
)
def test_examples_run(page):
    assert run(str(page), page.read_text()), f"{page.name} has no example"


def test_another_output_is_found():
    example = "```python\nprint(6 * 7)\n```\n\n```text\n{}\n```\n"
    run("page", example.format("4..."))
    with pytest.raises(AssertionError, match="42"):
        run("page", example.format("43"))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_to_files_hold(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    for target in targets:
        assert (page.parent / target).exists(), target

"""The examples of the README and of docs/ run, in order, each page in one session.

A ```text block right after a ```python block is what that prints. A line ``...`` stands
for any lines, and ``...`` in a line for any characters, as in doctests.
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
    r"^```python\n(.*?)^```$(?:\s+```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL
)
# PyPI shows the README too, so that its links are whole.
OURS = re.compile(r"optax-ortho/optax_ortho/(?:blob/)?main/([^)#\s]+)")
CHECKER = doctest.OutputChecker()


def name(page):
    return str(page.relative_to(ROOT)).removeprefix("docs/")


@pytest.mark.parametrize(
    "page", [p for p in PAGES if not name(p).startswith(WITHOUT_EXAMPLES)], ids=name
)
def test_examples_run(page):
    blocks = [found.groups() for found in BLOCK.finditer(page.read_text())]
    assert blocks, f"{page.name} has no example"
    session: dict = {}
    for block, expected in blocks:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(block, str(page), "exec"), session)
        if expected is not None:
            check_output(page.name, block, expected, printed.getvalue())


def check_output(name, block, expected, printed):
    if not CHECKER.check_output(expected, printed, doctest.ELLIPSIS):
        pytest.fail(
            f"{name}: this block\n\n{block}\nprints\n\n{printed}", pytrace=False
        )


@pytest.mark.parametrize(
    "expected, passes",
    [
        ("one 1.25\n\ntwo\n", True),
        ("one ...\n\ntwo\n", True),
        ("one 1.25\n...\n", True),
        ("one 1.26\n\ntwo\n", False),
        ("one 1.25\n", False),
        ("", False),
    ],
)
def test_printed_output_is_compared(tmp_path, expected, passes):
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nprint('one 1.25')\nprint()\nprint('two')\n```\n\n"
        f"```text\n{expected}```\n"
    )
    if passes:
        test_examples_run(page)
    else:
        with pytest.raises(pytest.fail.Exception, match="page.md: this block"):
            test_examples_run(page)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_to_files_hold(page):
    text = page.read_text()
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (page.parent / target).exists(), target
    for target in OURS.findall(text):
        assert (ROOT / target).exists(), target

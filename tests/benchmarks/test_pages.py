"""The numbers on the pages agree with the stored results."""

import doctest
import re

import pytest

from benchmarks import choose, pages, readme, site
from benchmarks.scale import RESULTS


@pytest.mark.parametrize("module", [readme, choose], ids=lambda module: module.__name__)
def test_pages_agree_with_results(module):
    text = module.PAGE.read_text()
    assert module.page(text) == text, f"run python -m {module.__name__}"


def test_the_site_agrees_with_results():
    for path, text in site.pages().items():
        assert path.read_text() == text, "run python -m benchmarks.site"


def test_the_front_page_agrees_with_the_tables():
    front = (site.DOCS / "index.md").read_text()
    rows = readme.load(RESULTS)
    sent = [
        sum(rows[f"gpt2 v5e:2x4/fsdp {name}"]["figures"]["wire_mb"].values())
        for name in (readme.OURS, readme.THEIRS)
    ]
    assert "{:.0f} MB instead of {:.0f}".format(*sent) in front
    steps = site.load("step")["results"]
    times = [1e3 * min(steps[name]["step_s"]) for name in ("muon", "contrib_muon")]
    assert "{:.0f} ms instead of {:.0f}".format(*times) in front
    # The demo's table is written by hand.
    demo = re.search(r"`optax_ortho.muon` [^(]*\(([\d.]+)\)", readme.PAGE.read_text())
    assert demo and f"{demo[1]} of AdamW's steps" in front


def test_insert():
    result = doctest.testmod(pages)
    assert result.attempted and not result.failed


@pytest.mark.parametrize(
    "page",
    [
        "",
        "<!-- n -->",
        "<!-- end of n --> <!-- n -->",
        "<!-- n --> <!-- n --> <!-- end of n -->",
        "<!-- n --> <!-- end of n --> <!-- end of n -->",
    ],
)
def test_a_page_needs_both_marks_once(page):
    with pytest.raises(ValueError, match="once each"):
        pages.insert(page, "n", "")

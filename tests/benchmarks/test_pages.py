"""The figures of the pages are those of the kept results."""

import doctest

import pytest

from benchmarks import choose, pages, readme, site


@pytest.mark.parametrize("module", [readme, choose], ids=lambda module: module.__name__)
def test_pages_agree_with_results(module):
    text = module.PAGE.read_text()
    assert module.page(text) == text, f"run python -m {module.__name__}"


def test_the_site_agrees_with_results():
    for path, text in site.pages().items():
        assert path.read_text() == text, "run python -m benchmarks.site"


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

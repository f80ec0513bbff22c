"""Texts use the terms of the field, and a docstring opens with what comes out."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A phrase, and the words to use in its place.
PHRASES = {
    r"free of scale": "scale-invariant",
    r"cut along": "sharded over",
    r"travel(s|led|ling)?": "is communicated",
    r"figures?": "metric, number",
    r"lies?|lain|lay(?! out)": "is stored, is sharded",
    r"so many": "the number",
    r"(that|those) of": "the noun itself",
    r"own affair": "ignored",
    r"who multiplies": "the implementation of the products",
}
PHRASE = re.compile(
    "|".join(rf"\b(?:{phrase})\b" for phrase in PHRASES).replace(" ", r"\s+"),
    re.IGNORECASE,
)
OPENING = re.compile(r"(?:What|How|Of|As|Who|Whose|Which|Where|See)\b")
# Identifiers are nouns.
PRONOUNS = {"one", "found", "own", "told", "heard", "dear", "cheap"}
# Not yet clean; paths or their beginnings. This file quotes the phrases.
TO_COME = (
    "optax_ortho/labels/program/",
    "optax_ortho/labels/refusals.py",
    "tests/labels/program/",
    "tests/labels/test_command.py",
    "tests/labels/job_trees.py",
    "tests/layouts/",
    "tests/test_words.py",
)
# In these a figure is a `matplotlib.figure.Figure`.
DRAWN = ("optax_ortho/plots/", "examples/plot.py", "benchmarks/pictures.py")
FILES = [
    path
    for folder in (
        "optax_ortho",
        "benchmarks",
        "docs",
        "examples",
        "notebooks",
        "tests",
    )
    for kind in ("*.py", "*.md")
    for path in sorted((ROOT / folder).rglob(kind))
] + sorted(ROOT.glob("*.md"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(text: str) -> str:
    """The text with blanks for code, examples and addresses."""

    def blank(match: re.Match) -> str:
        return re.sub(r"[^\n]", " ", match.group())

    code = (
        r"<!--.*?-->",
        r"^```.*?^```",
        r"^ *(?:>>>|\.\.\. ).*?$",
        r"``[^`]*``",
        r"`[^`]*`",
        r"https?://\S+",
    )
    return re.sub("|".join(code), blank, text, flags=re.MULTILINE | re.DOTALL)


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The first line and the text of each page, comment, docstring and message."""
    source = path.read_text()
    if path.suffix == ".md":
        yield 1, source
        return
    comment: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comment.append((token.start[0], token.string.lstrip("# ")))
        elif token.type not in (tokenize.NL, tokenize.NEWLINE) and comment:
            yield comment[0][0], "\n".join(text for _, text in comment)
            comment = []
        # A string of one word is a key or a name.
        if token.type == tokenize.STRING and re.search(r"\w\s+\w", token.string):
            yield token.start[0], token.string


def dialect(path: Path) -> Iterator[str]:
    drawn = name(path).startswith(DRAWN)
    for start, text in texts(path):
        for match in PHRASE.finditer(prose(text)):
            phrase = " ".join(match.group().split())
            if not (drawn and phrase.lower().startswith("figure")):
                line = start + text[: match.start()].count("\n")
                yield f"{name(path)}:{line}: {phrase!r}"


def openings(path: Path) -> Iterator[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_text())):
        docstring = ast.get_docstring(node) if isinstance(node, kinds) else None
        if docstring and OPENING.match(docstring):
            line = getattr(node, "lineno", 1)
            yield f"{name(path)}:{line}: {docstring.splitlines()[0]!r}"


def pronouns(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.arg) and node.arg in PRONOUNS:
            yield f"{name(path)}:{node.lineno}: {node.arg!r}"
        elif isinstance(node, ast.Name) and node.id in PRONOUNS:
            yield f"{name(path)}:{node.lineno}: {node.id!r}"


def clean(*suffixes: str, but: tuple[str, ...] = ()):
    paths = [
        path
        for path in FILES
        if path.suffix in suffixes and not name(path).startswith(TO_COME + but)
    ]
    return pytest.mark.parametrize("path", paths, ids=map(name, paths))


@clean(".py", ".md")
def test_texts_use_the_terms_of_the_field(path):
    assert not list(dialect(path)), PHRASES


@clean(".py")
def test_docstrings_open_with_what_comes_out(path):
    assert not list(openings(path))


@clean(".py", but=("tests/",))
def test_identifiers_are_nouns(path):
    assert not list(pronouns(path))


@pytest.mark.parametrize(
    "source, expected",
    [
        (
            '"""As it lies, cut\nalong x."""\n',
            ["1: 'lies'", "1: 'cut along'", "1: 'As"],
        ),
        (
            "def f():\n    # Its size is\n    # that\n    # of x.\n    x",
            ["3: 'that of'"],
        ),
        ('raise ValueError("It travels far.")', ["1: 'travels'"]),
        ("one = 1", ["1: 'one'"]),
        ("f = lambda own: 1", ["1: 'own'"]),
        ('"""The sum `lies`, see ``that of``; layouts."""\nx["figures"] = 1', []),
    ],
)
def test_findings(source, expected, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.test_words.ROOT", tmp_path)
    path = tmp_path / "x.py"
    path.write_text(source)
    found = [*dialect(path), *openings(path), *pronouns(path)]
    assert len(found) == len(expected)
    for finding, part in zip(found, expected, strict=True):
        assert finding.startswith(f"x.py:{part}")

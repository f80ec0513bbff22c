"""Every message of the package: read where it is written."""

import ast
from pathlib import Path

import pytest

import optax_ortho

ROOT = Path(optax_ortho.__file__).parent
# A path, a shape or a number in the place of each blank; a path is cut at 100.
BLANK = "x" * 40


def messages():
    """Each ``raise`` of an error for users, with its literal text."""
    for path in sorted(ROOT.rglob("*.py")):
        if "testing" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                call = node.exc
                kind = getattr(call.func, "id", "")
                if kind in ("ValueError", "TypeError") and call.args:
                    where = f"{path.relative_to(ROOT)}:{node.lineno}"
                    yield pytest.param(call.args[0], id=where)


def text_of(node):
    """The text of a literal, an f-string or a sum of them; None for a variable."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        parts = [getattr(part, "value", None) for part in node.values]
        return "".join(p if isinstance(p, str) else BLANK for p in parts)
    if isinstance(node, ast.BinOp):
        sides = text_of(node.left), text_of(node.right)
        return None if None in sides else "".join(sides)
    return None


def test_they_are_found():
    assert len(list(messages())) > 60


@pytest.mark.parametrize("node", list(messages()))
def test_a_message_is_short_and_says_what_was_found(node):
    text = text_of(node)
    if text is None:
        assert isinstance(node, (ast.Name, ast.Call, ast.IfExp)), ast.dump(node)
        return
    assert len(text) < 500, text
    if text == f"Leaf {BLANK}: {BLANK}":
        return  # Another message, passed on with the path.
    assert text.rstrip().endswith((".", "x", ")")), text
    assert len(text.split()) >= 5 and text[0] != " ", text
    assert BLANK in text or "need" in text or "must" in text, text

"""The loops of other libraries on the page about labels, which need those libraries."""

import re
from pathlib import Path

import jax.numpy as jnp
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "labels.md"
BLOCKS = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("library", ["equinox", "haiku"])
def test_loop(library):
    pytest.importorskip(library)
    (block,) = (block for block in BLOCKS if f"import {library} as" in block)
    before, loop = block.split("\nfor _ in range(20):\n")
    session: dict = {}
    exec(before, session)
    roles = [label.role for _, _, label in session["labels"]]
    assert roles.count("matrix") == 2 and roles.count("head") == 1

    def loss():
        x, y = session["x"], session["y"]
        if library == "haiku":
            return ((session["model"].apply(session["params"], x) - y) ** 2).mean()
        return session["loss"](session["mlp"], x, y)

    first = loss()
    exec(f"for _ in range(20):\n{loop}", session)
    assert jnp.isfinite(loss()) and loss() < 0.9 * first

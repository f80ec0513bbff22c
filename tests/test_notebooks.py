"""The notebooks as text and as JSON are one, and show what they did when run whole."""

import json
from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext")  # Of the extra `notebooks`.

FOLDER = Path(__file__).parents[1] / "notebooks"
TEXTS = [path for path in sorted(FOLDER.glob("*.py")) if path.stem != "conftest"]
BADGE = "https://colab.research.google.com/github/optax-ortho/optax_ortho/blob/main"
each = pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.stem)


def written(text):
    return json.loads(text.with_suffix(".ipynb").read_text())["cells"]


def test_every_notebook_is_a_pair():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {t.stem for t in TEXTS}


@each
def test_both_have_the_same_cells(text):
    cells = [(cell.cell_type, cell.source) for cell in jupytext.read(text).cells]
    assert cells == [(c["cell_type"], "".join(c["source"])) for c in written(text)]


@each
def test_it_was_run_in_order_and_has_a_figure(text):
    cells = [cell for cell in written(text) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", ()) for output in outputs)
    said = [output for output in outputs if output.get("name") == "stderr"]
    assert not said, said  # Warnings, with paths of the machine that it ran on.


@each
def test_its_badge_opens_it(text):
    assert f"{BADGE}/notebooks/{text.stem}.ipynb" in text.read_text()

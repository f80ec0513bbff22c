"""The picture of the page on labels says what is read from its program."""

import jax
import pytest

pytest.importorskip("matplotlib")

from benchmarks import program_picture  # noqa: E402


@pytest.fixture
def labels():
    with jax.numpy_rank_promotion("allow"):  # The program is as short as can be.
        return program_picture.labels()


def test_the_remarks_hold(labels):
    found = {path: (shape, label) for path, shape, label in labels}
    notes = dict(zip(found, (remark.notes for remark in labels.remarks), strict=True))
    assert {remark.how for remark in labels.remarks} == {"program"}
    assert notes["qkv"] == ("3 blocks found",)
    assert "chooses" in notes["router"][0] and found["router"][1].role == "vector"
    for name in ("up", "down"):
        shape, label = found[name]
        assert label.axes.fan_in == (1,) and label.axes.batch(len(shape)) == (0,)
    assert found["position"][1].role == found["table"][1].role == "embedding"
    assert found["logits"][1].role == "head"


def test_every_line_with_a_parameter_has_a_remark(labels):
    figure = program_picture.draw(labels)
    texts = [text.get_text() for text in figure.texts]
    assert set(program_picture.USES.values()) <= set(texts)
    lines = [line for line in program_picture.PROGRAM.splitlines() if "p." in line]
    assert len(lines) == len(program_picture.USES)
    for name in program_picture.Parameters._fields:
        assert f"p.{name}" in texts

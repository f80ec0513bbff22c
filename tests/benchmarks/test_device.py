"""The report about a device, and that its settings can be used."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import device
from benchmarks.device import USUAL, Metrics

FAST, RIGHT = "NewtonSchulz(dtype=jnp.bfloat16, products=Mosaic())", "NewtonSchulz()"


def metrics(seconds, error=0.05, largest=1.0):
    return Metrics(seconds, {"normal": error / 10, "uneven": error}, largest, 1.0)


def test_the_reference_is_what_float64_gives(float64):
    x = device.cases(8, 24)["uneven"][0]
    found = device.NewtonSchulz().orthogonalize(jnp.asarray(x, jnp.float64))
    # Roundings times the slopes of five steps.
    assert np.abs(device.reference(x) - found).max() < 1e-11


@pytest.mark.parametrize(
    ("fast", "chosen"),
    [
        (metrics(1.0), FAST),
        (metrics(1.95), RIGHT),  # Not enough to change a default.
        (metrics(1.0, error=0.2), RIGHT),
        (metrics(1.0, largest=1.2), RIGHT),
    ],
)
def test_the_fastest_good_one_is_chosen(fast, chosen):
    found = {USUAL: metrics(3.0), RIGHT: metrics(2.0), FAST: fast}
    assert device.choose(found, at_hand=RIGHT) == chosen


def test_a_bad_default_is_left():
    found = {USUAL: metrics(3.0), RIGHT: metrics(2.0, error=0.2)}
    assert device.choose(found, at_hand=RIGHT) == USUAL


def test_without_the_usual_one_nothing_is_set():
    assert device.choose({FAST: metrics(1.0)}, at_hand=RIGHT) == RIGHT


def test_what_it_says_can_be_set():
    wide, tall = (4, 6), (6, 4)
    chosen = {wide: "GramNewtonSchulz()", tall: "NewtonSchulz(dtype=jnp.float16)"}
    names = {"learning_rate": 0.1}
    exec(device.what_to_set(chosen, {wide: RIGHT, tall: RIGHT}), names)
    params = {"a": jnp.ones(wide), "b": jnp.ones(tall), "c": jnp.ones((4, 4))}
    tx = names["optimizer"]
    program = str(jax.make_jaxpr(tx.update)(params, tx.init(params), params))
    assert "f16[6,4]" in program and "f16[4,6]" not in program
    assert device.what_to_set(chosen, chosen).startswith("#")


@pytest.mark.parametrize("platform", device.METHODS)
def test_the_default_is_among_the_methods(platform):
    methods = [device.method(one) for one in (USUAL, *device.METHODS[platform])]
    assert len(set(methods)) == len(methods)
    for shape in ((768, 768), (768, 3072), (2048, 8192)):
        assert device.default(shape, platform) in (USUAL, *device.METHODS[platform])


def test_the_command(monkeypatch, tmp_path, capsys):
    """A kernel that this device refuses is told, and stops nothing."""
    refused = "NewtonSchulz(products=Mosaic())"
    monkeypatch.setitem(device.METHODS, "cpu", (RIGHT, refused))
    output = tmp_path / "device.json"
    arguments = ["device", "--shapes", "24x8", "--turns", "1", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", arguments)
    device.main()
    text = capsys.readouterr().out
    assert "nterpret" in text and "largest" in text
    kept = json.loads(output.read_text())["results"]["24x8"]
    assert set(kept["figures"]) == {USUAL, RIGHT} and set(kept["failures"]) == {refused}
    assert max(kept["figures"][RIGHT]["errors"].values()) < 1e-4  # Float32 roundings.
    assert all(metrics["seconds"] > 0 for metrics in kept["figures"].values())

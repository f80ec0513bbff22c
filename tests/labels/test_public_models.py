"""Public models, as small replicas: every leaf right, or asked."""

import importlib
import re
from pathlib import Path

import jax.numpy as jnp
import pytest
from flax import nnx

from optax_ortho import label
from optax_ortho.labels.patterns import matches
from tests.labels.replicas import nnx_models, plain

REPLICAS = {
    "plain": ("dreamer", "graph_net", "nerf", "mae", "s5"),
    "experts": ("mixtral", "deepseek"),
    "nnx_models": ("dit", "mmdit", "mamba2", "efficientnet", "whisper"),
    "linen_models": ("vit", "clip", "unet", "vae", "ppo", "mixer"),
    "linen_text": ("t5", "maxtext", "gemma", "seq2seq"),
    "haiku_models": ("lstm", "transformer", "evoformer", "resnet"),
    "equinox_models": ("gpt2", "esm", "cnn", "fno"),
}
NAMES = [(module, name) for module, names in REPLICAS.items() for name in names]
SMALL = ("bias", "norm", "vector", "scalar")
TIED = ("mamba2", "whisper", "t5", "gemma", "transformer", "gpt2")
PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def replica(module, name):
    # Skipped where the library is not installed.
    return getattr(importlib.import_module(f"tests.labels.replicas.{module}"), name)


def described(shape, answer):
    """A role, or the axes as ``[batch] fan_in -> fan_out``."""
    if answer.axes is None:
        return answer.role
    batch, fan_in, fan_out = (
        ",".join(map(str, axes))
        for axes in (
            answer.axes.batch(len(shape)),
            answer.axes.fan_in,
            answer.axes.fan_out,
        )
    )
    split = answer.axes.split
    blocks = "" if split is None else f", {len(split.sizes)} blocks"
    return f"[{batch}] " * bool(batch) + f"{fan_in} -> {fan_out}{blocks}"


@pytest.mark.parametrize("module, name", NAMES)
def test_labels(module, name):
    labels, expected = replica(module, name)()
    found, wanted, used = {}, {}, set()
    for path, shape, answer in labels:
        pattern = next(pattern for pattern in expected if matches(pattern, path))
        used.add(pattern)
        found[path] = described(shape, answer)
        is_small = expected[pattern] == "small" and answer.role in SMALL
        wanted[path] = answer.role if is_small else expected[pattern]
    assert found == wanted
    assert used == set(expected)
    others = {"override", "name"} if name == "mae" else set()
    assert {remark.how for remark in labels.remarks} == {"program"} | others
    assert not labels.footnotes
    assert ("head" in found.values()) == (name not in (*TIED, "fno"))


def test_unused_matrices_are_asked():
    with pytest.raises(ValueError, match="^'decoder' .8, 48.: unused by this"):
        plain.mae({})


def test_arrays_give_the_same_labels():
    inputs = jnp.ones((16, 16, 3)), jnp.float32(0.5), jnp.int32(3)
    made = label(nnx_models.DiT(rngs=nnx.Rngs(0)), *inputs, split=True)
    assert made.items() == nnx_models.dit()[0].items()


def test_the_page_has_every_replica():
    rows = re.findall(r"^\|.* `(\w+)\.(\w+)` \|$", PAGE.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(NAMES)

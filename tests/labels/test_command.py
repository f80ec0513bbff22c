"""The command `python -m optax_ortho.labels`: a model of each kind, and its errors."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from optax_ortho.labels import abstract
from optax_ortho.labels.__main__ import main

ROOT = Path(__file__).parents[2]
MODELS = """
import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx


class Net(nnx.Module):
    def __init__(self, width=8, *, rngs: nnx.Rngs):
        self.embed = nnx.Embed(11, width, rngs=rngs)
        self.up = nnx.Linear(width, 32, use_bias=False, rngs=rngs)
        self.last = nnx.LoRALinear(32, 11, lora_rank=2, rngs=rngs)

    def __call__(self, tokens):
        return self.last(nnx.relu(self.up(self.embed(tokens))))


def net():
    return Net(rngs=nnx.Rngs(0))


class LinenNet(nn.Module):
    width: int = 32

    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(4)(nn.Dropout(0.1)(x, deterministic=not train))


linen_net = LinenNet(16)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Tree:
    up: jax.Array
    out: jax.Array
    act: object = dataclasses.field(metadata={"static": True}, default=jnp.tanh)

    def __call__(self, x):
        return self.act(x @ self.up) @ self.out


def tree(key):
    return Tree(jax.random.normal(key, (6, 8)), jnp.ones((8, 3)))


def init(key):
    qkv = jax.random.normal(key, (6, 24))
    return {"qkv": qkv, "out": jnp.ones((8, 3)), "heads": 2}


def apply(params, x, mask=None, *, causal=True):
    query, key, value = jnp.split(x @ params["qkv"], 3, axis=-1)
    scores = query @ key.T if mask is None else (query @ key.T) * mask
    assert causal is False and params["heads"] == 2
    return jax.nn.softmax(scores) @ value @ params["out"]


def batch():
    return {"x": jnp.ones((5, 6))}


def loss(params, batch):
    return apply(params, batch["x"], causal=False).sum()


def configured(config):
    return None
"""


@pytest.fixture
def models(tmp_path, monkeypatch):
    """The name of a module on the path."""
    (tmp_path / "models_of_the_command.py").write_text(MODELS)
    monkeypatch.syspath_prepend(tmp_path)
    yield "models_of_the_command"
    sys.modules.pop("models_of_the_command", None)


def printed(capsys, line):
    """What the command prints: the whole, and the role and the axes by path."""
    main(line.split())
    text = capsys.readouterr().out
    rows = text.split("\n\n")[0].splitlines()
    start, end, after = (rows[0].index(word) for word in ("role", "axes", "how"))
    found = {
        row.split()[0]: (row[start:end].strip(), row[end:after].strip())
        for row in rows[2:]
    }
    return text, found


NET = {
    "embed/embedding": ("embedding", ""),
    "last/bias": ("frozen", ""),
    "last/kernel": ("frozen", ""),
    "up/kernel": ("matrix", "0 -> 1"),
}
LINEN_NET = {
    "Dense_0/bias": ("bias", ""),
    "Dense_0/kernel": ("matrix", "0 -> 1"),
    "Dense_1/bias": ("bias", ""),
    "Dense_1/kernel": ("head", ""),
}


@pytest.mark.parametrize("name", ["Net", "net"])
def test_nnx(models, capsys, name):
    _, found = printed(capsys, f"{models}:{name} --inputs 2x5:int32")
    assert {path: found[path] for path in NET} == NET


def test_wrt(models, capsys):
    line = f"{models}:net --inputs 2x5:int32 --wrt flax.nnx:LoRAParam"
    _, found = printed(capsys, line)
    assert set(found) == {"last/lora/lora_a", "last/lora/lora_b"}


@pytest.mark.parametrize("name", ["LinenNet", "linen_net"])
def test_linen(models, capsys, name):
    _, found = printed(capsys, f"{models}:{name} --inputs 2x5 --set train=True")
    assert found == LINEN_NET


def test_callable_tree(models, capsys):
    _, found = printed(capsys, f"{models}:tree --inputs 7x6")
    assert found == {"out": ("head", ""), "up": ("matrix", "0 -> 1")}


FUNCTION = "{}:apply --params {}:init --inputs 5x6 --set causal=False"


@pytest.mark.parametrize(
    "options, qkv",
    [
        ("", "0 -> 1"),
        ("--split", "0 -> 1, 3 blocks"),
        ("--split other qkv", "0 -> 1, 3 blocks"),
        ("--split other", "0 -> 1"),
        ("--overrides qkv=1->0", "1 -> 0"),
    ],
)
def test_function(models, capsys, options, qkv):
    line = f"{FUNCTION.format(models, models)} {options}"
    _, found = printed(capsys, line)
    assert found == {"out": ("head", ""), "qkv": ("matrix", qkv)}


def test_keyword_inputs_and_trees(models, capsys):
    line = f"{models}:apply --params {models}:init --set causal=False --inputs "
    for more in ("5x6 mask=5x5", "x=5x6"):
        assert printed(capsys, line + more)[1]["out"] == ("head", "")
    line = f"{models}:loss --params {models}:init --inputs {models}:batch"
    assert printed(capsys, line)[1]["qkv"] == ("matrix", "0 -> 1")


@pytest.mark.parametrize("recipe", ["", "normuon"])
def test_summary(models, capsys, recipe):
    line = f"{FUNCTION.format(models, models)} --summary {recipe}"
    text, _ = printed(capsys, line)
    assert f"\nmatrix  {recipe if recipe else 'muon'} " in text
    assert "6x24" in text


@pytest.mark.parametrize(
    "line, message",
    [
        ("net", "'net' names no model; write package.module:name."),
        ("no_such_module:net", "No module named 'no_such_module'"),
        ("{}:nett", "has no attribute 'nett'"),
        ("{}:configured", "configured takes 'config'; name a function"),
        ("{}:LinenNet", "label(model, *example_inputs)"),
        ("{}:apply --params {}:init", "label could not trace the call"),
        ("{}:net --inputs 2y5", "'2y5' is no shape; write 2x128:int32"),
        ("{}:net --inputs 2:int99", "'2:int99' has the dtype 'int99'"),
        ("{}:net --inputs 5:int32 --set train", "'train' is no pair"),
        ("{}:net --inputs 5:int32 --overrides up=head", "'up' covers no leaf"),
        ("{}:net --inputs 5:int32 --overrides up/kernel=hat", "no role 'hat'"),
        ("{}:net --inputs 5:int32 --summary adam", "no recipe 'adam'"),
    ],
)
def test_errors(models, capsys, line, message):
    with pytest.raises(SystemExit) as stopped:
        main(line.format(models, models).split())
    told = capsys.readouterr()
    assert stopped.value.code == 2
    assert told.out == ""
    assert told.err.startswith("python -m optax_ortho.labels: error: ")
    assert message in told.err


def test_no_array_is_made(models):
    import models_of_the_command as module

    for factory in (module.Net, module.tree, module.init):
        leaves = jax.tree.leaves(abstract.build(factory))
        assert any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
        assert not any(isinstance(leaf, jax.Array) for leaf in leaves)


@pytest.mark.slow
@pytest.mark.parametrize("inputs, code", [("2x5:int32", 0), ("nothing", 2)])
def test_as_a_command(models, tmp_path, inputs, code):
    command = [sys.executable, "-m", "optax_ortho.labels", f"{models}:Net"]
    done = subprocess.run(
        [*command, "--inputs", inputs],
        cwd=tmp_path,  # Whose modules a command finds.
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code
    assert ("up/kernel" in done.stdout) == (code == 0)
    assert "Traceback" not in done.stderr

"""The example of MKOR runs."""

import pytest

from examples import train_mkor


@pytest.mark.slow
def test_it_prints_both_optimizers(tmp_path, capsys):
    path = tmp_path / "own.txt"
    path.write_bytes(b"the quick brown fox jumps over the lazy dog. " * 100)
    options = ["--steps", "10", "--batch", "8", "--width", "16", "--switch"]
    train_mkor.main([*options, "--data", str(path)])
    lines = capsys.readouterr().out.splitlines()[-2:]
    for name, line in zip(("optax.adamw", "optax_ortho.mkor"), lines, strict=True):
        assert line.startswith(name) and len(line.split()) == 11

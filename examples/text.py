"""The text: bytes of the Python standard library, or of your own files.

The standard library is on every machine that can run this, so there is nothing to
download. Its tests are left out, because many distributions leave them out too.
"""

import sysconfig
from collections.abc import Sequence
from pathlib import Path

import numpy as np

VOCABULARY = 256  # a token is a byte
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
VALIDATE_EVERY = 20  # one document in twenty is held out: 5 %


def documents(path: Path | None = None) -> list[bytes]:
    """The documents under a folder, or a file cut into a hundred; in a fixed order."""
    if path is None:
        root = Path(sysconfig.get_path("stdlib"))
        files = [
            file
            for file in root.rglob("*.py")
            if LEFT_OUT.isdisjoint(file.relative_to(root).parts)
        ]
    elif path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file()]
    else:
        text = path.read_bytes()
        size = max(1, -(-len(text) // 100))
        return [text[start : start + size] for start in range(0, len(text), size)]
    return [file.read_bytes() for file in sorted(files)]


def load(path: Path | None, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation bytes.

    Whole documents are held out, from all over the text, so that the validation
    loss is about the language and not about the tail of one file.
    """
    found = documents(path)
    validation = _join(found[VALIDATE_EVERY - 1 :: VALIDATE_EVERY])
    del found[VALIDATE_EVERY - 1 :: VALIDATE_EVERY]
    train = _join(found)
    if min(len(train), len(validation)) <= context + 1:
        raise SystemExit(
            f"{path}: {len(train)} bytes to train on and {len(validation)} to validate "
            f"on; windows of {context} bytes need more text."
        )
    return train, validation


def windows(
    text: np.ndarray, count: int, context: int, seed: Sequence[int]
) -> np.ndarray:
    """`count` random windows, the same ones whenever the seed is the same.

    Args:
      text: all the bytes, uint8[size].
      count: how many windows.
      context: bytes that the model sees; a window has one more, the last target.
      seed: any numbers, for example (seed of the run, step).

    Returns:
      int32[count, context + 1].
    """
    starts = np.random.default_rng(seed).integers(len(text) - context, size=count)
    return text[starts[:, None] + np.arange(context + 1)].astype(np.int32)


def _join(parts: Sequence[bytes]) -> np.ndarray:
    return np.frombuffer(b"\n".join(parts), dtype=np.uint8)

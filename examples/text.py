"""Training text: bytes of the Python standard library, or of your own files.

The standard library is on every machine that can run this, so there is nothing to
download. Its tests are excluded, because many distributions do not include them.
"""

import sysconfig
from collections.abc import Sequence
from pathlib import Path

import numpy as np

VOCABULARY = 256  # a token is a byte
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
VALIDATE_EVERY = 20  # one document in twenty is held out: 5 %


def documents(path: Path | None = None) -> list[bytes]:
    """The documents in a folder, or a hundred parts of a file, in a fixed order."""
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

    Whole documents from all over the text are held out, so that the validation loss
    measures the language and not the end of one file.
    """
    parts = documents(path)
    validation = _join(parts[VALIDATE_EVERY - 1 :: VALIDATE_EVERY])
    del parts[VALIDATE_EVERY - 1 :: VALIDATE_EVERY]
    train = _join(parts)
    if min(len(train), len(validation)) <= context + 1:
        raise SystemExit(
            f"{path}: {len(train)} bytes to train on and {len(validation)} to validate "
            f"on; windows of {context} bytes need more text."
        )
    return train, validation


def windows(
    text: np.ndarray, count: int, context: int, seed: Sequence[int]
) -> np.ndarray:
    """Random windows, which depend on the seed only.

    Args:
      text: all bytes, uint8[size].
      count: number of windows.
      context: bytes that the model sees; a window has one more, the last target.
      seed: any numbers, for example (seed of the run, step).

    Returns:
      int32[count, context + 1].
    """
    starts = np.random.default_rng(seed).integers(len(text) - context, size=count)
    return text[starts[:, None] + np.arange(context + 1)].astype(np.int32)


def _join(parts: Sequence[bytes]) -> np.ndarray:
    return np.frombuffer(b"\n".join(parts), dtype=np.uint8)

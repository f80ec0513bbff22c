"""Batches of tokens for many processes, which go on exactly where they stopped."""

from pathlib import Path
from typing import Any

import grain
import numpy as np

from examples import text


class Windows:
    """The windows of a long row of tokens, side by side: Grain's random access source.

    Args:
      tokens: all of them, in memory or mapped.
      context: what the model sees; a window has one more, the last target.
    """

    def __init__(self, tokens: np.ndarray, context: int):
        self.tokens, self.context = tokens, context

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.context

    def __getitem__(self, index: int) -> np.ndarray:
        start = index * self.context
        return self.tokens[start : start + self.context + 1].astype(np.int32)


def load(path: Path | None, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens to train and to validate on.

    Args:
      path: a .npy file of tokens, or a folder of them, of which the last twentieth is
        held out; any other file or folder is text, of which a token is a byte; None is
        the Python standard library.
      context: tokens of a window.
    """
    shards = [path] if path and path.suffix == ".npy" else []
    if path and path.is_dir():
        shards = sorted(path.glob("*.npy"))
    if not shards:
        return text.load(path, context)
    if len(shards) > 1:
        tokens = np.concatenate([np.load(shard) for shard in shards])
    else:
        tokens = np.load(shards[0], mmap_mode="r")
    cut = len(tokens) - max(len(tokens) // text.VALIDATE_EVERY, context + 1)
    return tokens[:cut], tokens[cut:]


def batches(
    tokens: np.ndarray,
    context: int,
    batch: int,
    seed: int,
    process: int = 0,
    processes: int = 1,
) -> Any:
    """An endless iterator of this process's part of shuffled batches.

    Its ``get_state()`` and ``set_state(state)`` make a resumed run go on with the very
    next batch. The parts of all processes make up the batch that one would read.

    Args:
      tokens: of `load`.
      context: tokens of a window.
      batch: windows of all processes together.
      seed: of the order, a new one in every epoch.
      process: the number of this process.
      processes: how many there are.
    """
    windows = grain.MapDataset.source(Windows(tokens, context))
    mine = windows.seed(seed).shuffle().repeat()[process::processes]
    return iter(mine.batch(batch // processes).to_iter_dataset())

"""Batches of tokens for many processes, with exact resume."""

from pathlib import Path
from typing import Any

import grain
import numpy as np

from examples import text


class Windows:
    """Consecutive windows of a long array of tokens, as a source for Grain.

    Args:
      tokens: all tokens, in memory or memory-mapped.
      context: tokens that the model sees; a window has one more, the last target.
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
      path: a .npy file of tokens or a folder of such files, whose last twentieth is
        held out; any other file or folder is text, with a token for each byte; None is
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
    """An endless iterator over this process's part of shuffled batches.

    With its ``get_state()`` and ``set_state(state)`` a resumed run continues with the
    next batch. The parts of all processes form the batch that a single process reads.

    Args:
      tokens: tokens from `load`.
      context: tokens of a window.
      batch: windows of all processes together.
      seed: the seed of the order, which differs in every epoch.
      process: the index of this process.
      processes: number of processes.
    """
    windows = grain.MapDataset.source(Windows(tokens, context))
    mine = windows.seed(seed).shuffle().repeat()[process::processes]
    return iter(mine.batch(batch // processes).to_iter_dataset())

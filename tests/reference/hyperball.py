"""Hyperball in float64, as Wen et al. (2026) write it."""

import numpy as np


def normalize(x):
    return x / np.linalg.norm(x)


def hyperball(w, directions, learning_rates):
    """The weights after a step against each direction."""
    radius = np.linalg.norm(w)
    for u, rate in zip(directions, learning_rates, strict=True):
        w = radius * normalize(w - rate * radius * normalize(u))
    return w

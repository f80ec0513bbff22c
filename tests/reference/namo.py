"""NAMO and NAMO-D in float64, as Zhang et al. (2026) wrote their code."""

import numpy as np

from tests.reference.muon import newton_schulz


def namo(w, gradients, rate, beta=0.95, beta2=0.99, eps=1e-8, weight_decay=0.0, c=None):
    """The weights after a step with each gradient; with `c` it is NAMO-D.

    PyTorch's columns are the rows of w here.
    """
    axis = None if c is None else 1
    s = 0.2 * np.sqrt(max(w.shape))
    m, v = np.zeros_like(w), 0.0
    for t, g in enumerate(gradients, start=1):
        m = beta * m + (1 - beta) * g
        u = beta * m + (1 - beta) * g
        v = beta2 * v + (1 - beta2) * np.sum(g**2, axis=axis, keepdims=True)
        d = np.linalg.norm(u, axis=axis, keepdims=True) / (np.sqrt(v) + eps)
        if c is not None:
            d = np.clip(d, c * d.mean(), d.mean() / c)
        alpha = rate * d * np.sqrt(1 - beta2**t) / (1 - beta**t)
        w = w * (1 - weight_decay * np.minimum(alpha, 1))
        w = w - np.minimum(alpha * s, 1) * newton_schulz(u)
    return w


def namo_paper(w, gradients, rate, beta=0.95, beta2=0.99, weight_decay=0.0):
    """The paper's: no look-ahead, no factor of the shape, no limit."""
    m, v = np.zeros_like(w), 0.0
    for t, g in enumerate(gradients, start=1):
        m = beta * m + (1 - beta) * g
        v = beta2 * v + (1 - beta2) * np.sum(g**2)
        alpha = np.sqrt(1 - beta2**t) / (1 - beta**t) * np.linalg.norm(m) / np.sqrt(v)
        w = w - rate * alpha * (newton_schulz(m) + weight_decay * w)
    return w

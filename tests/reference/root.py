"""ROOT in float64, as its authors' code has it, in Flax's orientation."""

import numpy as np


def clip(m, quantile):
    """The matrix with entries clipped to a quantile of their sizes."""
    t = np.quantile(np.abs(m), quantile)
    return m - np.sign(m) * np.maximum(np.abs(m) - t, 0)


def newton_schulz(m, row):
    a, b, c = row
    x = m / np.linalg.norm(m)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def root(
    w, gradients, learning_rate, row, beta=0.95, nesterov=True, quantile=0.9, decay=0.0
):
    """The weights after a step with each gradient, coefficients (a, b, c) given."""
    m = np.zeros_like(w)
    for g in gradients:
        m = beta * m + g
        b = clip(g + beta * m if nesterov else m, quantile)
        u = 0.2 * np.sqrt(max(w.shape)) * newton_schulz(b, row)
        w = w - learning_rate * (u + decay * w)
    return w

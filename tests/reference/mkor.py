"""MKOR in float64, as its released code computes it, for one layer of `(in, out)`."""

import numpy as np


def absorb(j, v):
    """Sherman and Morrison, for v v^T added to the inverse of j."""
    u = j @ v
    return j - np.outer(u, u) / (1 + v @ u)


def norm(u, bias):
    """The norm of a kernel, plus the norm of its bias, the last row."""
    return np.linalg.norm(u[:-1]) + np.linalg.norm(u[-1]) if bias else np.linalg.norm(u)


def mkor(w, gradients, statistics, learning_rate, bias, every=10, beta=0.9):
    """The weights after a step with each gradient; of [kernel; bias] if `bias`."""
    eyes = [np.eye(size) for size in w.shape]
    inverses, fresh, m = eyes, True, np.zeros_like(w)
    for t, (d, (a, g)) in enumerate(zip(gradients, statistics, strict=True)):
        a = np.append(a, 1) if bias else a
        if t % every == 0:
            if not fresh:
                inverses = [
                    absorb(0.95 * j + 0.05 * eye, np.clip(v, -100, 100))
                    for j, eye, v in zip(inverses, eyes, (a, g), strict=True)
                ]
            fresh = False
        u = inverses[0] @ d @ inverses[1]
        u = u * norm(d, bias) / norm(u, bias)
        m = beta * m + (1 - beta) * u
        w = w - learning_rate * 0.2 * m / np.sqrt(np.mean(m**2))
    return w

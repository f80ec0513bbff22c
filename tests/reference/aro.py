"""ARO in float64, as Gong et al. (2026) write it, with the shorter side rotated."""

import numpy as np


def row_norm(x):
    return x / np.sqrt(np.mean(x**2, 1, keepdims=True))


def sinkhorn(x, rounds=5):
    """Rows, then columns, to a root mean square of 1."""
    for _ in range(rounds):
        x = row_norm(row_norm(x).T).T
    return x


def simultaneous(x, rounds=5):
    """Rows and columns at once, as the algorithm prints it."""
    for _ in range(rounds):
        rows = np.linalg.norm(x, axis=1, keepdims=True)
        x = x / (rows * np.linalg.norm(x, axis=0, keepdims=True))
    return x


def aro(w, gradients, learning_rate, f=sinkhorn, beta=0.95, weight_decay=0.0):
    """The weights after a step with each gradient."""
    if w.shape[0] > w.shape[1]:
        turned = [g.T for g in gradients]
        return aro(w.T, turned, learning_rate, f, beta, weight_decay).T
    m, r = np.zeros_like(w), np.eye(len(w))
    for g in gradients:
        m = beta * m + (1 - beta) * g
        r, _ = np.linalg.qr(m @ f(r.T @ m).T)
        o = r @ f(r.T @ m)
        u = 0.2 * o / np.sqrt(np.mean(o**2))
        w = w - learning_rate * (u + weight_decay * w)
    return w

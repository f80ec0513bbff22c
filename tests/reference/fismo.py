"""FISMO in float64, as Xu et al. (2026) write it, for W of fan_out x fan_in."""

import numpy as np


def inverse_root(a):
    w, v = np.linalg.eigh(a)
    return (v / np.sqrt(w)) @ v.T


def fismo(w, gradients, learning_rate, beta=0.95, gamma=0.95, mu=1.0, published=False):
    """The weights (fan_in x fan_out) after a step with each gradient."""
    w, (n, m) = w.T, w.shape
    p, q, moment = np.eye(m), np.eye(n), np.zeros_like(w)

    def moved(old, statistics):
        size = len(old)
        if not published:
            statistics = statistics * size / np.trace(statistics)
        damping = mu * np.trace(old) / size * np.eye(size)
        new = gamma * old + (1 - gamma) * (statistics + damping)
        return new * size / np.trace(new)

    for gradient in gradients:
        g = gradient.T
        p = moved(p, g @ np.linalg.inv(q) @ g.T / n)
        q = moved(q, g.T @ np.linalg.inv(p) @ g / m)
        left, right = inverse_root(p), inverse_root(q)
        moment = beta * moment + (1 - beta) * left @ g @ right
        u, _, vt = np.linalg.svd(moment, full_matrices=False)
        o = left @ (u @ vt) @ right
        w = w - learning_rate * (o if published else 0.2 * o / np.sqrt(np.mean(o**2)))
    return w.T

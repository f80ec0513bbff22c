"""Muon in float64, as Jordan et al. (2024) and Liu et al. (2025) write it."""

import numpy as np

A, B, C = 3.4445, -4.7750, 2.0315


def newton_schulz(m):
    """Five quintic steps from ``m / |m|``: near the orthogonal factor of its SVD."""
    x = m / np.linalg.norm(m)
    for _ in range(5):
        gram = x @ x.T
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x


def muon(w, gradients, learning_rate, beta=0.95, weight_decay=0.0):
    """The weights after a step with each gradient."""
    m = np.zeros_like(w)
    for g in gradients:
        m = beta * m + (1 - beta) * g
        o = newton_schulz(beta * m + (1 - beta) * g)
        u = 0.2 * np.sqrt(max(w.shape)) * o
        w = w - learning_rate * (u + weight_decay * w)
    return w


def adamw(w, gradients, learning_rate, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.0):
    """The same for what is no matrix."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gradients, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        u = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        w = w - learning_rate * (u + weight_decay * w)
    return w

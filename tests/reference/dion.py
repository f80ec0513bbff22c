"""Dion in float64, as Ahn et al. (2025) and their dion_reference.py have it."""

import numpy as np


def dion_step(m, g, v, beta=0.95, eps=0.0):
    """The momentum and V after a gradient, and the orthonormal update P V^T."""
    m = m + g
    b = m if m.shape[0] > m.shape[1] else m.T
    p, _ = np.linalg.qr(b @ v)
    r = b.T @ p
    b = b - (1 - beta) * p @ r.T
    v = r / (np.linalg.norm(r, axis=0) + eps)
    u = p @ v.T
    return (b, v, u) if m.shape[0] > m.shape[1] else (b.T, v, u.T)


def dion(w, gradients, v, learning_rate, beta=0.95, eps=0.0, weight_decay=0.0):
    """The weights after a step with each gradient, from a first V."""
    m = np.zeros_like(w)
    for g in gradients:
        m, v, u = dion_step(m, g, v, beta, eps)
        u = 0.2 * np.sqrt(max(w.shape)) * u
        w = w - learning_rate * (u + weight_decay * w)
    return w

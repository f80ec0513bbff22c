"""AuON in float64: the paper's first version, and the authors' current code."""

import numpy as np

from tests.reference.muon import newton_schulz


def cosh_rms(x):
    return np.sqrt(np.mean(np.cosh(x) ** 2))


def auon(w, gradients, learning_rate, beta=0.95, gamma=1.0):
    """The paper's, with a step of RMS 0.2 learning_rate over the brake."""
    m = np.zeros_like(w)
    for g in gradients:
        m = beta * m + (1 - beta) * g
        u = beta * m + (1 - beta) * g
        x = u / np.linalg.norm(u)
        w = w - learning_rate * 0.2 * np.sqrt(w.size) * x / cosh_rms(gamma * x)
    return w


def auon_code(w, gradients, learning_rate, beta=0.95, gamma=1.5, weight_decay=0.0):
    """The code's: only the brake sees the momentum over its norm."""
    m = np.zeros_like(w)
    for g in gradients:
        w = w * (1 - learning_rate * weight_decay)
        m = beta * m + (1 - beta) * g
        u = beta * m + (1 - beta) * g
        w = w - learning_rate * u / cosh_rms(gamma * u / np.linalg.norm(u))
    return w


def hybrid_auon(w, gradients, learning_rate, beta=0.95, gamma=1.5):
    """The code's hybrid, with a step of RMS about 0.2 learning_rate."""
    m = np.zeros_like(w)
    for g in gradients:
        m = beta * m + (1 - beta) * g
        o = newton_schulz(beta * m + (1 - beta) * g)
        u = o / cosh_rms(gamma * o / np.linalg.norm(o))
        w = w - learning_rate * 0.2 * np.sqrt(max(w.shape)) * u
    return w

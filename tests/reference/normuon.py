"""NorMuon in float64, as Li et al. (2025) write it; a neuron is a column."""

import numpy as np

from tests.reference.muon import newton_schulz


def normuon(w, gradients, learning_rate, beta=0.95, beta2=0.95, weight_decay=0.0):
    """The weights after a step with each gradient."""
    m, v = np.zeros_like(w), np.zeros(w.shape[1])
    for g in gradients:
        m = beta * m + (1 - beta) * g
        o = newton_schulz(m)
        v = beta2 * v + (1 - beta2) * np.mean(o**2, axis=0)
        o = o / (np.sqrt(v) + 1e-10)
        rate = 0.2 * learning_rate * np.sqrt(w.size) / np.linalg.norm(o)
        w = w - learning_rate * weight_decay * w - rate * o
    return w


def normuon_code(w, gradients, learning_rate, beta=0.95, beta2=0.95):
    """The authors' code: it looks ahead, and keeps the norm that Muon has."""
    m, v = np.zeros_like(w), np.zeros(w.shape[1])
    fan_in, fan_out = w.shape
    for g in gradients:
        m = beta * m + (1 - beta) * g
        o = newton_schulz(beta * m + (1 - beta) * g)
        norm = np.linalg.norm(o)
        v = beta2 * v + (1 - beta2) * np.mean(o**2, axis=0)
        o = o / (np.sqrt(v) + 1e-10)
        o = o * norm / np.linalg.norm(o)
        w = w - learning_rate * max(1, fan_out / fan_in) ** 0.5 * o
    return w

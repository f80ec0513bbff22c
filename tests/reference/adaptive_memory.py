"""Adaptive memory in float64: algorithms 1 and 3 of Topollai and Choromanska (2025)."""

import numpy as np


def beta_of(g, d, lam, beta_max):
    """The weight of the memory, as the dual variable of the two planes."""
    apart = np.sum((d - g) ** 2)
    above = (1 + lam) * np.sum(g * d) - np.sum((d - g) * (g + lam * d))
    return np.clip(above / apart, 0, beta_max) if apart > 0 else 0.0


def memories(gradients, lam=0.1, beta_max=0.9):
    """d and beta after each gradient."""
    d, found = gradients[0], [(gradients[0], 0.0)]
    for g in gradients[1:]:
        beta = beta_of(g, d, lam, beta_max)
        d = ((beta + lam) * d + (1 - beta) * g) / (1 + lam)
        found.append((d, beta))
    return found


def am_adamw(x, gradients, rates, b1=0.89, b2=0.999, eps=1e-8, lam=0.1, decay=0.0):
    """The weights after a step with each gradient, and the beta of each."""
    d, v, product, betas = np.zeros_like(x), np.zeros_like(x), 1.0, []
    for k, g in enumerate(gradients, start=1):
        eta, before = rates[k - 1], rates[max(k - 2, 0)]
        v = b2 * v + (1 - b2) * g**2
        p = (1 - b1 * product) * (np.sqrt(v / (1 - b2**k)) + eps)
        w, apart = 1 / (p * (1 + lam * p)), d - g
        gap = before * np.sum(g * (d / p + decay * x))
        above = (1 + decay * eta) * gap / eta if eta > 0 else 0.0
        above -= np.sum(w * apart * (g + lam * p * d)) + decay * np.sum(x * apart)
        beta = np.clip(above / np.sum(w * apart**2), 0, b1) if k > 1 else b1
        d = ((1 - beta) * g + (lam * p + beta) * d) / (1 + lam * p)
        x = (1 - decay * eta) * x - eta * d / p
        product *= beta
        betas.append(beta)
    return x, betas

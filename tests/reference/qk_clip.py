"""Attention logits and QK-clip in float64, head by head (Kimi K2, algorithm 1)."""

import numpy as np


def logits(x, query, key):
    """Clipped kernels ``(features, heads, head_dim)``; key heads may have groups."""
    heads, depth = query.shape[1:]
    group = heads // key.shape[1]
    return np.stack(
        [
            (x @ query[:, h]) @ (x @ key[:, h // group]).T / np.sqrt(depth)
            for h in range(heads)
        ]
    )


def qk_clip(query, key, max_logits, tau, alpha):
    """The clipped kernels; a key has what all heads of its group have in common."""
    query, key = query.copy(), key.copy()
    gamma = np.minimum(1, tau / np.maximum(max_logits, tau))
    group = query.shape[1] // key.shape[1]
    for k in range(key.shape[1]):
        heads = range(k * group, (k + 1) * group)
        shared = max(gamma[h] for h in heads) ** (1 - alpha)
        key[:, k] *= shared
        for h in heads:
            query[:, h] *= gamma[h] / shared
    return query, key

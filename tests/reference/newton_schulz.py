"""Newton-Schulz in float64, as the papers write it, for one matrix."""

import numpy as np


def newton_schulz(g, rows, bound=1.0, eps=0.0):
    """One step for each row (a, b, c), from ``g / (bound |g| + eps)``."""
    x = g / (bound * np.linalg.norm(g) + eps)
    for a, b, c in rows:
        gram = x @ x.conj().T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def gram_newton_schulz(g, rows, restarts=(), bound=1.0):
    """The same, by a product Q of steps on the Gram matrix R."""
    x = g / (bound * np.linalg.norm(g))
    identity = np.eye(len(x))
    r, q = x @ x.conj().T, identity
    for step, (a, b, c) in enumerate(rows):
        if step in restarts:
            x = q @ x
            r, q = x @ x.conj().T, identity
        h = a * identity + b * r + c * r @ r
        q, r = h @ q, h @ h @ r
    return q @ x


def polar(g):
    """The partial isometry of an SVD, without the null space."""
    u, s, vh = np.linalg.svd(g, full_matrices=False)
    kept = s > s[0] * max(g.shape) * np.finfo(g.dtype).eps
    return (u * kept) @ vh

"""The methods that the properties are tested on, and matrices to test them with."""

import jax.numpy as jnp
import numpy as np

from optax_ortho.orthogonalizers import (
    Auto,
    Exact,
    GramNewtonSchulz,
    NewtonSchulz,
    aol,
    qdwh_polar,
    schatten4,
)

# By products alone, computing in float32 or better.
PRECISE = {
    "newton_schulz": NewtonSchulz(),
    "polar_express": NewtonSchulz("polar_express"),
    "cubic": NewtonSchulz("cubic5"),
    "schatten4": NewtonSchulz("you5", prescale=schatten4),
    "aol": NewtonSchulz("aol_4_flash", prescale=aol),
    "gram": GramNewtonSchulz(),
    "gram_polar_express": GramNewtonSchulz("polar_express"),
    "auto": Auto(),
}
HALF = {
    "bfloat16": NewtonSchulz(dtype=jnp.bfloat16),
    "gram_bfloat16": GramNewtonSchulz("you5", dtype=jnp.bfloat16),
}
EXACT = {"svd": Exact(), "qdwh": Exact(qdwh_polar)}
PRODUCTS = PRECISE | HALF
METHODS = PRODUCTS | EXACT

DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16, jnp.complex64)

# Relative to the largest entry. A float32 rounding, 6e-8, is multiplied by the slope of
# a table, at most 1e3, where a singular value is small; bfloat16 rounds to 4e-3 and
# singular values of the matrices here differ by less than ten.
TOLERANCE = {name: 1e-4 for name in METHODS} | {name: 0.1 for name in HALF}


def normal(shape, dtype=jnp.float32, seed=0):
    random = np.random.default_rng(seed)
    x = random.standard_normal(shape)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        x = x + 1j * random.standard_normal(shape)
    return jnp.asarray(x.astype(dtype))


def rotation(n, dtype: type = np.float64, seed=0):
    """A random orthogonal or unitary matrix."""
    x = np.asarray(normal((n, n), jnp.float32, seed), np.float64)
    if np.issubdtype(dtype, np.complexfloating):
        x = x + 1j * np.asarray(normal((n, n), jnp.float32, seed + 1), np.float64)
    return np.linalg.qr(x)[0]


def with_spectrum(shape, singular_values, seed=0):
    """A float64 matrix with the given singular values."""
    (m, n), k = shape, min(shape)
    left, right = rotation(m, seed=seed)[:, :k], rotation(n, seed=seed + 1)[:, :k]
    return left * np.asarray(singular_values) @ right.T


def difference(x, y):
    """The largest difference relative to the largest entry of `y`."""
    x, y = np.asarray(x).astype(complex), np.asarray(y).astype(complex)
    return float(abs(x - y).max() / max(abs(y).max(), 1e-300))


SPECTRA = {
    "flat": lambda k: np.ones(k),
    "harmonic": lambda k: 1 / np.arange(1, k + 1),
    "condition_1e2": lambda k: np.geomspace(1, 1e-2, k),
    "condition_1e4": lambda k: np.geomspace(1, 1e-4, k),
    "rank_8": lambda k: np.where(np.arange(k) < 8, 1, 1e-4),
    "rank_1": lambda k: np.where(np.arange(k) < 1, 1, 1e-3),
}

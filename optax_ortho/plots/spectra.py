"""Singular values, one panel a matrix."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from optax_ortho.plots.style import COLORS, HIGHLIGHT, NEUTRAL, panels, title


def spectra(matrices: Mapping[str, Any], headline: str = "Singular values") -> Figure:
    """The singular values of some matrices, such as the stages make of one gradient.

    Args:
      matrices: by name, ``(..., m, n)``; those of a stack are drawn over one another.
      headline: above the panels.

    Returns:
      The figure: the values of each from the largest to the smallest, on a logarithmic
      axis for all.

    Raises:
      ValueError: no matrix, or one that is not finite.

    Examples:
      >>> import jax
      >>> from optax_ortho import muon, stage_outputs
      >>> g = jax.random.normal(jax.random.key(0), (64, 64))
      >>> tx = muon(0.01)
      >>> (stages,) = stage_outputs(tx, g, tx.init(g), g)
      >>> spectra(stages._asdict()).savefig("/dev/null", format="png")
    """
    found = {name: _values(name, matrix) for name, matrix in matrices.items()}
    if not found:
        raise ValueError("spectra needs at least one matrix.")
    positive = [values[values > 0] for values in found.values()]
    positive = np.concatenate([values.ravel() for values in positive] or [np.ones(1)])
    bottom = max(positive.min(), positive.max() * 1e-7) / 2 if positive.size else 0.5
    figure, axes = panels(
        len(found), (0.6 + 2.4 * len(found), 3.4), sharey=True, sharex=True
    )
    for i, (one, (name, values)) in enumerate(zip(axes, found.items(), strict=True)):
        # What is after the first panel is compared with it.
        color = NEUTRAL if i == 0 else HIGHLIGHT if _is_flat(values) else COLORS[0]
        rank = np.linspace(0, 1, values.shape[-1])
        for spectrum in values:
            shown = np.maximum(spectrum, bottom)
            one.fill_between(rank, shown, bottom, color=color, alpha=0.3 / len(values))
            one.plot(rank, shown, color=color, linewidth=1.8)
        one.set_title(f"{name}\n{_told(values)}", loc="left", fontsize=10)
        one.set_yscale("log")
        one.set_xticks([0, 1], ["largest", "smallest"], fontsize=9)
        for tick, side in zip(one.get_xticklabels(), ("left", "right"), strict=True):
            tick.set_horizontalalignment(side)
    axes[0].set_ylabel("singular value")
    axes[0].set_ylim(bottom, None)
    title(figure, headline)
    return figure


def _values(name: str, matrix: Any) -> np.ndarray:
    """float64[matrices, rank]."""
    matrix = np.asarray(matrix)
    wide = np.complex128 if np.iscomplexobj(matrix) else np.float64
    matrix = matrix.astype(wide)
    if matrix.ndim < 2 or not np.isfinite(matrix).all():
        raise ValueError(f"{name} has to be finite, and a matrix or a stack of them.")
    values = np.linalg.svd(matrix, compute_uv=False)
    return values.reshape(-1, values.shape[-1])


def _spread(values: np.ndarray) -> float:
    """The largest singular value over the median one, of the widest matrix."""
    middle = np.median(values, axis=-1)
    return float(np.max(values[:, 0] / np.where(middle > 0, middle, np.inf), initial=0))


def _is_flat(values: np.ndarray) -> bool:
    return 0 < _spread(values) < 2


def _told(values: np.ndarray) -> str:
    spread = _spread(values)
    return f"largest is {spread:.3g} x the median" if spread else "zero"

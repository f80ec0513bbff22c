"""Plots of singular values."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from optax_ortho.plots.style import COLORS, HIGHLIGHT, NEUTRAL, panels, title


def spectra(matrices: Mapping[str, Any], headline: str = "Singular values") -> Figure:
    """The singular values of matrices, such as `stage_outputs`, a panel for each.

    Args:
      matrices: matrices ``(..., m, n)`` by name; the matrices of a stack share a panel.
      headline: the title above the panels.

    Returns:
      The figure: the singular values from the largest to the smallest, on a common
      logarithmic axis.

    Raises:
      ValueError: no matrix, or a matrix that is not finite.

    Examples:
      >>> import jax
      >>> from optax_ortho import muon, stage_outputs
      >>> g = jax.random.normal(jax.random.key(0), (64, 64))
      >>> tx = muon(0.01)
      >>> (stages,) = stage_outputs(tx, g, tx.init(g), g)
      >>> spectra(stages._asdict()).savefig("/dev/null", format="png")
    """
    spectra_by_name = {name: _values(name, matrix) for name, matrix in matrices.items()}
    if not spectra_by_name:
        raise ValueError("spectra needs at least one matrix.")
    positive = [values[values > 0] for values in spectra_by_name.values()]
    positive = np.concatenate([values.ravel() for values in positive] or [np.ones(1)])
    bottom = max(positive.min(), positive.max() * 1e-7) / 2 if positive.size else 0.5
    figure, axes = panels(
        len(spectra_by_name),
        (0.6 + 2.4 * len(spectra_by_name), 3.4),
        sharey=True,
        sharex=True,
    )
    for i, (panel, (name, values)) in enumerate(
        zip(axes, spectra_by_name.items(), strict=True)
    ):
        # The first panel is the one that others are compared with.
        color = NEUTRAL if i == 0 else HIGHLIGHT if _is_flat(values) else COLORS[0]
        rank = np.linspace(0, 1, values.shape[-1])
        for spectrum in values:
            shown = np.maximum(spectrum, bottom)
            panel.fill_between(
                rank, shown, bottom, color=color, alpha=0.3 / len(values)
            )
            panel.plot(rank, shown, color=color, linewidth=1.8)
        panel.set_title(f"{name}\n{_caption(values)}", loc="left", fontsize=10)
        panel.set_yscale("log")
        panel.set_xticks([0, 1], ["largest", "smallest"], fontsize=9)
        for tick, side in zip(panel.get_xticklabels(), ("left", "right"), strict=True):
            tick.set_horizontalalignment(side)
    axes[0].set_ylabel("singular value")
    axes[0].set_ylim(bottom, None)
    title(figure, headline)
    return figure


def _values(name: str, matrix: Any) -> np.ndarray:
    """Singular values, float64[matrices, rank]."""
    matrix = np.asarray(matrix)
    wide = np.complex128 if np.iscomplexobj(matrix) else np.float64
    matrix = matrix.astype(wide)
    if matrix.ndim < 2 or not np.isfinite(matrix).all():
        raise ValueError(f"{name} has to be finite, and a matrix or a stack of them.")
    values = np.linalg.svd(matrix, compute_uv=False)
    return values.reshape(-1, values.shape[-1])


def _spread(values: np.ndarray) -> float:
    """The largest ratio of the largest to the median singular value of a matrix."""
    middle = np.median(values, axis=-1)
    return float(np.max(values[:, 0] / np.where(middle > 0, middle, np.inf), initial=0))


def _is_flat(values: np.ndarray) -> bool:
    return 0 < _spread(values) < 2


def _caption(values: np.ndarray) -> str:
    spread = _spread(values)
    return f"largest is {spread:.3g} x the median" if spread else "zero"

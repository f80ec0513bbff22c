"""Plots of the map of singular values by Newton-Schulz coefficients."""

import numpy as np
from matplotlib.figure import Figure

from optax_ortho.orthogonalizers.coefficients import Coefficients, apply_rows
from optax_ortho.orthogonalizers.tables import COEFFICIENTS
from optax_ortho.plots.style import HIGHLIGHT, NEUTRAL, ink, panels, title

LOWER, ABOVE = 1e-4, 1.1


def coefficients(*tables: str | Coefficients, lower: float = 1e-3) -> Figure:
    """The map of singular values by tables of coefficients, a panel for each table.

    Args:
      tables: names in `COEFFICIENTS`, or tables.
      lower: lower end of the interval up to 1 for which the caption and the band show
        the bounds of the result.

    Returns:
      The figure: faint lines are the map after each step, the last is the result.

    Raises:
      ValueError: no table.
      KeyError: a name that is not in `COEFFICIENTS`.

    Examples:
      >>> coefficients("keller_jordan", "polar_express").savefig(
      ...     "/dev/null", format="png"
      ... )
    """
    if not tables:
        raise ValueError("coefficients needs at least one table.")
    size = 1 + 3.2 * len(tables), 3.7
    figure, axes = panels(len(tables), size, sharex=True, sharey=True)
    # Dense in both logarithmic and linear spacing: the map ripples near 0 and near 1.
    s = np.union1d(np.geomspace(LOWER, ABOVE, 2000), np.linspace(lower, ABOVE, 2000))
    for panel, table in zip(axes, tables, strict=True):
        table = COEFFICIENTS[table] if isinstance(table, str) else table
        certificate = table.certificate(lower=lower)
        rows = table.for_steps(table.steps)
        for step in range(1, table.steps):
            shown = _inside(apply_rows(rows[:step], s))
            panel.plot(s, shown, color=NEUTRAL, linewidth=0.8, alpha=0.7)
        panel.plot(s, _inside(apply_rows(rows, s)), color=HIGHLIGHT, linewidth=1.6)
        panel.fill_between(
            [lower, 1],
            certificate.minimum,
            certificate.maximum,
            color=HIGHLIGHT,
            alpha=0.15,
            linewidth=0,
        )
        panel.axhline(1, color=ink(), linewidth=0.8, linestyle=(0, (4, 3)))
        panel.set_title(
            f"{table.name}, {table.steps} steps\n{certificate.minimum:.3g} to "
            f"{certificate.maximum:.3g}; grows by {certificate.slope:.3g}",
            loc="left",
            fontsize=10,
        )
        panel.set_xscale("log")
        panel.set_xticks([1e-3, 1e-2, 1e-1, 1])
        panel.set_xlabel("singular value before")
    axes[0].set_xlim(LOWER, ABOVE)
    axes[0].set_ylim(0, 2)
    axes[0].set_ylabel("after")
    title(figure, "Newton-Schulz: where singular values go")
    return figure


def _inside(y: np.ndarray) -> np.ndarray:
    """Values with NaN for those outside of the panel, which are then not drawn."""
    return np.where((y > -1) & (y < 3), y, np.nan)

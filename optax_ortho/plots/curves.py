"""Labelled training curves."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optax_ortho.plots.style import (
    COLORS,
    HIGHLIGHT,
    NEUTRAL,
    panels,
    spread,
    title,
)

DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))


def curves(
    curves: Mapping[str, Any],
    xlabels: Sequence[str] = ("steps",),
    ylabel: str = "loss",
    *,
    highlight: str | None = None,
    reference: str | None = None,
    headline: str = "",
    below: str = "",
    scale: str = "linear",
) -> Figure:
    """Losses over steps, seconds or other costs, a panel for each cost.

    Args:
      curves: arrays ``(points, len(xlabels) + 1)`` by name: the costs, then the loss.
      xlabels: the name of each cost, as the label of its panel.
      ylabel: the name of the last column.
      highlight: the name of the curve to emphasize.
      reference: the name of the curve whose last loss is drawn as a line. The point
        where the highlighted curve first reaches it is marked.
      headline: the title above the panels.
      below: a line under the title.
      scale: the scale of the losses, "linear" or "log".

    Returns:
      The figure.

    Raises:
      ValueError: no curve, a curve of another shape, or an unknown name.

    Examples:
      >>> import numpy as np
      >>> steps = np.arange(1, 50)
      >>> losses = {"sgd": 1 / steps**0.5, "muon": 1 / steps}
      >>> shown = {name: np.stack([steps, y], 1) for name, y in losses.items()}
      >>> figure = curves(shown, highlight="muon", reference="sgd")
      >>> figure.savefig("/dev/null", format="png")
    """
    by_name = {
        name: _points(name, curve, len(xlabels)) for name, curve in curves.items()
    }
    for name in (highlight, reference):
        if name is not None and name not in by_name:
            raise ValueError(f"There is no curve {name!r} among {sorted(by_name)}.")
    if not by_name:
        raise ValueError("curves needs at least one curve.")
    looks = _looks(list(by_name), highlight)
    # Tall enough for a line of text for each name beside the curves.
    size = 2.4 + 4.4 * len(xlabels), max(4.4, 1.2 + 0.3 * len(by_name))
    figure, axes = panels(len(xlabels), size, sharey=True)
    for column, (panel, xlabel) in enumerate(zip(axes, xlabels, strict=True)):
        for name, points in by_name.items():
            panel.plot(points[:, column], points[:, -1], **looks[name])
        panel.set_xlabel(xlabel)
        panel.set_xlim(0, max(points[-1, column] for points in by_name.values()) or 1)
    axes[0].set_yscale(scale)
    if scale == "log":
        axes[0].yaxis.set_major_formatter("{x:g}")
        axes[0].yaxis.set_minor_formatter(_two_or_five)
    axes[0].set_ylabel(ylabel)
    axes[0].set_ylim(*_range(list(by_name.values()), scale))
    if reference is not None:
        for column, panel in enumerate(axes):
            _mark(panel, column, xlabels[column], by_name, reference, highlight)
    # The height of a line of text, as a fraction of the height of the panels.
    _name(axes[-1], by_name, looks, highlight, 0.3 / size[1])
    if headline:
        title(figure, headline, below)
    return figure


def _points(name: str, curve: Any, spent: int) -> np.ndarray:
    points = np.asarray(curve, float)
    if points.ndim != 2 or points.shape[1] != spent + 1 or not len(points):
        raise ValueError(
            f"Curve {name!r} has to have shape (points, {spent + 1}), not "
            f"{points.shape}."
        )
    return points


def _looks(names: list[str], highlight: str | None) -> dict[str, dict[str, Any]]:
    others = [name for name in names if name != highlight]
    looks = {
        name: {
            "color": COLORS[i % len(COLORS)],
            # Distinguishes lines of the same grey in a print without color.
            "linestyle": DASHES[i // len(COLORS) % len(DASHES)],
            "linewidth": 1.6,
        }
        for i, name in enumerate(others)
    }
    return {**looks, highlight or "": {"color": HIGHLIGHT, "linewidth": 2.6}}


def _range(curves: list[np.ndarray], scale: str) -> tuple[float, float]:
    """Limits of the loss axis, without the initial drop that all curves share."""
    losses = np.concatenate([points[:, -1] for points in curves])
    losses = losses[np.isfinite(losses) & ((losses > 0) | (scale == "linear"))]
    if not losses.size:
        return (0.0, 1.0) if scale == "linear" else (0.1, 1.0)
    if scale == "log":
        return losses.min() / 1.3, losses.max() * 1.3
    early = [points[len(points) // 12, -1] for points in curves]
    top = np.nanmax([x for x in early if np.isfinite(x)] or [losses.max()])
    margin = 0.06 * (top - losses.min()) or 0.5
    return losses.min() - margin, top + margin


def _two_or_five(x: float, position: Any) -> str:
    """The label of a tick between powers of ten."""
    del position
    return f"{x:g}" if f"{x:e}"[0] in "25" else ""


def _mark(
    axes: Axes,
    column: int,
    unit: str,
    curves: dict[str, np.ndarray],
    reference: str,
    highlight: str | None,
) -> None:
    """Draws the last loss of the reference and the highlighted curve's way there."""
    final = curves[reference][-1, -1]
    axes.axhline(final, color=NEUTRAL, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    if column == 0:
        axes.annotate(
            f"{reference} ends at {final:.3g}",
            (0, final),
            xytext=(6, -5),
            textcoords="offset points",
            va="top",
            fontsize=9,
            bbox={"facecolor": axes.get_facecolor(), "linewidth": 0, "pad": 1},
            zorder=1,
        )
    if highlight is None or highlight == reference:
        return
    reached = curves[highlight][curves[highlight][:, -1] <= final]
    if len(reached):
        where = reached[0][[column, -1]]
        axes.plot(*where, "o", color=HIGHLIGHT, markersize=8)
        # On the left of a late point, because the names are on its right.
        late = where[0] > 0.75 * axes.get_xlim()[1]
        axes.annotate(
            f"{where[0]:.3g} {unit.split()[0]}",
            where,
            xytext=(-9 if late else 9, 7),
            textcoords="offset points",
            ha="right" if late else "left",
            fontsize=11,
            weight="bold",
            color=HIGHLIGHT,
        )


def _name(
    axes: Axes,
    curves: dict[str, np.ndarray],
    looks: dict[str, dict[str, Any]],
    highlight: str | None,
    gap: float,
) -> None:
    """Writes each name beside the end of its curve, apart from its neighbors."""
    ends = np.array([points[-1, -1] for points in curves.values()])
    heights = axes.transAxes.inverted().transform(
        axes.transData.transform(np.stack([np.zeros(len(ends)), ends], 1))
    )[:, 1]
    heights = np.clip(np.nan_to_num(heights, nan=1.0), 0, 1)
    for name, end, height in zip(curves, ends, spread(heights, gap), strict=True):
        axes.annotate(
            f"{end:.3g}  {name}",
            (1.0, height),
            xytext=(8, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            fontsize=10,
            color=looks[name]["color"],
            weight="bold" if name == highlight else "normal",
            annotation_clip=False,
        )

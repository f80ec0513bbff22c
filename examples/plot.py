"""The picture of a comparison: validation loss against steps and against seconds."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.history import REFERENCE, History

OURS = "#c2410c"
OTHERS = ("#475569", "#0e7490", "#7c3aed", "#4d7c0f", "#a16207")
INK, FAINT = "#1e293b", "#94a3b8"


def plot(histories: Sequence[History], subtitle: str) -> Figure:
    """Two panels with one loss axis; the curves carry their names."""
    shown = [history for history in histories if history.validation]
    curves = {
        name: _mean([history for history in shown if history.name == name])
        for name in dict.fromkeys(history.name for history in shown)
    }
    titles = {history.name: history.title for history in shown}
    colours = _colours(titles)
    # Each name takes a line or two beside the curves.
    height = max(5.2, 0.36 * len(curves))
    figure = Figure(figsize=(11, height), facecolor="white")
    by_steps, by_seconds = figure.subplots(1, 2, sharey=True)
    for axes, column, unit in ((by_steps, 0, "steps"), (by_seconds, 1, "seconds")):
        for name, curve in curves.items():
            axes.plot(
                curve[:, column],
                curve[:, 2],
                color=colours[name],
                linewidth=2.4 if titles[name].startswith("optax_ortho") else 1.7,
            )
        axes.set_xlabel(f"{unit} of training")
        _style(axes)
    by_steps.set_ylabel("validation loss, nats a byte")
    by_steps.set_ylim(*_loss_range(list(curves.values())))
    for column, axes in enumerate((by_steps, by_seconds)):
        axes.set_xlim(0, 1.02 * max(curve[-1, column] for curve in curves.values()))
        if REFERENCE in curves:
            _mark_reference(axes, curves, colours, column)
    _name_curves(by_seconds, curves, titles, colours)
    figure.text(0.065, 0.945, _headline(curves, titles), fontsize=15, weight="bold")
    figure.text(0.065, 0.93, subtitle, fontsize=10, color=FAINT, va="top")
    figure.subplots_adjust(0.065, 0.115, 0.84, 0.82, wspace=0.06)
    return figure


def _mean(histories: Sequence[History]) -> np.ndarray:
    """float[points, 3]: steps, seconds, loss, averaged over the seeds."""
    length = min(len(history.validation) for history in histories)
    return np.mean([history.validation[:length] for history in histories], axis=0)


def _colours(titles: dict[str, str]) -> dict[str, str]:
    others = [name for name in titles if name != "muon"]
    return {"muon": OURS} | {
        name: OTHERS[i % len(OTHERS)] for i, name in enumerate(others)
    }


def _crossing(curve: np.ndarray, loss: float) -> np.ndarray | None:
    """The first point at or below a loss."""
    below = np.flatnonzero(curve[:, 2] <= loss)
    return curve[below[0]] if below.size else None


def _headline(curves: dict[str, np.ndarray], titles: dict[str, str]) -> str:
    if REFERENCE in curves and "muon" in curves:
        final = curves[REFERENCE][-1]
        reached = _crossing(curves["muon"], final[2])
        if reached is not None:
            steps, seconds, _ = reached / final
            return (
                f"{titles['muon']} reaches AdamW's final loss in {steps:.0%} of the "
                f"steps and {seconds:.0%} of the time"
            )
    return "Validation loss of a small GPT"


def _loss_range(curves: Sequence[np.ndarray]) -> tuple[float, float]:
    """Leaves out the first fall from ln 256, which is alike for all."""
    lowest = min(curve[:, 2].min() for curve in curves)
    early = max(curve[len(curve) // 12, 2] for curve in curves)
    margin = 0.06 * (early - lowest) + 1e-3
    return lowest - margin, early + margin


def _mark_reference(
    axes: Axes,
    curves: dict[str, np.ndarray],
    colours: dict[str, str],
    column: int,
) -> None:
    final = curves[REFERENCE][-1]
    axes.axhline(final[2], color=FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    if column == 0:
        axes.annotate(
            f"AdamW's final loss, {final[2]:.3f}",
            (0, final[2]),
            xytext=(6, -5),
            textcoords="offset points",
            va="top",
            fontsize=9,
            color=INK,
        )
    reached = _crossing(curves["muon"], final[2]) if "muon" in curves else None
    if reached is None:
        return
    unit = "steps" if column == 0 else "s"
    axes.plot(*reached[[column, 2]], "o", color=colours["muon"], markersize=8)
    axes.annotate(
        f"{reached[column]:.0f} {unit}",
        (reached[column], reached[2]),
        xytext=(9, 7),
        textcoords="offset points",
        fontsize=11,
        weight="bold",
        color=colours["muon"],
    )


def _name_curves(
    axes: Axes,
    curves: dict[str, np.ndarray],
    titles: dict[str, str],
    colours: dict[str, str],
) -> None:
    """Writes each name beside the end of its curve, far enough from the next."""
    bottom, top = axes.get_ylim()
    many = len(curves) > 6
    gap = (0.05 if many else 0.085) * (top - bottom)
    lowest = -np.inf
    for name in sorted(curves, key=lambda name: curves[name][-1, 2]):
        loss = curves[name][-1, 2]
        lowest = max(loss, lowest + gap)
        axes.annotate(
            f"{loss:.3f} {name}" if many else f"{titles[name]}\n{loss:.3f}",
            (1.02, lowest),
            xycoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=10,
            weight="bold" if name == "muon" else "normal",
            color=colours[name],
            annotation_clip=False,
        )


def _style(axes: Axes) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.grid(axis="y", color="#e2e8f0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)

"""Colors, panels and titles shared by all plots."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Each has a contrast of at least 3 against white, black, and the grey of dark pages.
HIGHLIGHT = "#d9590b"
COLORS = ("#2f80c8", "#0e8a7d", "#8b5cf6", "#b7791f", "#4d8f2a", "#c9429a")
NEUTRAL = "#768396"


def panels(number: int, size: tuple[float, float], **more: Any) -> tuple[Figure, Any]:
    """A figure with panels side by side, closed in pyplot.

    Pyplot creates it, so that a notebook can show it, and would show it a second time
    if it stayed open.
    """
    figure, axes = plt.subplots(
        1, number, figsize=size, layout="constrained", squeeze=False, **more
    )
    plt.close(figure)
    for panel in axes[0]:
        _tidy(panel)
    return figure, axes[0]


def ink() -> str:
    """The color of text in the current style."""
    return plt.rcParams["text.color"]


def title(figure: Figure, text: str, below: str = "") -> None:
    """Draws a headline at the left, and smaller lines below it."""
    # Empty lines reserve the space, so that the panels begin below all lines.
    room = "\n" * len(below.splitlines())
    figure.suptitle(text + room, x=0.01, ha="left", fontsize=13, weight="bold")
    figure.text(
        0.01,
        1 - 0.34 / figure.get_figheight(),
        below,
        fontsize=10,
        va="top",
        color=NEUTRAL,
    )


def spread(heights: np.ndarray, gap: float) -> np.ndarray:
    """Heights moved up so that each is at least a gap above the next lower one.

    Examples:
      >>> spread(np.array([3.0, 1.0, 1.1]), 0.5)
      array([3. , 1. , 1.5])
    """
    moved, lowest = heights.astype(float), -np.inf
    for i in np.argsort(heights, kind="stable"):
        lowest = max(moved[i], lowest + gap)
        moved[i] = lowest
    return moved


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(NEUTRAL)
    axes.grid(axis="y", color=NEUTRAL, linewidth=0.6, alpha=0.35)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0)

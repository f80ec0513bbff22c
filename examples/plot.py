"""A plot of validation losses against steps and against seconds."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from examples.history import REFERENCE, History
from optax_ortho import plots

OURS = "muon"


def plot(histories: Sequence[History], subtitle: str) -> Figure:
    """Two panels with one loss axis, averaged over the seeds."""
    shown = [history for history in histories if history.validation]
    titles = {history.name: history.title for history in shown}
    curves = {
        title: _mean([history for history in shown if history.name == name])
        for name, title in titles.items()
    }
    ours, reference = titles.get(OURS), titles.get(REFERENCE)
    return plots.curves(
        curves,
        ("steps of training", "seconds of training"),
        "validation loss, nats a byte",
        highlight=ours,
        reference=reference,
        headline=_headline(curves, ours, reference),
        below=subtitle,
    )


def _mean(histories: Sequence[History]) -> np.ndarray:
    """float[points, 3]: steps, seconds, loss, averaged over the seeds."""
    length = min(len(history.validation) for history in histories)
    return np.mean([history.validation[:length] for history in histories], axis=0)


def _headline(
    curves: dict[str, np.ndarray], ours: str | None, reference: str | None
) -> str:
    if ours is not None and reference is not None:
        final = curves[reference][-1]
        reached = curves[ours][curves[ours][:, 2] <= final[2]]
        if len(reached):
            steps, seconds, _ = reached[0] / final
            return (
                f"{ours} reaches AdamW's final loss in {steps:.0%} of the steps and "
                f"{seconds:.0%} of the time"
            )
    return "Validation loss of a small GPT"

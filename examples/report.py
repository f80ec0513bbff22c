"""The output of a comparison: a progress line, a table, a plot and a JSON file."""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax
import jax
import optax
from flax import nnx
from rich import box
from rich.table import Table

import optax_ortho
from examples.history import REFERENCE, History
from examples.plot import plot

NONE = "–"


def count(model: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def size_in_bytes(state: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state))


def line(histories: Sequence[History]) -> str:
    """The last training losses and step times, for the progress bar."""
    return "   ".join(
        f"{history.name} {history.train_loss[-1]:.3f} "
        f"{1e3 * history.step_seconds[-1]:.0f} ms"
        for history in histories
    )


def table(histories: Sequence[History]) -> Table:
    """A table with a row for each optimizer, with means over seeds."""
    result = Table(
        title=f"After {_steps(histories)} steps of each",
        caption="In brackets: the fraction of AdamW's number. The optimizer's share is "
        "the fraction of a step's time. Seconds exclude compiling, which took "
        + _compile_times(histories),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )
    result.add_column("\n\noptimizer", no_wrap=True)
    for heading in (
        "\npeak\nrate",
        "\nval.\nloss",
        "steps to\nAdamW's\nloss",
        "seconds to\nAdamW's\nloss",
        "\nms a\nstep",
        "\nopt.'s\nshare",
        "\nstate\nMB",
    ):
        result.add_column(heading, justify="right", no_wrap=True)
    for name in dict.fromkeys(history.name for history in histories):
        of_name = [history for history in histories if history.name == name]
        result.add_row(*_row(of_name, _references(histories)))
    return result


def subtitle(histories: Sequence[History], options: argparse.Namespace) -> str:
    """The model, the data and, for few optimizers, the peak rates."""
    rates = {history.name: history.learning_rate for history in histories}
    about = (
        f"GPT of {options.layers} layers and width {options.width} on bytes of "
        f"{options.data or 'the Python standard library'}; "
        f"{options.batch} x {options.context} bytes a step"
    )
    if len(rates) > 6:
        return about
    named = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
    return f"{about}\npeak rates: {named}"


def save(histories: Sequence[History], options: argparse.Namespace) -> list[Path]:
    """Writes train_gpt.json and, once there is a curve, train_gpt.png."""
    options.output.mkdir(parents=True, exist_ok=True)
    record = options.output / "train_gpt.json"
    content = {
        "command": " ".join(["python -m examples.train_gpt", *sys.argv[1:]]),
        "options": vars(options),
        **machine(),
        "histories": [dataclasses.asdict(history) for history in histories],
    }
    record.write_text(json.dumps(content, indent=1, default=str) + "\n")
    if not any(history.validation for history in histories):
        return [record]
    picture = options.output / "train_gpt.png"
    plot(histories, subtitle(histories, options)).savefig(picture, dpi=160)
    return [record, picture]


def machine() -> dict[str, object]:
    """The device and the versions of the measurements."""
    return {
        "device": str(jax.devices()[0].device_kind),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {
            module.__name__: module.__version__
            for module in (jax, flax, optax, optax_ortho)
        },
    }


def _steps(histories: Sequence[History]) -> int:
    return min(len(history.step_seconds) for history in histories)


def _compile_times(histories: Sequence[History]) -> str:
    # All seeds share one compiled step, whose time is counted for the first one.
    first: dict[str, float] = {}
    for history in histories:
        first.setdefault(history.name, history.compile_seconds)
    return ", ".join(f"{seconds:.1f} s ({name})" for name, seconds in first.items())


def _references(histories: Sequence[History]) -> dict[int, History]:
    return {
        history.seed: history
        for history in histories
        if history.name == REFERENCE and history.validation
    }


def _row(histories: Sequence[History], references: dict[int, History]) -> list[str]:
    losses = [history.validation[-1][-1] for history in histories if history.validation]
    shares = [history.optimizer_share() for history in histories]
    known = [share for share in shares if share is not None]
    times = [time for history in histories for time in history.step_seconds]
    return [
        histories[0].title,
        f"{histories[0].learning_rate:g}",
        f"{statistics.mean(losses):.3f}" if losses else NONE,
        *_to_reference(histories, references),
        f"{1e3 * statistics.median(times):.0f}" if times else NONE,
        _share(statistics.mean(known)) if known else NONE,
        f"{histories[0].state_bytes / 1e6:.1f}",
    ]


def _share(share: float) -> str:
    # A difference of two medians, whose noise may exceed the time of a fast optimizer.
    return f"{share:.0%}" if share >= 0.01 else "<1%"


def _to_reference(
    histories: Sequence[History], references: dict[int, History]
) -> tuple[str, str]:
    """Steps and seconds to the last loss of AdamW, each with its fraction."""
    pairs = [(h, references[h.seed]) for h in histories if h.seed in references]
    if not pairs:
        return NONE, NONE
    reached = [
        history.first_below(adamw.validation[-1][-1]) for history, adamw in pairs
    ]
    if None in reached:
        return "not yet", "not yet"
    steps, seconds = (statistics.mean(values) for values in zip(*reached, strict=True))
    all_steps, all_seconds = (
        statistics.mean(adamw.validation[-1][i] for _, adamw in pairs) for i in (0, 1)
    )
    return (
        f"{steps:.0f} ({steps / all_steps:.2f})",
        f"{seconds:.1f} ({seconds / all_seconds:.2f})",
    )

"""Finds the best peak learning rate of each optimizer for `examples.train_gpt`.

    python -m examples.sweep
    python -m examples.sweep --optimizers muon --rates 0.01 0.02

Every rate trains the same model on the same batches for the same number of steps as the
comparison. A run adds its results to examples/sweep.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from examples import report, text, train_gpt

RECORD = Path(__file__).with_suffix(".json")
RATES = {
    "adamw": [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2],
    "contrib_muon": [5e-3, 1e-2, 2e-2, 4e-2],
    "muon": [5e-3, 1e-2, 2e-2, 4e-2],
}


def final_loss(name: str, rate: float, arguments: list[str]) -> float:
    """Validation loss at the end of one run."""
    options = train_gpt.parse(["--optimizers", name, "--lr", str(rate), *arguments])
    options.validate_every = options.steps
    runs = train_gpt.new_runs(options)
    data = text.load(options.data, options.context)
    train_gpt.train(runs, data, options, lambda step: None)
    return runs[0].history.validation[-1][-1]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m examples.sweep",
        epilog="Further arguments go to examples.train_gpt.",
    )
    parser.add_argument("--optimizers", nargs="+", choices=RATES, default=list(RATES))
    parser.add_argument("--rates", nargs="+", type=float, help="default: per optimizer")
    options, arguments = parser.parse_known_args()
    console = Console()
    record: dict[str, Any] = (
        json.loads(RECORD.read_text()) if RECORD.exists() else {"losses": {}}
    )
    for name in options.optimizers:
        losses = record["losses"].setdefault(name, {})
        for rate in options.rates or RATES[name]:
            losses[f"{rate:g}"] = final_loss(name, rate, arguments)
            console.print(f"{name} {rate:g}: {losses[f'{rate:g}']:.4f}")
        record |= {"arguments": arguments, **report.machine()}
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
    console.print(table(record["losses"]))


def table(losses: dict[str, dict[str, float]]) -> Table:
    result = Table(title="Validation loss by peak learning rate")
    result.add_column("optimizer")
    result.add_column("rate: loss, * the best")
    for name, by_rate in losses.items():
        best = min(by_rate, key=by_rate.__getitem__)
        cells = [
            f"{rate}: {loss:.3f}{'*' if rate == best else ''}"
            for rate, loss in by_rate.items()
        ]
        result.add_row(name, "   ".join(cells))
    return result


if __name__ == "__main__":
    main()

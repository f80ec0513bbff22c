"""Writes the table of docs/choose.md.

    python -m benchmarks.step --optimizers all --output benchmarks/results/step.json
    python -m examples.train_gpt --optimizers all --steps 60 --validate-every 20
    python -m benchmarks.choose runs/train_gpt.json

Cost and memory come from the first record, losses from the second, of which the part
that is shown is saved as benchmarks/results/train.json. Without an argument the saved
results are used.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.pages import insert

ROOT = Path(__file__).parents[1]
STEP = ROOT / "benchmarks/results/step.json"
TRAIN = ROOT / "benchmarks/results/train.json"
PAGE = ROOT / "docs/choose.md"


def kept(record: dict[str, Any]) -> dict[str, Any]:
    """The part of a record of `examples.train_gpt` that the table shows."""
    return {
        "command": record["command"],
        "versions": record["versions"],
        "results": {
            history["name"]: {
                "title": history["title"],
                "learning_rate": history["learning_rate"],
                "loss": history["validation"][-1][-1],
                "ms": 1e3 * statistics.median(history["step_seconds"]),
                "state_mb": history["state_bytes"] / 1e6,
            }
            for history in record["histories"]
        },
    }


def table(train: dict[str, dict], step: dict[str, dict]) -> str:
    """A table with a row for each optimizer, the lowest loss first."""
    parameters = step["adamw"]["state_bytes"] / 8  # Two float32 moments.
    muon = min(step["muon"]["step_s"])
    rows = [
        "| optimizer | peak rate | loss | training step, ms | state, MB "
        "| step of hidden matrices, over Muon's | its state, bytes a parameter |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in sorted(train, key=lambda name: train[name]["loss"]):
        trained, cost = train[name], step.get(name)
        ratio = f"{min(cost['step_s']) / muon:.2f}" if cost else "–"
        memory = f"{cost['state_bytes'] / parameters:.1f}" if cost else "–"
        cells = (
            f"`{trained['title']}`",
            f"{trained['learning_rate']:g}",
            f"{trained['loss']:.3f}",
            f"{trained['ms']:.0f}",
            f"{trained['state_mb']:.1f}",
            ratio,
            memory,
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def page(text: str) -> str:
    """The page with the table of the saved results."""
    train = json.loads(TRAIN.read_text())["results"]
    step = json.loads(STEP.read_text())["results"]
    return insert(text, "costs", f"\n\n{table(train, step)}\n")


def main() -> None:
    if len(sys.argv) > 1:
        record = json.loads(Path(sys.argv[1]).read_text())
        TRAIN.write_text(json.dumps(kept(record), indent=1) + "\n")
    PAGE.write_text(page(PAGE.read_text()))


if __name__ == "__main__":
    main()

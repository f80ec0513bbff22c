"""Writes the table of the README from benchmarks/results/scale.json.

python -m benchmarks.scale
python -m benchmarks.readme
"""

from pathlib import Path
from typing import Any

from benchmarks.aot.table import key, load
from benchmarks.pages import insert
from benchmarks.scale import RESULTS

PAGE = Path(__file__).parents[1] / "README.md"
THEIRS, OURS = "contrib_muon", "muon/sharded"
NAMES = {
    ("gpt2", "v5e:2x4/fsdp"): "GPT-2 124M, FSDP over 8",
    ("gpt2", "v5e:2x4/fsdp_tp"): "GPT-2 124M, FSDP 4 x tensor 2",
    ("gpt2", "v5e:2x4/replicated"): "GPT-2 124M, replicated on 8",
    ("llama", "v5e:2x4/fsdp"): "Llama 3.2 1B, FSDP over 8",
    ("llama", "v5e:2x4/fsdp_tp"): "Llama 3.2 1B, FSDP 4 x tensor 2",
    ("moe", "v5e:2x4/fsdp"): "GPT-2, 8 experts a layer, FSDP over 8",
    ("moe", "v5e:2x4/fsdp_tp"): "GPT-2, 8 experts a layer, FSDP 4 x tensor 2",
}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """A table with a row for each model and mesh with results of both optimizers."""
    lines = [
        "| model, mesh (TPU v5e) | sent, MB | floor | GFLOP | Mcycles | peak, MB "
        "| instructions |",
        "|---|---|---|---|---|---|---|",
    ]
    for place, name in NAMES.items():
        both = [rows.get(key(*place, optimizer), {}) for optimizer in (THEIRS, OURS)]
        if not all("figures" in row for row in both):
            continue
        theirs, ours = (row["figures"] for row in both)
        cells = [
            f"{sum(theirs['wire_mb'].values()):.1f} → "
            f"{sum(ours['wire_mb'].values()):.1f}",
            f"{both[0]['floor']['wire'] / 1e6:.1f}",
            f"{theirs['gflop']:.0f} → {ours['gflop']:.0f}",
            f"{theirs['mcycles']:.2f} → {ours['mcycles']:.2f}",
            f"{theirs['peak_mb']:.0f} → {ours['peak_mb']:.0f}",
            f"{theirs['instructions']} → {ours['instructions']}",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """The README with the table of the saved results."""
    return insert(text, "scale", f"\n\n{table(load(RESULTS))}\n")


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))

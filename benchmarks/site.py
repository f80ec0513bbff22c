"""Writes the tables of docs/benchmarks.md and of the pages in docs/algorithms/.

    python -m benchmarks.site

It measures nothing: all numbers are from benchmarks/results/, and docs/benchmarks.md
names the command of each table. The page of an algorithm shows the rows of its
optimizers.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.pages import insert

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
DOCS = ROOT / "docs"
NONE = "–"
COMPILED = ("trace_s", "compile_s")  # PyTorch's optimizers have neither.
# The rows on the page of each algorithm.
ALGORITHMS = {
    "muon": ("muon",),
    "normuon": ("normuon",),
    "root": ("root",),
    "auon": ("auon", "hybrid_auon"),
    "namo": ("namo", "namo_d"),
    "aro": ("aro",),
    "fismo": ("fismo", "fismo_every_10"),
    "mkor": ("mkor", "mkor_every_10"),
    "dion": ("dion",),
    "adaptive_memory": ("adaptive_memory_muon", "am_sgd", "am_adamw"),
}


def load(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def markdown(heading: list[str], rows: list[list[str]]) -> str:
    """A Markdown table between empty lines."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


def cost(names: tuple[str, ...]) -> str:
    """The cost of the optimizers of one page, and their loss in the demo."""
    step, train = load("step")["results"], load("train")["results"]
    parameters = step["adamw"]["state_bytes"] / 8  # Two float32 moments.
    rows = []
    for name in names:
        trained = train.get(name)
        ratio = min(step[name]["step_s"]) / min(step["muon"]["step_s"])
        memory = step[name]["state_bytes"] / parameters
        cells = (f"{trained['ms']:.0f}", f"{trained['loss']:.3f}") if trained else None
        rows.append(
            [f"`{name}`", f"{ratio:.2f}", f"{memory:.1f}", *(cells or [NONE] * 2)]
        )
    heading = [
        "",
        "step of hidden matrices, over Muon's",
        "state, bytes a parameter",
        "training step, ms",
        "loss after 60 steps",
    ]
    return markdown(heading, rows)


def step(results: dict[str, dict[str, Any]], baseline: str) -> str:
    """One step of each optimizer, side by side."""
    least = min(results[baseline]["step_s"])
    rows = []
    for name, row in results.items():
        time = min(row["step_s"])
        compiled = [f"{row[key]:.2f}" if key in row else NONE for key in COMPILED]
        rows.append(
            [
                f"`{name}`",
                f"{1e3 * time:.0f}",
                f"{time / least:.2f}",
                *compiled,
                f"{row['instructions']}" if "instructions" in row else NONE,
                f"{row['state_bytes'] / 1e6:.1f}",
            ]
        )
    heading = ["optimizer", "step, ms", f"over `{baseline}`", "trace, s", "compile, s"]
    return markdown([*heading, "instructions", "state, MB"], rows)


def shapes(content: dict[str, Any], baseline: str) -> str:
    """Compile cost of one update where every matrix has another shape."""
    results, number = content["results"], content["shapes"]
    least = min(results[baseline]["compile_cpu_s"])
    rows = []
    for name, row in results.items():
        seconds = min(row["compile_cpu_s"])
        rows.append(
            [
                f"`{name}`",
                f"{min(row['trace_cpu_s']):.1f}",
                f"{seconds:.1f}",
                f"{seconds / least:.2f}",
                f"{row['instructions'] / number:.0f}",
                f"{row['kernels'] / number:.1f}",
                f"{row['lapack'] / number:.1f}",
            ]
        )
    heading = ["optimizer", "trace, CPU s", "compile, CPU s", f"over `{baseline}`"]
    a_shape = ["instructions a shape", "kernels", "LAPACK calls"]
    return markdown([*heading, *a_shape], rows)


def compiled(rows: dict[str, dict[str, Any]]) -> str:
    """One step on many devices, counted in the compiled program."""
    heading = ["model", "mesh", "optimizer", "sent, MB", "floor", "GFLOP", "Mcycles"]
    lines = []
    for row in rows.values():
        metrics = row["figures"]
        lines.append(
            [
                row["tree"],
                row["mesh"],
                f"`{row['optimizer']}`",
                f"{sum(metrics['wire_mb'].values()):.1f}",
                f"{row['floor']['wire'] / 1e6:.1f}",
                f"{metrics['gflop']:.0f}",
                f"{metrics['mcycles']:.2f}" if metrics["mcycles"] else NONE,
                f"{metrics['peak_mb']:.0f}",
                f"{metrics['instructions']}",
            ]
        )
    return markdown([*heading, "peak, MB", "instructions"], lines)


def device(results: dict[str, dict[str, Any]]) -> str:
    """Orthogonalizers on one device: their times and errors, by shape."""
    rows = [
        [
            shape,
            f"`{method}`",
            f"{1e3 * metrics['seconds']:.1f}",
            f"{metrics['errors']['normal']:.1e}",
            f"{metrics['errors']['uneven']:.1e}",
            f"{metrics['compile_s']:.1f}",
        ]
        for shape, result in results.items()
        for method, metrics in result["figures"].items()
    ]
    errors = ["error, normal entries", "error, uneven spectrum"]
    return markdown(["shape", "method", "time, ms", *errors, "compile, s"], rows)


def reliability(cells: dict[str, dict[str, dict]]) -> str:
    """The number of requirements of reliability that each optimizer passes."""
    rows = []
    for name, column in cells.items():
        counts = Counter(cell["result"] for cell in column.values())
        numbers = [str(counts[word]) for word in ("pass", "not promised", "FAIL")]
        rows.append([f"`{name}`", *numbers])
    return markdown(["optimizer", "passes", "not promised", "fails"], rows)


def benchmarks(text: str) -> str:
    """The page docs/benchmarks.md with its tables."""
    tables = {
        "step": step(load("step")["results"], "muon"),
        "peers": step(load("peers")["results"], "contrib_muon"),
        "shapes": shapes(load("compile"), "muon"),
        "scale": compiled(load("scale")["rows"]),
        "gpu": compiled(load("gpu")["rows"]),
        "device": device(load("device")["results"]),
        "reliability": reliability(load("reliability")["cells"]),
    }
    for name, table in tables.items():
        text = insert(text, name, table)
    return text


def pages() -> dict[Path, str]:
    """The correct text of every page that has such tables."""
    page = DOCS / "benchmarks.md"
    written = {page: benchmarks(page.read_text())}
    for name, optimizers in ALGORITHMS.items():
        page = DOCS / f"algorithms/{name}.md"
        written[page] = insert(page.read_text(), "cost", cost(optimizers))
    return written


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)

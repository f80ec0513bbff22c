"""Rows of metrics, saved one after another as JSON and shown as a table."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from rich import box
from rich.table import Table

import optax_ortho
from benchmarks.aot import topologies
from benchmarks.aot.contenders import contender
from benchmarks.aot.floors import Floor, floor
from benchmarks.aot.measure import measure
from benchmarks.aot.trees import tree

NONE = "–"


def key(model: str, place: str, optimizer: str) -> str:
    return f"{model} {place} {optimizer}"


def row(model: str, place: str, optimizer: str, compiler: str) -> dict[str, Any]:
    """Compiles one row.

    Args:
      model: a tree, such as "gpt2", or "llama:4" for four layers of it.
      place: topology and sharding, such as "v5e:2x4/fsdp".
      optimizer: see `contenders`.
      compiler: the package that holds XLA for the platform.

    Returns:
      The row, for `show`; with an "error" instead of metrics if compilation fails.
    """
    topology, _, sharding = place.partition("/")
    name, _, layers = model.partition(":")
    mesh = topologies.mesh(topology, sharding)
    sizes = {"layers": int(layers)} if layers else {}
    params = tree(name, mesh, sharding, **sizes)
    versions = {name: version(name) for name in ("jax", "optax", compiler)}
    result: dict[str, Any] = {
        "tree": model,
        "mesh": place,
        "optimizer": optimizer,
        "floor": floor(params)._asdict(),
        "versions": {**versions, "optax_ortho": optax_ortho.__version__},
    }
    try:
        tx = contender(optimizer, params)
        metrics = measure(tx, params, topologies.chip(topology).platform)
        result["figures"] = metrics._asdict()
    except Exception as error:  # Does not end a long run.
        result["error"] = f"{type(error).__name__}: {error}"[:500]
    jax.clear_caches()
    return result


def load(path: Path) -> dict[str, dict[str, Any]]:
    return json.loads(path.read_text())["rows"] if path.exists() else {}


def save(path: Path, rows: dict[str, dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": dict(sorted(rows.items()))}, indent=1) + "\n")


def show(title: str, rows: list[dict[str, Any]]) -> Table:
    """A table with the floor and every optimizer, for each tree and mesh."""
    table = Table(
        title=title,
        caption="Per device and step. Mcycles are the compiler's estimates, plus the "
        "copies in branches that it omits: from the ones that touch HBM to all. Floor: "
        "each matrix to an owner and back in bfloat16, five Newton-Schulz steps shared "
        "equally, and the memory of the arguments.",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("tree, mesh, optimizer", no_wrap=True)
    for heading in ("wire\nMB", "collec-\ntives", "GFLOP", "Mcycles", "temp\nMB"):
        table.add_column(heading, justify="right")
    for heading in ("peak\nMB", "program\nMB", "instruc-\ntions", "compile\ncpu s"):
        table.add_column(heading, justify="right")
    group = None
    for record in sorted(rows, key=lambda record: (record["tree"], record["mesh"])):
        if group != (record["tree"], record["mesh"]):
            group = record["tree"], record["mesh"]
            table.add_section()
            bounds = Floor(**record["floor"])
            table.add_row(
                f"{record['tree']}, {record['mesh']}: floor",
                f"{bounds.wire / 1e6:.1f}",
                NONE,
                f"{bounds.flops / 1e9:.1f}",
                *(NONE, NONE),
                f"{bounds.arguments / 1e6:.0f}",
                *(NONE, NONE, NONE),
            )
        table.add_row(f"  {record['optimizer']}", *_cells(record))
    return table


def _cells(record: dict[str, Any]) -> list[str]:
    if "error" in record:
        return [record["error"]]
    metrics = record["figures"]
    return [
        f"{sum(metrics['wire_mb'].values()):.1f}",
        f"{sum(metrics['collectives'].values())}",
        f"{metrics['gflop']:.1f}",
        cycles(record),
        f"{metrics['temp_mb']:.0f}",
        f"{metrics['peak_mb']:.0f}",
        f"{metrics['program_mb']:.0f}" if metrics["program_mb"] else NONE,
        f"{metrics['instructions']}",
        f"{metrics['compile_cpu_s']:.0f}",
    ]


def cycles(record: dict[str, Any]) -> str:
    """Estimated Mcycles, and the bounds of copies in branches."""
    if not record["figures"]["mcycles"]:
        return NONE
    low, high = hidden_mcycles(record)
    counted = f"{record['figures']['mcycles']:.2f}"
    return f"{counted} + {low:.1f}..{high:.1f}" if high >= 0.05 else counted


def hidden_mcycles(record: dict[str, Any]) -> tuple[float, float]:
    """Both bounds of the copies in branches, in Mcycles at the memory's bandwidth."""
    chip = topologies.chip(record["mesh"])
    low, high = (
        mb * 1e6 / chip.hbm * chip.clock for mb in record["figures"]["copied_mb"]
    )
    return low / 1e6, high / 1e6

"""Results of every optimizer on the 25 requirements of reliability.

    python -m benchmarks.reliability
    python -m benchmarks.reliability --optimizers muon optax.contrib.muon --rows B2 B16
    python -m benchmarks.reliability --missing

It runs the checks of `tests.reliability` on all optimizers, where the suite runs them
on one. It writes `benchmarks/results/reliability.json` after each check, and the table
in `docs/reliability.md` at the end. Optimizers and rows that are not selected keep
their last results. `--missing` runs the checks without a result and the failed ones, so
it continues an interrupted run. A full run takes about an hour on one core.
"""

import argparse
import json
import os
import time
import warnings
from pathlib import Path

DEVICES = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}".strip()

import jax  # noqa: E402

import optax_ortho  # noqa: E402
from tests.reliability.bar import BAR, NotPromised  # noqa: E402
from tests.reliability.subjects import MUON, OURS, PEER, Subject  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "reliability.json"
PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- begin table -->", "<!-- end table -->"
FAILED = {"result": "FAIL"}


def run(row: str, subject: Subject) -> dict:
    """One cell of the table."""
    started = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result, detail = "pass", BAR[row](subject)
    except NotPromised as reason:
        result, detail = "not promised", str(reason)
    except Exception as error:
        result, detail = "FAIL", f"{type(error).__name__}: {error}"[:400]
    seconds = round(time.perf_counter() - started, 1)
    return {"result": result, "figure": detail, "seconds": seconds}


def table(cells: dict[str, dict[str, dict]]) -> str:
    """A Markdown table of rows B1 to B25: Muon, a count of the others, and the peer."""
    muon, peer = str(MUON), str(PEER)
    lines = [f"| | {muon} | other optimizers | {peer} |", "|---|---|---|---|"]
    for row, check in BAR.items():
        title = (check.__doc__ or "").split("\n")[0].rstrip(".")
        column = {name: cells[name][row] for name in cells if row in cells[name]}
        first, last = (
            show(column.pop(name)) if name in column else "" for name in (muon, peer)
        )
        lines.append(f"| **{row}** {title} | {first} | {summary(column)} | {last} |")
    return "\n".join(lines)


def summary(column: dict[str, dict]) -> str:
    """The number of optimizers that pass a row, and the names of the others.

    Examples:
      >>> passed, failed = ({"result": x, "figure": "1"} for x in ("pass", "FAIL"))
      >>> summary({"root": passed, "aro": failed, "dion": failed})
      '1 passes; FAIL: 1: aro, dion'
    """
    number = sum(cell["result"] == "pass" for cell in column.values())
    others: dict[str, list[str]] = {}
    for name, cell in column.items():
        if cell["result"] != "pass":
            others.setdefault(show(cell), []).append(name)
    count = f"{number} pass" if number != 1 else "1 passes"
    return "; ".join(
        [count, *(f"{why}: {', '.join(names)}" for why, names in others.items())]
    )


def show(cell: dict) -> str:
    detail = cell["figure"].replace("|", "/").replace("\n", " ")
    detail = detail if len(detail) < 60 else detail[:57] + "..."
    if cell["result"] == "not promised":
        return f"– ({detail})"
    return f"{cell['result']}: {detail}"


def write_page(text: str) -> None:
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    names = [str(subject) for subject in [*OURS, PEER]]
    parser.add_argument("--optimizers", nargs="+", choices=names, default=names)
    parser.add_argument("--rows", nargs="+", choices=list(BAR), default=list(BAR))
    parser.add_argument("--missing", action="store_true")
    options = parser.parse_args()
    saved = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"cells": {}}
    cells = saved["cells"]
    versions = {"optax_ortho": optax_ortho.__version__, "jax": jax.__version__}
    for subject in [*OURS, PEER]:
        if str(subject) not in options.optimizers:
            continue
        column = cells.setdefault(str(subject), {})
        for row in options.rows:
            if options.missing and column.get(row, FAILED)["result"] != "FAIL":
                continue
            column[row] = run(row, subject)
            print(f"{subject!s:22} {row:4} {show(column[row])}", flush=True)
            text = json.dumps({**versions, "cells": cells}, indent=1)
            RESULTS.write_text(text + "\n")
        jax.clear_caches()
    write_page(table(cells))


if __name__ == "__main__":
    main()

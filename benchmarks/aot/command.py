"""The command line shared by the tables of absent devices."""

import argparse
import itertools
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from benchmarks.aot.table import key, load, row, save, show
from benchmarks.aot.trees import TREES


class Choice(NamedTuple):
    """The rows of a table: all combinations of these names."""

    trees: list[str]
    meshes: list[str]
    optimizers: list[str]


def run(
    name: str, compiler: str, extra: str, results: Path, quick: Choice, *full: Choice
) -> None:
    """Computes rows, one program each, saves each at once, and shows them.

    Args:
      name: the name of the module, for its help.
      compiler: the package with XLA for the platform.
      extra: the extra of optax_ortho that installs it.
      results: the JSON file of saved rows.
      quick: the rows without ``--full``.
      *full: the rows with ``--full``.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {name}")
    add = parser.add_argument
    add("--trees", nargs="+", help=f"{', '.join(TREES)}; gpt2:2 has two layers")
    add("--meshes", nargs="+", help=f"such as {' '.join(quick.meshes)}")
    add("--optimizers", nargs="+", help=f"such as {' '.join(quick.optimizers)}")
    add("--full", action="store_true", help="every row")
    add("--missing", action="store_true", help="only rows that are not saved yet")
    add("--show", action="store_true", help="compile nothing, show the saved rows")
    add("--output", type=Path, default=results, help=f"instead of {results.name}")
    options = parser.parse_args()
    named = {field: getattr(options, field) for field in Choice._fields}
    named = {field: names for field, names in named.items() if names}
    rows = list(
        dict.fromkeys(
            combination
            for choice in (full if options.full else [quick])
            for combination in itertools.product(*choice._replace(**named))
        )
    )
    console = Console(width=max(Console().width, 118))
    if not options.show:
        try:
            version(compiler)
        except PackageNotFoundError:
            parser.error(f"needs {compiler}: pip install 'optax_ortho[{extra}]'")
        for combination in rows:
            kept = load(options.output)
            if not (options.missing and key(*combination) in kept):
                console.log(key(*combination))
                save(
                    options.output,
                    {**kept, key(*combination): row(*combination, compiler)},
                )
    kept = load(options.output)
    shown = [
        kept[key(*combination)] for combination in rows if key(*combination) in kept
    ]
    console.print(show("One step, matrices only", shown))

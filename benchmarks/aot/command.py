"""The command line that the tables of absent devices share."""

import argparse
import itertools
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from benchmarks.aot.table import key, load, row, save, show
from benchmarks.aot.trees import TREES


class Choice(NamedTuple):
    """The rows of a table: all combinations."""

    trees: list[str]
    meshes: list[str]
    optimizers: list[str]


def run(
    name: str, compiler: str, extra: str, results: Path, quick: Choice, *full: Choice
) -> None:
    """Computes rows, one program each, keeps every one at once, and shows them.

    Args:
      name: of the module, for its help.
      compiler: the package with XLA for the platform.
      extra: of optax_ortho, that brings it.
      results: the JSON file of kept rows.
      quick: the rows without ``--full``.
      *full: the rows with it.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {name}")
    add = parser.add_argument
    add("--trees", nargs="+", help=f"of {', '.join(TREES)}; gpt2:2 has two layers")
    add("--meshes", nargs="+", help=f"such as {' '.join(quick.meshes)}")
    add("--optimizers", nargs="+", help=f"such as {' '.join(quick.optimizers)}")
    add("--full", action="store_true", help="every row")
    add("--missing", action="store_true", help="only rows that are not kept yet")
    add("--show", action="store_true", help="compile nothing, show what is kept")
    add("--output", type=Path, default=results, help=f"instead of {results.name}")
    options = parser.parse_args()
    named = {field: getattr(options, field) for field in Choice._fields}
    named = {field: names for field, names in named.items() if names}
    rows = list(
        dict.fromkeys(
            one
            for choice in (full if options.full else [quick])
            for one in itertools.product(*choice._replace(**named))
        )
    )
    console = Console(width=max(Console().width, 118))
    if not options.show:
        try:
            version(compiler)
        except PackageNotFoundError:
            parser.error(f"needs {compiler}: pip install 'optax_ortho[{extra}]'")
        for one in rows:
            kept = load(options.output)
            if not (options.missing and key(*one) in kept):
                console.log(key(*one))
                save(options.output, {**kept, key(*one): row(*one, compiler)})
    kept = load(options.output)
    found = [kept[key(*one)] for one in rows if key(*one) in kept]
    console.print(show("One step, matrices only", found))

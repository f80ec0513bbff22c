"""Plain-text tables."""

from collections.abc import Collection, Sequence
from typing import Any


def aligned(
    heading: Sequence[str], rows: Sequence[Sequence[Any]], right: Collection[int] = ()
) -> str:
    """Rows in columns under a heading; nothing for no rows.

    Args:
      heading: the name of each column.
      rows: the cells, converted by `str`.
      right: the indices of columns that are aligned to the right.

    Examples:
      >>> print(aligned(("leaf", "size"), [("kernel", 24), ("b", 6)], right=(1,)))
      leaf    size
      ------  ----
      kernel    24
      b          6
    """
    if not rows:
        return ""
    cells = [list(map(str, row)) for row in (heading, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])

    def line(row):
        padded = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    return "\n".join(map(line, cells))

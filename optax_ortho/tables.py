"""Plain-text tables, and the lines printed around them."""

import textwrap
from collections.abc import Collection, Sequence
from typing import Any


def aligned(
    heading: Sequence[str], rows: Sequence[Sequence[Any]], right: Collection[int] = ()
) -> str:
    """Rows as text in aligned columns under a heading; empty if there are no rows.

    Args:
      heading: the name of each column.
      rows: the cells, converted by `str`.
      right: the indices of right-aligned columns.

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


def leaf_count(number: int) -> str:
    """A number of leaves as text, in singular or plural.

    Examples:
      >>> leaf_count(1), leaf_count(1200)
      ('1 leaf', '1200 leaves')
    """
    return f"{number} {'leaf' if number == 1 else 'leaves'}"


def wrapped(text: str, indent: int) -> str:
    """A text wrapped at 88 columns; paths are not broken.

    Args:
      text: the text.
      indent: the number of spaces before each line after the first.

    Examples:
      >>> [len(line) for line in wrapped("! " + 30 * "word ", 2).splitlines()]
      [86, 66]
    """
    return textwrap.fill(
        text,
        width=88,
        subsequent_indent=indent * " ",
        break_long_words=False,
        break_on_hyphens=False,
    )

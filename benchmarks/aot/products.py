"""Floating-point operations of matrix products, counting multiplications and additions.

The compiler's own count includes the body of a loop only once; these counts can be
multiplied by its trips. On TPU every product is a convolution, a batched one with a
window that meets each batch entry once, so the positions where window and operand meet
are counted.
"""

import math

from benchmarks.aot.hlo import Computation, Instruction, arrays


def flops(i: Instruction, computation: Computation) -> int:
    """The operations of one instruction; 0 if it is not a product."""
    if i.opcode not in ("dot", "convolution"):
        return 0
    left, right = (arrays(computation[name].shape)[0][1] for name in i.operands[:2])
    result = arrays(i.shape)[0][1]
    if i.opcode == "dot":
        axes = i.attribute(r"lhs_contracting_dims=\{([\d,]*)\}")
        summed = [left[int(axis)] for axis in axes.split(",")] if axes else []
        return 2 * math.prod(result) * math.prod(summed)
    # Such as 0bf_0oi->0bf: batch, features in and out, and numbered window axes.
    of_left, of_right, of_result = (
        i.need(r"dim_labels=([\w>-]+)").replace("->", "_").split("_")
    )
    count = 2 * result[of_result.index("b")] * result[of_result.index("f")]
    count *= right[of_right.index("i")]
    for k, window in enumerate(_windows(i.attribute(r"window=\{([^}]*)\}") or "")):
        length, results = left[of_left.index(str(k))], result[of_result.index(str(k))]
        count *= _meetings(length, results, window)
    return count


def _windows(text: str) -> list[dict[str, int]]:
    """The window along each axis, from ``size=4x3 pad=3_3x0_0``; only low padding."""
    rows = dict(pair.split("=") for pair in text.split())
    columns = {name: row.split("x") for name, row in rows.items()}
    rank = len(columns.get("size", ()))
    return [
        {name: int(column[k].split("_")[0]) for name, column in columns.items()}
        for k in range(rank)
    ]


def _meetings(length: int, results: int, window: dict[str, int]) -> int:
    """Pairs of result and window positions that meet an entry of the operand."""
    apart = window.get("lhs_dilate", 1)
    places = (
        result * window.get("stride", 1)
        + position * window.get("rhs_dilate", 1)
        - window.get("pad", 0)
        for result in range(results)
        for position in range(window["size"])
    )
    return sum(place % apart == 0 and 0 <= place // apart < length for place in places)

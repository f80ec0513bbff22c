"""The side of a matrix that a one-sided method works on."""

import dataclasses
import re
from typing import Any

import jax

from optax_ortho.matrices import AxesOf, MatrixAxes, axes_at
from optax_ortho.orthogonalizers.prescale import is_tall

SIDES = ("short", "fan_in", "fan_out")
WRITERS = (
    *("o", "o_proj", "out", "out_proj", "output", "wo", "proj", "c_proj"),
    *("down", "down_proj", "w2", "fc2", "fc_out"),
)


@dataclasses.dataclass(frozen=True)
class ResidualStream:
    """The side of a kernel that faces the residual stream (ARO's design 3).

    It is fan_out for kernels that write to the stream and fan_in for all others.

    Args:
      writers: the names of layers that write to the stream. Each part of a path is
        compared in lower case, with and without a trailing number.

    Examples:
      >>> stream = ResidualStream()
      >>> stream.side("layer_0/mlp/down_proj/kernel"), stream.side("layer_0/q/kernel")
      ('fan_out', 'fan_in')
    """

    writers: tuple[str, ...] = WRITERS

    def side(self, path: str) -> str:
        """``"fan_in"`` or ``"fan_out"``."""
        parts = path.lower().split("/")
        bare = [re.sub(r"_?\d+$", "", part) for part in parts]
        return "fan_in" if set(self.writers).isdisjoint(parts + bare) else "fan_out"


Side = str | ResidualStream
"""One of `SIDES`, or an object that returns the side for a path."""


def check_side(side: Any) -> None:
    """Raises an error unless the argument is a side.

    Raises:
      ValueError: an unknown name.
      TypeError: neither a name nor an object with a method `side`.
    """
    if isinstance(side, str):
        if side not in SIDES:
            raise ValueError(f"side must be one of {SIDES}, got {side!r}.")
    elif not hasattr(side, "side"):
        raise TypeError(f"side is one of {SIDES} or a ResidualStream, got {side!r}.")


def side_first(axes: AxesOf, side: Side) -> AxesOf:
    """Axes that fold a matrix with the side as its rows; "short" changes nothing."""

    def turned(path: str, leaf: Any) -> MatrixAxes:
        unturned = axes_at(axes, path, leaf)
        chosen = side if isinstance(side, str) else side.side(path)
        if chosen != "fan_out":
            return unturned
        return MatrixAxes(unturned.fan_out, unturned.fan_in, unturned.split)

    return turned


def short_first(x: jax.Array, side: Side) -> jax.Array:
    """The matrix, transposed if the side is "short" and the matrix is tall."""
    return x.mT if side == "short" and is_tall(x) else x

"""Which side of a matrix a one-sided method works on."""

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
    """The side of a kernel on which the residual stream is (ARO's design 3).

    Kernels that write to the stream have it as their fan_out, all others as fan_in.

    Args:
      writers: the names of what writes, compared with each part of a path in lower
        case, with and without a number at its end.

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
"""One of `SIDES`, or anything that has the side of a path."""


def check_side(side: Any) -> None:
    """Refuses what is not a side.

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
    """Axes under which a matrix has the side in front; "short" changes nothing."""

    def turned(path: str, leaf: Any) -> MatrixAxes:
        one = axes_at(axes, path, leaf)
        chosen = side if isinstance(side, str) else side.side(path)
        if chosen != "fan_out":
            return one
        return MatrixAxes(one.fan_out, one.fan_in, one.split)

    return turned


def short_first(x: jax.Array, side: Side) -> jax.Array:
    """A matrix, or its transpose if the short side is asked for and comes second."""
    return x.mT if side == "short" and is_tall(x) else x

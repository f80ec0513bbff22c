"""Programs of eight devices of which it is known what they move and compute."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

ROWS, COLUMNS = 64, 256  # An eighth of the rows is still a whole tile of a TPU.
SHARD = ROWS * COLUMNS * 4  # Bytes of a device's part, float32.
LINE, GRID = ("d",), ("a", "b")


class Known(NamedTuple):
    """A function of a device's part, and its traffic: kind, count, payload, wire."""

    axes: tuple[str, ...]
    function: Callable
    traffic: tuple[str, int, float, float]


def repeat(times: int, f: Callable) -> Callable:
    return lambda x: lax.fori_loop(0, times, lambda _, y: jnp.sin(f(y)), x)


def swap(x):
    return lax.all_to_all(x, "d", 1, 1, tiled=True)


def one_of_two(x):
    """Every second device moves nothing, as far as the program's text tells."""
    branches = [jnp.cos, lambda x: jnp.sin(lax.psum(x, "d"))]
    return lax.switch(lax.axis_index("d") % 2, branches, x)


def ring(x):
    return lax.ppermute(x, "d", [(i, (i + 1) % 8) for i in range(8)])


KNOWN = {
    "all_gather": Known(
        LINE,
        lambda x: 2 * lax.all_gather(x, "d", tiled=True),
        ("all-gather", 1, 8 * SHARD, 7 * SHARD),
    ),
    "psum": Known(
        LINE,
        lambda x: lax.psum(x, "d"),
        ("all-reduce", 1, SHARD, 2 * SHARD * 7 / 8),
    ),
    "psum_scatter": Known(
        LINE,
        lambda x: lax.psum_scatter(x, "d", tiled=True),
        ("reduce-scatter", 1, SHARD, SHARD * 7 / 8),
    ),
    "all_to_all": Known(
        LINE,
        lambda x: lax.all_to_all(x, "d", 1, 0, tiled=True),
        ("all-to-all", 1, SHARD, SHARD * 7 / 8),
    ),
    "ppermute": Known(LINE, ring, ("collective-permute", 1, SHARD, SHARD)),
    "loop": Known(
        LINE, repeat(5, swap), ("all-to-all", 5, 5 * SHARD, 5 * SHARD * 7 / 8)
    ),
    "nested_loops": Known(
        LINE,
        repeat(3, repeat(2, swap)),
        ("all-to-all", 6, 6 * SHARD, 6 * SHARD * 7 / 8),
    ),
    "branches": Known(LINE, one_of_two, ("all-reduce", 1, SHARD, 2 * SHARD * 7 / 8)),
    "pairs": Known(
        GRID,
        lambda x: 2 * lax.all_gather(x, "b", tiled=True),
        ("all-gather", 1, 2 * SHARD, SHARD),
    ),
    "quadruples": Known(
        GRID,
        lambda x: lax.psum(x, "a"),
        ("all-reduce", 1, SHARD, 2 * SHARD * 3 / 4),
    ),
}


def text(known: Known, devices: Any, platform: str) -> str:
    """The optimized program, for the devices of a platform."""
    shape = (8,) if known.axes == LINE else (4, 2)
    mesh = Mesh(np.array(devices).reshape(shape), known.axes)
    x = jax.ShapeDtypeStruct(
        (8 * ROWS, COLUMNS), jnp.float32, sharding=NamedSharding(mesh, P(known.axes))
    )
    f = jax.shard_map(
        known.function,
        mesh=mesh,
        in_specs=P(known.axes),
        out_specs=P(known.axes),
        check_vma=False,
    )
    return compiled_text(f, x, platform=platform)


def compiled_text(f: Callable, *args: Any, platform: str = "cpu") -> str:
    lowered = jax.jit(f).trace(*args).lower(lowering_platforms=(platform,))
    return lowered.compile().as_text() or ""

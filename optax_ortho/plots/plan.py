"""A plot of the work of each owner of matrices."""

from collections.abc import Iterator
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from optax_ortho.planning import Plan, RoundCost
from optax_ortho.plots.style import COLORS, HIGHLIGHT, ink, panels, title

HATCHES = ("", "///", "...", "xxx")


def plan(plan: Plan) -> Figure:
    """The rounds of a sharded optimizer in sequence, with the work of each owner.

    Args:
      plan: the result of `optax_ortho.plan`.

    Returns:
      The figure: a row for each owner and a bar for each matrix, as long as the work on
      it. A round ends with its busiest owner; the dashed line is an even share of all
      work.

    Examples:
      >>> import jax, jax.numpy as jnp, optax_ortho
      >>> from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
      >>> shards = NamedSharding(AbstractMesh((4,), ("fsdp",)), PartitionSpec("fsdp"))
      >>> kernel = jax.ShapeDtypeStruct((256, 512), jnp.float32, sharding=shards)
      >>> params = {f"layer_{i}": {"kernel": kernel} for i in range(6)}
      >>> layout = optax_ortho.layouts.sharded(params)
      >>> costs = optax_ortho.plan(optax_ortho.muon(0.02, layout=layout), params)
      >>> plan(costs).savefig("/dev/null", format="png")
    """
    cost = plan.cost
    most = max((len(round_.owners) for round_ in cost.rounds), default=1)
    bars = list(_bars(cost.rounds, most))
    shapes = sorted(
        {shape for *_, shape in bars}, key=lambda shape: -_longest(bars, shape)
    )
    figure, (axes,) = panels(1, (9, 1.9 + min(0.32 * most, 6)))
    for start, length, bottom, height, shape in bars:
        axes.broken_barh(
            [(start / 1e9, length / 1e9)],
            (bottom + 0.08 * height, 0.84 * height),
            # No edges between many thin bars, which would hide them.
            edgecolor=axes.get_facecolor(),
            linewidth=0.8 if most <= 32 else 0,
            **_look(shapes.index(shape)),
        )
    axes.axvline(
        cost.ideal_flops / 1e9, color=ink(), linewidth=1, linestyle=(0, (4, 3))
    )
    axes.text(
        cost.ideal_flops / 1e9,
        -0.15,
        "even share ",
        ha="right",
        va="bottom",
        fontsize=9,
    )
    axes.set_ylim(most, -0.8)
    axes.set_xlim(0, max(cost.flops, cost.ideal_flops) / 1e9 * 1.01 or 1)
    axes.set_ylabel("owner")
    axes.set_xlabel("work, GFLOP")
    axes.yaxis.get_major_locator().set_params(integer=True)
    if most <= 16:
        axes.set_yticks([i + 0.5 for i in range(most)], [str(i) for i in range(most)])
    axes.grid(False)
    axes.legend(
        [Patch(**_look(i)) for i in range(len(shapes))],
        shapes,
        title="matrices",
        alignment="left",
        fontsize=9,
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
    )
    wire, floor = cost.wire_bytes / 1e6, cost.floor_bytes / 1e6
    share = cost.flops / max(cost.ideal_flops, 1)
    title(
        figure,
        f"The busiest owner does {share:.2f} of an even share",
        f"Each device sends {wire:.1f} MB a step, of at least {floor:.1f}",
    )
    return figure


Bar = tuple[float, float, float, float, str]
"""Start and length in FLOPs, top row, number of rows, and shape of the matrix."""


def _bars(rounds: tuple[RoundCost, ...], most: int) -> Iterator[Bar]:
    now = 0.0
    for round_ in rounds:
        # Fewer owners than rows: each owner's bar is higher, so that all rows are used.
        height = most / len(round_.owners)
        for _ in range(round_.repeats):
            for i, share in enumerate(round_.owners):
                start = now
                for matrix in share:
                    yield start, matrix.flops, i * height, height, matrix.shape
                    start += matrix.flops
            now += round_.flops / round_.repeats


def _longest(bars: list[Bar], shape: str) -> float:
    return max(length for _, length, _, _, name in bars if name == shape)


def _look(i: int) -> dict[str, Any]:
    """A color, with a hatch after all colors are used."""
    colors = (HIGHLIGHT, *COLORS)
    hatch = HATCHES[i // len(colors) % len(HATCHES)]
    return {"facecolor": colors[i % len(colors)], "hatch": hatch}

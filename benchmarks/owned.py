"""The bytes sent in a whole train step with matrices stored on their owners.

    python -m benchmarks.owned                      GPT-2 124M on eight v5e
    python -m benchmarks.owned --layers 2 --width 256

Forward pass, backward pass and optimizer of `examples.owned_step`, compiled for absent
TPUs: sharded AdamW, and Muon with `layouts.owned`. Both gather the same parameters and
average the same gradients, so the difference is the cost of Muon's matrices.
"""

import argparse
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.console import Console
from rich.table import Table

import optax_ortho
from benchmarks.aot import topologies
from benchmarks.aot.cost import Cost, cost
from examples.gpt import GPT, loss_fn
from examples.owned_step import AXIS, in_shards, train_step


class Size(NamedTuple):
    """The size of a GPT and its batch, one sequence for each device."""

    layers: int = 12
    width: int = 768
    heads: int = 12
    context: int = 256
    vocabulary: int = 50257


def model(size: Size, mesh: Mesh) -> tuple[Any, Any, Any]:
    """The graph of a GPT, the sharded shapes of its parameters, and their labels."""
    abstract = nnx.eval_shape(lambda: GPT(**size._asdict(), rngs=nnx.Rngs(0)))
    graph, params = nnx.split(abstract)
    shardings = in_shards(params, mesh)

    def on_leaf(leaf, sharding):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return graph, jax.tree.map(on_leaf, params, shardings), optax_ortho.label(abstract)


def contenders(labels: Any, layout: Any) -> dict[str, optax.GradientTransformation]:
    """Optimizers of local gradients."""
    average = optax.stateless(lambda gradient, _: layout.average(gradient))
    return {
        "adamw": optax.chain(average, optax.adamw(1e-3)),
        "muon/owned": optax_ortho.muon(0.01, labels=labels, layout=layout),
    }


def compiled_cost(graph: Any, params: Any, tx: Any, layout: Any, size: Size) -> Cost:
    """The cost of one step."""

    def placed(shape, dtype, spec):
        sharding = NamedSharding(layout.mesh, spec)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    state = jax.eval_shape(tx.init, params)
    state = jax.tree.map(
        lambda leaf, spec: placed(leaf.shape, leaf.dtype, spec),
        state,
        layout.specs(state),
    )
    shape = (layout.mesh.size, size.context + 1)
    batch = placed(shape, jnp.int32, PartitionSpec(AXIS))
    step = train_step(
        lambda params, batch: loss_fn(nnx.merge(graph, params), batch),
        tx,
        layout,
        params,
    )
    return cost(step.lower(params, state, batch).compile().as_text())


def sent(step_cost: Cost) -> float:
    """MB that a device sends."""
    return sum(traffic.wire for traffic in step_cost.traffic.values()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", default="v5e:2x4", help="such as v6e:2x4")
    for name, default in Size()._asdict().items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = vars(parser.parse_args())
    mesh = Mesh(topologies.mesh(options.pop("devices"), "fsdp").devices, (AXIS,))
    size = Size(**options)
    graph, params, labels = model(size, mesh)
    table = Table("", "sent, MB", "beyond AdamW", "collectives", title=str(size))
    first = None
    layout = optax_ortho.layouts.owned(params, AXIS)
    for name, tx in contenders(labels, layout).items():
        step_cost = compiled_cost(graph, params, tx, layout, size)
        first = sent(step_cost) if first is None else first
        kinds = ", ".join(
            f"{x.count} {kind} {x.wire / 1e6:.1f}"
            for kind, x in step_cost.traffic.items()
        )
        table.add_row(
            name, f"{sent(step_cost):.2f}", f"{sent(step_cost) - first:.2f}", kinds
        )
    Console(width=118).print(table)


if __name__ == "__main__":
    main()

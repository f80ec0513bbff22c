"""A train step with momentum stored on the owners of matrices.

    python -m examples.owned_step
    python -m examples.owned_step --devices 4 --steps 40

Parameters are sharded over all devices (FSDP), which are simulated on a CPU. Each
device computes the gradient for its own part of the batch. The gradients of a matrix
are averaged on its owner, where its momentum is stored, and only the update is
communicated. All of that is in `train_step`.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import nnx
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

import optax_ortho
from examples import text
from examples.gpt import GPT, TOKENS, loss_fn

AXIS, CONTEXT = "fsdp", 64


def train_step(
    loss: Callable, tx: optax.GradientTransformation, layout: Any, params: Any
) -> Callable:
    """A compiled train step for sharded parameters.

    Args:
      loss: the loss of whole parameters on this device's part of a batch.
      tx: an optimizer with this layout.
      layout: `optax_ortho.layouts.owned` of the parameters.
      params: the sharded parameters, or their shapes with shardings.

    Returns:
      A function from parameters, state and batch to new parameters and state, and the
      loss.
    """
    specs = jax.tree.map(lambda x: x.sharding.spec, params)
    state_specs = layout.specs(jax.eval_shape(tx.init, params))

    def on_device(params, state, batch):
        value, gradient = jax.value_and_grad(loss)(layout.gather(params), batch)
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return params, state, lax.pmean(value, layout.over)

    step = jax.shard_map(
        on_device,
        mesh=layout.mesh,
        in_specs=(specs, state_specs, PartitionSpec(layout.over)),
        out_specs=(specs, state_specs, PartitionSpec()),
        check_vma=False,
    )
    return jax.jit(step, donate_argnums=(0, 1))


def in_shards(params: Any, mesh: jax.sharding.Mesh) -> Any:
    """Shardings of parameters over their longest axis that the devices divide."""

    def on_leaf(x):
        axes = [i for i, n in enumerate(x.shape) if n % mesh.size == 0]
        spec = [None] * x.ndim
        if axes and x.ndim > 1:
            spec[max(axes, key=lambda i: (x.shape[i], i))] = AXIS
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(on_leaf, params)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", options.devices)
    mesh = jax.make_mesh((options.devices,), (AXIS,))

    model = GPT(
        vocabulary=text.VOCABULARY,
        context=CONTEXT,
        layers=4,
        width=options.width,
        heads=4,
        rngs=nnx.Rngs(0),
    )
    graph, params = nnx.split(model)
    params = jax.device_put(params, in_shards(params, mesh))
    layout = optax_ortho.layouts.owned(params, AXIS)
    labels = optax_ortho.label(model, TOKENS)
    tx = optax_ortho.muon(options.learning_rate, labels=labels, layout=layout)
    step = train_step(
        lambda params, batch: loss_fn(nnx.merge(graph, params), batch),
        tx,
        layout,
        params,
    )
    state = jax.jit(tx.init)(params)
    data, _ = text.load(None, CONTEXT)
    for i in range(options.steps):
        batch = text.windows(data, 4 * options.devices, CONTEXT, seed=(i,))
        batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec(AXIS)))
        params, state, loss = step(params, state, batch)
        if i % 5 == 0 or i == options.steps - 1:
            print(f"step {i:3d}  loss {loss:.3f}")


if __name__ == "__main__":
    main()

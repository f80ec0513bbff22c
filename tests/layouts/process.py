"""One of several processes that train together and save what they reached.

    python -m tests.layouts.process ADDRESS COUNT INDEX FOLDER

Each has four CPU devices. Together they train, save a checkpoint, and train on.
"""

import sys
from pathlib import Path

import jax
import numpy as np
import optax
import orbax.checkpoint
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_ortho
from optax_ortho.layouts import sharded

SHAPES = {
    **{f"wide_{i}": (16, 32) for i in range(3)},
    **{"tall": (32, 8), "stack": (5, 16, 24), "bias": (16,)},
}
SPECS = {
    **{f"wide_{i}": P("f", "t") for i in range(3)},
    **{"tall": P("t", "f"), "stack": P(None, "f", "t"), "bias": P("f")},
}
STEPS = 3


def value(name: str, step: int) -> np.ndarray:
    """The gradient of a step; before the first one, the parameter."""
    rng = np.random.default_rng([step, *name.encode()])
    return rng.normal(size=SHAPES[name]).astype(np.float32)


def on(mesh: Mesh, step: int) -> dict[str, jax.Array]:
    """`value` of all leaves, of which each process makes what its devices hold."""
    return {
        name: jax.make_array_from_callback(
            shape,
            NamedSharding(mesh, SPECS[name]),
            lambda index, name=name: value(name, step)[index],
        )
        for name, shape in SHAPES.items()
    }


def optimizer(params: dict[str, jax.Array]) -> optax.GradientTransformation:
    """Muon, with a wire that does not round."""
    matrix = optax_ortho.MatrixAxes()
    labels = {name: "bias" if x.ndim < 2 else matrix for name, x in params.items()}
    layout = sharded(params, wire_dtype=np.float32)
    return optax_ortho.muon(0.1, labels=labels, layout=layout)


def train(mesh: Mesh, params, state, steps: range):
    """Parameters and state after some steps."""
    update = jax.jit(optimizer(params).update)
    for step in steps:
        updates, state = update(on(mesh, step), state, params)
        params = jax.jit(optax.apply_updates)(params, updates)
    return params, state


def main() -> None:
    address, count, index, folder = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", 4)
    jax.distributed.initialize(address, int(count), int(index))
    mesh = jax.make_mesh((4, 2), ("f", "t"))
    jax.set_mesh(mesh)
    params = on(mesh, 0)
    state = jax.jit(optimizer(params).init)(params)
    params, state = train(mesh, params, state, range(1, 1 + STEPS))
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path(folder) / "saved", {"params": params, "state": state})
    params, _ = train(mesh, params, state, range(1 + STEPS, 1 + 2 * STEPS))
    whole = multihost_utils.process_allgather(params, tiled=True)
    if int(index) == 0:
        np.savez(Path(folder) / "trained.npz", **whole)


if __name__ == "__main__":
    main()

"""Compiles one optimizer step for a mesh of absent devices, and reads what it costs."""

import time
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.aot.cost import cost
from benchmarks.aot.floors import shard_bytes


class Figures(NamedTuple):
    """What one step costs a device; MB are 10^6 bytes.

    Args:
      wire_mb: sent, by kind of collective.
      collectives: their number, by kind.
      gflop: of matrix products.
      mcycles: the compiler's estimates, without collectives and copies (TPU alone).
      copied_mb: copied inside conditional branches, where no estimate counts it: what
        touches HBM, and all.
      argument_mb: parameters, gradients and state.
      temp_mb: temporary buffers.
      peak_mb: the most memory in use at a time.
      program_mb: the program itself.
      instructions: in the optimized program.
      compile_cpu_s: seconds of all cores in XLA's compiler.
    """

    wire_mb: dict[str, float]
    collectives: dict[str, int]
    gflop: float
    mcycles: float
    copied_mb: tuple[float, float]
    argument_mb: float
    temp_mb: float
    peak_mb: float
    program_mb: float
    instructions: int
    compile_cpu_s: float


def measure(
    tx: optax.GradientTransformation, params: Any, platform: str, state: Any = None
) -> Figures:
    """The cost of ``update`` and ``apply_updates``, gradients being arguments.

    State and parameters are donated, and come out in the order in which they went in:
    otherwise their buffers are swapped, and a copy of each is what one measures.

    Args:
      tx: the optimizer.
      params: shapes with `NamedSharding`.
      platform: "tpu", "cuda" or "cpu".
      state: the state's shapes with theirs; None is `state_like`.

    Returns:
      The figures, identical in every run but for the compiler's time.

    Raises:
      RuntimeError: the program leaves an argument unread. Work that is missing would
        look like a record.
    """
    state = state_like(tx, params) if state is None else state

    def step(gradients, state, params):
        updates, state = tx.update(gradients, state, params)
        return state, optax.apply_updates(params, updates)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, (state, params))
    jitted = jax.jit(step, donate_argnums=(1, 2), out_shardings=shardings)
    lowered = jitted.trace(params, state, params).lower(lowering_platforms=(platform,))
    started = time.process_time()
    compiled = lowered.compile()
    seconds = time.process_time() - started

    memory = compiled.memory_analysis()
    assert memory is not None, f"{platform} tells nothing of memory."
    refuse_unread((params, state, params), memory.argument_size_in_bytes)
    found = cost(compiled.as_text() or "")
    if found.unknown_loops:
        raise RuntimeError(f"How often do these loops run? {found.unknown_loops}")
    return Figures(
        wire_mb={kind: traffic.wire / 1e6 for kind, traffic in found.traffic.items()},
        collectives={kind: traffic.count for kind, traffic in found.traffic.items()},
        gflop=found.flops / 1e9,
        mcycles=found.cycles / 1e6,
        copied_mb=(found.copied[0] / 1e6, found.copied[1] / 1e6),
        argument_mb=memory.argument_size_in_bytes / 1e6,
        temp_mb=memory.temp_size_in_bytes / 1e6,
        peak_mb=memory.peak_memory_in_bytes / 1e6,
        program_mb=memory.generated_code_size_in_bytes / 1e6,
        instructions=found.instructions,
        compile_cpu_s=seconds,
    )


def refuse_unread(arguments: Any, found: int) -> None:
    """Raises a `RuntimeError` if a matrix among the arguments was pruned."""
    expected = sum(
        shard_bytes(leaf) for leaf in jax.tree.leaves(arguments) if leaf.ndim >= 2
    )
    if found < expected:
        raise RuntimeError(
            f"The program reads {found / 1e6:.1f} MB of arguments, and was given "
            f"{expected / 1e6:.1f} MB: part of the work was left out."
        )


def state_like(tx: optax.GradientTransformation, params: Any) -> Any:
    """The state's shapes: a leaf of a parameter's path and shape lies as it does."""
    leaves = {_path(keys): leaf for keys, leaf in _flatten(params)}
    mesh = next(iter(leaves.values())).sharding.mesh

    def lay_out(keys, leaf):
        sharding = NamedSharding(mesh, PartitionSpec())
        for start in range(len(keys)):
            like = leaves.get(_path(keys[start:]))
            if like is not None and like.shape == leaf.shape:
                sharding = like.sharding
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    state = jax.eval_shape(tx.init, params)
    return jax.tree_util.tree_map_with_path(lay_out, state)


def _flatten(tree: Any) -> list:
    return jax.tree_util.tree_leaves_with_path(tree)


def _path(keys: Any) -> str:
    return "/".join(jax.tree_util.keystr((key,), simple=True) for key in keys)

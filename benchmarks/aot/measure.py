"""The cost of one optimizer step, compiled for a mesh of absent devices."""

import time
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import NamedSharding

from benchmarks.aot.cost import cost
from benchmarks.aot.floors import shard_bytes
from optax_ortho.layouts.specs import params_of, state_specs


class Metrics(NamedTuple):
    """The cost of one step for a device; MB are 10^6 bytes.

    Args:
      wire_mb: MB sent, by kind of collective.
      collectives: number of collectives, by kind.
      gflop: GFLOP of matrix products.
      mcycles: the compiler's estimates, without collectives and copies (TPU only).
      copied_mb: MB copied inside conditional branches, which the estimates exclude: the
        copies that touch HBM, and all copies.
      argument_mb: MB of parameters, gradients and state.
      temp_mb: MB of temporary buffers.
      peak_mb: the most memory in use at a time.
      program_mb: MB of the program itself.
      instructions: number of instructions in the optimized program.
      compile_cpu_s: CPU seconds in XLA's compiler.
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


def measure(tx: optax.GradientTransformation, params: Any, platform: str) -> Metrics:
    """The cost of ``update`` and ``apply_updates`` with gradients as arguments.

    State and parameters are donated and returned in the same order. Otherwise their
    buffers would be swapped, and copies of both would be measured.

    Args:
      tx: the optimizer.
      params: shapes with `NamedSharding`.
      platform: "tpu", "cuda" or "cpu".

    Returns:
      The metrics, which only differ between runs in the time of the compiler.

    Raises:
      RuntimeError: the program does not read an argument. Missing work would look like
        a good result.
    """
    state = state_like(tx, params)

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
    assert memory is not None, f"{platform} has no memory analysis."
    refuse_unread((params, state, params), memory.argument_size_in_bytes)
    program_cost = cost(compiled.as_text() or "")
    if program_cost.unknown_loops:
        raise RuntimeError(
            f"How often do these loops run? {program_cost.unknown_loops}"
        )
    return Metrics(
        wire_mb={
            kind: traffic.wire / 1e6 for kind, traffic in program_cost.traffic.items()
        },
        collectives={
            kind: traffic.count for kind, traffic in program_cost.traffic.items()
        },
        gflop=program_cost.flops / 1e9,
        mcycles=program_cost.cycles / 1e6,
        copied_mb=(program_cost.copied[0] / 1e6, program_cost.copied[1] / 1e6),
        argument_mb=memory.argument_size_in_bytes / 1e6,
        temp_mb=memory.temp_size_in_bytes / 1e6,
        peak_mb=memory.peak_memory_in_bytes / 1e6,
        program_mb=memory.generated_code_size_in_bytes / 1e6,
        instructions=program_cost.instructions,
        compile_cpu_s=seconds,
    )


def refuse_unread(arguments: Any, read: int) -> None:
    """Raises a `RuntimeError` if a matrix among the arguments was pruned."""
    expected = sum(
        shard_bytes(leaf) for leaf in jax.tree.leaves(arguments) if leaf.ndim >= 2
    )
    if read < expected:
        raise RuntimeError(
            f"The program reads {read / 1e6:.1f} MB of arguments, and was given "
            f"{expected / 1e6:.1f} MB: part of the work was left out."
        )


def state_like(tx: optax.GradientTransformation, params: Any) -> Any:
    """The shapes of the state with the shardings of its layout."""
    params_on_mesh = params_of(params)
    mesh = params_on_mesh.mesh
    state = jax.eval_shape(tx.init, params)
    return jax.tree.map(
        lambda x, spec: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=NamedSharding(mesh, spec)
        ),
        state,
        state_specs(state, mesh.axis_names, params_on_mesh),
    )

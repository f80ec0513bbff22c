"""Compiles one optimizer step for a mesh of absent devices, and reads what it costs."""

import time
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import NamedSharding

from benchmarks.aot.cost import cost
from benchmarks.aot.floors import shard_bytes
from optax_ortho.layouts.parameters import places_of
from optax_ortho.layouts.placing import specs_of


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


def measure(tx: optax.GradientTransformation, params: Any, platform: str) -> Figures:
    """The cost of ``update`` and ``apply_updates``, gradients being arguments.

    State and parameters are donated, and come out in the order in which they went in:
    otherwise their buffers are swapped, and a copy of each is what one measures.

    Args:
      tx: the optimizer.
      params: shapes with `NamedSharding`.
      platform: "tpu", "cuda" or "cpu".

    Returns:
      The figures, identical in every run but for the compiler's time.

    Raises:
      RuntimeError: the program leaves an argument unread. Work that is missing would
        look like a record.
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
    """The state's shapes, laid out as `layouts.sharded` and its owners have them."""
    mesh, placed = places_of(params)
    state = jax.eval_shape(tx.init, params)
    return jax.tree.map(
        lambda x, spec: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=NamedSharding(mesh, spec)
        ),
        state,
        specs_of(state, mesh.axis_names, placed),
    )

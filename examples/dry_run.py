"""A report of the work and the cost of a job on absent devices."""

import time

from jax.experimental import topologies

import optax_ortho
from benchmarks.aot.cost import cost
from examples.job import Options, new_job, tokens_of
from examples.mesh import new_mesh


def report(options: Options) -> str:
    """The roles of the parameters, the plan of their matrices, and the compiled step.

    Args:
      options: the options of the job, with the topology of a TPU such as "v5e:4x4". Its
        compiler, libtpu, has to be installed: ``pip install libtpu``.
    """
    if options.topology is None:
        raise SystemExit("--dry-run needs --topology, such as v5e:4x4.")
    devices = topologies.get_topology_desc(options.topology, platform="tpu").devices
    sizes = options.data_parallel, options.fsdp, options.tensor
    job = new_job(options, new_mesh(*sizes, devices))
    parts = [job.labels, optax_ortho.summary(job.tx, job.params)]
    if options.optimizer in optax_ortho.__all__ and job.mesh.size > 1:
        parts.append(optax_ortho.plan(job.tx, job.params))
    start = time.perf_counter()
    lowered = job.step.lower(job.params, job.state, tokens_of(options, job.mesh))
    compiled = lowered.compile()
    seconds = time.perf_counter() - start
    memory, step_cost = compiled.memory_analysis(), cost(compiled.as_text())
    lines = [
        f"Each device of {options.topology}, in a step (compiled in {seconds:.0f} s):",
        f"  {memory.argument_size_in_bytes / 1e9:8.3f} GB parameters, state and tokens",
        f"  {memory.temp_size_in_bytes / 1e9:8.3f} GB temporary",
        f"  {step_cost.flops / 1e12:8.3f} TFLOP of matrix products",
    ]
    lines += [
        f"  {traffic.wire / 1e6:8.1f} MB sent in {traffic.count} {kind}"
        for kind, traffic in step_cost.traffic.items()
    ]
    return "\n\n".join([*map(str, parts), "\n".join(lines)])

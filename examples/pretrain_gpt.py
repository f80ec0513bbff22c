"""A pretraining job with exact resume: one GPT, one optimizer, any mesh.

    python -m examples.pretrain_gpt
    python -m examples.pretrain_gpt --optimizer normuon --steps 100
    python -m examples.pretrain_gpt --preset gpt2-124m --data tokens/ --tensor 2
    python -m examples.pretrain_gpt --preset llama-1b --dry-run --topology v5e:4x4

A job that finds a checkpoint in its output folder resumes from it with the next batch,
bit for bit. The folder also has the metrics of every step, in metrics.jsonl and for
TensorBoard. On a TPU pod, start the job on every host; other processes need
--coordinator, --processes and --process.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tyro
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from tensorboardX import SummaryWriter
from tqdm import tqdm

import optax_ortho
from examples import dry_run
from examples.job import PRESETS, Job, Options, new_job
from examples.loader import batches, load
from examples.mesh import BATCH, new_mesh


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.dry_run:
        print(dry_run.report(options))
        return 0
    if options.coordinator or options.processes > 1:
        jax.distributed.initialize(
            options.coordinator, options.processes, options.process
        )
    sizes = options.data_parallel, options.fsdp, options.tensor
    job = new_job(options, new_mesh(*sizes, jax.devices()))
    train(options, job)
    return 0


def parse(arguments: list[str] | None = None) -> Options:
    """The options, with the preset's values as defaults."""
    arguments = sys.argv[1:] if arguments is None else arguments
    preset = "small"
    for i, word in enumerate(arguments):
        if word.startswith("--preset"):
            preset = word.partition("=")[2] or (arguments[i + 1 :] or [""])[0]
    return tyro.cli(
        Options,
        prog="python -m examples.pretrain_gpt",
        description=__doc__,
        args=arguments,
        default=PRESETS.get(preset, Options()),
    )


def train(options: Options, job: Job) -> None:
    process, processes = jax.process_index(), jax.process_count()
    tokens, held_out = load(options.data, options.context)
    reader = batches(
        tokens, options.context, options.batch, options.seed, process, processes
    )
    windows = options.validation // processes * processes
    validation = on_mesh(
        next(batches(held_out, options.context, windows, 0, process, processes))[None],
        job,
    )[0]
    settings = ocp.CheckpointManagerOptions(
        save_interval_steps=options.save_every, max_to_keep=2
    )
    folder = options.output.resolve() / "checkpoints"
    with (
        ocp.CheckpointManager(folder, options=settings) as manager,
        Metrics(options, process == 0) as metrics,
    ):
        start = manager.latest_step() or 0
        if start:
            params, state = restore(manager, job, reader, start)
            metrics.go_on_after(start)
        else:
            params, state = job.init()
        metrics.say(optax_ortho.summary(job.tx, job.params))
        clock, seconds = time.perf_counter(), []
        for i in range(start + 1, options.steps + 1):
            rows = next(reader)
            shape = (options.accumulate, -1, options.context + 1)
            batch = on_mesh(rows.reshape(shape), job)
            params, state, loss = job.step(params, state, batch)
            values = {"loss": float(loss), **optax_ortho.diagnostics(state)}
            seconds.append(time.perf_counter() - clock)
            values["tokens_per_second"] = options.batch * options.context / seconds[-1]
            if i % options.validate_every == 0 or i == options.steps:
                values["validation_loss"] = float(job.loss(params, validation))
                values["optimizer_share"] = share(job, params, batch, seconds)
            metrics.add(i, values)
            if manager.should_save(i) or i == options.steps:
                save(manager, i, params, state, reader)
            clock = time.perf_counter()
        manager.wait_until_finished()
        multihost_utils.sync_global_devices("done")


def on_mesh(rows: np.ndarray, job: Job) -> jax.Array:
    """This process's rows of a batch, on its devices."""
    sharding = NamedSharding(job.mesh, BATCH)
    return jax.make_array_from_process_local_data(sharding, rows)


def share(job: Job, params: Any, batch: jax.Array, seconds: list[float]) -> float:
    """The fraction of the median step outside the gradient."""
    jax.block_until_ready(job.gradient(params, batch))
    start = time.perf_counter()
    jax.block_until_ready(job.gradient(params, batch))
    return 1 - (time.perf_counter() - start) / float(np.median(seconds))


def save(manager: Any, step: int, params: Any, state: Any, reader: Any) -> None:
    manager.save(
        step,
        args=ocp.args.Composite(
            train=ocp.args.StandardSave({"params": params, "state": state}),
            reader=ocp.args.JsonSave(reader.get_state()),
        ),
        force=True,
    )


def restore(manager: Any, job: Job, reader: Any, step: int) -> tuple[Any, Any]:
    like = {"params": job.params, "state": job.state}
    restored = manager.restore(
        step,
        args=ocp.args.Composite(
            train=ocp.args.StandardRestore(like), reader=ocp.args.JsonRestore()
        ),
    )
    reader.set_state(restored["reader"])
    return restored["train"]["params"], restored["train"]["state"]


class Metrics:
    """A progress bar, a file of metrics and TensorBoard, written by one process."""

    def __init__(self, options: Options, first: bool):
        self.first = first
        if first:
            options.output.mkdir(parents=True, exist_ok=True)
            self.lines = (options.output / "metrics.jsonl").open("a")
            self.board = SummaryWriter(str(options.output / "tensorboard"))
            self.bar = tqdm(total=options.steps, unit="step")

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *_: Any) -> None:
        if self.first:
            self.lines.close()
            self.board.close()
            self.bar.close()

    def go_on_after(self, step: int) -> None:
        """Deletes the metrics of steps that will be repeated."""
        if not self.first:
            return
        self.say(f"continues after step {step}")
        lines = Path(self.lines.name).read_text().splitlines(keepends=True)
        self.lines.truncate(0)
        self.lines.writelines(x for x in lines if json.loads(x)["step"] <= step)
        self.bar.update(step)

    def say(self, message: Any) -> None:
        if self.first:
            self.bar.write(str(message))

    def add(self, step: int, values: dict[str, Any]) -> None:
        if not self.first:
            return
        numbers = {name: float(figure) for name, figure in values.items()}
        self.lines.write(json.dumps({"step": step, **numbers}) + "\n")
        self.lines.flush()
        for name, number in numbers.items():
            self.board.add_scalar(name, number, step)
        shown = ("loss", "validation_loss", "tokens_per_second", "optimizer_share")
        self.bar.set_postfix({k: f"{numbers[k]:.3g}" for k in shown if k in numbers})
        self.bar.update(step - self.bar.n)


if __name__ == "__main__":
    raise SystemExit(main())

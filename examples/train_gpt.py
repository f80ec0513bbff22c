"""Trains one small GPT with several optimizers side by side, and compares them.

    python -m examples.train_gpt
    python -m examples.train_gpt --optimizers adamw muon --steps 100 --lr muon=0.02

Every optimizer gets the same initial weights, the same batches in the same order and
the same learning-rate schedule (warm-up over 5 % of the steps, then linear to zero);
its peak rate is the best of a small sweep (`python -m examples.sweep`). They take
turns, a step each, so that other load on the machine slows all of them alike. Ctrl-C
ends the run after the next step, with the table and the plot of the steps so far.
"""

import argparse
import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed

import optax_ortho
from examples import report, text
from examples.gpt import GPT, TOKENS, loss_fn
from examples.history import History


@nnx.jit
def train_step(model: GPT, optimizer: nnx.Optimizer, tokens: jax.Array) -> jax.Array:
    loss, gradient = nnx.value_and_grad(loss_fn)(model, tokens)
    optimizer.update(model, gradient)
    return loss


@nnx.jit
def train_step_with_statistics(
    model: GPT, optimizer: nnx.Optimizer, tokens: jax.Array
) -> jax.Array:
    """A step for MKOR, which needs statistics of each layer besides its gradient."""
    value_and_grad = optax_ortho.value_and_grad_with_statistics(loss_fn)
    loss, gradient, statistics = value_and_grad(model, tokens)
    optimizer.update(model, gradient, statistics=statistics)
    return loss


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A factory of an optimizer, its peak rate, and its train step."""

    title: str
    learning_rate: float
    make: Callable[[optax.Schedule, GPT], optax.GradientTransformation]
    train_step: Callable = train_step


def ours(name: str, train_step: Callable = train_step) -> Recipe:
    """A recipe of the toolkit, at the learning rate that all of them share."""

    def make(learning_rate: optax.Schedule, model: GPT):
        labels = optax_ortho.label(model, TOKENS)
        return getattr(optax_ortho, name)(learning_rate, labels=labels)

    return Recipe(f"optax_ortho.{name}", 1e-2, make, train_step)


def published(name: str, learning_rate: float) -> Recipe:
    """A recipe of the toolkit without groups, at its authors' learning rate."""
    return Recipe(
        f"optax_ortho.{name}",
        learning_rate,
        lambda learning_rate, model: getattr(optax_ortho, name)(learning_rate),
    )


RECIPES = {
    "adamw": Recipe(
        "optax.adamw",
        4e-3,
        lambda learning_rate, model: optax.adamw(learning_rate),
    ),
    # With its defaults. It takes leaves with two axes for matrices, so in a stacked
    # model it orthogonalizes norm scales and embeddings, and nothing else.
    "contrib_muon": Recipe(
        "optax.contrib.muon",
        1e-2,
        lambda learning_rate, model: optax.contrib.muon(learning_rate),
    ),
    "muon": ours("muon"),
    "normuon": ours("normuon"),
    "root": ours("root"),
    "auon": ours("auon"),
    "hybrid_auon": ours("hybrid_auon"),
    "namo": ours("namo"),
    "namo_d": ours("namo_d"),
    "aro": ours("aro"),
    "fismo": ours("fismo"),
    "mkor": ours("mkor", train_step_with_statistics),
    "dion": ours("dion"),
    "adaptive_memory_muon": ours("adaptive_memory_muon"),
    "am_sgd": published("am_sgd", 0.1),
    "am_adamw": published("am_adamw", 1e-3),
}
COMPARED = ("adamw", "contrib_muon", "muon")


@nnx.jit
def gradient_step(model: GPT, tokens: jax.Array) -> tuple[jax.Array, nnx.State]:
    """A step without its optimizer, whose cost is the difference."""
    return nnx.value_and_grad(loss_fn)(model, tokens)


validation_loss = nnx.jit(loss_fn)


def warmup_then_linear(learning_rate: float, steps: int) -> optax.Schedule:
    warmup = max(1, steps // 20)
    return optax.join_schedules(
        [
            optax.linear_schedule(learning_rate / warmup, learning_rate, warmup),
            optax.linear_schedule(learning_rate, 0.0, max(1, steps - warmup)),
        ],
        boundaries=[warmup],
    )


def new_model(options: argparse.Namespace, seed: int) -> GPT:
    return GPT(
        vocabulary=text.VOCABULARY,
        context=options.context,
        layers=options.layers,
        width=options.width,
        heads=options.heads,
        rngs=nnx.Rngs(seed),
    )


def new_runs(options: argparse.Namespace) -> list["Run"]:
    runs = []
    for name in options.optimizers:
        recipe = RECIPES[name]
        schedule = warmup_then_linear(options.lr[name], options.steps)
        # One transformation for all seeds, so that they share one compiled step.
        tx = recipe.make(schedule, new_model(options, seed=0))
        for seed in options.seeds:
            model = new_model(options, seed)
            optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
            history = History(name, recipe.title, options.lr[name], seed)
            history.state_bytes = report.size_in_bytes(optimizer.opt_state)
            runs.append(Run(history, model, optimizer, recipe.train_step))
    return runs


@dataclasses.dataclass
class Run:
    """The training with one optimizer and one seed, with its measurements."""

    history: History
    model: GPT
    optimizer: nnx.Optimizer
    train_step: Callable

    def compile(self, tokens: jax.Array) -> None:
        """Compiles the step on copies, to keep compile time out of step time."""
        model, optimizer = nnx.clone((self.model, self.optimizer))
        start = time.perf_counter()
        jax.block_until_ready(self.train_step(model, optimizer, tokens))
        self.history.compile_seconds = time.perf_counter() - start
        jax.block_until_ready(gradient_step(model, tokens))

    def step(self, tokens: jax.Array) -> None:
        start = time.perf_counter()
        loss = self.train_step(self.model, self.optimizer, tokens)
        jax.block_until_ready(loss)
        self.history.step_seconds.append(time.perf_counter() - start)
        self.history.train_loss.append(float(loss))

    def evaluate(self, tokens: jax.Array, validation: jax.Array) -> None:
        start = time.perf_counter()
        jax.block_until_ready(gradient_step(self.model, tokens))
        self.history.gradient_seconds.append(time.perf_counter() - start)
        self.history.add_validation(float(validation_loss(self.model, validation)))


def train(
    runs: list[Run],
    data: tuple[np.ndarray, np.ndarray],
    options: argparse.Namespace,
    after_step: Callable[[int], None],
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Trains for `options.steps`, or until `stop` is true, and validates at the end."""
    train_text, validation_text = data
    context = options.context
    held_out = text.windows(validation_text, options.validation, context, seed=(0,))
    validation = jnp.asarray(held_out)

    def batch(seed: int, step: int) -> jax.Array:
        windows = text.windows(train_text, options.batch, context, seed=(seed, step))
        return jnp.asarray(windows)

    for run in runs:
        run.compile(batch(run.history.seed, 0))
    for step in range(1, options.steps + 1):
        last = step == options.steps or stop()
        for run in runs:
            tokens = batch(run.history.seed, step)
            run.step(tokens)
            if step % options.validate_every == 0 or last:
                run.evaluate(tokens, validation)
        after_step(step)
        if last:
            break


@contextlib.contextmanager
def interrupts() -> Iterator[list[int]]:
    """Collects the first Ctrl-C instead of raising; a second one raises.

    JAX may turn a KeyboardInterrupt inside a compiled call into another error, so the
    loop checks for it between steps.
    """
    seen: list[int] = []

    def handle(number, frame):
        seen.append(number)
        if len(seen) > 1:
            signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    console = Console()
    data = text.load(options.data, options.context)
    model = new_model(options, seed=0)
    console.print(f"Roles of the {report.count(model):,} parameters:\n")
    print(optax_ortho.label(model, TOKENS), "\n")
    about = (
        f"Text: {options.data or 'the Python standard library'}, "
        f"{data[0].size / 1e6:.1f} MB to train on, {data[1].size / 1e6:.1f} MB to "
        f"validate on. {options.steps} steps of {options.batch} x {options.context} "
        "bytes. Compiling ..."
    )
    runs = new_runs(options)
    histories = [run.history for run in runs]
    columns = (
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(20),
        Elapsed(),
        TextColumn("{task.description}"),
    )
    with interrupts() as interrupted, Progress(*columns, console=console) as progress:
        console.print(about)
        bar = progress.add_task("", total=options.steps)

        def show(step: int) -> None:
            progress.update(bar, completed=step, description=report.line(histories))

        train(runs, data, options, show, stop=lambda: bool(interrupted))
    if interrupted:
        console.print("Interrupted. Results so far:")
    console.print(report.table(histories))
    for path in report.save(histories, options):
        console.print(f"saved {path}")
    return 130 if interrupted else 0


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.train_gpt", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add(
        "--optimizers",
        nargs="+",
        default=list(COMPARED),
        choices=["all", *RECIPES],
        help=f"default: {' '.join(COMPARED)}",
    )
    add("--steps", type=int, default=240)
    add("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
    add(
        "--lr",
        nargs="+",
        default=[],
        metavar="RATE",
        help="peak learning rate: 0.01 for all, or muon=0.01 adamw=0.003",
    )
    add("--data", type=Path, help="a file or a folder; default: the standard library")
    add("--output", type=Path, default=Path("runs"), help="folder of plot and JSON")
    add("--batch", type=int, default=16, help="windows per step")
    add("--context", type=int, default=128, help="bytes in a window")
    add("--layers", type=int, default=4)
    add("--width", type=int, default=128)
    add("--heads", type=int, default=4)
    add("--validation", type=int, default=64, help="windows of validation text")
    add("--validate-every", type=int, default=4, metavar="STEPS")
    options = parser.parse_args(arguments)
    if "all" in options.optimizers:
        options.optimizers = list(RECIPES)
    rates = {name: recipe.learning_rate for name, recipe in RECIPES.items()}
    for setting in options.lr:
        name, equals, rate = setting.rpartition("=")
        if equals and name not in RECIPES:
            parser.error(f"--lr: no optimizer {name!r}; there are {', '.join(RECIPES)}")
        try:
            rates.update(dict.fromkeys([name] if equals else RECIPES, float(rate)))
        except ValueError:
            parser.error(f"--lr: {rate!r} is not a number")
    options.lr = rates
    return options


if __name__ == "__main__":
    raise SystemExit(main())

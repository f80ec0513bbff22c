"""The parts of a pretraining job: its options, model, optimizer and compiled step."""

import dataclasses
import inspect
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import optax_ortho
from examples.gpt import GPT, loss_fn, rotary_attention
from examples.mesh import BATCH, in_shards


@dataclasses.dataclass(frozen=True)
class Options:
    """What a job is; every field is an option of the command line."""

    preset: Literal["small", "gpt2-124m", "llama-1b"] = "small"
    """the model, and what goes well with it"""
    optimizer: str = "muon"
    """a recipe of optax_ortho, or any optimizer of optax, such as contrib.muon"""
    learning_rate: float = 0.01
    adamw_learning_rate: float = 0.004
    """of what our recipes leave to AdamW"""
    weight_decay: float = 0.0
    warmup: int = 20
    """steps of linear warm-up"""
    decay: float = 0.4
    """the part of the steps, at the end, in which the rate goes to zero"""
    steps: int = 200
    batch: int = 16
    """windows a step, of all devices together"""
    accumulate: int = 1
    """micro-batches a step"""
    seed: int = 0
    data: Path | None = None
    """text or .npy tokens, files or folders; the Python standard library if left out"""
    output: Path = Path("runs/pretrain")
    """checkpoints and metrics; a job that finds its own checkpoint here goes on"""
    save_every: int = 50
    validate_every: int = 20
    validation: int = 64
    """windows of validation text"""

    vocabulary: int = 256
    context: int = 128
    layers: int = 4
    width: int = 128
    heads: int = 4
    kv_heads: int | None = 2
    scanned: bool = True
    unroll: int | None = None
    """blocks in a turn of the scan; all if left out, which suits CPUs"""
    remat: bool = False
    bfloat16: bool = False
    """whether to compute in bfloat16; parameters stay in float32"""

    data_parallel: int = 1
    fsdp: int = -1
    """-1 takes the devices that are left"""
    tensor: int = 1
    coordinator: str | None = None
    """host:port of the first of several processes; TPU pods find it themselves"""
    processes: int = 1
    process: int | None = None
    dry_run: bool = False
    """prints labels, plan and costs, and trains nothing"""
    topology: str | None = None
    """of a dry run, such as v5e:4x4: compiles the step for a TPU that is not there"""


LARGE = dataclasses.replace(
    Options(),
    context=1024,
    batch=512,
    steps=20_000,
    warmup=500,
    save_every=1_000,
    validate_every=500,
    weight_decay=0.1,
    unroll=1,
    remat=True,
    bfloat16=True,
)
PRESETS = {
    "small": Options(),
    "gpt2-124m": dataclasses.replace(
        LARGE,
        preset="gpt2-124m",
        accumulate=8,
        vocabulary=50_304,
        layers=12,
        width=768,
        heads=12,
        kv_heads=None,
    ),
    "llama-1b": dataclasses.replace(
        LARGE,
        preset="llama-1b",
        accumulate=32,
        vocabulary=128_256,
        context=2048,
        layers=16,
        width=2048,
        heads=32,
        kv_heads=8,
    ),
}


class Job(NamedTuple):
    """A model and an optimizer on a mesh.

    Attributes:
      mesh: of `examples.mesh.AXES`.
      labels: the roles of the parameters.
      tx: the optimizer.
      params: shapes of the parameters, with shardings.
      state: those of the optimizer's state.
      init: makes both, on the mesh.
      step: takes and returns both, and takes tokens, ``(micro-batches, windows,
        context + 1)``; returns the loss too.
      loss: of parameters and tokens.
      gradient: as the step, without the optimizer.
    """

    mesh: Mesh
    labels: optax_ortho.Labels
    tx: optax.GradientTransformation
    params: Any
    state: Any
    init: Callable[[], tuple[Any, Any]]
    step: Callable
    loss: Callable
    gradient: Callable


def new_model(options: Options, mesh: Mesh, rngs: nnx.Rngs) -> GPT:
    # Otherwise the compiler may cut the stream along its width, as the weights are.
    stream = NamedSharding(mesh, PartitionSpec(BATCH[1]))
    return GPT(
        vocabulary=options.vocabulary,
        context=options.context,
        layers=options.layers,
        width=options.width,
        heads=options.heads,
        kv_heads=options.kv_heads,
        attention_fn=rotary_attention,
        normalize_qk=True,
        dtype=jnp.bfloat16 if options.bfloat16 else None,
        scanned=options.scanned,
        unroll=options.unroll,
        remat=options.remat,
        place=lambda x: lax.with_sharding_constraint(x, stream),
        rngs=rngs,
    )


def schedule(rate: float, options: Options) -> optax.Schedule:
    """Warm-up, then constant, then linear to zero."""
    last, warmup = max(1, int(options.decay * options.steps)), max(1, options.warmup)
    return optax.join_schedules(
        [
            optax.linear_schedule(rate / warmup, rate, warmup),
            optax.constant_schedule(rate),
            optax.linear_schedule(rate, 0.0, last),
        ],
        boundaries=[warmup, max(warmup, options.steps - last)],
    )


def new_optimizer(
    options: Options, labels: optax_ortho.Labels, layout: Any
) -> optax.GradientTransformation:
    """An optimizer by its name, with what of labels, layout and decay it knows."""
    name = options.optimizer
    try:
        where = optax_ortho if name in optax_ortho.__all__ else optax
        factory = operator.attrgetter(name)(where)
    except AttributeError:
        raise SystemExit(
            f"--optimizer: neither optax_ortho nor optax has {name!r}."
        ) from None
    if name == "mkor":
        raise SystemExit(
            "--optimizer: mkor needs statistics of the layers: examples/train_mkor.py."
        )
    known = {
        "labels": labels,
        "layout": layout,
        "diagnostics": True,
        "weight_decay": options.weight_decay,
        "adamw_learning_rate": schedule(options.adamw_learning_rate, options),
    }
    takes = inspect.signature(factory).parameters
    given = {name: value for name, value in known.items() if name in takes}
    return factory(schedule(options.learning_rate, options), **given)


def new_job(options: Options, mesh: Mesh) -> Job:
    """Everything but the data; no array is made."""
    graph, shapes = nnx.split(
        nnx.eval_shape(lambda: new_model(options, mesh, nnx.Rngs(0)))
    )
    labels = optax_ortho.label(nnx.merge(graph, shapes))
    lies = in_shards(shapes, labels, mesh)
    params = jax.tree.map(_placed, shapes, lies)
    shards = optax_ortho.layouts.sharded(params)
    layout = shards if mesh.size > 1 else None
    tx = new_optimizer(options, labels, layout)
    state_shapes = jax.eval_shape(tx.init, params)
    state_lies = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), shards.specs(state_shapes)
    )
    state = jax.tree.map(_placed, state_shapes, state_lies)
    everywhere = NamedSharding(mesh, PartitionSpec())

    def init():
        params = nnx.state(new_model(options, mesh, nnx.Rngs(options.seed)))
        return params, tx.init(params)

    def loss(params, tokens):
        return loss_fn(nnx.merge(graph, params), tokens)

    def gradient(params, tokens):
        """Of the mean over micro-batches, one at a time."""

        def one(total, micro):
            found = jax.value_and_grad(loss)(params, micro)
            return jax.tree.map(lambda a, b: a + b / len(tokens), total, found), None

        zero = (jnp.zeros([]), jax.tree.map(jnp.zeros_like, params))
        return lax.scan(one, zero, tokens)[0]

    def step(params, state, tokens):
        value, gradients = gradient(params, tokens)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    jit_step = jax.jit(
        step,
        in_shardings=(lies, state_lies, NamedSharding(mesh, BATCH)),
        out_shardings=(lies, state_lies, everywhere),
        donate_argnums=(0, 1),
    )
    return Job(
        mesh,
        labels,
        tx,
        params,
        state,
        jax.jit(init, out_shardings=(lies, state_lies)),
        jit_step,
        jax.jit(loss, out_shardings=everywhere),
        jax.jit(gradient, out_shardings=(everywhere, lies)),
    )


def tokens_of(options: Options, mesh: Mesh) -> jax.ShapeDtypeStruct:
    """The shape of the tokens of a step."""
    windows = options.batch // options.accumulate
    shape = (options.accumulate, windows, options.context + 1)
    return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=NamedSharding(mesh, BATCH))


def _placed(shape: jax.ShapeDtypeStruct, sharding: NamedSharding) -> Any:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

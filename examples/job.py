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
    """The options of a job, all of them also options of the command line."""

    preset: Literal["small", "gpt2-124m", "llama-1b"] = "small"
    """the model, with suitable defaults for all other options"""
    optimizer: str = "muon"
    """a recipe of optax_ortho, or any optimizer of optax, such as contrib.muon"""
    learning_rate: float = 0.01
    adamw_learning_rate: float = 0.004
    """the rate of leaves that our recipes leave to AdamW"""
    weight_decay: float = 0.0
    warmup: int = 20
    """steps of linear warm-up"""
    decay: float = 0.4
    """the fraction of the steps, at the end, in which the rate decays to zero"""
    steps: int = 200
    batch: int = 16
    """windows per step, over all devices"""
    accumulate: int = 1
    """micro-batches per step"""
    seed: int = 0
    data: Path | None = None
    """text or .npy tokens, files or folders; default: the Python standard library"""
    output: Path = Path("runs/pretrain")
    """folder of checkpoints and metrics; a job resumes from its checkpoint here"""
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
    """blocks in an iteration of the scan; default: all, which suits CPUs"""
    remat: bool = False
    bfloat16: bool = False
    """whether to compute in bfloat16; parameters stay in float32"""

    data_parallel: int = 1
    fsdp: int = -1
    """-1 takes all remaining devices"""
    tensor: int = 1
    coordinator: str | None = None
    """host:port of the first of several processes; TPU pods need none"""
    processes: int = 1
    process: int | None = None
    dry_run: bool = False
    """print labels, plan and costs without training"""
    topology: str | None = None
    """of a dry run, such as v5e:4x4: the absent TPU that the step is compiled for"""


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
      mesh: the mesh, with the axes `examples.mesh.AXES`.
      labels: the roles of the parameters.
      tx: the optimizer.
      params: shapes of the parameters, with shardings.
      state: shapes of the optimizer's state, with shardings.
      init: creates parameters and state on the mesh.
      step: maps parameters, state and tokens, ``(micro-batches, windows, context +
        1)``, to new parameters, new state and the loss.
      loss: the loss of parameters and tokens.
      gradient: loss and gradient of parameters and tokens.
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
    # Otherwise the compiler may shard the stream over its width, like the weights.
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
    """An optimizer by name, with labels, layout and decay if it takes them."""
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
    accepted = {name: value for name, value in known.items() if name in takes}
    return factory(schedule(options.learning_rate, options), **accepted)


def new_job(options: Options, mesh: Mesh) -> Job:
    """Everything but the data, without creating any array."""
    graph, shapes = nnx.split(
        nnx.eval_shape(lambda: new_model(options, mesh, nnx.Rngs(0)))
    )
    tokens = jax.ShapeDtypeStruct((options.batch, options.context), jnp.int32)
    labels = optax_ortho.label(nnx.merge(graph, shapes), tokens)
    param_shardings = in_shards(shapes, labels, mesh)
    params = jax.tree.map(_placed, shapes, param_shardings)
    shards = optax_ortho.layouts.sharded(params)
    layout = shards if mesh.size > 1 else None
    tx = new_optimizer(options, labels, layout)
    state_shapes = jax.eval_shape(tx.init, params)
    state_shardings = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), shards.specs(state_shapes)
    )
    state = jax.tree.map(_placed, state_shapes, state_shardings)
    everywhere = NamedSharding(mesh, PartitionSpec())

    def init():
        params = nnx.state(new_model(options, mesh, nnx.Rngs(options.seed)))
        return params, tx.init(params)

    def loss(params, tokens):
        return loss_fn(nnx.merge(graph, params), tokens)

    def gradient(params, tokens):
        """Means of loss and gradient over micro-batches, computed in sequence."""

        def add(total, micro):
            new = jax.value_and_grad(loss)(params, micro)
            return jax.tree.map(lambda a, b: a + b / len(tokens), total, new), None

        zero = (jnp.zeros([]), jax.tree.map(jnp.zeros_like, params))
        return lax.scan(add, zero, tokens)[0]

    def step(params, state, tokens):
        value, gradients = gradient(params, tokens)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    jit_step = jax.jit(
        step,
        in_shardings=(param_shardings, state_shardings, NamedSharding(mesh, BATCH)),
        out_shardings=(param_shardings, state_shardings, everywhere),
        donate_argnums=(0, 1),
    )
    return Job(
        mesh,
        labels,
        tx,
        params,
        state,
        jax.jit(init, out_shardings=(param_shardings, state_shardings)),
        jit_step,
        jax.jit(loss, out_shardings=everywhere),
        jax.jit(gradient, out_shardings=(everywhere, param_shardings)),
    )


def tokens_of(options: Options, mesh: Mesh) -> jax.ShapeDtypeStruct:
    """The shape and sharding of the tokens of a step."""
    windows = options.batch // options.accumulate
    shape = (options.accumulate, windows, options.context + 1)
    return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=NamedSharding(mesh, BATCH))


def _placed(shape: jax.ShapeDtypeStruct, sharding: NamedSharding) -> Any:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

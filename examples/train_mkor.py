"""Trains a byte model with MKOR, which needs statistics of the layers.

    python -m examples.train_mkor
    python -m examples.train_mkor --steps 1000 --switch

The model predicts the next byte of the Python standard library from eight bytes. AdamW
and MKOR start from the same weights and see the same batches. The difference from other
optimizers is in `train_step`: it computes the statistics of each layer with the
gradient and passes both to the update. With ``--switch`` it also uses the loss
(MKOR-H).
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import optax_ortho
from examples import text
from optax_ortho.kronecker import LossRate

CONTEXT, EMBEDDING = 8, 32
TOKENS = jax.ShapeDtypeStruct((1, CONTEXT), jnp.int32)  # An input, for labels.


class Bytes(nnx.Module):
    """An embedding of each byte, two hidden layers, and logits of the next byte."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.embed = nnx.Embed(text.VOCABULARY, EMBEDDING, rngs=rngs)
        self.first = nnx.Linear(CONTEXT * EMBEDDING, width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.head = nnx.Linear(width, text.VOCABULARY, rngs=rngs)

    def __call__(self, tokens_BT: jax.Array) -> jax.Array:
        x_BD = self.embed(tokens_BT).reshape(len(tokens_BT), -1)
        x_BD = jax.nn.relu(self.first(x_BD))
        return self.head(jax.nn.relu(self.second(x_BD)))


def loss_fn(model: Bytes, windows: jax.Array) -> jax.Array:
    """Mean cross-entropy in nats a byte; windows is int32[B, CONTEXT + 1]."""
    return optax.softmax_cross_entropy_with_integer_labels(
        model(windows[:, :-1]), windows[:, -1]
    ).mean()


def step_of(labels: optax_ortho.Labels) -> Callable:
    """A train step that works for any Optax optimizer."""

    @nnx.jit
    def train_step(model, optimizer, windows):
        loss, gradient, statistics = optax_ortho.value_and_grad_with_statistics(
            loss_fn, labels
        )(model, windows)
        optimizer.update(model, gradient, statistics=statistics, value=loss)
        return loss

    return train_step


def train(
    tx: optax.GradientTransformation,
    data: tuple[np.ndarray, np.ndarray],
    options: argparse.Namespace,
) -> list[float]:
    """Validation losses, in nats per byte, at ten times in training."""
    model = Bytes(options.width, rngs=nnx.Rngs(options.seed))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    train_step = step_of(optax_ortho.label(model, TOKENS))
    held_out = jnp.asarray(text.windows(data[1], 2048, CONTEXT, seed=(0,)))
    losses = []
    for step in range(1, options.steps + 1):
        seed = (options.seed, step)
        windows = text.windows(data[0], options.batch, CONTEXT, seed=seed)
        train_step(model, optimizer, jnp.asarray(windows))
        if step % max(1, options.steps // 10) == 0:
            losses.append(float(nnx.jit(loss_fn)(model, held_out)))
    return losses


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    data = text.load(options.data, CONTEXT)
    labels = optax_ortho.label(Bytes(options.width, rngs=nnx.Rngs(0)), TOKENS)
    print(labels, "\n")

    def schedule(rate):
        return optax.cosine_decay_schedule(rate, options.steps)

    optimizers = {
        "optax.adamw": optax.with_extra_args_support(
            optax.adamw(schedule(options.adamw_lr))
        ),
        "optax_ortho.mkor": optax_ortho.mkor(
            schedule(options.lr),
            labels=labels,
            update_every=options.update_every,
            adamw_learning_rate=schedule(options.adamw_lr),
            switch=LossRate(window=50) if options.switch else None,
        ),
    }
    print(f"Validation loss at ten times in {options.steps} steps:")
    for name, tx in optimizers.items():
        losses = train(tx, data, options)
        print(f"{name:18}", *(f"{loss:.3f}" for loss in losses), flush=True)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.train_mkor",
        description=(__doc__ or "").split("\n")[0],
    )
    add = parser.add_argument
    add("--steps", type=int, default=500)
    add("--batch", type=int, default=256, help="windows a step")
    add("--width", type=int, default=128)
    add("--lr", type=float, default=0.01, help="peak rate of MKOR's layers")
    add("--adamw-lr", type=float, default=0.004, help="peak rate of AdamW")
    add("--update-every", type=int, default=10, help="steps between factor updates")
    add("--switch", action="store_true", help="switch to first order (MKOR-H)")
    add("--seed", type=int, default=0)
    add("--data", type=Path, help="a file or a folder; default: the standard library")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()

"""Trains a Linen language model in the usual loop with a `TrainState`.

    python -m examples.train_linen
    python -m examples.train_linen --optimizer aro --steps 1000

The layers are scanned. The only difference from other optimizers is `label`, which
reads the roles of the parameters from the forward pass, for the shape of an input.
"""

import dataclasses
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import tyro
from flax.training.train_state import TrainState

import optax_ortho
from examples import text


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains a Linen language model.

    Args:
      optimizer: the name of any recipe of `optax_ortho`.
      learning_rate: the peak rate of the matrices.
      adamw_learning_rate: the peak rate of the other leaves.
      steps: number of steps.
      batch: windows per step.
      context: bytes per window.
      layers: number of layers.
      width: width of the residual stream.
      heads: number of attention heads.
      data: a file or a folder; by default the Python standard library.
    """

    optimizer: str = "muon"
    learning_rate: float = 0.02
    adamw_learning_rate: float = 0.003
    steps: int = 300
    batch: int = 32
    context: int = 64
    layers: int = 4
    width: int = 64
    heads: int = 4
    data: Path | None = None


class Block(nn.Module):
    """Attention and an MLP; `nn.scan` needs the second argument and result."""

    heads: int

    @nn.compact
    def __call__(self, x_BTD: jax.Array, _: None):
        width = x_BTD.shape[-1]
        x = nn.RMSNorm()(x_BTD)
        x_BTD += nn.MultiHeadDotProductAttention(self.heads, use_bias=False)(
            x, mask=nn.make_causal_mask(x[..., 0])
        )
        x = nn.Dense(4 * width, use_bias=False, name="up")(nn.RMSNorm()(x_BTD))
        x = nn.Dense(width, use_bias=False, name="down")(nn.relu(x))
        return x_BTD + x, None


class LanguageModel(nn.Module):
    """A language model with logits of the next byte at every position."""

    layers: int
    width: int
    heads: int
    context: int

    @nn.compact
    def __call__(self, tokens_BT: jax.Array) -> jax.Array:
        positions = jnp.arange(tokens_BT.shape[1])
        x_BTD = nn.Embed(text.VOCABULARY, self.width, name="token")(tokens_BT)
        x_BTD += nn.Embed(self.context, self.width, name="position")(positions)[None]
        blocks = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.layers,
        )
        x_BTD, _ = blocks(self.heads, name="blocks")(x_BTD, None)
        x_BTD = nn.RMSNorm(name="norm")(x_BTD)
        return nn.Dense(text.VOCABULARY, use_bias=False, name="head")(x_BTD)


def loss_fn(params, state: TrainState, windows: jax.Array) -> jax.Array:
    """Mean cross-entropy in nats a byte; windows is int32[B, T + 1]."""
    logits = state.apply_fn({"params": params}, windows[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(
        logits, windows[:, 1:]
    ).mean()


@jax.jit
def train_step(state: TrainState, windows: jax.Array) -> tuple[TrainState, jax.Array]:
    loss, gradient = jax.value_and_grad(loss_fn)(state.params, state, windows)
    return state.apply_gradients(grads=gradient), loss


@jax.jit
def validation_loss(state: TrainState, windows: jax.Array) -> jax.Array:
    return loss_fn(state.params, state, windows)


def new_state(options: Options) -> tuple[TrainState, optax_ortho.Labels]:
    model = LanguageModel(options.layers, options.width, options.heads, options.context)
    tokens = jnp.zeros((1, options.context), jnp.int32)
    labels = optax_ortho.label(model, tokens)

    def schedule(peak: float) -> optax.Schedule:
        return optax.warmup_cosine_decay_schedule(
            0.0, peak, options.steps // 10, options.steps
        )

    tx = getattr(optax_ortho, options.optimizer)(
        schedule(options.learning_rate),
        labels=labels,
        adamw_learning_rate=schedule(options.adamw_learning_rate),
    )
    params = model.init(jax.random.key(0), tokens)["params"]
    return TrainState.create(apply_fn=model.apply, params=params, tx=tx), labels


def main(options: Options) -> float:
    """Trains, and returns the last validation loss."""
    train, held_out = text.load(options.data, options.context)
    unseen = jnp.asarray(text.windows(held_out, 256, options.context, seed=(0,)))
    state, labels = new_state(options)
    print(labels)
    unseen_loss = float("nan")
    for step in range(1, options.steps + 1):
        windows = text.windows(train, options.batch, options.context, seed=(1, step))
        state, loss = train_step(state, jnp.asarray(windows))
        if step % max(1, options.steps // 10) == 0:
            unseen_loss = float(validation_loss(state, unseen))
            print(f"step {step:5}  loss {loss:.3f}  validation {unseen_loss:.3f}")
    print(optax_ortho.diagnostics(state.opt_state))
    return unseen_loss


if __name__ == "__main__":
    main(tyro.cli(Options))

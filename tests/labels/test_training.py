"""Training with labels from the program, each framework in a loop of its own.

The losses equal the losses with rules written by hand for the model, and differ from
losses with rules that are wrong in one place.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import optax_ortho
from examples.gpt import loss_fn
from optax_ortho.matrices import MatrixAxes
from tests import models

STEPS = 4
VOCABULARY, WIDTH, HEADS = models.VOCABULARY, models.WIDTH, models.HEADS
TOKENS = jax.random.randint(jax.random.key(0), (4, 9), 0, VOCABULARY)
IMAGES = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
CLASSES = jnp.arange(4)


class Subject(NamedTuple):
    """A model, and what its labels should be.

    Args:
      labels: `label` of the model and its inputs.
      train: takes labels and a number of steps, and returns the losses.
      rules: the same labels by hand.
      wrong: rules that come first, and change one of them.
    """

    labels: Callable[[], Any]
    train: Callable[[Any], list[float]]
    rules: dict[str, Any]
    wrong: dict[str, Any]


def optimizer(labels: Any) -> optax.GradientTransformation:
    return optax_ortho.muon(0.05, labels=labels, adamw_learning_rate=0.01)


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


# A scanned GPT in NNX: every leaf of a block has the layer in front.


def train_nnx(labels):
    model = models.gpt()
    state = nnx.Optimizer(model, optimizer(labels), wrt=nnx.Param)

    @nnx.jit
    def step(model, state):
        loss, gradient = nnx.value_and_grad(loss_fn)(model, TOKENS)
        state.update(model, gradient)
        return loss

    return [step(model, state) for _ in range(STEPS)]


SCANNED_GPT = Subject(
    labels=lambda: optax_ortho.label(models.gpt(), TOKENS[:, :-1]),
    train=train_nnx,
    rules={
        "head/kernel": "head",
        "blocks/attention/out/kernel": MatrixAxes((1, 2), 3),
        "blocks/attention/*/kernel": MatrixAxes(1, (2, 3)),
        "**/kernel": MatrixAxes(1, 2),
        "**/embedding": "embedding",
        "**/scale": "norm",
    },
    wrong={"blocks/attention/query/kernel": MatrixAxes((1, 2), 3)},
)


# A transformer in Haiku, whose step is a function of parameters.


def haiku_transformer(tokens):
    x = hk.Embed(VOCABULARY, WIDTH)(tokens)
    x += hk.get_parameter("position", [8, WIDTH], init=hk.initializers.RandomNormal())
    init = hk.initializers.VarianceScaling()
    for _ in range(2):
        h = hk.LayerNorm(-1, True, True)(x)
        attend = hk.MultiHeadAttention(HEADS, 4, w_init=init, model_size=WIDTH)
        mask = jnp.tril(jnp.ones((1, 1, 8, 8)))
        x += attend(h, h, h, mask=mask)
        h = hk.Linear(4 * WIDTH)(hk.LayerNorm(-1, True, True)(x))
        x += hk.Linear(WIDTH)(jax.nn.gelu(h))
    return hk.Linear(VOCABULARY, name="scores")(x)


HAIKU = hk.without_apply_rng(hk.transform(haiku_transformer))


def haiku_params():
    return HAIKU.init(jax.random.key(0), TOKENS[:, :-1])


def train_haiku(labels):
    tx, params = optimizer(labels), haiku_params()
    state = tx.init(params)

    def loss(params):
        return cross_entropy(HAIKU.apply(params, TOKENS[:, :-1]), TOKENS[:, 1:])

    @jax.jit
    def update(params, state):
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    losses = []
    for _ in range(STEPS):
        params, state, value = update(params, state)
        losses.append(value)
    return losses


HAIKU_TRANSFORMER = Subject(
    labels=lambda: optax_ortho.label(
        HAIKU.apply, jax.eval_shape(haiku_params), TOKENS[:, :-1]
    ),
    train=train_haiku,
    rules={
        "scores/w": "head",
        "**/w": MatrixAxes(0, 1),
        "**/b": "bias",
        "embed/embeddings": "embedding",
        "~/position": "embedding",
        "**": "norm",
    },
    wrong={"scores/w": MatrixAxes(0, 1)},
)


# A transformer in Equinox, for one sequence: weights are (out, in).


class EquinoxTransformer(eqx.Module):
    token: eqx.nn.Embedding
    position: jax.Array
    norms: list
    attention: eqx.nn.MultiheadAttention
    mlp: eqx.nn.MLP
    scores: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 5)
        self.token = eqx.nn.Embedding(VOCABULARY, WIDTH, key=keys[0])
        self.position = 0.1 * jax.random.normal(keys[1], (8, WIDTH))
        self.norms = [eqx.nn.LayerNorm(WIDTH) for _ in range(3)]
        self.attention = eqx.nn.MultiheadAttention(HEADS, WIDTH, key=keys[2])
        self.mlp = eqx.nn.MLP(WIDTH, WIDTH, 4 * WIDTH, 2, key=keys[3])
        self.scores = eqx.nn.Linear(WIDTH, VOCABULARY, key=keys[4])

    def __call__(self, tokens):
        x = jax.vmap(self.token)(tokens) + self.position
        h = jax.vmap(self.norms[0])(x)
        x += self.attention(h, h, h, mask=jnp.tril(jnp.ones((8, 8), bool)))
        x += jax.vmap(self.mlp)(jax.vmap(self.norms[1])(x))
        return jax.vmap(self.scores)(jax.vmap(self.norms[2])(x))


def train_equinox(labels):
    tx, model = optimizer(labels), EquinoxTransformer(jax.random.key(0))
    state = tx.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_value_and_grad
    def loss(model):
        return cross_entropy(jax.vmap(model)(TOKENS[:, :-1]), TOKENS[:, 1:])

    @eqx.filter_jit
    def step(model, state):
        value, gradient = loss(model)
        params = eqx.filter(model, eqx.is_array)
        updates, state = tx.update(gradient, state, params)
        return eqx.apply_updates(model, updates), state, value

    losses = []
    for _ in range(STEPS):
        model, state, value = step(model, state)
        losses.append(value)
    return losses


EQUINOX_TRANSFORMER = Subject(
    labels=lambda: optax_ortho.label(
        eqx.filter_eval_shape(EquinoxTransformer, jax.random.key(0)), TOKENS[0, :-1]
    ),
    train=train_equinox,
    rules={
        "scores/weight": "head",
        "token/weight": "embedding",
        "position": "embedding",
        "norms/**": "norm",
        "**/weight": MatrixAxes(1, 0),
        "**/bias": "bias",
    },
    wrong={"token/weight": MatrixAxes(0, 1)},
)


# A vision transformer in Linen, in the loop of a `TrainState`.


class VisionTransformer(nn.Module):
    @nn.compact
    def __call__(self, images):
        x = nn.Conv(WIDTH, (4, 4), (4, 4), name="patches")(images)
        x = x.reshape(len(x), -1, WIDTH)
        normal = nn.initializers.normal(0.1)
        token = self.param("token", normal, (1, 1, WIDTH))
        x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x], 1)
        x += self.param("position", normal, (1, 5, WIDTH))
        for i in range(2):
            x, _ = models.LinenBlock(name=f"block_{i}")(x)
        return nn.Dense(10, name="classes")(nn.LayerNorm()(x[:, 0]))


def train_linen(labels):
    model = VisionTransformer()
    params = model.init(jax.random.key(0), IMAGES)["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=optimizer(labels))

    @jax.jit
    def step(state):
        def loss(params):
            return cross_entropy(state.apply_fn({"params": params}, IMAGES), CLASSES)

        value, gradient = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=gradient), value

    losses = []
    for _ in range(STEPS):
        state, value = step(state)
        losses.append(value)
    return losses


LINEN_VIT = Subject(
    labels=lambda: optax_ortho.label(VisionTransformer(), IMAGES),
    train=train_linen,
    rules={
        "classes/kernel": "head",
        "patches/kernel": MatrixAxes((0, 1, 2), 3),
        "**/out/kernel": MatrixAxes((0, 1), 2),
        "**/query/kernel": MatrixAxes(0, (1, 2)),
        "**/key/kernel": MatrixAxes(0, (1, 2)),
        "**/value/kernel": MatrixAxes(0, (1, 2)),
        "**/kernel": MatrixAxes(0, 1),
        "position": "embedding",
        "token": "vector",
        "**/LayerNorm_*/*": "norm",
        "**": "bias",
    },
    wrong={"patches/kernel": MatrixAxes(2, 3)},
)

SUBJECTS = {
    "scanned GPT in NNX": SCANNED_GPT,
    "Haiku": HAIKU_TRANSFORMER,
    "Equinox": EQUINOX_TRANSFORMER,
    "vision transformer in Linen": LINEN_VIT,
}


@pytest.fixture(autouse=True)
def promotion():
    """The models of other libraries add biases without an axis for the batch."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("name", SUBJECTS)
def test_losses_are_those_of_labels_by_hand(name):
    subject = SUBJECTS[name]
    labels = subject.labels()
    by_hand = optax_ortho.labels.resolve(subject.rules)
    for path, shape, found in labels:
        leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
        assert by_hand.label(path, leaf) == found, path
    rest = {
        key: rule for key, rule in subject.rules.items() if key not in subject.wrong
    }
    losses, expected, wrong = (
        np.array(subject.train(each))
        for each in (labels, subject.rules, subject.wrong | rest)
    )
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    # The same program, but for the order in which the compiler may add.
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    assert np.abs(losses - wrong).max() > 1e-4  # A hundred roundings.

"""Optimizers where people already are."""

import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import optax_ortho
from tests import models
from tests.labels import job_trees, transformers_trees
from tests.test_docs import BLOCK

PAGE = Path(__file__).parents[2] / "docs" / "migration.md"
LAYERS, WIDTH, HEADS, HEAD, HIDDEN = 3, 8, 2, 4, 16
CONFIG = {
    "adam_b1": 0.9,
    "adam_b2": 0.95,
    "adam_eps": 1e-8,
    "adam_weight_decay": 0.1,
    "mu_dtype": jnp.bfloat16,
}


@pytest.fixture(scope="module")
def page():
    """The definitions of the page on migration: its rules, and the hook of MaxText."""
    session: dict = {}
    for found in BLOCK.finditer(PAGE.read_text()):
        exec(found.group(1), session)
    return types.SimpleNamespace(**session)


def maxtext(scanned):
    """MaxText's decoder with random parameters, its layers in axis 1 or in a row."""

    def stacked(*shape):
        return (shape[0], LAYERS, *shape[1:]) if scanned else shape

    attention = {
        name: {"kernel": stacked(WIDTH, HEADS, HEAD)}
        for name in ("query", "key", "value")
    }
    layer = {
        "pre_self_attention_layer_norm": {"scale": stacked(WIDTH)},
        "self_attention": {**attention, "out": {"kernel": stacked(HEADS, HEAD, WIDTH)}},
        "mlp": {
            "wi_0": {"kernel": stacked(WIDTH, HIDDEN)},
            "wo": {"kernel": stacked(HIDDEN, WIDTH)},
        },
    }
    names = ["layers"] if scanned else [f"layers_{i}" for i in range(LAYERS)]
    shapes = {
        "token_embedder": {"embedding": (32, WIDTH)},
        "decoder": {name: layer for name in names}
        | {"logits_dense": {"kernel": (WIDTH, 32)}},
    }
    leaves, structure = jax.tree.flatten(shapes, is_leaf=lambda x: type(x) is tuple)
    rng = np.random.default_rng(0)
    values = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in leaves]
    return {"params": structure.unflatten(values)}


def query_of_first_layer(tree, scanned):
    """The kernel of the first layer's queries as a matrix, (width, heads x head)."""
    layer = tree["params"]["decoder"]["layers" if scanned else "layers_0"]
    kernel = layer["self_attention"]["query"]["kernel"]
    return (kernel[:, 0] if scanned else kernel).reshape(WIDTH, HEADS * HEAD)


@pytest.mark.parametrize("scanned", [True, False], ids=["scanned", "in a row"])
def test_the_hook_of_maxtext(page, scanned):
    config = types.SimpleNamespace(scan_layers=scanned, **CONFIG)
    tx = page.get_optimizer(config, lambda step: 0.01)
    params = maxtext(scanned)
    assert optax_ortho.summary(tx, params).orthogonalized == 6 * LAYERS
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
    decay = 0.1 * query_of_first_layer(params, scanned)
    step = query_of_first_layer(updates, scanned) / -0.01 - decay
    values = jnp.linalg.svd(step, compute_uv=False)
    # Five steps of Keller Jordan's table leave 0.68 to 1.13, and match_rms scales.
    assert 0.6 < values.min() / (0.2 * 8**0.5) < values.max() / (0.2 * 8**0.5) < 1.25


@pytest.mark.parametrize("scanned", [True, False], ids=["scanned", "in a row"])
def test_the_hook_of_maxtext_takes_experts(page, scanned):
    layers, experts = (LAYERS,) if scanned else (), 4
    block = {
        "gate": {"kernel": jnp.ones((WIDTH, *layers, experts))},
        "wi_0": jnp.ones((experts, *layers, WIDTH, HIDDEN)),
        "wo": jnp.ones((experts, *layers, HIDDEN, WIDTH)),
    }
    params = {"decoder": {"layers": {"MoeBlock_0": block}}}
    config = types.SimpleNamespace(scan_layers=scanned, **CONFIG)
    told = optax_ortho.summary(page.get_optimizer(config, lambda step: 0.01), params)
    assert told.orthogonalized == 2 * experts * (LAYERS if scanned else 1)


def test_rules_of_the_page_are_those_of_the_known_trees(page):
    assert page.GPT2 == transformers_trees.HF_GPT2_RULES
    assert page.RESNET == transformers_trees.RESNET_RULES
    assert page.MAXTEXT == job_trees.MAXTEXT_RULES
    assert page.EXPERTS == job_trees.EXPERT_RULES
    assert page.IN_A_ROW == job_trees.UNSCANNED_RULES
    assert page.LEVANTER == job_trees.LEVANTER_RULES


def test_equinox_trains_what_is_not_a_hole():
    """Weights are (out, in), and None stands where a leaf is not trained."""
    params = {
        "layers": [
            {"weight": jnp.ones((8, 4)), "bias": jnp.zeros(8), "activation": None},
            {"weight": jnp.ones((2, 8)), "bias": None, "activation": None},
        ]
    }
    tx = optax_ortho.muon(0.01, adamw_learning_rate=0.001)
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
    new = optax.apply_updates(params, updates)
    assert jax.tree.structure(new) == jax.tree.structure(params)
    assert optax_ortho.summary(tx, params).matrices[0][0] == (4, 8)


def test_train_state_in_a_linen_loop():
    """Variables of a module hold a collection above the parameters."""
    model = models.LinenTransformer(scan_axis=0)
    tokens = jnp.zeros(models.TOKENS.shape, jnp.int32)
    params = model.init(jax.random.key(0), tokens)["params"]
    tx = optax_ortho.muon(0.01, labels=optax_ortho.label(model, models.TOKENS))
    state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    @jax.jit
    def step(state):
        def loss(params):
            return state.apply_fn({"params": params}, tokens).var()

        return state.apply_gradients(grads=jax.grad(loss)(state.params))

    new = step(state)
    assert new.step == 1 and optax_ortho.diagnostics(new.opt_state)["steps"] == 1
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), new.params, params)
    assert moved["blocks"]["up"]["kernel"] and moved["lm_head"]["kernel"]


def test_nnx_optimizer_in_a_loop():
    model = models.gpt()
    before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    tx = optax_ortho.muon(0.01, labels=optax_ortho.label(model))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    tokens = jnp.zeros((1, 4), jnp.int32)

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(lambda model: model(tokens).var())(model))

    with jax.numpy_rank_promotion("allow"):  # The model adds positions to a batch.
        step(model, optimizer)
    assert optax_ortho.diagnostics(optimizer.opt_state)["steps"] == 1
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), after, before)
    assert moved["blocks"]["up"]["kernel"] and moved["head"]["kernel"]


def test_adapters_are_trained_and_their_base_is_not():
    model = nnx.LoRALinear(8, 16, lora_rank=2, rngs=nnx.Rngs(0))
    tx = optax_ortho.muon(0.01, labels=optax_ortho.label(model))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.LoRAParam)
    before = nnx.to_pure_dict(nnx.state(model))
    loss = nnx.grad(
        lambda model: model(jnp.ones((1, 8))).var(),
        argnums=nnx.DiffState(0, nnx.LoRAParam),
    )
    optimizer.update(model, loss(model))
    after = nnx.to_pure_dict(nnx.state(model))
    assert (before["kernel"] == after["kernel"]).all()
    assert (before["lora"]["lora_b"] != after["lora"]["lora_b"]).any()

"""QK-clip: logits below the threshold, and nothing else changed."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from optax_ortho import muon, testing
from optax_ortho.constraints import Attention, Heads, flax_attention, qk_clip
from optax_ortho.testing import assert_close, random_like
from tests.reference import qk_clip as reference

FEATURES, HEADS, DEPTH = 6, 4, 3
X = np.random.default_rng(7).normal(size=(5, FEATURES))
TAU = 2.0
GROUPED = pytest.mark.parametrize("key_heads", [4, 2, 1], ids="{} key heads".format)


def kernels(key_heads=HEADS, stack=(), dtype=jnp.float32):
    """Parameters of a layer whose heads have logits of very different sizes."""
    shapes = {
        "query": jnp.zeros((*stack, FEATURES, HEADS, DEPTH)),
        "key": jnp.zeros((*stack, FEATURES, key_heads, DEPTH)),
    }
    params = random_like(shapes)
    sizes = jnp.array([[0.1], [1.0], [3.0], [9.0]])
    params["query"] *= jnp.expand_dims(sizes, tuple(range(len(stack) + 1)))
    return jax.tree.map(lambda x: x.astype(dtype), params)


LAYER = {"": Attention((Heads("query"),), (Heads("key"),))}


def maxima(params):
    wide = {key: np.asarray(w, np.float64) for key, w in params.items()}
    return reference.logits(X, wide["query"], wide["key"]).max((1, 2))


def clipped(params, max_logits, layers=LAYER, steps=None, **arguments):
    """The parameters after a jitted step, and the state."""
    tx = qk_clip(layers, **{"tau": TAU, **arguments})
    steps = optax.tree.zeros_like(params) if steps is None else steps
    update = jax.jit(tx.update)
    updates, state = update(steps, tx.init(params), params, max_logits=max_logits)
    return optax.apply_updates(params, updates), state


@GROUPED
def test_no_logit_is_above_the_threshold(key_heads):
    params = kernels(key_heads)
    before = maxima(params)
    assert (before > TAU).any() and (before < TAU).any()
    after, _ = clipped(params, before)
    # Float32 roundings; the heads above the threshold come to it, and no lower.
    np.testing.assert_allclose(maxima(after), np.minimum(before, TAU), rtol=1e-5)


@GROUPED
def test_all_logits_of_a_head_have_one_factor(key_heads):
    params = kernels(key_heads)
    before = maxima(params)
    after, _ = clipped(params, before)
    gamma = np.minimum(1, TAU / before)[:, None, None]
    old, new = (
        reference.logits(X, *(np.asarray(tree[key], float) for key in ("query", "key")))
        for tree in (params, after)
    )
    np.testing.assert_allclose(new, gamma * old, rtol=1e-5, atol=1e-6)


@GROUPED
def test_heads_below_the_threshold_are_left_to_the_bit(key_heads):
    params, steps = kernels(key_heads), random_like(kernels(key_heads), seed=3)
    after, _ = clipped(params, jnp.array([1.0, 9.0, 2.0, 9.0]), steps=steps)
    plain = optax.apply_updates(params, steps)
    quiet = np.array([0, 2])
    np.testing.assert_array_equal(after["query"][:, quiet], plain["query"][:, quiet])
    assert np.all(after["query"][:, 1] != plain["query"][:, 1])
    if key_heads == HEADS:
        np.testing.assert_array_equal(after["key"][:, quiet], plain["key"][:, quiet])
    else:  # Each has a query that is not clipped.
        np.testing.assert_array_equal(after["key"], plain["key"])


def test_updates_of_heads_below_the_threshold_pass_as_they_are():
    """Also those too small to be added to the weights."""
    params, tx = kernels(), qk_clip(LAYER, TAU)
    steps = optax.tree.scale(1e-9, random_like(params, seed=3))
    seen = jnp.array([1.0, 9.0, 2.0, jnp.inf])
    updates, _ = jax.jit(tx.update)(steps, tx.init(params), params, max_logits=seen)
    quiet = np.array([0, 2, 3])
    for key, step in steps.items():
        np.testing.assert_array_equal(updates[key][:, quiet], step[:, quiet])


@GROUPED
def test_nothing_grows(key_heads):
    params = kernels(key_heads)
    for seed in range(10):
        max_logits = jnp.exp(2 * random_like(jnp.zeros(HEADS), seed)) * TAU
        after, _ = clipped(params, max_logits)
        for key, old in params.items():
            assert np.all(np.abs(after[key]) <= np.abs(old))


@GROUPED
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_it_is_the_algorithm_of_the_paper(key_heads, alpha):
    params, steps = kernels(key_heads), random_like(kernels(key_heads), seed=3)
    max_logits = np.array([1.0, 5.0, 30.0, 3.0])
    actual, _ = clipped(params, jnp.array(max_logits), steps=steps, alpha=alpha)
    new = {k: np.asarray(params[k], float) + np.asarray(steps[k]) for k in params}
    query, key = reference.qk_clip(new["query"], new["key"], max_logits, TAU, alpha)
    expected = {"query": query, "key": key}
    assert_close(actual, expected, 1e-6, "clipped")  # Float32 roundings.


def test_updates_come_before_the_clip():
    """With logits of the weights after the step, those are at the threshold."""
    params, steps = kernels(2), random_like(kernels(2), seed=3)
    seen = maxima(optax.apply_updates(params, steps))
    after, _ = clipped(params, seen, steps=steps)
    np.testing.assert_allclose(maxima(after), np.minimum(seen, TAU), rtol=1e-5)


def test_the_state_says_what_was_clipped():
    params = kernels()
    _, state = clipped(params, jnp.array([1.0, 4.0, 20.0, jnp.nan]))
    assert [float(x) for x in state] == [pytest.approx(0.1), 2, 1]
    _, state = clipped(params, jnp.array([1.0, 2.0, -20.0, 0.0]))
    assert [float(x) for x in state] == [1, 0, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_clip_nothing(bad):
    params = kernels(2)
    after, state = clipped(params, jnp.array([bad, 1.0, bad, 8.0]))
    quiet = np.array([0, 1, 2])
    np.testing.assert_array_equal(after["query"][:, quiet], params["query"][:, quiet])
    np.testing.assert_allclose(
        after["query"][:, 3], params["query"][:, 3] / 4, rtol=1e-6
    )  # Float32 roundings.
    np.testing.assert_array_equal(after["key"], params["key"])
    assert int(state.unread_heads) == 2


def test_biases_are_scaled_with_their_kernels():
    params = kernels(2)
    params |= {"query_bias": jnp.ones((4, 3)), "key_bias": jnp.ones((2, 3))}
    sides = [(Heads(side), Heads(f"{side}_bias")) for side in ("query", "key")]
    after, _ = clipped(params, jnp.array([4.0, 8.0, 1.0, 8.0]), {"": Attention(*sides)})
    for side in ("query", "key"):
        factors = np.asarray(after[side] / params[side])[0]
        np.testing.assert_allclose(after[f"{side}_bias"], factors, rtol=1e-6)


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize(
    "turn, side",
    [
        (lambda w: w.transpose(1, 2, 0), Heads("w", axis=0)),
        (lambda w: w.transpose(0, 2, 1), Heads("w", axis=-1)),
        (lambda w: w.reshape(FEATURES, -1), Heads("w", axis=-1, head_dim=DEPTH)),
        (lambda w: w.reshape(FEATURES, -1).T, Heads("w", axis=0, head_dim=DEPTH)),
    ],
    ids=["heads first", "heads last", "dense", "dense, transposed"],
)
def test_heads_may_lie_along_any_axis(turn, side, key_heads):
    params, seen = kernels(key_heads), jnp.array([4.0, 8.0, 1.0, 8.0])
    layer = Attention(*((side._replace(path=name),) for name in ("query", "key")))
    turned = jax.tree.map(turn, params)
    actual, _ = clipped(turned, seen, {"": layer})
    expected = jax.tree.map(turn, clipped(params, seen)[0])
    assert_close(actual, expected, 0, "the same layer with other axes")


@pytest.mark.parametrize("key_heads", [4, 2])
def test_a_stack_is_its_layers(key_heads):
    params = kernels(key_heads, stack=(3, 2))
    seen = 3 * jnp.exp(random_like(jnp.zeros((3, 2, HEADS)), seed=5))
    actual, state = clipped(params, seen)
    assert int(state.clipped_heads) == int((seen > TAU).sum())
    for i, j in np.ndindex(3, 2):
        one = jax.tree.map(lambda w, i=i, j=j: w[i, j], params)
        expected = clipped(one, seen[i, j])[0]
        part = jax.tree.map(lambda w, i=i, j=j: w[i, j], actual)
        assert_close(part, expected, 0, "a layer of the stack")


def test_stacked_layers_may_lie_along_any_axis():
    params, seen = kernels(2, stack=(3, 2)), jnp.full((3, 2, HEADS), 3.0)
    seen *= jnp.exp(random_like(seen))
    moved = jax.tree.map(lambda w: w.transpose(2, 1, 3, 4, 0), params)
    at = {name: Heads(name, axis=2, batch=(-1, 1)) for name in ("query", "key")}
    actual, _ = clipped(moved, seen, {"": Attention((at["query"],), (at["key"],))})
    expected = jax.tree.map(
        lambda w: w.transpose(2, 1, 3, 4, 0), clipped(params, seen)[0]
    )
    assert_close(actual, expected, 0, "the same stack with other axes")


def test_steps_under_vmap_are_those_steps():
    params = kernels(2, stack=(3,))
    seen = 3 * jnp.exp(random_like(jnp.zeros((3, HEADS)), seed=5))
    tx = qk_clip(LAYER, TAU)

    def step(w, seen):
        zeros = optax.tree.zeros_like(w)
        return optax.apply_updates(
            w, tx.update(zeros, tx.init(w), w, max_logits=seen)[0]
        )

    expected = clipped(params, seen)[0]
    assert_close(jax.vmap(step)(params, seen), expected, 0, "steps under vmap")


def test_steps_in_a_scan_stay_below_the_threshold():
    """Training with a loss that increases logits in every step."""
    params = kernels(2)

    def max_logits(w):
        query = jnp.einsum("tf,fhd->thd", X, w["query"])
        key = jnp.einsum("tf,fhd->thd", X, jnp.repeat(w["key"], 2, axis=1))
        return jnp.einsum("thd,shd->hts", query, key).max((1, 2)) / DEPTH**0.5

    def last(tx):
        tx = optax.with_extra_args_support(tx)

        def step(carry, _):
            w, state = carry
            seen, gradient = max_logits(w), jax.grad(lambda w: -max_logits(w).sum())(w)
            updates, state = tx.update(gradient, state, w, max_logits=seen)
            return (optax.apply_updates(w, updates), state), seen.max()

        carry = params, tx.init(params)
        return float(jax.lax.scan(step, carry, length=30)[1][-1])

    plain, sgd = last(optax.sgd(0.01)), optax.sgd(0.01)
    assert plain > 10 * TAU
    # One step's growth above it.
    assert last(optax.chain(sgd, qk_clip(LAYER, TAU))) < 1.2 * TAU


def test_bfloat16_parameters():
    params = kernels(2, dtype=jnp.bfloat16)
    before = maxima(params)
    after, _ = clipped(params, before)
    assert {w.dtype for w in after.values()} == {jnp.dtype(jnp.bfloat16)}
    # Four roundings of 2^-9, of queries, keys, and the updates of both.
    np.testing.assert_allclose(maxima(after), np.minimum(before, TAU), rtol=8e-3)
    quiet = before < TAU
    np.testing.assert_array_equal(
        np.asarray(after["query"], float)[:, quiet],
        np.asarray(params["query"], float)[:, quiet],
    )


@pytest.mark.parametrize("size", [0.1, 100.0])
def test_the_promises_of_a_transformation(size):
    seen = {"max_logits": size * jnp.array([1.0, 2.0, 3.0, 4.0])}
    tx, params = testing.with_extra(qk_clip(LAYER, TAU), seen), kernels(2)
    testing.check_one_trace(tx, params)
    testing.check_dtypes(tx, params)
    testing.check_abstract_init(tx, params)
    testing.check_unexpected_arguments(tx, params)
    testing.check_map_params(tx, params)
    testing.check_jit(tx, params)
    testing.check_vmap(tx, params)
    testing.check_multi_steps(tx, params)


def test_a_traced_threshold():
    def make(tau):
        return qk_clip(LAYER, tau)

    tx, params = optax.inject_hyperparams(make)(tau=TAU), kernels()
    update, seen = jax.jit(tx.update), jnp.array([1.0, 4.0, 8.0, 8.0])
    zeros = optax.tree.zeros_like(params)
    updates, _ = update(zeros, tx.init(params), params, max_logits=seen)
    expected, _ = clipped(params, seen)
    assert_close(optax.apply_updates(params, updates), expected, 1e-6, "by injection")


class Block(nnx.Module):
    """An attention layer and what is none."""

    def __init__(self, rngs, **kwargs):
        self.attention = nnx.MultiHeadAttention(
            HEADS, 8, qkv_features=HEADS * DEPTH, decode=False, rngs=rngs, **kwargs
        )
        self.query = nnx.Linear(8, 8, rngs=rngs)
        self.key = nnx.Linear(8, 8, rngs=rngs)
        self.out = nnx.Linear(8, 8, rngs=rngs)


def flax_maxima(attention, x):
    query, key = attention.query(x), attention.key(x)
    key = jnp.repeat(key, HEADS // key.shape[-2], axis=-2)
    logits = jnp.einsum("bqhd,bkhd->bhqk", query, key) / DEPTH**0.5
    return logits.max((0, 2, 3))


@pytest.mark.parametrize("key_heads", [None, 2])
def test_a_flax_nnx_model_by_its_optimizer(key_heads):
    grouped = (
        "num_kv_heads" in inspect.signature(nnx.MultiHeadAttention.__init__).parameters
    )
    if key_heads and not grouped:
        pytest.skip("This Flax has no grouped queries.")
    kwargs = {"num_kv_heads": key_heads} if key_heads else {}
    bias = nnx.initializers.normal(1.0)
    model = Block(nnx.Rngs(0), bias_init=bias, **kwargs)
    layers = flax_attention(nnx.state(model, nnx.Param))
    assert set(layers) == {"attention"}
    x = random_like(jnp.zeros((2, 5, 8)))
    tx = optax.chain(muon(0.0), qk_clip(layers, 0.5))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        gradient = nnx.grad(lambda model: model.attention(x).sum())(model)
        seen = {"attention": flax_maxima(model.attention, x)}
        optimizer.update(model, gradient, max_logits=seen)

    before = flax_maxima(model.attention, x)
    step(model, optimizer)
    after = flax_maxima(model.attention, x)
    np.testing.assert_allclose(after, jnp.minimum(before, 0.5), rtol=1e-5)
    assert (before > 0.5).any()


def test_stacked_flax_layers():
    @nnx.split_rngs(splits=3)
    @nnx.vmap(in_axes=0)
    def make(rngs):
        return Block(rngs)

    params = nnx.state(make(nnx.Rngs(0)), nnx.Param)
    layers = flax_attention(params)
    seen = {"attention": jnp.array([[1.0] * 4, [8.0] * 4, [1.0] * 4])}
    tx = qk_clip(layers, TAU)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zeros, tx.init(params), params, max_logits=seen)
    old, new = params["attention"], optax.apply_updates(params, updates)["attention"]
    for side in ("query", "key"):
        ratio = new[side]["kernel"][...] / old[side]["kernel"][...]
        np.testing.assert_allclose(ratio[:, 0, 0, 0], [1, 0.5, 1], rtol=1e-6)


def test_linen_layers_are_found():
    layer = linen.MultiHeadDotProductAttention(HEADS, qkv_features=HEADS * DEPTH)
    params = layer.init(jax.random.key(0), jnp.ones((2, 5, 8)))
    sides = [
        (Heads(f"params/{side}/kernel"), Heads(f"params/{side}/bias"))
        for side in ("query", "key")
    ]
    assert flax_attention(params) == {"params": Attention(*sides)}


def test_layers_that_normalize_are_left_out():
    model = Block(nnx.Rngs(0), normalize_qk=True)
    with pytest.raises(ValueError, match="normalize"):
        flax_attention(nnx.state(model, nnx.Param))


def test_logits_may_be_a_tree_or_a_dict_of_paths():
    params = {"block": {"attention": kernels(), "other": jnp.ones(3)}}
    sides = [(Heads(f"block/attention/{side}"),) for side in ("query", "key")]
    layers, seen = {"block/attention": Attention(*sides)}, jnp.array([1.0, 8, 8, 1])
    by_tree, _ = clipped(params, {"block": {"attention": seen}}, layers)
    by_path, _ = clipped(params, {"block/attention": seen}, layers)
    assert_close(by_tree, by_path, 0, "by path")
    assert_close(by_path["block"]["attention"], clipped(kernels(), seen)[0], 0, "alone")


NAMED = {"a/b": Attention((Heads("query"),), (Heads("key"),))}
SEEN = {"a/b": jnp.ones(4)}


@pytest.mark.parametrize(
    "layers, max_logits, message",
    [
        (NAMED, None, "but not 'a/b'"),
        (NAMED, {"a/c": jnp.ones(4)}, r"It has \['a/c'\], but not 'a/b'"),
        (NAMED, {"a/b": jnp.ones(())}, "'a/b' is a scalar"),
        (NAMED, {"a/b": jnp.ones(6)}, r"'a/b': leaf 'query' .* has \(4,\)"),
        (NAMED, {"a/b": jnp.ones(3)}, "'a/b': key 'key' has 2 heads"),
        (NAMED, {"a/b": jnp.ones((2, 4))}, "'a/b': leaf 'query' .*"),
        (NAMED, {"a/b": jnp.ones((2, 2, 2, 4))}, "leaf 'key' .* cannot have heads"),
    ],
)
def test_logits_that_do_not_fit_are_named(layers, max_logits, message):
    with pytest.raises(ValueError, match=message):
        clipped(kernels(2), max_logits, layers)


@pytest.mark.parametrize(
    "query, message",
    [
        (Heads("no"), "'a/b': leaf 'no' is not in the parameters"),
        (Heads("query", axis=3), "'a/b': leaf 'query' .* along axis 3"),
        (Heads("query", head_dim=2), r"'a/b': leaf 'query' .* gives \(8,\)"),
        (Heads("query", batch=(0,)), "'a/b': leaf 'query' .* layers along"),
        (Heads("key"), "'a/b': leaf 'key' is named twice"),
    ],
)
def test_leaves_that_do_not_fit_are_named(query, message):
    with pytest.raises(ValueError, match=message):
        clipped(kernels(2), SEEN, {"a/b": Attention((query,), (Heads("key"),))})


def test_a_masked_leaf_is_named():
    tx, params = qk_clip(NAMED), kernels(2)
    groups = {"query": "clip", "key": "stay"}
    both = optax.partition({"clip": tx, "stay": optax.identity()}, groups)
    with pytest.raises(ValueError, match="'key' is not in the parameters"):
        both.update(params, both.init(params), params, max_logits=SEEN)


@pytest.mark.parametrize(
    "layers, arguments, message",
    [
        ({}, {}, "at least one"),
        (NAMED, {"tau": 0}, "tau"),
        (NAMED, {"tau": -1.0}, "tau"),
        (NAMED, {"alpha": -0.1}, "alpha"),
        (NAMED, {"alpha": 1.1}, "1 - alpha"),
    ],
)
def test_impossible_values_are_refused(layers, arguments, message):
    with pytest.raises(ValueError, match=message):
        qk_clip(layers, **arguments)


@pytest.mark.parametrize("query", ["query", Heads("query"), ()], ids=repr)
def test_what_is_no_tuple_of_heads_is_refused(query):
    with pytest.raises(TypeError, match="'a/b': query and key"):
        qk_clip({"a/b": Attention(query, (Heads("key"),))})


def test_parameters_are_needed():
    tx, params = qk_clip(LAYER), kernels()
    with pytest.raises(ValueError, match="params"):
        tx.update(params, tx.init(params), max_logits=jnp.ones(4))

"""Programs that take entries by an index, or choose them."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import random

from optax_ortho.matrices import MatrixAxes
from tests.labels.program.case import Table, floats, integers

table = Table()
IN_OUT = MatrixAxes(0, 1)
OUT = {"out": ((8, 3), "head")}
TABLE = {"table": ((11, 6), "embedding"), "w": ((6, 8), IN_OUT), **OUT}
TOKENS = integers(2, 5)


def layers(p, x):
    return jnp.tanh(x @ p["w"]) @ p["out"]


@table(TABLE, TOKENS)
def rows_by_tokens(p, tokens):
    return layers(p, p["table"][tokens])


@table(TABLE, TOKENS)
def rows_by_take_and_a_sum(p, tokens):
    return layers(p, jnp.take(p["table"], tokens, axis=0).sum(1))


@table(TABLE, integers())
def one_row_by_a_token(p, token):
    return layers(p, lax.dynamic_index_in_dim(p["table"], token, keepdims=False))


@table(TABLE, TOKENS)
def one_hot(p, tokens):
    return layers(p, jax.nn.one_hot(tokens, 11) @ p["table"])


@table(TABLE, TOKENS)
def one_hot_by_an_einsum(p, tokens):
    hot = (tokens[..., None] == jnp.arange(11)).astype(jnp.float32)
    return layers(p, jnp.einsum("btv,vd->btd", hot, p["table"]))


@table({**TABLE, "table": ((2, 11, 6), "embedding")}, TOKENS)
def a_table_of_each_codebook(p, tokens):
    rows = p["table"][jnp.arange(2)[:, None], tokens]
    return layers(p, rows.sum(0))


@table({"position": ((9, 6), "embedding"), **TABLE}, TOKENS)
def positions_added_as_a_slice(p, tokens):
    x = p["table"][tokens] + p["position"][: tokens.shape[1]]
    return layers(p, x)


@table({"position": ((9, 6), "embedding"), **TABLE}, TOKENS)
def positions_looked_up(p, tokens):
    return layers(p, p["table"][tokens] + p["position"][jnp.arange(5)])


@table({"position": ((9, 6), "embedding"), **TABLE}, TOKENS, integers())
def positions_from_an_offset(p, tokens, offset):
    position = lax.dynamic_slice_in_dim(p["position"], offset, tokens.shape[1])
    return layers(p, p["table"][tokens] + position)


@table({"bias": ((4, 9), "embedding"), "w": ((6, 8), IN_OUT), **OUT}, floats(9, 6))
def relative_positions_added_to_scores(p, x):
    near = jnp.clip(jnp.arange(9)[:, None] - jnp.arange(9), 0, 8)
    h = x @ p["w"]
    scores = h @ h.T + p["bias"][:, near]
    return jax.nn.softmax(scores).mean(0) @ h @ p["out"]


@table({"table": ((11, 6), "embedding"), "w": ((6, 6), IN_OUT)}, TOKENS)
def tied_to_the_logits(p, tokens):
    return jnp.tanh(p["table"][tokens] @ p["w"]) @ p["table"].T


@table({"table": ((11, 6), "embedding"), "w": ((6, 6), IN_OUT)}, TOKENS)
def tied_to_the_logits_by_one_hot(p, tokens):
    x = jax.nn.one_hot(tokens, 11) @ p["table"]
    return jnp.einsum("btd,vd->btv", jnp.tanh(x @ p["w"]), p["table"])


@table({"w": ((3, 8, 8), MatrixAxes(1, 2)), **OUT}, floats(2, 8))
def layers_by_the_counter_of_a_loop(p, x):
    def body(i, x):
        return jnp.tanh(x @ p["w"][i])

    return lax.fori_loop(0, 3, body, x) @ p["out"]


@table({"w": ((3, 8, 8), MatrixAxes(1, 2)), **OUT}, floats(2, 8), integers())
def a_matrix_of_each_task(p, x, task):
    return jnp.tanh(x @ p["w"][task]) @ p["out"]


@table({"codes": ((11, 6), "embedding"), "w": ((6, 6), IN_OUT), **OUT}, floats(2, 6))
def codebook(p, x):
    x = jnp.tanh(x @ p["w"])
    distance = jnp.square(x[:, None] - p["codes"][None]).sum(-1)
    code = p["codes"][distance.argmin(-1)]
    code = x + lax.stop_gradient(code - x)  # Straight through.
    return jnp.tile(code, (1, 2))[:, :8] @ p["out"]


@table({"w": ((6, 8), IN_OUT), **OUT}, floats(2, 6), jax.random.key(0))
def dropout(p, x, key):
    h = jnp.tanh(x @ p["w"])
    keep = jax.random.bernoulli(jax.random.fold_in(key, 1), 0.5, h.shape)
    return jnp.where(keep, h, 0) @ p["out"]


@table({"w": ((6, 8), IN_OUT), **OUT}, floats(2, 6), jax.random.key(0))
def noise_of_many_kinds(p, x, key):
    first, second, third = jax.random.split(key, 3)
    raw = jax.random.key_data(jax.random.clone(first))
    h = jnp.tanh(x @ p["w"]) + jax.random.gamma(second, 2.0, (2, 8))
    h += jax.random.normal(jax.random.wrap_key_data(raw), (2, 8))
    h += jax.random.normal(jax.random.key(3), (2, 8))
    bits, _ = lax.rng_bit_generator(jnp.zeros(4, jnp.uint32), (2, 8))[::-1]
    h += lax.rng_uniform(0.0, 1.0, (2, 8))
    counts = random.threefry_2x32(raw, jnp.arange(16, dtype=jnp.uint32)).reshape(2, 8)
    return (h + bits.astype(jnp.float32) + counts.astype(jnp.float32)) @ p["out"]


@table(
    {"w": ((6, 8), IN_OUT), **OUT}, floats(2, 6), jax.ShapeDtypeStruct((2,), jnp.uint32)
)
def raw_keys(p, x, key):
    keep = jax.random.bernoulli(key, 0.5, (2, 8))
    return jnp.where(keep, jnp.tanh(x @ p["w"]), 0) @ p["out"]


@table({"noise": ((6, 8), IN_OUT), **OUT}, jax.random.key(0))
def a_generator_that_begins_with_noise(p, key):
    return jnp.tanh(jax.random.normal(key, (2, 6)) @ p["noise"]) @ p["out"]


@table({"w": ((6, 8), IN_OUT), **OUT}, floats(2, 6))
def relu_by_comparison_chooses_nothing(p, x):
    h = x @ p["w"]
    return jnp.where(h > 0, h, 0.01 * h) @ p["out"]


@table({"w": ((6, 8), IN_OUT), **OUT}, floats(2, 6))
def pooling_of_many_kinds(p, x):
    h = jnp.tanh(x @ p["w"])
    on = (h > 0).all(0) | (h < 0).any(0) | (lax.reduce_xor(h > 0, (0,)))
    h = h.max(0) + h.min(0) + h.sum(0) + h.prod(0) + h.mean(0)
    return jnp.where(on, h, 0) @ p["out"]


@table(
    {
        "score": ((6, 4), "vector"),
        "w": ((4, 6, 8), MatrixAxes(1, 2)),
        "out": ((8, 3), "head"),
    },
    floats(9, 6),
)
def sorted_scores(p, x):
    shares = jax.nn.softmax(x @ p["score"])
    smallest = jnp.sort(shares, -1)[:, 2:3]  # The first of the two largest.
    shares = jnp.where(shares >= smallest, shares, 0)
    h = jnp.tanh(jnp.einsum("ni,eio->neo", x, p["w"]))
    return jnp.einsum("ne,neo->no", shares, h) @ p["out"]


@table(
    {"table": ((11, 6), "embedding"), "w": ((6, 6), IN_OUT), "out": ((6, 11), "head")},
    TOKENS,
)
def greedy_decoding(p, tokens):
    def step(token, _):
        logits = jnp.tanh(p["table"][token] @ p["w"]) @ p["out"]
        return logits.argmax(-1).astype(jnp.int32), logits

    return lax.scan(step, tokens[:, 0], None, length=5)[1]


@table({"score": ((6, 11), "vector"), **TABLE}, floats(2, 6))
def codes_chosen_approximately(p, x):
    shares, codes = lax.approx_max_k(jax.nn.softmax(x @ p["score"]), 2)
    return layers(p, jnp.einsum("nk,nkd->nd", shares, p["table"][codes]))

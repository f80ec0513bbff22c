"""Programs that move, cut and join axes before or after a product."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from optax_ortho.matrices import MatrixAxes, Split
from tests.labels.program.case import Table, floats

table = Table()
X = floats(2, 6)
OUT = {"out": ((8, 3), "head")}
IN_OUT = MatrixAxes(0, 1)


@table({"w": ((6, 8), IN_OUT), "b": ((8,), "bias"), **OUT}, X)
def dense(p, x):
    return jnp.tanh(x @ p["w"] + p["b"]) @ p["out"]


@table({"w": ((8, 6), MatrixAxes(1, 0)), **OUT}, X)
def transposed(p, x):
    return jnp.tanh(x @ p["w"].T) @ p["out"]


@table({"w": ((6, 4, 2), MatrixAxes(0, (1, 2))), **OUT}, X)
def reshaped_to_a_matrix(p, x):
    return jnp.tanh(x @ p["w"].reshape(6, 8)) @ p["out"]


@table({"w": ((2, 3, 8), MatrixAxes((0, 1), 2)), **OUT}, X)
def reshaped_to_a_matrix_from_two_inputs(p, x):
    return jnp.tanh(x @ p["w"].reshape(6, 8)) @ p["out"]


# One axis holds both sides of the matrix, and MatrixAxes cannot say so.
@table({"w": ((48,), "vector"), **OUT}, X)
def a_flat_parameter_that_is_made_a_matrix(p, x):
    return jnp.tanh(x @ p["w"].reshape(6, 8)) @ p["out"]


@table({"w": ((4, 12), "undecided"), **OUT}, X)
def axes_that_neither_group_nor_factor(p, x):
    return jnp.tanh(x @ p["w"].reshape(6, 8)) @ p["out"]


@table({"w": ((6, 4, 4), "undecided"), "out": ((24, 3), "head")}, floats(2, 4))
def contracted_along_a_part_of_an_axis(p, x):
    w = p["w"].reshape(6, 2, 2, 4)  # (a, b1, b2, c): contracted along b1 * b2 / 2.
    return jnp.einsum("nb,abkc->nakc", x[:, :2], w).reshape(2, -1)[:, :24] @ p["out"]


@table({"w": ((1, 6, 1, 8), MatrixAxes(1, 3)), **OUT}, X)
def axes_of_length_one_squeezed(p, x):
    return jnp.tanh(x @ jnp.squeeze(p["w"], (0, 2))) @ p["out"]


@table({"w": ((6, 8), IN_OUT), **OUT}, floats(5, 2, 6))
def broadcast_for_a_batch(p, x):
    w = jnp.broadcast_to(p["w"], (5, 6, 8))
    return jnp.tanh(jnp.einsum("bni,bio->bno", x, w)) @ p["out"]


@table({"w": ((6, 4), IN_OUT), **OUT}, X)
def tiled(p, x):
    return jnp.tanh(x @ jnp.tile(p["w"], (1, 2))) @ p["out"]


@table({"w": ((6, 7), IN_OUT), **OUT}, X)
def padded(p, x):
    return jnp.tanh(x @ jnp.pad(p["w"], ((0, 0), (0, 1)))) @ p["out"]


@table({"w": ((6, 7), IN_OUT), "b": ((7,), "bias"), **OUT}, X)
def a_padded_result(p, x):
    return jnp.pad(jnp.tanh(x @ p["w"] + p["b"]), ((0, 0), (0, 1))) @ p["out"]


@table({"w": ((6, 9), IN_OUT), **OUT}, X)
def a_part_of_the_weight(p, x):
    return jnp.tanh(x @ p["w"][:, :8]) @ p["out"]


@table({"w": ((6, 8), IN_OUT), "out": ((4, 3), "head")}, X)
def every_other_column(p, x):
    return jnp.tanh(x @ p["w"][:, ::2]) @ p["out"]


@table({"w": ((6, 9), IN_OUT), **OUT}, X)
def a_part_of_the_result_is_no_block(p, x):
    h = x @ p["w"]  # Only eight of nine are used, so nothing else is a block.
    return jnp.tanh(h[:, :8]) @ p["out"]


@table({"w": ((6, 8), IN_OUT), **OUT}, X)
def one_entry_of_the_result_as_a_mask(p, x):
    h = x @ p["w"]
    return jnp.where(h[:, :1] > 0, h, 0) @ p["out"]


@table({"w": ((6, 16), MatrixAxes(0, 1, Split(1, (8, 8)))), **OUT}, X)
def split_result(p, x):
    a, b = jnp.split(x @ p["w"], 2, axis=-1)
    return (a * jax.nn.silu(b)) @ p["out"]


@table({"w": ((6, 16), MatrixAxes(0, 1, Split(1, (8, 8)))), **OUT}, X)
def split_result_through_a_reshape(p, x):
    h = (x @ p["w"]).reshape(2, 2, 8)
    return (h[:, 0] * h[:, 1]) @ p["out"]


@table({"w": ((2, 6, 8), MatrixAxes(1, 2)), **OUT}, X)
def a_stack_taken_apart(p, x):
    a, b = jnp.unstack(jnp.einsum("ni,kio->nko", x, p["w"]), axis=1)
    return (a * jax.nn.silu(b)) @ p["out"]


@table({"w": ((6, 2, 8), MatrixAxes(0, (1, 2), Split(1, (1, 1)))), **OUT}, X)
def an_axis_taken_apart(p, x):
    a, b = jnp.unstack(jnp.einsum("ni,iko->nko", x, p["w"]), axis=1)
    return (a * jax.nn.silu(b)) @ p["out"]


@table({"w": ((6, 16), MatrixAxes(0, 1, Split(1, (8, 8)))), **OUT}, X)
def split_weight(p, x):
    a, b = jnp.split(p["w"], 2, axis=1)
    return (jnp.tanh(x @ a) * jnp.tanh(x @ b)) @ p["out"]


@table({"w": ((6, 8), IN_OUT), **OUT}, X)
def cut_and_joined_again(p, x):
    a, b = jnp.split(x @ p["w"], 2, axis=-1)
    return jnp.concatenate([-b, a], -1) @ p["out"]


@table({"a": ((6, 4), IN_OUT), "b": ((6, 4), IN_OUT), **OUT}, X)
def concatenated_weights(p, x):
    return jnp.tanh(x @ jnp.concatenate([p["a"], p["b"]], 1)) @ p["out"]


@table({"a": ((4,), "bias"), "b": ((4,), "bias"), "w": ((6, 8), IN_OUT), **OUT}, X)
def concatenated_biases(p, x):
    b = jnp.concatenate([p["a"], p["b"]])
    return jnp.tanh(x @ p["w"] + b) @ p["out"]


@table({"a": ((6, 8), IN_OUT), "b": ((6, 8), IN_OUT), **OUT}, X)
def stacked_weights(p, x):
    a, b = jnp.einsum("ni,kio->kno", x, jnp.stack([p["a"], p["b"]]))
    return jnp.tanh(a) * b @ p["out"]


@table({"w": ((2, 6, 8), MatrixAxes(1, 2)), **OUT}, X)
def a_sum_of_weights(p, x):
    return jnp.tanh(x @ p["w"].sum(0)) @ p["out"]


@table({"w": ((6, 24), IN_OUT), "out": ((2, 3), "head")}, X)
def chunks_of_columns_in_a_loop(p, x):
    def body(i, total):
        w = lax.dynamic_slice_in_dim(p["w"], 2 * i, 2, axis=1)
        return total + jnp.tanh(x @ w)

    return lax.fori_loop(0, 12, body, jnp.zeros((2, 2))) @ p["out"]


@table({"w": ((6, 24), "undecided"), **OUT}, X)
def every_other_column_of_a_part(p, x):
    w = p["w"].reshape(6, 4, 6).transpose(0, 2, 1).reshape(6, 24)
    return jnp.tanh(x @ w[:, ::3]) @ p["out"]


@table({"w": ((2, 8, 8), MatrixAxes(1, 2)), **OUT}, floats(2, 8))
def unstacked_weights(p, x):
    for w in jnp.unstack(p["w"]):
        x = jnp.tanh(x @ w)
    return x @ p["out"]


@table({"w": ((2, 8, 8), MatrixAxes(1, 2)), **OUT}, floats(2, 8))
def layers_by_an_index(p, x):
    for i in range(2):
        x = jnp.tanh(x @ p["w"][i])
    return x @ p["out"]


@table({"w": ((8, 2, 8), MatrixAxes(0, 2)), **OUT}, floats(2, 8))
def layers_along_the_second_axis(p, x):
    for i in range(2):
        x = jnp.tanh(x @ p["w"][:, i])
    return x @ p["out"]


@table({"token": ((1, 8), "vector"), "w": ((8, 8), IN_OUT), **OUT}, floats(5, 8))
def a_token_joined_to_the_sequence(p, x):
    x = jnp.concatenate([p["token"], x])
    return jnp.tanh(x @ p["w"]) @ p["out"]


@table({"tokens": ((4, 8), "embedding"), "w": ((8, 8), IN_OUT), **OUT}, floats(5, 8))
def several_tokens_joined_to_the_sequence(p, x):
    x = jnp.concatenate([p["tokens"], x])
    return jnp.tanh(x @ p["w"]) @ p["out"]


@table({"w": ((6, 8), IN_OUT), "slot": ((8,), "vector"), **OUT}, X)
def a_vector_written_into_activations(p, x):
    h = jnp.tanh(x @ p["w"]).at[0].set(p["slot"])
    return h @ p["out"]


@table({"w": ((4, 8), "undecided"), **OUT}, X)
def a_parameter_written_into_zeros(p, x):
    w = lax.dynamic_update_slice(jnp.zeros((6, 8)), p["w"], (1, 0))
    return jnp.tanh(x @ w) @ p["out"]


@table({"w": ((6, 8), IN_OUT), **OUT}, X)
def casts_flips_copies_and_names(p, x):
    w = jnp.flip(p["w"].astype(jnp.bfloat16), 1)
    w = lax.optimization_barrier(lax.reduce_precision(jnp.copy(w), 5, 10))
    w = checkpoint_name(w, "w")
    return jnp.tanh(x.astype(jnp.bfloat16) @ w).astype(jnp.float32) @ p["out"]


@table({"w": ((6, 8), IN_OUT), **OUT}, X)
def placed(p, x):
    return jnp.tanh(x @ jax.device_put(p["w"])) @ p["out"]


@table({"w": ((6, 8), IN_OUT), **OUT}, X)
def scattered_updates(p, x):
    h = jnp.tanh(x @ p["w"])
    index = jnp.array([0, 1])
    h = h.at[index, 0].add(1.0).at[index, 1].multiply(2.0)
    h = h.at[index, 2].max(0.0).at[index, 3].min(1.0).at[0, 4].subtract(1.0)
    return h @ p["out"]


@table({"w": ((6, 8), "frozen", jnp.int32), **OUT}, X)  # Integers are not trained.
def bits(p, x):
    w = lax.bitcast_convert_type(p["w"], jnp.float32)
    return jnp.tanh(x @ w) @ p["out"]

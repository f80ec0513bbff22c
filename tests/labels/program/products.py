"""Programs with matrix products and convolutions of every kind."""

import jax
import jax.numpy as jnp
from jax import lax

from optax_ortho.matrices import MatrixAxes
from tests.labels.program.case import Table, floats

table = Table()
X = floats(2, 6)
IN_OUT = MatrixAxes(0, 1)
OUT = {"out": ((8, 3), "head")}
IMAGE = floats(2, 9, 9, 5)
NHWC = ("NHWC", "HWIO", "NHWC")


@table({"w": ((8, 6), MatrixAxes(1, 0)), "out": ((3, 8), "head")}, floats(6))
def weight_on_the_left(p, x):
    return p["out"] @ jnp.tanh(p["w"] @ x)


@table({"w": ((8, 6), MatrixAxes(1, 0)), "out": ((8, 3), "head")}, X)
def out_axis_first(p, x):
    return jnp.tanh(jnp.einsum("ni,oi->no", x, p["w"])) @ p["out"]


@table(
    {"w": ((3, 6, 8), MatrixAxes(1, 2)), "out": ((3, 8, 4), "head")}, floats(2, 3, 6)
)
def batched_by_an_axis_of_the_input(p, x):
    h = jnp.tanh(jnp.einsum("nki,kio->nko", x, p["w"]))
    return jnp.einsum("nko,kop->np", h, p["out"])


@table({"w": ((6, 2, 4), MatrixAxes(0, (1, 2))), "out": ((2, 4, 3), "head")}, X)
def several_axes_out_and_in(p, x):
    h = jnp.tanh(jnp.einsum("ni,iab->nab", x, p["w"]))
    return jnp.einsum("nab,abo->no", h, p["out"])


@table(
    {"w": ((6, 1), "vector"), "v": ((6,), "vector"), "u": ((6, 8), IN_OUT), **OUT}, X
)
def one_column(p, x):
    gate = jax.nn.sigmoid(x @ p["w"]) + (x @ p["v"])[:, None]
    return gate * jnp.tanh(x @ p["u"]) @ p["out"]


@table({"w": ((1, 8), "vector"), **OUT}, floats(2, 1))
def one_row(p, x):
    return jnp.tanh(x @ p["w"]) @ p["out"]


@table({"w": ((6, 8), "vector"), **OUT}, floats(2, 6, 8))
def contracted_along_both_axes(p, x):
    return (
        jnp.tanh(jnp.einsum("nij,ij->n", x, p["w"]))[:, None] * jnp.ones(8) @ p["out"]
    )


@table({"u": ((6, 2), IN_OUT), "v": ((2, 8), IN_OUT), **OUT}, X)
def low_rank(p, x):
    return jnp.tanh(x @ p["u"] @ p["v"]) @ p["out"]


@table({"u": ((6, 2), IN_OUT), "v": ((2, 8), IN_OUT), **OUT}, X)
def low_rank_multiplied_first(p, x):
    return jnp.tanh(x @ (p["u"] @ p["v"])) @ p["out"]


@table(
    {
        "latents": ((4, 6), "embedding"),
        "w": ((6, 8), IN_OUT),
        "key": ((6, 8), IN_OUT),
        **OUT,
    },
    floats(5, 6),
)
def latents_that_ask_the_input(p, x):
    scores = (p["latents"] @ p["w"]) @ (x @ p["key"]).T
    return jax.nn.softmax(scores) @ (x @ p["key"]) @ p["out"]


@table(
    {
        "latents": ((4, 6), "embedding"),
        "w": ((6, 8), IN_OUT),
        "key": ((6, 8), IN_OUT),
        **OUT,
    },
    floats(2, 5, 6),
)
def latents_repeated_for_a_batch(p, x):
    latents = jnp.broadcast_to(p["latents"], (2, 4, 6))
    h = x @ p["key"]
    scores = jnp.einsum("bld,btd->blt", latents @ p["w"], h)
    return jax.nn.softmax(scores) @ h @ p["out"]


# A matrix and its transpose have the same orthogonal factor, so either will do.
@table({"w": ((6, 8), IN_OUT), **OUT}, floats(4, 6), floats(4, 8))
def used_in_both_directions(p, x, y):
    return jnp.tanh(x @ p["w"]) @ p["out"], jnp.tanh(y @ p["w"].T)


@table({"s": ((6, 6), IN_OUT), "out": ((6, 3), "head")}, X)
def made_symmetric(p, x):
    return jnp.tanh(x @ (p["s"] + p["s"].T)) @ p["out"]


@table(
    {"w": ((3, 3, 5, 8), MatrixAxes((0, 1, 2), 3)), "b": ((8,), "bias"), **OUT}, IMAGE
)
def convolution(p, x):
    h = lax.conv_general_dilated(x, p["w"], (1, 1), "SAME", dimension_numbers=NHWC)
    return jax.nn.relu(h + p["b"]).mean((1, 2)) @ p["out"]


@table({"w": ((8, 5, 3, 3), MatrixAxes((1, 2, 3), 0)), **OUT}, floats(2, 5, 9, 9))
def convolution_out_axis_first(p, x):
    h = lax.conv(x, p["w"], (1, 1), "SAME")
    return jax.nn.relu(h).mean((2, 3)) @ p["out"]


@table({"w": ((3, 5, 8), MatrixAxes((0, 1), 2)), **OUT}, floats(2, 9, 5))
def convolution_over_time(p, x):
    numbers = ("NWC", "WIO", "NWC")
    h = lax.conv_general_dilated(x, p["w"], (1,), "SAME", dimension_numbers=numbers)
    return jax.nn.relu(h).mean(1) @ p["out"]


@table({"w": ((3, 3, 1, 5), "grouped_conv"), "out": ((5, 3), "head")}, IMAGE)
def depthwise(p, x):
    h = lax.conv_general_dilated(
        x, p["w"], (1, 1), "SAME", dimension_numbers=NHWC, feature_group_count=5
    )
    return jax.nn.relu(h).mean((1, 2)) @ p["out"]


@table(
    {"w": ((3, 3, 2, 6), "grouped_conv"), "out": ((6, 3), "head")}, floats(2, 9, 9, 4)
)
def grouped(p, x):
    h = lax.conv_general_dilated(
        x, p["w"], (1, 1), "SAME", dimension_numbers=NHWC, feature_group_count=2
    )
    return jax.nn.relu(h).mean((1, 2)) @ p["out"]


@table({"w": ((3, 3, 5, 8), MatrixAxes((0, 1, 2), 3)), **OUT}, IMAGE)
def transposed_convolution(p, x):
    h = lax.conv_transpose(x, p["w"], (2, 2), "SAME", dimension_numbers=NHWC)
    return jax.nn.relu(h).mean((1, 2)) @ p["out"]


@table({"w": ((3, 3, 8, 5), MatrixAxes((0, 1, 3), 2)), **OUT}, IMAGE)
def transposed_convolution_of_the_gradient(p, x):
    h = lax.conv_transpose(
        x, p["w"], (2, 2), "SAME", dimension_numbers=NHWC, transpose_kernel=True
    )
    return jax.nn.relu(h).mean((1, 2)) @ p["out"]


@table({"w": ((3, 3, 3, 5, 8), MatrixAxes((1, 2, 3), 4)), **OUT}, floats(3, 2, 9, 9, 5))
def convolutions_of_several_inputs(p, x):
    def convolve(x, w):
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)

    h = jax.nn.relu(jax.vmap(convolve)(x, p["w"]))
    return h.mean((0, 2, 3)) @ p["out"]


@table({"w": ((16, 5, 8), MatrixAxes((0, 1), 2)), **OUT}, floats(2, 8, 8, 5))
def patches(p, x):
    x = x.reshape(2, 2, 4, 2, 4, 5).transpose(0, 1, 3, 2, 4, 5).reshape(2, 4, 80)
    return jnp.tanh(x @ p["w"].reshape(80, 8)).mean(1) @ p["out"]


@table({"w": ((4, 4, 5, 8), MatrixAxes((0, 1, 2), 3)), **OUT}, floats(2, 8, 8, 5))
def pooled_patches(p, x):
    h = lax.conv_general_dilated(x, p["w"], (4, 4), "VALID", dimension_numbers=NHWC)
    h = lax.reduce_window(h, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return h.reshape(2, 8) @ p["out"]


@table({"real": ((6, 8), "vector"), "imag": ((6, 8), "vector"), **OUT}, X)
def parts_of_a_complex_matrix(p, x):
    h = x.astype(jnp.complex64) @ (p["real"] + 1j * p["imag"])
    return jnp.real(h) @ p["out"]


@table({"w": ((6, 8), IN_OUT, jnp.complex64), **OUT}, X)
def complex_matrix(p, x):
    return jnp.real(x.astype(jnp.complex64) @ p["w"]) @ p["out"]


@table({"w": ((6, 8), IN_OUT), "d": ((8,), "vector"), **OUT}, X)
def diagonal(p, x):
    return jnp.tanh(x @ p["w"]) @ jnp.diag(p["d"]) @ p["out"]


@table({"w": ((6, 8), IN_OUT), "m": ((8, 8), IN_OUT), "out": ((1, 8), "vector")}, X, X)
def bilinear(p, x, y):
    a, b = jnp.tanh(x @ p["w"]), jnp.tanh(y @ p["w"])
    return jnp.einsum("ni,ij,nj->n", a, p["m"], b) * p["out"].sum()


@table({"core": ((6, 7, 8), MatrixAxes((0, 1), 2)), **OUT}, X, floats(2, 7))
def bilinear_in_two_inputs(p, x, y):
    pairs = x[:, :, None] * y[:, None]
    return jnp.tanh(jnp.einsum("nij,ijo->no", pairs, p["core"])) @ p["out"]

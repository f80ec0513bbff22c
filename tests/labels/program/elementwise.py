"""Programs whose parameters meet others elementwise: biases, scales, norms, tables.

Every elementwise primitive also appears on a weight before its product, where it makes
a function of the weight, and on the result of one.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy import special

from optax_ortho.matrices import MatrixAxes
from tests.labels.program.case import Table, floats

table = Table()
X = floats(2, 6)
IN_OUT = MatrixAxes(0, 1)
W_OUT = {"w": ((6, 8), IN_OUT), "out": ((8, 3), "head")}


def rounded(x):
    return lax.floor(x) + lax.ceil(x) + lax.round(x)


def of_integers(x):
    n = x.astype(jnp.int32)
    n = (n << 1) + (n >> 1) + lax.shift_right_logical(n, 1) + lax.population_count(n)
    return x * ((n & 3) | (n ^ 1) | ~n).astype(x.dtype)


def compared(x):
    low = (x < 0) | (x <= -1) | (x == 2) | ~jnp.isfinite(x)
    high = (x > 1) & (x >= 2) & (x != 3)
    return jnp.where(low ^ high, x, 0)


def of_complex(x):
    z = jnp.conj(lax.complex(x, -x))
    return jnp.real(z) + jnp.imag(z)


def trigonometric(x):
    x = jnp.sin(x) + jnp.cos(x) + jnp.tan(x) + jnp.sinh(x) + jnp.cosh(x)
    x = jnp.arcsin(x) + jnp.arccos(x) + jnp.arctan(x) + jnp.arctan2(x, x + 1)
    return jnp.arcsinh(x) + jnp.arccosh(x) + jnp.arctanh(x)


UNARY = {
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "gelu": jax.nn.gelu,
    "exact_gelu": functools.partial(jax.nn.gelu, approximate=False),
    "softplus": jax.nn.softplus,
    "power": lambda x: x**3 + jnp.abs(x) ** 0.3 + x**2 + lax.square(x),
    "roots": lambda x: jnp.sqrt(x) + lax.rsqrt(x) + jnp.cbrt(x),
    "exponentials": lambda x: jnp.exp(x) + jnp.exp2(x) + jnp.expm1(x),
    "logarithms": lambda x: jnp.log(x) + jnp.log1p(x),
    "signs": lambda x: -x * jnp.abs(x) + jnp.sign(x),
    "errors": lambda x: special.erf(x) + special.erfc(x) + special.erfinv(x),
    "gammas": lambda x: special.gammaln(x) + special.digamma(x),
    "trigonometric": trigonometric,
    "remainder": lambda x: lax.rem(x, jnp.ones_like(x)) + jnp.nextafter(x, x + 1),
    "bounds": lambda x: jnp.maximum(lax.clamp(-1.0, x, 1.0), jnp.minimum(x, 0)),
    "rounded": rounded,
    "of_integers": of_integers,
    "compared": compared,
    "of_complex": of_complex,
    "differentiated": jax.grad(lambda x: (jnp.sin(x) * x).sum()),
}

for name, function in UNARY.items():

    def of_a_result(p, x, function=function):
        return function(x @ p["w"]) @ p["out"]

    def of_a_weight(p, x, function=function):
        return jnp.tanh(x @ function(p["w"])) @ p["out"]

    for program in (of_a_result, of_a_weight):
        program.__name__ = f"{name}_{program.__name__}"
        table(W_OUT, X)(program)


@table({"b": ((8,), "bias"), **W_OUT}, X)
def bias(p, x):
    return jnp.tanh(x @ p["w"] + p["b"]) @ p["out"]


@table({"b": ((8,), "bias"), **W_OUT}, X)
def bias_that_is_subtracted_and_broadcast(p, x):
    return jnp.tanh(x @ p["w"] - jnp.broadcast_to(p["b"], (2, 8))) @ p["out"]


@table({"b": ((1, 8), "bias"), **W_OUT}, X)
def bias_with_an_axis_of_length_one(p, x):
    return jnp.tanh(x @ p["w"] + p["b"]) @ p["out"]


@table(
    {
        "w": ((6, 2, 4), MatrixAxes(0, (1, 2))),
        "b": ((2, 4), "bias"),
        "out": ((2, 4, 3), "head"),
    },
    X,
)
def bias_of_two_axes(p, x):
    h = jnp.tanh(jnp.einsum("ni,iab->nab", x, p["w"]) + p["b"])
    return jnp.einsum("nab,abo->no", h, p["out"])


@table({"gain": ((8,), "vector"), **W_OUT}, X)
def scale(p, x):
    return jnp.tanh(x @ p["w"]) * p["gain"] @ p["out"]


@table({"gain": ((), "scalar"), **W_OUT}, X)
def one_scale(p, x):
    return jnp.tanh(x @ p["w"]) * p["gain"] @ p["out"]


@table({"gain": ((6, 8), "vector"), **W_OUT}, floats(6, 6))
def scales_of_two_axes(p, x):
    return jnp.tanh(x @ p["w"]) * p["gain"] @ p["out"]


@table({"scale": ((6,), "norm"), **W_OUT}, X)
def rms_norm(p, x):
    x = x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)
    return jnp.tanh(x * p["scale"] @ p["w"]) @ p["out"]


@table({"scale": ((6,), "norm"), **W_OUT}, X)
def rms_norm_of_gemma(p, x):
    x = x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)
    return jnp.tanh(x * (1 + p["scale"]) @ p["w"]) @ p["out"]


@table({"scale": ((6,), "norm"), "bias": ((6,), "norm"), **W_OUT}, X)
def layer_norm(p, x):
    mean = x.mean(-1, keepdims=True)
    x = (x - mean) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-6)
    return jnp.tanh((x * p["scale"] + p["bias"]) @ p["w"]) @ p["out"]


@table(
    {"scale": ((6,), "norm"), "bias": ((6,), "norm"), **W_OUT}, X, floats(6), floats(6)
)
def batch_norm(p, x, mean, variance):
    scale = p["scale"] * lax.rsqrt(variance + 1e-6)  # Computed before it meets x.
    x = (x - mean) * scale + p["bias"]
    return jnp.tanh(x @ p["w"]) @ p["out"]


@table({"position": ((5, 6), "embedding"), **W_OUT}, floats(2, 5, 6))
def positions(p, x):
    return jnp.tanh((x + p["position"]) @ p["w"]) @ p["out"]


@table({"position": ((5, 8), "embedding"), **W_OUT}, floats(2, 5, 6))
def positions_added_to_a_result(p, x):
    return jnp.tanh(x @ p["w"] + p["position"]) @ p["out"]


@table({"decay": ((8,), "vector"), "dt": ((8,), "bias"), **W_OUT}, X)
def decay_of_a_state_space(p, x):
    dt = jax.nn.softplus(x @ p["w"] + p["dt"])
    return jnp.exp(-dt * jnp.exp(p["decay"])) @ p["out"]


@table({"a_log": ((8, 4), "vector"), **W_OUT}, X)
def decays_of_two_axes(p, x):
    dt = jax.nn.softplus(x @ p["w"])
    decay = jnp.exp(-dt[..., None] * jnp.exp(p["a_log"]))
    return decay.sum(-1) @ p["out"]


@table({"slope": ((), "scalar"), **W_OUT}, X)
def leaky_relu_with_a_learned_slope(p, x):
    h = x @ p["w"]
    return jnp.where(h > 0, h, p["slope"] * h) @ p["out"]


@table({"gate": ((8,), "vector"), **W_OUT}, X)
def a_learned_gate(p, x):
    h = x @ p["w"]
    gate = jax.nn.sigmoid(p["gate"])
    return (gate * jnp.tanh(h) + (1 - gate) * h) @ p["out"]


@table({"temperature": ((), "scalar"), **W_OUT}, X)
def a_temperature(p, x):
    return jnp.tanh(x @ p["w"]) @ p["out"] * jnp.exp(p["temperature"])

"""The choice of a method, and that only the chosen one is compiled."""

import re

import jax
import jax.numpy as jnp
import pytest

from optax_ortho.orthogonalizers import Auto, GramNewtonSchulz, NewtonSchulz
from tests.orthogonalizers.methods import difference, normal

BFLOAT16 = NewtonSchulz(dtype=jnp.bfloat16)


@pytest.mark.parametrize(
    ("shape", "dtype", "platform", "method"),
    [
        ((256, 1024), "float32", "cpu", GramNewtonSchulz()),
        ((1024, 256), "bfloat16", "cpu", GramNewtonSchulz()),
        ((256, 384), "float32", "cpu", NewtonSchulz()),
        ((256, 1024), "float64", "cpu", NewtonSchulz()),
        ((256, 1024), "complex64", "cpu", NewtonSchulz()),
        ((2048, 2048), "float32", "tpu", NewtonSchulz()),
        ((2048, 8192), "float32", "tpu", BFLOAT16),
        ((2048, 8192), "float64", "tpu", NewtonSchulz()),
        ((256, 1024), "float32", "cuda", BFLOAT16),
        ((256, 1024), "complex64", "rocm", NewtonSchulz()),
    ],
)
def test_the_choice(shape, dtype, platform, method):
    assert Auto().method(shape, dtype, platform) == method


def test_passes_on_what_it_was_given():
    method = Auto("you5", 3).method((8, 64), jnp.float32, "cpu")
    assert method == GramNewtonSchulz("you5", 3)


@pytest.mark.parametrize("shape", [(4, 6), (4, 12), (12, 4)])
def test_is_the_chosen_method(shape):
    x = normal(shape)
    chosen = Auto().method(shape, x.dtype, jax.default_backend())
    # The same operations, perhaps fused in another way.
    assert difference(Auto().orthogonalize(x), chosen.orthogonalize(x)) < 1e-5


def products(program):
    return len(re.findall(r" dot\(|custom_call_target=\"[^\"]*matmul", str(program)))


def test_one_branch_is_compiled():
    x = jax.ShapeDtypeStruct((64, 512), jnp.float32)
    auto = str(jax.jit(Auto().orthogonalize).lower(x).compile().as_text())
    gram = jax.jit(GramNewtonSchulz().orthogonalize).lower(x).compile().as_text()
    assert products(auto) == products(gram) > 0
    assert not re.search("conditional|bf16", auto)


@pytest.mark.parametrize(("shape", "half"), [((64, 512), False), ((2048, 8192), True)])
def test_the_platform_is_the_one_compiled_for(shape, half):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    traced = jax.jit(Auto().orthogonalize).trace(x)
    program = traced.lower(lowering_platforms=("tpu",)).as_text()
    # The first product is of the scale, and not of the iteration.
    _, *dots = re.findall(r"dot_general.*", program)
    assert dots and all(("bf16" in dot) == half for dot in dots)


def test_vmap_scan_and_grad():
    x = normal((2, 4, 12))
    f = jax.jit(Auto().orthogonalize)
    loop = jnp.stack([f(one) for one in x])
    # The same products in another order of sums.
    assert difference(jax.vmap(f)(x), loop) < 1e-5
    assert difference(jax.lax.map(f, x), loop) < 1e-5
    gradient = jax.jit(jax.grad(lambda x: (f(x) ** 3).sum()))(x)
    assert jnp.isfinite(gradient).all()

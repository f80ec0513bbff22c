"""Symmetric products by kernels: the plain ones' numbers, from one triangle."""

import ast
import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.tpu import InterpretParams
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import optax_ortho
from benchmarks.aot import topologies
from optax_ortho.orthogonalizers import GramNewtonSchulz, NewtonSchulz
from optax_ortho.orthogonalizers.kernels import Mosaic, Triton
from optax_ortho.orthogonalizers.products import Products
from tests.orthogonalizers.methods import difference, normal
from tests.training import WITH_CARE

PLAIN = Products()
# The smallest blocks, and rows in as many pieces as can be.
KERNELS = {
    "mosaic": Mosaic(block=128, memory=1, interpret=True),
    "triton": Triton(block=16, interpret=True),
}
kernels = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
# Three blocks, of which two are cut off; two pieces of a sum, of which one is.
WIDE = {"mosaic": (140, 1500), "triton": (20, 150)}

# Float32 sums in another order, or the last digit of a bfloat16 result.
TOLERANCE = {"float32": 1e-5, "bfloat16": 2**-7, "float16": 2**-10}


def wide(kernel):
    return WIDE[type(kernel).__name__.lower()]


def polynomial(products, e, p, q):
    return products.polynomial(-4.7, e, 2.0, p, q, None)


def symmetric(x):
    return bool((x == x.mT).all())


@kernels
@pytest.mark.parametrize(("tall", "dtype"), [(False, "bfloat16"), (True, "float32")])
def test_gram(kernel, tall, dtype):
    x = normal(wide(kernel)[:: -1 if tall else 1]).astype(dtype)
    found = jax.jit(lambda x: kernel.gram(x, None))(x)
    assert found.dtype == dtype and symmetric(found)
    assert difference(found, PLAIN.gram(x, None)) < TOLERANCE[dtype]


@kernels
def test_polynomial(kernel):
    """The polynomial of three matrices, whose addend may be wider than the factors."""
    n, _ = wide(kernel)
    e = normal((n, n)) @ normal((n, n)).T / n
    p, q = e.astype("bfloat16"), (e @ e).astype("bfloat16")
    # In haste the interpreter computes a block twice, each time rounded otherwise.
    with_care = jax.jit(
        lambda *epq: polynomial(kernel, *epq), compiler_options=WITH_CARE
    )
    found = with_care(e, p, q)
    plain = polynomial(PLAIN, e, p, q)
    assert found.dtype == jnp.float32 and symmetric(found)
    # Rounded factors do not commute, so the lower triangle of the plain one is another.
    assert difference(found, plain) < TOLERANCE["bfloat16"]


@kernels
def test_the_lower_triangle_is_the_upper_one(kernel):
    """It would differ for factors without symmetry, had it been computed."""
    p, q = normal(wide(kernel)), normal(wide(kernel), seed=1)
    found = jax.jit(lambda p, q: kernel.kernel(0, None, 1, p, q, 1, None))(p, q)
    upper = np.triu(p @ q.T)
    assert difference(found, upper + np.triu(upper, 1).T) < TOLERANCE["float32"]


def test_blocks_in_any_order():
    """The order of a TPU with two cores, with its memory and copies simulated."""
    simulated = Mosaic(block=128, memory=1, interpret=InterpretParams(random_seed=0))
    x = normal(wide(simulated))
    found = jax.jit(lambda x: simulated.gram(x, None))(x)
    assert difference(found, PLAIN.gram(x, None)) < TOLERANCE["float32"]


@kernels
def test_batches(kernel):
    x = normal((2, 3, 5, 7))

    def gram(x):
        return kernel.gram(x, None)

    for f in (gram, lambda x: jax.lax.map(jax.vmap(gram), x)):
        assert difference(jax.jit(f)(x), x @ x.mT) < TOLERANCE["float32"]


@kernels
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 2, 3)])
def test_nothing_to_multiply(kernel, shape):
    method = NewtonSchulz(steps=1, unsafe=True)
    other = dataclasses.replace(method, products=kernel)
    x = jnp.zeros(shape)
    assert other.orthogonalize(x).shape == method.orthogonalize(x).shape == shape


@pytest.mark.parametrize(
    ("kernel", "iteration", "steps", "dtype", "calls"),
    [
        ("mosaic", NewtonSchulz, 1, "bfloat16", 2),
        ("triton", NewtonSchulz, 2, "float32", 4),
        ("triton", GramNewtonSchulz, 2, "bfloat16", 6),
    ],
)
def test_an_iteration_gives_the_same(kernel, iteration, steps, dtype, calls):
    x = jnp.stack([normal((24, 72)), jnp.zeros((24, 72))])
    plain = iteration(steps=steps, dtype=dtype, unsafe=True)
    other = dataclasses.replace(plain, products=KERNELS[kernel])
    program = str(jax.make_jaxpr(other.orthogonalize)(x))
    assert program.count("pallas_call[") == calls
    found, expected = jax.jit(other.orthogonalize)(x), plain.orthogonalize(x)
    assert (found[1] == 0).all()
    # Two steps multiply a rounding by less than the square of the slope at zero, 12.
    assert difference(found, expected) < 12 * TOLERANCE[dtype]


def test_inside_shard_map():
    mesh = jax.make_mesh((2,), ("d",), devices=jax.devices()[:2])
    x = jax.device_put(normal((2, 6, 4)), NamedSharding(mesh, P("d")))
    method = NewtonSchulz(steps=1, unsafe=True, products=KERNELS["triton"])
    f = jax.shard_map(
        method.orthogonalize, mesh=mesh, in_specs=P("d"), out_specs=P("d")
    )
    plain = NewtonSchulz(steps=1, unsafe=True).orthogonalize(normal((2, 6, 4)))
    assert difference(jax.jit(f)(x), plain) < TOLERANCE["float32"]


@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [(Mosaic(), "complex64"), (Mosaic(), "float16"), (Triton(), "complex64")],
)
def test_refuses_a_dtype(kernel, dtype):
    name = type(kernel).__name__
    with pytest.raises(TypeError, match=f"{name} multiplies float32 .* got {dtype}"):
        kernel.gram(jnp.ones((2, 3), dtype), None)
    with pytest.raises(TypeError, match=f"{name} multiplies float32 .* got {dtype}"):
        polynomial(kernel, *[jnp.ones((2, 2), dtype)] * 3)


def test_says_that_a_cpu_cannot_run_them():
    with pytest.raises(ValueError, match="[iI]nterpret"):
        jax.jit(lambda x: Mosaic().gram(x, None))(normal((3, 4)))


@pytest.mark.parametrize(("make", "block"), [(Mosaic, 192), (Triton, 96), (Triton, 8)])
def test_refuses_a_block(make, block):
    with pytest.raises(ValueError, match=f"got {block}"):
        make(block=block)


@pytest.mark.parametrize("method", [NewtonSchulz, GramNewtonSchulz])
def test_refuses_other_products(method):
    with pytest.raises(TypeError, match="kernels.Mosaic"):
        method(products=jnp.ones(3))


@kernels
def test_no_schedule(kernel):
    """inject_hyperparams takes anything callable for one."""
    assert not callable(kernel)
    assert hash(NewtonSchulz(products=kernel)) != hash(NewtonSchulz())


def test_nobody_else_loads_pallas():
    for path in Path(optax_ortho.__file__).parent.rglob("*.py"):
        if path.parent.name != "kernels":
            nodes = ast.walk(ast.parse(path.read_text()))
            imports = [n for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)]
            lines = " ".join(map(ast.unparse, imports))
            assert not re.search("pallas|kernels", lines), path


def compiled(method, shape, chip, platform):
    sharding = NamedSharding(topologies.mesh(chip, "single"), P())
    x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
    traced = jax.jit(method.orthogonalize).trace(x)
    return traced.lower(lowering_platforms=(platform,)).compile().as_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chip", "iteration", "dtype", "shape"),
    [
        ("v5e", GramNewtonSchulz, "bfloat16", (2, 140, 1500)),
        ("v5p", GramNewtonSchulz, "bfloat16", (2, 140, 1500)),
        ("v6e", GramNewtonSchulz, "bfloat16", (2, 140, 1500)),
        ("v5e", NewtonSchulz, "float32", (1500, 140)),
    ],
)
def test_compiles_for_a_tpu(chip, iteration, dtype, shape):
    pytest.importorskip("libtpu")
    kernel = Mosaic(block=128, memory=1)
    method = iteration(steps=1, unsafe=True, dtype=dtype, products=kernel)
    assert compiled(method, shape, chip, "tpu").count("tpu_custom_call") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("iteration", "dtype"),
    [
        (NewtonSchulz, "float32"),
        (NewtonSchulz, "bfloat16"),
        (GramNewtonSchulz, "float16"),
    ],
)
def test_compiles_for_a_gpu(iteration, dtype):
    pytest.importorskip("jax_cuda12_plugin")
    method = iteration(steps=1, unsafe=True, dtype=dtype, products=Triton())
    try:
        program = compiled(method, (2, 130, 300), "h100", "cuda")
    except NotImplementedError:
        pytest.skip("The plugin asks for a GPU, unless JAX_PLATFORMS is cpu.")
    assert program.count('"__gpu$xla.gpu.triton"') == 2

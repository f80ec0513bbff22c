"""One method to write: whole, in blocks, shared and counted, it is one iteration."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import optax_ortho
from optax_ortho import layouts
from optax_ortho.matrices import Orthogonalizer
from optax_ortho.orthogonalizers import Auto, Exact, Iteration, NewtonSchulz
from optax_ortho.orthogonalizers.method import flops_of, method_of
from optax_ortho.orthogonalizers.products import InBlocks, Products
from optax_ortho.testing import assert_close, random_like


@dataclasses.dataclass(frozen=True)
class Cubic(Iteration):
    """The smallest iteration: y <- 1.5 y - 0.5 y y^T y, of y over its norm."""

    products: Products = Products()

    def iterate(self, x, products):
        gram = products.gram(x, None)
        norm = jnp.sqrt(jnp.trace(gram, axis1=-2, axis2=-1))
        # A matrix in blocks has one more axis than its Gram matrix.
        ones = [1] * (x.ndim - gram.ndim + 2)
        y = x / norm.reshape((*gram.shape[:-2], *ones))
        for _ in range(30):
            y = 1.5 * y - 0.5 * products.apply(products.gram(y, None), y, None)
        return y

    def counts(self):
        return 31, 0


class Whole(Products):
    """Products of whole matrices alone."""

    by_columns = False


def normal(*shape) -> Any:
    return random_like(jax.ShapeDtypeStruct(shape, jnp.float32), 0)


def blocks_of(x, s):
    m, n = x.shape
    return x.reshape(m, s, n // s).swapaxes(0, 1)


# Two ways to sum the products of numbers of order one, thirty times.
ROUNDING = 1e-5


@pytest.mark.parametrize("shape", [(6, 16), (16, 6), (3, 6, 16)])
def test_it_orthogonalizes(shape):
    x = normal(*shape)
    assert_close(Cubic().orthogonalize(x), Exact().orthogonalize(x), ROUNDING, "U V^T")


@pytest.mark.parametrize("method", [Cubic(), Cubic(Whole()), NewtonSchulz(), Auto()])
@pytest.mark.parametrize("shape", [(6, 16), (16, 8)])
def test_blocks_are_the_whole(method, shape):
    x = normal(*shape)
    expected = blocks_of(method.orthogonalize(x), 4)
    found = method.orthogonalize_blocks(blocks_of(x, 4))
    assert_close(found, expected, ROUNDING, "blocks")


@pytest.mark.parametrize("method", [Cubic(), Cubic(Whole()), NewtonSchulz(), Auto()])
def test_shared_columns_are_the_whole(method):
    mesh = jax.make_mesh((4,), ("tp",), axis_types=(jax.sharding.AxisType.Auto,))
    x = normal(6, 16)

    def part(x):
        return method.orthogonalize_shared(x[None], ("tp",), jnp.float32)[0]

    shared = jax.shard_map(
        part, mesh=mesh, in_specs=P(None, "tp"), out_specs=P(None, "tp")
    )
    assert_close(jax.jit(shared)(x), method.orthogonalize(x), ROUNDING, "columns")


@pytest.mark.parametrize("method", [Cubic(), NewtonSchulz(), Auto()])
def test_blocks_are_not_joined(method, monkeypatch):
    """Joining them would cost as much memory traffic as a product."""
    forms = []
    gram = InBlocks.gram
    monkeypatch.setattr(
        InBlocks, "gram", lambda self, x, p: forms.append(x.shape) or gram(self, x, p)
    )
    method.orthogonalize_blocks(normal(4, 6, 4))
    assert forms and set(forms) == {(4, 6, 4)}
    forms.clear()
    dataclasses.replace(NewtonSchulz(), products=Whole()).orthogonalize_blocks(
        normal(4, 6, 4)
    )
    assert not forms


def test_blocks_in_float16_have_one_norm():
    """Squares overflow there, so that each block would be scaled apart."""
    method = NewtonSchulz(dtype=jnp.float16, unsafe=True)
    x = normal(6, 16) * jnp.repeat(jnp.array([[1.0, 100.0]]), 8, axis=1)
    found = method.orthogonalize_blocks(blocks_of(x, 2))
    # Float16 rounds by 2^-11, which the iteration enlarges.
    assert_close(found, blocks_of(method.orthogonalize(x), 2), 0.05, "blocks")


def test_costs_follow_from_the_counts():
    assert Cubic().flops(6, 16) == 31 * 4 * 36 * 16 == Cubic().flops(16, 6)
    flops, sent = Cubic().shared_cost(6, 16, 2, jnp.bfloat16)
    assert flops == Cubic().flops(6, 16) / 2
    assert sent == 2 * 31 * 36  # Each device sends half of each sum, twice.
    flops, sent = Cubic(Whole()).shared_cost(6, 16, 2, jnp.bfloat16)
    assert (flops, sent) == (Cubic().flops(6, 16), 2 * 6 * 16 / 2)


def test_any_orthogonalizer_has_a_method_and_perhaps_flops():
    class Other:
        def orthogonalize(self, x):
            return x

    other = Other()
    assert isinstance(other, Orthogonalizer)
    assert method_of(other, (4, 6), jnp.float32, "cpu") is other
    assert flops_of(other, 4, 6) is None and flops_of(Exact(), 4, 6) is None
    assert flops_of(Auto(), 4, 6) == NewtonSchulz().flops(4, 6)


@pytest.mark.parametrize("layout", ["local", "sharded"])
def test_a_recipe_takes_it(layout):
    mesh = jax.make_mesh((4,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    where = jax.sharding.NamedSharding(mesh, P("fsdp"))
    params = {"up": jax.device_put(normal(8, 12), where)}
    given = layouts.local() if layout == "local" else layouts.sharded(params)
    tx = optax_ortho.muon(0.1, orthogonalizer=Cubic(), layout=given)
    updates, _ = jax.jit(tx.update)(params, tx.init(params))
    values = np.linalg.svd(np.asarray(updates["up"]), compute_uv=False)
    # 0.1 * 0.2 * sqrt(12), and bfloat16 on the way of the sharded layout.
    np.testing.assert_allclose(values, 0.02 * 12**0.5, rtol=2.0**-6)

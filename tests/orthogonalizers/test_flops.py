"""Operations, counted in n^3 for n x (r n) matrices without symmetric products."""

import jax
import jax.numpy as jnp
import pytest

from optax_ortho.orthogonalizers import GramNewtonSchulz, NewtonSchulz

N = 64


@pytest.mark.parametrize("ratio", [1, 2, 4])
def test_newton_schulz(ratio):
    method = NewtonSchulz("you5")
    assert method.flops(N, ratio * N) == 5 * (4 * ratio + 2) * N**3
    assert method.flops(ratio * N, N) == method.flops(N, ratio * N)


def test_a_cubic_step_has_no_square():
    assert NewtonSchulz("cubic5").flops(N, 4 * N) == 5 * 4 * 4 * N**3


@pytest.mark.parametrize("ratio", [2, 4])
@pytest.mark.parametrize("restarts", [(), (2,), (2, 4)])
def test_gram(ratio, restarts):
    method = GramNewtonSchulz("you5", restarts=restarts)
    units = 8 * 5 + 4 * ratio - 6 + len(restarts) * (4 * ratio - 6)
    assert method.flops(N, ratio * N) == units * N**3


@pytest.mark.parametrize("restarts", [(), (2,), (2, 4)])
def test_gram_is_cheaper_beyond_one_and_a_half(restarts):
    gram, plain = GramNewtonSchulz(restarts=restarts), NewtonSchulz()
    assert gram.flops(64, 96) == plain.flops(64, 96)
    assert gram.flops(64, 97) < plain.flops(64, 97)


@pytest.mark.parametrize(
    "method",
    [NewtonSchulz(), NewtonSchulz("cubic5"), GramNewtonSchulz()],
    ids=["quintic", "cubic", "gram"],
)
def test_the_compiler_counts_the_same(method):
    x = jax.ShapeDtypeStruct((N, 4 * N), jnp.float32)
    compiled = jax.jit(method.orthogonalize).lower(x).compile()
    counted = dict(compiled.cost_analysis() or {})["flops"]
    # What is not a product is below a tenth at this size.
    assert 1 <= counted / method.flops(N, 4 * N) < 1.1

"""A step compiled for a mesh: what is handed in, what is reported, what is refused."""

import jax
import optax
import pytest

from benchmarks.aot.contenders import contender
from benchmarks.aot.floors import floor, shard_bytes
from benchmarks.aot.measure import measure, state_like
from tests.benchmarks.test_floors import tree


@pytest.fixture(scope="module")
def params():
    return tree("gpt2", "fsdp_tp", layers=1, width=32)


def test_state_lies_as_its_parameters(params):
    state = state_like(optax.adamw(0.1), params)
    assert jax.tree.map(lambda x: x.sharding, state[0].mu) == jax.tree.map(
        lambda x: x.sharding, params
    )
    assert shard_bytes(state[0].count) == 4


def test_a_step_without_products_moves_nothing(params):
    metrics = measure(optax.adamw(0.1), params, "cpu")
    assert metrics.wire_mb == {} and metrics.gflop == 0
    matrices = sum(map(shard_bytes, jax.tree.leaves(params)))
    assert metrics.argument_mb == pytest.approx(4e-6 * matrices, abs=1e-4)
    assert metrics.peak_mb >= metrics.argument_mb
    assert metrics.instructions > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["contrib_muon", "muon/local", "muon/sharded"])
def test_muon_does_all_the_work(params, name):
    metrics = measure(contender(name, params), params, "cpu")
    assert metrics.gflop >= floor(params).flops / 1e9
    # An exchange in float32 is the double of one in bfloat16.
    assert sum(metrics.wire_mb.values()) >= floor(params).wire / 1e6
    assert metrics.argument_mb >= floor(params).arguments / 1e6


def test_work_left_out_is_refused(params):
    """A step that forgets the gradient would compile to almost nothing."""
    with pytest.raises(RuntimeError, match="left out"):
        measure(optax.set_to_zero(), params, "cpu")


@pytest.mark.parametrize("name", ["muon", "muon/ring", "muno/local", "Label/ring"])
def test_unknown_contenders(params, name):
    with pytest.raises(ValueError, match="recipe/layout"):
        contender(name, params)

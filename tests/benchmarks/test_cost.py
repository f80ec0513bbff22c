"""The cost of programs, read from their text, against known costs."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from benchmarks.aot.cost import Traffic, cost
from tests.benchmarks.programs import KNOWN, compiled_text, text


@pytest.mark.parametrize("name", KNOWN)
def test_collectives(name):
    kind, *metrics = KNOWN[name].traffic
    found = cost(text(KNOWN[name], jax.devices(), "cpu"))
    assert found.traffic == {kind: Traffic(*metrics)}
    assert not found.unknown_loops


def counted(first, goes_on, step):
    """A loop of products, as many as the counter lets it do."""

    def f(x):
        def body(state):
            return step(state[0]), jnp.sin(state[1] @ x)

        return lax.while_loop(lambda state: goes_on(state[0]), body, (first, x))[1]

    return f


LOOPS = {
    "up": (counted(3, lambda i: i < 20, lambda i: i + 1), 17),
    "up by three": (counted(0, lambda i: i <= 9, lambda i: i + 3), 4),
    "down": (counted(10, lambda i: i > 2, lambda i: i - 2), 4),
    "doubling": (counted(1, lambda i: i != 64, lambda i: i * 2), 6),
    "never": (counted(5, lambda i: i < 5, lambda i: i + 1), 0),
    "scan": (lambda x: lax.scan(lambda y, _: (y @ x, None), x, length=7)[0], 7),
}
SIZE = 16


def square_text(f):
    return compiled_text(f, jax.ShapeDtypeStruct((SIZE, SIZE), jnp.float32))


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("written", [True, False])
def test_trips_of_loops(name, written):
    """The same with and without the compiler's note of how often a loop runs."""
    f, trips = LOOPS[name]
    program = square_text(f)
    if not written:
        program = re.sub(r'"known_trip_count":\{"n":"\d+"\},?', "", program)
        assert "known_trip_count" not in program
    found = cost(program)
    assert found.flops == 2 * SIZE**3 * trips
    assert not found.unknown_loops


def test_a_loop_that_depends_on_data_is_told():
    def f(x):
        return lax.while_loop(lambda x: x[0, 0] > 1, lambda x: x @ x / 2, x)

    found = cost(square_text(f))
    assert len(found.unknown_loops) == 1
    assert found.flops == 2 * SIZE**3


def test_no_program():
    with pytest.raises(ValueError, match="no ENTRY"):
        cost("HloModule empty")


def test_instructions_are_those_of_all_computations():
    program = square_text(lambda x: jnp.sin(x) + 1)
    lines = [line for line in program.splitlines() if line.startswith("  ")]
    assert cost(program).instructions == len(lines) >= 3

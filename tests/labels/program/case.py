"""A small program whose parameters have known roles, and what the reader makes of it.

A table of such programs is built by a decorator, with the shape and the expected role
of every parameter; matrices are given by their axes, with the split of a fused one:

    table = Table()

    @table({"w": ((8, 6), MatrixAxes(1, 0)), "out": ((8, 3), "head")}, floats(2, 6))
    def transposed(p, x):
        return jnp.tanh(x @ p["w"].T) @ p["out"]
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_ortho.labels.program import Reading, read
from optax_ortho.matrices import MatrixAxes


class Case(NamedTuple):
    """A program, the shapes of its parameters, its inputs, and the expected roles."""

    program: Callable[..., Any]
    params: dict[str, jax.ShapeDtypeStruct]
    inputs: tuple[Any, ...]
    expected: dict[str, str | MatrixAxes]


class Table(dict[str, Case]):
    """Cases by the names of their programs."""

    def __call__(self, rows: dict[str, tuple], *inputs: Any) -> Callable:
        """A decorator that adds a program; a row is a shape, a role and a dtype."""
        params = {
            name: jax.ShapeDtypeStruct(shape, *(dtype or (jnp.float32,)))
            for name, (shape, _, *dtype) in rows.items()
        }
        expected = {name: role for name, (_, role, *_) in rows.items()}

        def add(program):
            assert program.__name__ not in self
            self[program.__name__] = Case(program, params, inputs, expected)
            return program

        return add


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def integers(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def readings(case: Case) -> dict[str, Reading]:
    """What the program says of each parameter."""
    with jax.numpy_rank_promotion("allow"):  # As users have it.
        found = read(case.program, case.params, *case.inputs)
    return {reading.path: reading for reading in found}


def roles(case: Case) -> dict[str, str | MatrixAxes]:
    """The role of every parameter; of a matrix its axes, with the split of a fused."""
    return {path: role(reading) for path, reading in readings(case).items()}


def role(reading: Reading) -> str | MatrixAxes:
    if reading.role != "matrix":
        return reading.role
    assert reading.axes is not None
    return MatrixAxes(reading.axes.fan_in, reading.axes.fan_out, reading.split)

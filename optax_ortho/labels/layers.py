"""Roles and axes that a layer declares for its parameters, before any stacking."""

import dataclasses
import math

from optax_ortho.labels.roles import MATRIX
from optax_ortho.matrices import MatrixAxes, Split


@dataclasses.dataclass(frozen=True)
class Declared:
    """A parameter as its layer made it.

    Args:
      role: its role.
      shape: the shape it has without stacking; None where no axes depend on it.
      axes: the axes of its matrices, counted in that shape, also where the role is
        another but a user may want a matrix.
    """

    role: str
    shape: tuple[int, ...] | None = None
    axes: MatrixAxes | None = None

    def fused(self, blocks: int) -> "Declared":
        """The same kernel, holding several gates side by side along its last axis."""
        if self.shape is None or self.axes is None:
            return self
        last = len(self.shape) - 1
        sizes = (self.shape[last] // blocks,) * blocks
        split = Split(axis=last, sizes=sizes)
        return dataclasses.replace(
            self, axes=dataclasses.replace(self.axes, split=split)
        )


BIAS = Declared("bias")
NORM = Declared("norm")
EMBEDDING = Declared("embedding")
SCALAR = Declared("scalar")
VECTOR = Declared("vector")


def matrix(
    shape: tuple[int, ...], fan_in: tuple[int, ...], fan_out: tuple[int, ...]
) -> Declared:
    """A matrix, or a vector if it has one row or one column."""
    sides = [math.prod(shape[axis] for axis in axes) for axes in (fan_in, fan_out)]
    if min(sides) == 1:
        return Declared("vector", shape)
    return Declared(MATRIX, shape, MatrixAxes(fan_in, fan_out))


def dense(shape: tuple[int, ...], *, batch: int = 0, inputs: int = 1) -> Declared:
    """A kernel of shape (*batch, *inputs, *outputs).

    Examples:
      >>> dense((2, 4, 6), inputs=2).axes  # the output of an attention layer
      MatrixAxes(fan_in=(0, 1), fan_out=(2,), split=None)
    """
    axes = tuple(range(len(shape)))
    return matrix(shape, axes[batch : batch + inputs], axes[batch + inputs :])


def conv(
    shape: tuple[int, ...], *, groups: int = 1, transposed: bool = False
) -> Declared:
    """A kernel of shape (*taps, inputs, outputs), one matrix over all taps.

    With groups it is block-diagonal, and no one matrix.
    """
    if groups != 1:
        return Declared("grouped_conv", shape)
    *taps, inputs, outputs = range(len(shape))
    if transposed:
        inputs, outputs = outputs, inputs
    return matrix(shape, (*taps, inputs), (outputs,))


def einsum(shape: tuple[int, ...], equation: str | None) -> Declared | None:
    """The kernel of ``inputs,kernel->result``, or None if the equation does not say.

    Examples:
      >>> einsum((3, 6, 4), "nta,hab->nthb").axes  # one matrix for all heads h
      MatrixAxes(fan_in=(1,), fan_out=(0, 2), split=None)
      >>> einsum((3, 6, 4), "ntha,hab->nthb").axes  # a matrix for each
      MatrixAxes(fan_in=(1,), fan_out=(2,), split=None)
    """
    if equation is None:
        return None
    operands, result = equation.replace(" ", "").split("->")
    inputs, kernel = operands.split(",")
    summed = tuple(i for i, c in enumerate(kernel) if c in inputs and c not in result)
    made = tuple(i for i, c in enumerate(kernel) if c in result and c not in inputs)
    unknown = [c for c in kernel if c not in inputs and c not in result]
    if unknown or len(set(kernel)) != len(shape):
        return None
    return matrix(shape, summed, made)

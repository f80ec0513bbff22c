"""Symmetric products on a GPU.

One program for each block (i, j) of the result; those below the diagonal end at once.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from optax_ortho.orthogonalizers.kernels.symmetric import (
    Symmetric,
    padded,
    placed,
    square_like,
    symmetrized,
)

# What one program reads of a row at a time.
ROW_BYTES = 128


@dataclasses.dataclass(frozen=True)
class Triton(Symmetric):
    """Symmetric products on a GPU, for the `products` of a Newton-Schulz iteration.

    They take float32, bfloat16 and float16 and sum in float32. In float32 the default
    precision is TF32.

    Compiled ahead of time for H100, and equal to the plain products in interpret mode.
    Never run on a device, so nothing is known of their speed.

    Args:
      block: the side of a block of the result, a power of two from 16 on.
      warps: the number of warps, of 32 threads each, for one block.
      stages: the number of pieces of a row that are loaded at a time.
      interpret: run as plain JAX operations, for tests on a CPU.

    Raises:
      ValueError: a block that is no power of two, or below 16.

    Examples:
      >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> print(Triton(block=16, interpret=True).gram(x, None))
      [[ 5. 11.]
       [11. 25.]]
    """

    block: int = 128
    warps: int = 8
    stages: int = 3
    interpret: bool = False

    takes: ClassVar = tuple(map(jnp.dtype, ("float32", "bfloat16", "float16")))

    def __post_init__(self):
        if self.block < 16 or self.block.bit_count() != 1:
            raise ValueError(
                f"Triton: block must be a power of two from 16 on, got {self.block}."
            )

    def kernel(
        self,
        a: float,
        e: jax.Array | None,
        c: float,
        p: jax.Array,
        q: jax.Array,
        axis: int,
        precision: lax.PrecisionLike,
    ) -> jax.Array:
        """``a E + c P Q^T``, or ``a E + c P^T Q``, from one triangle."""
        side = p.shape[1 - axis]
        depth = ROW_BYTES // p.dtype.itemsize
        operands = [padded(x, placed(axis, depth, self.block)) for x in (p, q)]
        if e is not None:
            operands.append(padded(e, (self.block, self.block)))
        short = operands[0].shape[1 - axis]
        blocks = short // self.block
        result = pl.pallas_call(
            functools.partial(
                _kernel,
                a=a,
                c=c,
                axis=axis,
                block=self.block,
                depth=depth,
                precision=precision,
            ),
            out_shape=square_like(p if e is None else e, short),
            grid=(blocks, blocks),
            compiler_params=plt.CompilerParams(
                num_warps=self.warps, num_stages=self.stages
            ),
            interpret=self.interpret,
            name=f"symmetric_{short}x{operands[0].shape[axis]}",
        )(*operands)
        return result[:side, :side]


def _kernel(p, q, *refs, a, c, axis, block, depth, precision):
    *addend, out = refs
    i, j = pl.program_id(0), pl.program_id(1)
    rows, columns = pl.ds(i * block, block), pl.ds(j * block, block)

    @pl.when(i <= j)
    def _():
        def piece(ref, side, k):
            return ref[placed(axis, pl.ds(k * depth, depth), side)]

        def add(k, total):
            return total + lax.dot_general(
                piece(p, rows, k),
                piece(q, columns, k),
                (((axis,), (axis,)), ((), ())),
                precision=precision,
                preferred_element_type=jnp.float32,
            )

        zero = jnp.zeros((block, block), jnp.float32)
        total = lax.fori_loop(0, p.shape[axis] // depth, add, zero)
        for e in addend:
            total = a * e[rows, columns].astype(jnp.float32) + c * total
        total = jnp.where(i == j, symmetrized(total), total).astype(out.dtype)
        out[rows, columns] = total
        out[columns, rows] = total.T

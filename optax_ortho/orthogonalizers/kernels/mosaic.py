"""Symmetric products on a TPU.

The grid walks over the blocks (i, j) with ``i <= j``. Block rows i and j are read as
long as they are, or in pieces where they would not fit, while the blocks before are
computed; a row i is read once for all its j. One more step for each block stores the
transpose, and in it the rows of the next block are already on their way.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from optax_ortho.orthogonalizers.kernels.symmetric import (
    Symmetric,
    pairs,
    placed,
    square_like,
    symmetrized,
)

LANES = 128
# The number of terms of a sum that the compiler unrolls.
UNROLLED = 1024


@dataclasses.dataclass(frozen=True)
class Mosaic(Symmetric):
    """Symmetric products on a TPU, for the `products` of a Newton-Schulz iteration.

    They take float32 and bfloat16 and sum in float32. In float32 the precision is the
    default (one bfloat16 pass) or the highest.

    Compiled ahead of time for v5e, v5p and v6e, and equal to the plain products in
    interpret mode. Never timed: from the length of the compiled loops, the peak of the
    matrix units and the bytes read, bfloat16 products of 2048 x 8192 should take (in
    thousands of cycles, against XLA's own estimate for its product)

    =====================  =============  =============  =============
    chip                   v5e            v6e            v5p
    =====================  =============  =============  =============
    X X^T of 2048 x 8192   337 (543)      125 (149)      168 (273)
    b A + c A A of 2048    91 (227)       45 (80)        46 (n/m)
    =====================  =============  =============  =============

    and 768 x 3072 would gain nothing on any, since X leaves the vector memory, where
    XLA keeps it.

    Args:
      block: the largest side of a block of the result, a multiple of 128.
      memory: bytes of vector memory for the block rows that are read; 64 for every
        entry of a block come on top. A v4 has 16 MB in all, the others 64 or more.
      interpret: run as plain JAX operations, for tests on a CPU.

    Raises:
      ValueError: a block that is no multiple of 128.

    Examples:
      >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> print(Mosaic(interpret=True).gram(x, None))
      [[ 5. 11.]
       [11. 25.]]
    """

    block: int = 512
    memory: int = 2**25
    interpret: bool = False

    takes: ClassVar = (jnp.dtype("float32"), jnp.dtype("bfloat16"))

    def __post_init__(self):
        if self.block < LANES or self.block % LANES:
            raise ValueError(
                f"Mosaic: block must be a multiple of {LANES}, got {self.block}."
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
        short, long = p.shape[1 - axis], p.shape[axis]
        block = _largest(self.block, 1.25, lambda b: b**2 * len(_pairs(short, b)))
        chunk = _largest(UNROLLED, 1.1, lambda c: c * pl.cdiv(long, c))
        chunks = pl.cdiv(long, chunk)
        chunk_bytes = 4 * block * chunk * p.dtype.itemsize  # Of two rows, twice.
        fit = max(self.memory // chunk_bytes, 1)
        held = max(n for n in range(1, fit + 1) if chunks % n == 0)
        pieces = chunks // held
        todo = _pairs(short, block)

        # At the last step of a pair the rows belong to the next.
        def now(pair, step):
            return pair + lax.div(step, pieces), lax.rem(step, pieces)

        def rows(side):
            def index(pair, step, table):
                pair, piece = now(pair, step)
                return placed(axis, piece, table[side, pair])

            return pl.BlockSpec(placed(axis, held * chunk, block), index)

        def upper(pair, step, table):
            pair, _ = now(pair, step)
            return table[0, pair], table[1, pair]

        def stored(pair, step, table):
            mirrored = lax.div(step, pieces)
            return table[mirrored, pair], table[1 - mirrored, pair]

        addend = [] if e is None else [e]
        square = pl.BlockSpec((block, block), upper)
        return pl.pallas_call(
            functools.partial(
                _kernel,
                a=a,
                c=c,
                axis=axis,
                long=long,
                chunk=chunk,
                precision=precision,
            ),
            out_shape=square_like(p if e is None else e, short),
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=1,
                grid=(len(todo), pieces + 1),
                in_specs=[rows(0), rows(1), *[square] * len(addend)],
                out_specs=pl.BlockSpec((block, block), stored),
                scratch_shapes=[pltpu.VMEM((block, block), jnp.float32)],
            ),
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "arbitrary"),
                vmem_limit_bytes=held * chunk_bytes + 64 * block**2,
            ),
            cost_estimate=pl.CostEstimate(
                flops=2 * len(todo) * block**2 * long,
                bytes_accessed=len(todo) * block * (long + block) * p.dtype.itemsize,
                transcendentals=0,
            ),
            interpret=self.interpret,
            name=f"symmetric_{short}x{long}",
        )(jnp.asarray(np.array([*todo, todo[-1]], np.int32).T), p, q, *addend)


def _kernel(table, left, right, *refs, a, c, axis, long, chunk, precision):
    *addend, out, total = refs
    pair, step = pl.program_id(0), pl.program_id(1)
    mirror = pl.num_programs(1) - 1

    @pl.when(step == 0)
    def _():
        total[...] = jnp.zeros_like(total)

    @pl.when(step < mirror)
    def _():
        def chunk_of(rows, i):
            at = pl.ds(pl.multiple_of(i * chunk, chunk), chunk)
            x = rows[placed(axis, at, slice(None))]
            if long % chunk == 0:
                return x
            # Beyond the end of an array there is anything, not zeros.
            first = step * rows.shape[axis] + i * chunk
            where = first + lax.broadcasted_iota(jnp.int32, x.shape, axis)
            return jnp.where(where < long, x, 0)

        def add(i, _):
            total[...] += lax.dot_general(
                chunk_of(left, i),
                chunk_of(right, i),
                (((axis,), (axis,)), ((), ())),
                precision=precision,
                preferred_element_type=jnp.float32,
            )

        lax.fori_loop(0, left.shape[axis] // chunk, add, None)

    @pl.when(step == mirror - 1)
    def _():
        for e in addend:
            total[...] = a * e[...].astype(jnp.float32) + c * total[...]

        @pl.when(table[0, pair] == table[1, pair])
        def _():
            total[...] = symmetrized(total[...])

        out[...] = total[...].astype(out.dtype)

    @pl.when(step == mirror)
    def _():
        out[...] = total[...].T.astype(out.dtype)


def _pairs(side: int, block: int) -> list[tuple[int, int]]:
    return pairs(pl.cdiv(side, block))


def _largest(limit: int, slack: float, cost: Callable[[int], int]) -> int:
    """The largest multiple of the lanes that costs little more than the cheapest."""
    sizes = range(LANES, limit + 1, LANES)
    least = min(map(cost, sizes))
    return max(size for size in sizes if cost(size) <= slack * least)

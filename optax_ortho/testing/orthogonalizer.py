"""Checks of orthogonalizers."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from optax_ortho.matrices import Orthogonalizer
from optax_ortho.orthogonalizers.transform import as_function
from optax_ortho.testing.trees import assert_close, check, random_like


def check_orthogonalizer(
    orthogonalizer: Orthogonalizer | Callable[[jax.Array], jax.Array],
    shapes: Sequence[tuple[int, int]] = ((6, 4), (4, 6), (5, 5)),
    scales: Sequence[float] = (1e-10, 1e10),
    tolerance: float = 1e-4,
) -> None:
    """Checks shapes, dtypes, zeros, scale, transposes and batches.

    Args:
      orthogonalizer: an object with an ``orthogonalize`` method, or a function, of one
        matrix.
      shapes: the shapes of the test matrices.
      scales: factors of the matrix that must not change the result.
      tolerance: largest difference between two ways to compute a result in float32,
        over its largest entry.

    Raises:
      AssertionError: a promise is broken; the message says which.

    Examples:
      >>> from optax_ortho.orthogonalizers import NewtonSchulz
      >>> check_orthogonalizer(NewtonSchulz(), shapes=[(3, 2)])
      >>> check_orthogonalizer(lambda x: x / (jnp.linalg.norm(x) + 1e-7))
      Traceback (most recent call last):
      AssertionError: 1e-10 times a (6, 4) matrix: the result differs by ...
    """
    f = jax.jit(as_function(orthogonalizer))
    for shape in shapes:
        what = f"{shape} matrix"
        matrices = random_like([jax.ShapeDtypeStruct(shape, jnp.float32)] * 3)
        x = matrices[0]
        result = f(x)
        check(result.shape == shape, f"the result of a {what} is {result.shape}.")
        for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
            actual = f(x.astype(dtype)).dtype
            check(actual == dtype, f"a {np.dtype(dtype)} {what} became {actual}.")
        zero = jnp.zeros_like(x)
        assert_close(f(zero), zero, 0, f"a zero {what}")
        for scale in scales:
            assert_close(f(scale * x), result, tolerance, f"{scale} times a {what}")
        assert_close(f(x.mT), result.mT, tolerance, f"a transposed {what}")
        batch = jnp.stack(matrices)
        loop = jnp.stack([f(x) for x in batch])
        assert_close(jax.vmap(f)(batch), loop, tolerance, f"a batch of a {what}")

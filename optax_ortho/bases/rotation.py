"""A rotated basis for the rows of a matrix, adapted to the step taken in it.

With f the transformation of one matrix that runs in the basis, and X the matrix, m x n:

    D <- f(R^T X)         f in the old basis
    R <- Q of QR(X D^T)   m x m, near the rotation that maximizes <X, R f(R^T X)>
    U <- R f(R^T X)       f in the new basis

The signs of R's columns do not matter to an f that commutes with them. Where X D^T has
a null space, QR completes R with columns made of rounding errors. The corresponding
rows of R^T X are rounding errors too, and an f that normalizes rows would amplify them
to full size. Rows with a norm below `cutoff` times the largest are therefore set to
zero.

References:
  Gong et al., `ARO <https://arxiv.org/abs/2602.09006>`_, 2026
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_ortho import layouts
from optax_ortho.bases.sides import Side, check_side, short_first, side_first
from optax_ortho.checks import check_number
from optax_ortho.frames import Frame, in_frame
from optax_ortho.layouts import Layout
from optax_ortho.matrices import AxesOf, last_two
from optax_ortho.orthogonalizers.method import Method
from optax_ortho.orthogonalizers.prescale import to_unit
from optax_ortho.orthogonalizers.products import highest
from optax_ortho.orthogonalizers.qr import QR, Householder
from optax_ortho.orthogonalizers.transform import record_matrices
from optax_ortho.recording import recording


class RotationState(NamedTuple):
    """The rotation R of a matrix of m rows, m x m."""

    rotation: jax.Array


@dataclasses.dataclass(frozen=True)
class Rotation(Method):
    """The method of a rotated matrix, for `summary`."""

    qr: QR
    side: Side

    def flops(self, m: int, n: int) -> int:
        """FLOPs of four products and a Householder QR, without the inner step."""
        k = {"fan_in": m, "fan_out": n}.get(str(self.side), min(m, n))
        return 8 * k * m * n + 8 * k**3 // 3


CUTOFF = 1e-5


def rotation(qr: QR | None = None, cutoff: Any = CUTOFF) -> Frame:
    """The rotated frame of one matrix, as in the box above, for `in_frame`.

    Args:
      qr: the method that finds orthonormal columns; None is `Householder`.
      cutoff: rows in the basis whose norm is below this fraction of the largest are set
        to zero; 0 keeps all rows, as published.

    Returns:
      A frame with a `RotationState`, which a matrix of zeros does not change.

    Raises:
      TypeError: `qr` has no method `qr`.
      ValueError: `cutoff` outside [0, 1).

    Examples:
      >>> tx = in_frame(rotation(), optax.scale_by_sign())
      >>> x = jnp.array([[1.0, 2.0], [3.0, 5.0]])
      >>> _, state = tx.update(x, tx.init(x))
      >>> r = state.frame.rotation
      >>> print(abs(r.T @ r).round(5))
      [[1. 0.]
       [0. 1.]]
    """
    qr = Householder() if qr is None else qr
    if not isinstance(qr, QR):
        raise TypeError(f"qr is an object with a method `qr`, got {qr!r}.")
    check_number("cutoff", cutoff, below=1.0)

    def update(x, state, params=None, *, preview, **extra):
        del params, extra
        d = preview(enter(x, state))
        # Scaling by powers of two is exact, and no factor changes the basis.
        a = highest(to_unit(x)[0], to_unit(d)[0].mT)
        return RotationState(jnp.where((a != 0).any(), qr.qr(a), state.rotation))

    def enter(x, state):
        unit, power = to_unit(x)  # Sums of entries near 1e38 must not overflow.
        y = highest(state.rotation.mT, unit)
        norms = jnp.sqrt(jnp.sum(y * y, 1, keepdims=True))
        least = jnp.asarray(cutoff, y.dtype) * jnp.max(norms, initial=0)
        return jnp.where(norms >= least, y / power, 0)

    def leave(y, state):
        return highest(state.rotation, y)

    def init(x):
        return RotationState(jnp.eye(x.shape[0], dtype=x.dtype))

    return Frame(init, update, enter, leave)


def in_rotation(
    base: optax.GradientTransformation,
    qr: QR | None = None,
    side: Side = "short",
    cutoff: Any = CUTOFF,
    axes: AxesOf = last_two,
    layout: Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Runs a transformation of matrices, each in its own rotated basis.

    Args:
      base: the transformation in the basis, of one matrix whose rows are the rotated
        side. It runs twice a step.
      qr: the method that finds orthonormal columns; None is `Householder`.
      side: the rotated side: "short" (fan_in of a square matrix), "fan_in", "fan_out",
        or a `ResidualStream`, which chooses by path.
      cutoff: rows in the basis whose norm is below this fraction of the largest are set
        to zero.
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.
      layout: how the matrices are spread over devices; None is `layouts.local()`.

    Returns:
      A second stage. Its state is a `FrameState` with a tree like the parameters in
      place of every array, in float32 or better.

    Raises:
      TypeError: `base`, `qr` or `side` has another type.
      ValueError: an unknown side, or `cutoff` outside [0, 1).

    Examples:
      >>> tx = in_rotation(optax.scale_by_sign())
      >>> state = tx.init({"kernel": jnp.ones((4, 6))})
      >>> state.frame.rotation["kernel"].shape
      (4, 4)
    """
    if not isinstance(base, optax.GradientTransformation):
        raise TypeError(
            f"base is a transformation of one matrix, got {base!r}; optax.stateless("
            "lambda updates, params: f(updates)) makes one of a function f."
        )
    check_side(side)
    layout = layouts.local() if layout is None else layout
    method = Rotation(Householder() if qr is None else qr, side)
    one_matrix = in_frame(rotation(qr, cutoff), base)
    turned_axes = side_first(axes, side)

    def turned(x):
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return short_first(wide, side)

    def on_matrix(x, state):
        y: Any
        y, state = one_matrix.update(turned(x), state)
        return (y if y.shape == x.shape else y.mT).astype(x.dtype), state

    def init(params):
        record_matrices(params, axes, method, layout)
        with recording():  # Discards the base's records, which name no leaf.
            return layout.init(
                lambda x: one_matrix.init(turned(x)), turned_axes, params
            )

    def update(updates, state, params=None, **extra):
        del params, extra
        return layout.map(on_matrix, turned_axes, updates, state=state)

    return optax.GradientTransformationExtraArgs(init, update)

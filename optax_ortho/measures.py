"""Metrics of each step, kept in the state for `optax_ortho.diagnostics`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_ortho.layouts import Layout


class MeasuredState(NamedTuple):
    """Metrics of the last step, and the state of the measured transformation.

    Attributes:
      gradient_rms: root mean square of all gradient entries of the matrices.
      update_rms: root mean square of the direction, per unit of learning rate.
      inner: the measured transformation's state.
    """

    gradient_rms: jax.Array
    update_rms: jax.Array
    inner: optax.OptState


def measured(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Measures the input and the output of a transformation.

    Examples:
      >>> tx = measured(optax.scale(0.5))
      >>> _, state = tx.update(jnp.full(3, 2.0), tx.init(jnp.zeros(3)))
      >>> print(state.gradient_rms, state.update_rms)
      2.0 1.0
    """
    inner = optax.with_extra_args_support(inner)

    def init(params):
        zero = jnp.zeros([], jnp.float32)
        return MeasuredState(zero, zero, inner.init(params))

    def update(updates, state, params=None, **extra):
        gradient_rms = _rms(updates)
        updates, inner_state = inner.update(updates, state.inner, params, **extra)
        return updates, MeasuredState(gradient_rms, _rms(updates), inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _rms(tree: Any) -> jax.Array:
    leaves = jax.tree.leaves(tree)
    squares = [jnp.sum(jnp.abs(x.astype(jnp.float32)) ** 2) for x in leaves]
    return jnp.sqrt(sum(squares) / max(sum(x.size for x in leaves), 1))


class SpectrumState(NamedTuple):
    """The worst metrics over the matrices of the last step.

    Attributes:
      orthogonality_residual: the largest ``|O^T O - I| / sqrt(rank)`` in the Frobenius
        norm, for O the direction scaled to a mean square singular value of 1.
      dual_alignment: the smallest ``<G, O> / (nuclear norm of G * spectral norm of O)``
        for the gradient G; 1 is steepest descent.
      inner: the measured transformation's state.
    """

    orthogonality_residual: jax.Array
    dual_alignment: jax.Array
    inner: optax.OptState


def measured_spectrum(
    inner: optax.GradientTransformation, axes: Any, layout: Layout
) -> optax.GradientTransformationExtraArgs:
    """Measures singular values, by two singular value decompositions a matrix.

    Args:
      inner: the transformation.
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.
      layout: how the matrices are spread over devices.

    Examples:
      >>> from optax_ortho import layouts
      >>> from optax_ortho.matrices import last_two
      >>> tx = measured_spectrum(optax.identity(), last_two, layouts.local())
      >>> x = 3 * jnp.eye(2)
      >>> _, state = tx.update(x, tx.init(x))
      >>> print(state.orthogonality_residual, state.dual_alignment)
      0.0 1.0
    """
    inner = optax.with_extra_args_support(inner)

    def init(params):
        zero = jnp.zeros([], jnp.float32)
        return SpectrumState(zero, jnp.ones([], jnp.float32), inner.init(params))

    def update(updates, state, params=None, **extra):
        new, inner_state = inner.update(updates, state.inner, params, **extra)
        spectra = jax.tree.leaves(
            layout.map(_spectrum, axes, updates, new),
            is_leaf=lambda node: isinstance(node, _Spectrum),
        )
        residuals = [x.residual.max(initial=0) for x in spectra]
        alignments = [x.alignment.min(initial=1) for x in spectra]
        worst = jnp.stack([jnp.zeros([]), *residuals]).max().astype(jnp.float32)
        least = jnp.stack([jnp.ones([]), *alignments]).min().astype(jnp.float32)
        return new, SpectrumState(worst, least, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


class _Spectrum(NamedTuple):
    """Metrics of a matrix, each repeated to its shape, because layouts map matrices."""

    residual: jax.Array
    alignment: jax.Array


def _spectrum(g: jax.Array, o: jax.Array) -> _Spectrum:
    g, o = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (g, o))
    values = jnp.linalg.svd(o, compute_uv=False)
    nuclear = jnp.linalg.svd(g, compute_uv=False).sum()
    square = jnp.mean(values**2)
    is_skipped = (square == 0) | (nuclear == 0)
    square, nuclear = (jnp.where(is_skipped, 1, x) for x in (square, nuclear))
    residual = jnp.sqrt(jnp.mean((values**2 / square - 1) ** 2))
    largest = jnp.where(is_skipped, 1, values.max(initial=0))
    alignment = jnp.sum(jnp.real(g.conj() * o)) / (nuclear * largest)
    return _Spectrum(
        jnp.full(o.shape, jnp.where(is_skipped, 0, residual)),
        jnp.full(o.shape, jnp.where(is_skipped, 1, alignment)),
    )

"""Statistics of a Flax NNX model: its layers get probes while the loss runs.

A probe is a parameter of its layer, so that `flax.nnx.scan` and other transforms hand
each layer its own, and the layer gets a subclass that taps its call. Both are undone in
the end.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
from flax import nnx

from optax_ortho.labels import Labeller
from optax_ortho.labels.flax_nnx import declare
from optax_ortho.labels.roles import MATRIX
from optax_ortho.labels.stacks import added_axes, lift
from optax_ortho.matrices import MatrixAxes
from optax_ortho.statistics.passes import through_conv, through_dense
from optax_ortho.statistics.taps import Probes, probes_of, read

NAMES = tuple(f"statistic_{name}" for name in Probes._fields)


class Probe(nnx.Param):
    """Zeros whose gradient is a statistic."""


def value_and_grad(
    loss_fn: Callable,
    labels: Labeller | None,
    has_aux: bool,
    clip: Any,
    wrt: Any = nnx.Param,
) -> Callable:
    """The loss, its gradient and the statistics, of a function of a model."""
    wrt = nnx.Param if wrt is None else wrt
    both = nnx.DiffState(0, nnx.Any(wrt, Probe))
    differentiated = nnx.value_and_grad(loss_fn, argnums=both, has_aux=has_aux)

    def wrapped(model, *args, **kwargs):
        layers = dict(_layers(model, labels))
        with _tapped(layers, clip):
            value, gradient = differentiated(model, *args, **kwargs)
        probes, gradient = nnx.split_state(gradient, Probe, ...)
        flat = dict(nnx.to_flat_state(probes))
        gradients = {
            "/".join(map(str, path)): (
                Probes(*(flat[(*path, name)][...] for name in NAMES)),
                axes,
            )
            for path, (_, axes) in layers.items()
        }
        return value, gradient, read(gradients)

    return wrapped


def _layers(model: nnx.Module, labels: Labeller | None) -> Iterator[tuple]:
    """Path, layer and the axes of its kernel, of each layer that can be read."""
    for path, layer in nnx.iter_graph(model):
        known = isinstance(layer, (nnx.Linear, nnx.LinearGeneral, nnx.Conv))
        if not known or getattr(layer, "feature_group_count", 1) != 1:
            continue
        where, shape = "/".join(map(str, (*path, "kernel"))), layer.kernel.shape
        if labels is None:
            said = (what for kernel, what in declare(layer) if kernel is layer.kernel)
            what = next(said, None)
            if what is None or what.role != MATRIX or not what.axes or not what.shape:
                continue
            added = added_axes(shape, what.shape)
            if added:  # Where several fit, stacks are in front.
                yield path, (layer, lift(what.axes, added[0]).resolve(shape))
        elif labels.label(where, layer.kernel).role == MATRIX:
            yield path, (layer, labels.axes(where, layer.kernel).resolve(shape))


@contextlib.contextmanager
def _tapped(layers: dict[Any, tuple[Any, MatrixAxes]], clip: Any) -> Iterator[None]:
    before = {}
    try:
        for path, (layer, axes) in layers.items():
            before[path] = type(layer)
            for name, zeros in zip(
                NAMES, probes_of(layer.kernel.shape, axes), strict=True
            ):
                setattr(layer, name, Probe(zeros))
            # Python looks __call__ up on the class, and the transforms of NNX rebuild a
            # model from the classes in its graph: an attribute of the layer, or another
            # object in its place, would not be called.
            object.__setattr__(layer, "__class__", _tapping(type(layer), clip))
        yield
    finally:
        for path, cls in before.items():
            layer, _ = layers[path]
            object.__setattr__(layer, "__class__", cls)
            for name in NAMES:
                if hasattr(layer, name):
                    delattr(layer, name)


@functools.cache
def _tapping(cls: type, clip: Any) -> type:
    """A subclass of a layer that taps its call."""

    def __call__(self, inputs, *args, **kwargs):  # noqa: N807
        def call(x):
            return cls.__call__(self, x, *args, **kwargs)

        x, probes = jnp.asarray(inputs), Probes(*(getattr(self, n)[...] for n in NAMES))
        if isinstance(self, nnx.Conv):
            return through_conv(call, x, probes, clip, self)
        if isinstance(self, nnx.Linear):
            return through_dense(call, x, probes, clip, (-1,), ())
        axes = (self.axis,) if isinstance(self.axis, int) else tuple(self.axis)
        return through_dense(call, x, probes, clip, axes, tuple(self.batch_axis))

    return type(cls.__name__, (cls,), {"__call__": __call__})

"""Symmetric products in Pallas, to be chosen by hand.

They are the `products` of an orthogonalizer::

    NewtonSchulz(dtype=jnp.bfloat16, products=kernels.Mosaic())    on a TPU
    NewtonSchulz(dtype=jnp.bfloat16, products=kernels.Triton())    on a GPU

No default takes them: they have been compiled for both and run in interpret mode on a
CPU, but never been timed on a device. ``python -m benchmarks.device`` does that, and
says whether to set them. Nothing else in the package imports this one, so Pallas is
loaded by those alone who ask for it.

On a mesh of several devices they run inside `jax.shard_map`; XLA cannot partition them.
They have no derivative.
"""

from optax_ortho.orthogonalizers.kernels.mosaic import Mosaic as Mosaic
from optax_ortho.orthogonalizers.kernels.triton import Triton as Triton

__all__ = ["Mosaic", "Triton"]

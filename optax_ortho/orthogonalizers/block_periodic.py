"""Whole matrices every few steps, and between them the shard on each device."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from optax_ortho.checks import check_number
from optax_ortho.layouts import Layout
from optax_ortho.matrices import AxesOf, Orthogonalizer
from optax_ortho.orthogonalizers.auto import Auto


class BlockPeriodicState(NamedTuple):
    """The number of steps so far, modulo the period."""

    count: jax.Array


@dataclasses.dataclass(frozen=True)
class BlockPeriodic:
    """Orthogonalizes whole matrices every few steps, and their parts in between.

    With `optax_ortho.layouts.sharded` a part is the shard of a matrix on one device, so
    all steps but one in `every` communicate nothing: for meshes on which communication
    dominates. It is
    another optimizer, not the same one for less: an update of parts has the singular
    values of its parts, up to the root of their number, and depends on the mesh. With
    `optax_ortho.layouts.local` a part is the whole.

    Updates of parts are scaled to the RMS of a whole matrix's update;
    the paper has two learning rates for the same end.

    Args:
      orthogonalizer: the orthogonalizer of one matrix; None is `Auto`.
      every: the period; the first step takes whole matrices.
      part_scale: the scale of the steps between, times the one that matches the RMS.

    Raises:
      ValueError: a period below one, or a scale that is not positive.

    Examples:
      >>> import optax_ortho
      >>> params = {"kernel": jnp.ones((4, 6))}
      >>> tx = optax_ortho.muon(0.02, orthogonalizer=BlockPeriodic(every=5))
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["kernel"].shape
      (4, 6)

    References:
      Khaled et al., MuonBP: Faster Muon via Block-Periodic Orthogonalization,
      arXiv 2510.16981, Algorithm 1.
    """

    orthogonalizer: Any = None
    every: int = 5
    part_scale: float = 1.0

    def __post_init__(self):
        if self.orthogonalizer is None:
            object.__setattr__(self, "orthogonalizer", Auto())
        check_number("every", self.every, at_least=1)
        check_number("part_scale", self.part_scale)

    def stage(
        self, axes: AxesOf, layout: Layout
    ) -> optax.GradientTransformationExtraArgs:
        """The stage of a chain, which counts its steps.

        Raises:
          TypeError: a layout without parts.
        """
        if not layout.has_shards:
            raise TypeError(
                "BlockPeriodic orthogonalizes the shard of a matrix on each device, "
                "known to layouts.sharded(params) and layouts.local(); got "
                f"{type(layout).__name__}."
            )
        method = self.orthogonalizer
        function = (
            method.orthogonalize if isinstance(method, Orthogonalizer) else method
        )

        def on_part(rows, columns):
            def orthogonalize(x):
                m, n = x.shape
                part, whole = max(m, n), max(m * rows, n * columns)
                return function(x) * (self.part_scale * (part / whole) ** 0.5)

            return orthogonalize

        def init(params):
            del params
            return BlockPeriodicState(jnp.zeros([], jnp.int32))

        def update(updates, state, params=None, **extra):
            del params, extra
            updates = lax.cond(
                state.count % self.every == 0,
                lambda tree: layout.map(method, axes, tree),
                lambda tree: layout.map_shards(on_part, axes, tree),
                updates,
            )
            return updates, BlockPeriodicState((state.count + 1) % self.every)

        return optax.GradientTransformationExtraArgs(init, update)

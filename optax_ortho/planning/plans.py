"""The cost of a sharded optimizer, computed without devices."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optax_ortho.layouts import Sharded
from optax_ortho.layouts.geometry import Axes, Leaf, shared_along
from optax_ortho.layouts.sharded import AT_ONCE
from optax_ortho.matrices import ColumnOrthogonalizer, Orthogonalizer
from optax_ortho.orthogonalizers.method import flops_of
from optax_ortho.orthogonalizers.transform import Orthogonalized
from optax_ortho.planning.cost import Cost, cost
from optax_ortho.recording import recording
from optax_ortho.tables import aligned


@dataclasses.dataclass(frozen=True)
class Plan:
    """The owner of each matrix, and the cost of a step; printable (see `plan`).

    Attributes:
      cost: the cost with the parameters sharded as they are.
      alternatives: the cost by name with other shardings of the parameters, with
        matrices shared by several devices if that reduces the work of each, and with
        none shared.
    """

    cost: Cost
    alternatives: dict[str, Cost]

    def __str__(self) -> str:
        rows = [
            (name, f"{cost.wire_bytes / 1e6:.2f}", f"{cost.flops / 1e9:.2f}")
            for name, cost in {"as they are": self.cost, **self.alternatives}.items()
        ]
        table = aligned(("matrices sharded", "wire MB", "GFLOP"), rows, right=(1, 2))
        return f"{self.cost}\n\n{table}"


def plan(tx: optax.GradientTransformation, params: Any) -> Plan:
    """Computes what each device of a sharded optimizer sends and computes in a step.

    No device is needed: the shardings may be on a `jax.sharding.AbstractMesh`.

    Args:
      tx: an optimizer with ``layout=layouts.sharded(params)`` or ``layouts.owned``. For
        the latter only updates count, because gradients have to be reduced anyway.
      params: the parameters, or their shapes as `jax.ShapeDtypeStruct`.

    Returns:
      A printable `Plan`. FLOPs are as stated by the orthogonalizer, or by default for
      five Newton-Schulz steps.

    Raises:
      ValueError: no matrix has the sharded layout.

    Examples:
      >>> import optax_ortho
      >>> from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
      >>> mesh = AbstractMesh((8,), ("fsdp",))
      >>> shards = NamedSharding(mesh, PartitionSpec("fsdp"))
      >>> kernel = jax.ShapeDtypeStruct((1024, 1024), jnp.float32, sharding=shards)
      >>> params = {f"layer_{i}": {"kernel": kernel} for i in range(8)}
      >>> tx = optax_ortho.muon(0.02, layout=optax_ortho.layouts.sharded(params))
      >>> print(plan(tx, params).cost)
      matrices        along  times  wire MB  GFLOP
      --------------  -----  -----  -------  -----
      8 of 1024x1024  fsdp       1     3.67  32.21
      <BLANKLINE>
      Each device sends 3.67 MB a step (at least 3.67), and the busiest
      does 32.21 GFLOP, 1.00 of an even share. A round exchanges up to 2.1 MB.
    """
    with recording() as events:
        jax.eval_shape(lambda params: tx.init(params), params)
    matrices = [
        event
        for event in events
        if isinstance(event, Orthogonalized) and event.layout.shards is not None
    ]
    if not matrices:
        raise ValueError(
            "plan needs an optimizer whose matrices have layout=layouts.sharded("
            "params) or layouts.owned(params, over), and got none: in the local "
            "layout every device does all work."
        )
    layout, stays = matrices[0].layout.shards, matrices[0].layout.averages
    method = matrices[0].orthogonalizer
    leaves = [
        layout.params.leaf(event.path, event.axes, event.dtype) for event in matrices
    ]
    shared_cost = (
        functools.partial(method.shared_cost, wire_dtype=layout.wire_dtype)
        if isinstance(method, ColumnOrthogonalizer) and not stays
        else None
    )

    def flops(m, n):
        known = flops_of(method, m, n)
        return _newton_schulz_flops(m, n) if known is None else known

    def of(leaves):
        return cost(
            leaves,
            layout.owner_mesh,
            flops,
            # Momenta in owner stacks are not transposed to their short side.
            isinstance(method, Orthogonalizer) and not stays,
            AT_ONCE,
            jnp.dtype(layout.wire_dtype).itemsize,
            shared_cost,
            gradients=not stays,
        )

    as_they_are = of(layout.sharing(leaves, method))
    others = {name: of(x) for name, x in _otherwise(leaves, layout)}
    if shared_cost is not None:
        shared = {
            f"as they are, shared along {axis}": of(
                [shared_along(leaf, (axis,), layout.owner_mesh) for leaf in leaves]
            )
            for axis in layout.owner_mesh
        }
        better = {n: c for n, c in shared.items() if c.flops < as_they_are.flops}
        whole = {"as they are, not shared": of(leaves)} if layout.shared else {}
        others = {**better, **whole, **others}
    return Plan(as_they_are, others)


def _otherwise(leaves: Sequence[Leaf], layout: Sharded) -> list[tuple[str, list[Leaf]]]:
    """The same leaves with other shardings, by name."""
    mesh = layout.owner_mesh
    every = tuple(mesh)
    size = math.prod(mesh.values())

    def along(leaf, axis):
        spec: list[Axes] = [()] * len(leaf.shape)
        if axis is not None and leaf.shape[axis] % size == 0:
            spec[axis] = every
        return leaf._replace(spec=tuple(spec))

    def stacked(leaf):
        batch = leaf.axes.batch(len(leaf.shape))
        fits = [axis for axis in batch if leaf.shape[axis] % size == 0]
        return along(leaf, fits[0]) if fits else leaf

    places = [
        ("along fan_in", [along(leaf, leaf.axes.fan_in[0]) for leaf in leaves]),
        ("along fan_out", [along(leaf, leaf.axes.fan_out[0]) for leaf in leaves]),
        ("not at all", [along(leaf, None) for leaf in leaves]),
    ]
    on_stacks = [stacked(leaf) for leaf in leaves]
    if on_stacks != list(leaves):
        places.insert(0, ("along stacks where they divide", on_stacks))
    return places


def _newton_schulz_flops(m: int, n: int) -> float:
    short, long = sorted((m, n))
    return 20 * short**2 * long + 10 * short**3

"""The plan of an optimizer before it runs (`summary`), and its metrics after a step."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax

from optax_ortho.guard import GuardState
from optax_ortho.labels import UNDECIDED
from optax_ortho.labels.cautions import Matrix, Row, cautions
from optax_ortho.measures import MeasuredState, SpectrumState
from optax_ortho.names import short_name
from optax_ortho.orthogonalizers.method import flops_of, method_of
from optax_ortho.orthogonalizers.transform import Orthogonalized
from optax_ortho.recipes import Group, RecipeState
from optax_ortho.recording import recording
from optax_ortho.tables import aligned, leaf_count, wrapped
from optax_ortho.trust_region import ConfidenceRadiusState, SoftmaxRadiusState

NODES = (
    GuardState,
    RecipeState,
    MeasuredState,
    SpectrumState,
    SoftmaxRadiusState,
    ConfidenceRadiusState,
)


@dataclasses.dataclass(frozen=True)
class Summary:
    """The plan of an optimizer, which prints as tables (see `summary`).

    Attributes:
      groups: one row a group: name, method, learning rate, weight decay, leaves,
        parameters and bytes of state.
      matrices: one row a matrix shape: shape, number of matrices, method, layout and
        FLOPs a step.
      warnings: whatever a person should look at.
    """

    groups: tuple[tuple, ...]
    matrices: tuple[tuple, ...]
    warnings: tuple[str, ...]

    @property
    def orthogonalized(self) -> int:
        """The number of matrices that are orthogonalized in each step."""
        return sum(row[1] for row in self.matrices)

    def __str__(self) -> str:
        groups = aligned(
            ("group", "method", "rate", "decay", "leaves", "parameters", "state"),
            [
                (name, method, rate, decay, leaves, f"{size:,}", _bytes(state))
                for name, method, rate, decay, leaves, size, state in self.groups
            ],
            right=(4, 5, 6),
        )
        matrices = aligned(
            ("matrices", "number", "method", "layout", "FLOPs a step"),
            [
                ("x".join(map(str, shape)), number, method, layout, _flops(flops))
                for shape, number, method, layout, flops in self.matrices
            ],
            right=(1, 4),
        )
        notes = "\n".join(wrapped(f"! {warning}", 2) for warning in self.warnings)
        return "\n\n".join(part for part in (groups, matrices, notes) if part)


def summary(tx: optax.GradientTransformation, params: Any) -> Summary:
    """The plan of an optimizer for a tree of parameters.

    Nothing is computed: the transformation's ``init`` is traced, and the records of our
    transformations are collected there, through any wrapper of Optax. Optax does not
    say what runs before one of ours, so that is not in the plan. A clip by global norm
    in front of orthogonalized matrices does not bound their step, which does not depend
    on the size of the gradient; `stage_outputs` shows the gradient that reaches them.

    Args:
      tx: an optimizer that holds one of ours.
      params: the parameters, or their shapes as `jax.ShapeDtypeStruct`.

    Returns:
      A `Summary`; print it.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_ortho
      >>> params = {"mlp": {"kernel": jnp.ones((64, 256)), "bias": jnp.zeros(256)}}
      >>> tx = optax_ortho.muon(0.01, adamw_learning_rate=0.003)
      >>> print(optax_ortho.summary(tx, params).orthogonalized)
      1
    """
    with recording() as events:
        # A function of its own, as JAX would not trace `tx.init` a second time.
        jax.eval_shape(lambda params: tx.init(params), params)
    groups = [event for event in events if isinstance(event, Group)]
    leaves = [event for event in events if isinstance(event, Orthogonalized)]
    return Summary(
        tuple(_group_row(group) for group in groups if group.leaves),
        tuple(_matrix_rows(leaves)),
        tuple(_warnings(groups, leaves)),
    )


def diagnostics(state: optax.OptState) -> dict[str, jax.Array]:
    """The metrics of an optimizer's last step, as scalars for any metrics writer.

    Args:
      state: the state of an optimizer that holds one of ours, under any wrapper.

    Returns:
      ``skipped``, the matrices and other leaves skipped so far for a non-finite
      gradient; ``steps``; and with ``diagnostics=True`` in the recipe ``gradient_rms``
      and ``update_rms`` of the last step's matrices, the latter per unit of learning
      rate; with ``diagnostics="spectrum"`` the largest ``orthogonality_residual`` and
      the smallest ``dual_alignment`` of the matrices; and after
      `trust_region.softmax_radius` ``radius_ratio`` and ``radius_scale``. Of several
      optimizers, the counts are of the first and the other metrics of the last.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_ortho
      >>> tx = optax_ortho.muon(0.01)
      >>> params = {"kernel": jnp.ones((4, 4))}
      >>> bad = {"kernel": jnp.full((4, 4), jnp.nan)}
      >>> _, state = tx.update(bad, tx.init(params), params)
      >>> print(optax_ortho.diagnostics(state))
      {'skipped': Array(1, dtype=int32), 'steps': Array(1, dtype=int32)}
    """
    metrics: dict[str, Any] = {}
    for node in _nodes(state):
        match node:
            case GuardState():
                metrics.setdefault("skipped", node.skipped)
            case RecipeState():
                metrics.setdefault("steps", node.count)
            case MeasuredState():
                metrics["gradient_rms"] = node.gradient_rms
                metrics["update_rms"] = node.update_rms
            case SpectrumState():
                metrics["orthogonality_residual"] = node.orthogonality_residual
                metrics["dual_alignment"] = node.dual_alignment
            case SoftmaxRadiusState() | ConfidenceRadiusState():
                metrics.update(node._asdict())
    # `nnx.Optimizer` keeps each array of a state in a variable.
    return {name: jnp.asarray(value) for name, value in metrics.items()}


def _nodes(tree: Any) -> Iterator[Any]:
    """Every NamedTuple of a state, outermost first."""
    nodes = []

    def visit(node):
        is_ours = isinstance(node, NODES)
        if is_ours:
            nodes.append(node)
        return is_ours

    jax.tree.leaves(tree, is_leaf=visit)
    for node in nodes:
        yield node
        yield from _nodes(tuple(node))


def _group_row(group: Group) -> tuple:
    size = sum(leaf.size for _, leaf, _ in group.leaves)
    state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(group.state))
    rate, decay = _number(group.learning_rate), _number(group.weight_decay)
    return group.name, group.method, rate, decay, len(group.leaves), size, state


def _matrix_rows(leaves: Sequence[Orthogonalized]) -> Iterator[tuple]:
    """One row for the matrices of one shape, dtype, method and layout."""
    numbers: collections.Counter = collections.Counter()
    flops = {}
    for leaf in leaves:
        for block in leaf.axes.block_shapes(leaf.shape):
            shape = leaf.axes.matrix_shape(block)
            platform = jax.default_backend()
            method = method_of(leaf.orthogonalizer, shape, leaf.dtype, platform)
            key = shape, str(leaf.dtype), short_name(method), short_name(leaf.layout)
            numbers[key] += int(np.prod(block, dtype=int)) // max(
                int(np.prod(shape)), 1
            )
            flops[key] = flops_of(method, *shape)
    for key, number in numbers.items():
        shape, _, method, layout = key
        total = None if flops[key] is None else number * flops[key]
        yield shape, number, method, layout, total


def _warnings(
    groups: Sequence[Group], leaves: Sequence[Orthogonalized]
) -> Iterator[str]:
    if not leaves:
        yield "No leaf is orthogonalized."
    yield from cautions(
        [Matrix(leaf.path, leaf.shape, leaf.axes) for leaf in leaves],
        [
            Row(path, leaf.shape, label.role)
            for group in groups
            for path, leaf, label in group.leaves
        ],
    )
    for group in groups:
        undecided = [path for path, _, label in group.leaves if label.role == UNDECIDED]
        if undecided:
            yield (
                f"{leaf_count(len(undecided))}, {undecided[0]} the first, left to "
                f"{group.method} because nothing says which axes make a matrix; "
                "labels=optax_ortho.label(model), or label(model, inputs), decides."
            )
        if group.leaves and group.shares_rate:
            yield (
                f"The group {group.name!r} has no learning rate of its own and takes "
                f"the rate of the matrices, {_number(group.learning_rate)}; "
                "adamw_learning_rate sets it."
            )


def _number(value: Any) -> str:
    if value is None:
        return "own"
    if callable(value):
        first: Any = value(0)
        return f"schedule, {float(first):g} at step 0"
    if isinstance(value, jax.core.Tracer):
        return "injected"
    return f"{float(value):g}"


def _bytes(number: int) -> str:
    return f"{number:,} B" if number < 10_000 else f"{number / 1e6:,.2f} MB"


def _flops(number: int | None) -> str:
    return "unknown" if number is None else f"{number:.3g}"

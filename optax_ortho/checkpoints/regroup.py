"""States of a run whose parameter groups changed."""

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_ortho.checkpoints.nodes import NUMBERS, Node, alike, nodes_of
from optax_ortho.inputs import misfit
from optax_ortho.layouts.stacks import is_owned
from optax_ortho.matrices import path_of

# An average of gradients, which the first moment of Adam is too.
MOMENTA = ("MomentumState", "BiasCorrectedState")


def regroup(
    old_tx: optax.GradientTransformation,
    new_tx: optax.GradientTransformation,
    params: Any,
    state: Any,
) -> Any:
    """The state with which a run continues after its groups changed.

    For other labels, or another `optax.partition`, of the same parameters. The state
    of a parameter is kept where the same kind of transformation has it in both, in
    whatever group; a matrix that AdamW had before keeps its first moment as momentum.
    A parameter that lacks part of its new state, as the second moment of a matrix that
    goes to AdamW, starts there as at ``init``, and a warning names it. Counts, scales
    and hyperparameters of a new group come from the old group with most of its
    parameters.

    Args:
      old_tx: the optimizer that the state is of.
      new_tx: the optimizer with the new groups.
      params: the parameters of both, or their shapes.
      state: the state of `old_tx`.

    Returns:
      The state for `new_tx`.

    Raises:
      ValueError: the state is not one of `old_tx`, or part of one is stored with
        owners.

    Warns:
      UserWarning: names every parameter of which a state starts anew.

    Examples:
      >>> import optax_ortho
      >>> params = {"a": jnp.ones((4, 6)), "b": jnp.ones((4, 6))}
      >>> old = optax_ortho.muon(0.1, labels={"a": "matrix", "b": "vector"})
      >>> new = optax_ortho.muon(0.1, labels={"a": "matrix", "b": "matrix"})
      >>> _, state = old.update(params, old.init(params), params)
      >>> state = regroup(old, new, params, state)
      >>> print(optax_ortho.diagnostics(state)["steps"])
      1
    """
    planned = jax.eval_shape(lambda params: old_tx.init(params), params)
    problem = misfit(state, planned)
    if problem:
        raise ValueError(f"The state is not one of the old optimizer. {problem}")
    arrays = {
        path_of(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    state = jax.tree_util.tree_map_with_path(
        lambda keys, _: arrays[path_of(keys)], planned
    )
    fresh = new_tx.init(params)
    for tree in (planned, fresh):
        _refuse_owned(tree)
    known = {path_of(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(params)}
    values, started = _kept(nodes_of(state, params), nodes_of(fresh, params), known)
    if started:
        names = "; ".join(
            f"{path!r} ({', '.join(fields)})"
            for path, fields in sorted(started.items())
        )
        warnings.warn(
            f"These parameters start with a new state in their group: {names}.",
            stacklevel=2,
        )

    def leaf(keys, old):
        path = path_of(keys)
        return jnp.array(values[path], old.dtype) if path in values else old

    return jax.tree_util.tree_map_with_path(leaf, fresh)


def _refuse_owned(state: Any) -> None:
    if any(map(is_owned, jax.tree.leaves(state, is_leaf=is_owned))):
        raise ValueError(
            "Part of the state is stored with the owners of matrices; both optimizers "
            "must have layouts.local(): use move_state first."
        )


def _kept(
    source: Sequence[Node], targets: Sequence[Node], known: set[str]
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The arrays that both states have, and the fields that start, by parameter."""
    values: dict[str, Any] = {}
    started: dict[str, list[str]] = {}
    for target in targets:
        candidates = [
            node
            for node in alike(target, source)
            if _parameter(node, known) == _parameter(target, known)
        ]
        averages = [
            node._replace(data={"mu": node.data["mu"]})
            for node in source
            if target.kind in MOMENTA
            and node.kind in (*MOMENTA, "ScaleByAdamState")
            and "mu" in node.data
        ]
        # Later ones come first: a momentum of the same kind before Adam's.
        pool = _pool([*averages, *candidates])
        numbers = _nearest(target, targets, candidates, source, known)
        by_parameter: dict[str, list[str]] = {}
        for field, arrays in target.data.items():
            for rest, old in arrays.items():
                if rest == "" and not (known == {""} and field in ("mu", "nu")):
                    here = numbers.data.get(field, {}) if numbers else {}
                elif field in NUMBERS:
                    here = numbers.data.get(field, {}) if numbers else {}
                else:
                    by_parameter.setdefault(rest, []).append(field)
                    continue
                if rest in here and np.shape(here[rest]) == np.shape(old):
                    values[target.at(field, rest)] = here[rest]
                elif _parameter(target, known) is not None:
                    name = f"{target.kind}.{field}"
                    started.setdefault(str(_parameter(target, known)), []).append(name)
        for rest, fields in by_parameter.items():
            wanted = {field: target.data[field][rest] for field in fields}
            if all(_shape(pool, key, rest) == np.shape(wanted[key]) for key in wanted):
                values |= {target.at(key, rest): pool[key, rest] for key in wanted}
            else:
                names = [f"{target.kind}.{field}" for field in fields]
                started.setdefault(rest, []).extend(names)
    return values, started


def _shape(
    pool: dict[tuple[str, str], Any], field: str, rest: str
) -> tuple[int, ...] | None:
    return np.shape(pool[field, rest]) if (field, rest) in pool else None


def _pool(nodes: Sequence[Node]) -> dict[tuple[str, str], Any]:
    """The arrays of parameters of all nodes, by field and path of the parameter."""
    return {
        (field, rest): array
        for node in nodes
        for field, arrays in node.data.items()
        for rest, array in arrays.items()
    }


def _parameter(node: Node, known: set[str]) -> str | None:
    """The parameter that a node belongs to, if it is the state of one parameter."""
    parts = node.path.split("/")
    tails = ("/".join(parts[i:]) for i in range(1, len(parts)))
    return next((tail for tail in tails if tail in known), None)


def _nearest(
    target: Node,
    targets: Sequence[Node],
    candidates: Sequence[Node],
    source: Sequence[Node],
    known: set[str],
) -> Node | None:
    """The candidate that has most of the target's parameters below it."""

    def below(node: Node, nodes: Sequence[Node]) -> set[str]:
        inside = f"{node.path}/" if node.path else ""
        return {
            rest
            for other in nodes
            if other is node or other.path.startswith(inside)
            for arrays in other.data.values()
            for rest in arrays
            if rest in known
        }

    wanted = below(target, targets)
    return max(
        candidates, key=lambda node: len(wanted & below(node, source)), default=None
    )

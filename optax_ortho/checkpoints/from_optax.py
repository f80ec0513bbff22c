"""States of Optax's own optimizers, converted in the middle of a training."""

import functools
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_ortho.checkpoints.nodes import Arrays, Node, alike, nodes_of, without
from optax_ortho.layouts.stacks import is_owned
from optax_ortho.matrices import path_of

# States that count the steps of an optimizer and nothing else.
COUNTING = ("RecipeState", "ScaleByScheduleState")
# In the state of `optax.contrib.muon`, the constants of its iteration.
CONSTANTS = ("ns_coeffs",)


def from_optax(
    tx: optax.GradientTransformation,
    params: Any,
    state: Any,
    momentum_scale: float = 1.0,
    leave_out: Collection[str] = (),
) -> Any:
    """The state with which one of our optimizers continues where Optax's stopped.

    Converted are the step count, the momentum of every matrix, and both moments of the
    leaves that go to AdamW. Wrappers that `tx` has too, such as `optax.MultiSteps`,
    `optax.inject_hyperparams`, `optax.ema` or any NamedTuple with the same fields, keep
    their counters, scales, accumulated gradients and averages; so do hyperparameters
    of the same name, whose value in `state` replaces the argument of the new optimizer
    unless one of both is a schedule. Second moments of matrices and hyperparameters
    that `tx` lacks are dropped, and anything else without a place in `tx` is refused.
    State that only `tx` has starts as at ``init``. NAMO and NAMO-D compare their
    momentum with a second moment that starts anew, so their momentum does too.

    Args:
      tx: one of our recipes, in the wrappers of the old optimizer.
      params: the parameters.
      state: the state of `optax.contrib.muon`, `optax.adamw` or another optimizer that
        keeps ``mu`` (and ``nu`` where AdamW continues), under any wrapper.
      momentum_scale: a factor of the momentum of the matrices. Optax keeps an average,
        and so do our recipes; `momentum.heavy_ball` and `dion` keep a sum, which is
        1 / (1 - beta) times as large.
      leave_out: parts of `state` that are not converted: names of classes, such as
        "ReduceLROnPlateauState", or paths in the state, such as "hyperparams/eps".

    Returns:
      The state for `tx`.

    Raises:
      ValueError: `state` has no momentum of a leaf that needs one, one of another
        shape, or numbers of a wrapper that `tx` lacks; the message names them. Or `tx`
        stores momenta with owners.

    Examples:
      >>> import optax_ortho
      >>> params = {"kernel": jnp.ones((4, 6))}
      >>> old = optax.contrib.muon(0.02)
      >>> _, state = old.update(params, old.init(params), params)
      >>> state = from_optax(optax_ortho.muon(0.02), params, state)
      >>> print(optax_ortho.diagnostics(state)["steps"])
      1
    """
    fresh = tx.init(params)
    source = without(nodes_of(state, params), leave_out)
    _refuse_stacks(fresh)
    values = _converted(nodes_of(fresh, params), source, momentum_scale)

    def leaf(keys, old):
        path = path_of(keys)
        return _like(values[path], old) if path in values else old

    return jax.tree_util.tree_map_with_path(leaf, fresh)


def _converted(targets: list[Node], source: list[Node], scale: float) -> dict[str, Any]:
    """The converted arrays by path; all others start as at ``init``."""
    cores = [node for node in source if _is_core(node)]
    mu, nu = _merged(cores, "mu"), _merged(cores, "nu")
    count = _steps(cores, source)
    if count is None or not mu:
        raise ValueError(
            "The state holds no step count or no momentum 'mu'. It must be one of "
            "optax.contrib.muon, optax.adamw or alike; else start with init."
        )
    targets = [node for node in targets if not _starts_anew(node, targets)]
    values: dict[str, Any] = {}
    used: set[str] = set()
    for target in targets:
        adam = target.kind == "ScaleByAdamState"
        handled = {"mu", "count"} if _is_core(target) else set()
        if adam:
            handled |= {"nu"}
            values |= _taken(target, "nu", nu)
        if _is_core(target):
            values |= _taken(target, "mu", mu, 1.0 if adam else scale)
        peers, candidates = alike(target, targets), alike(target, source)
        if "hyperparams" in target.data:
            candidates = [node for node in source if "hyperparams" in node.data]
            peers = [node for node in targets if "hyperparams" in node.data]
        pair = _counterpart(target, peers, candidates)
        if "count" in target.data and (
            _is_core(target) or target.kind == "RecipeState"
        ):
            values[target.at("count")] = count
        elif "count" in target.data and pair is None and target.kind in COUNTING:
            values[target.at("count")] = count
        if "hyperparams" in target.data:
            values |= _hyperparams(target, pair, count)
            handled |= {"hyperparams", "hyperparams_states"}
        for node in candidates:
            injected = {"hyperparams_states"} if "hyperparams" in target.data else set()
            used.update(map(node.at, target.data.keys() | injected))
        for field in target.data.keys() - handled:
            if pair is not None and field in pair.data:
                values |= _taken(target, field, pair.data[field])
    _refuse_unused(source, used)
    return values


def _is_core(node: Node) -> bool:
    """Whether a node is an optimizer's, with a momentum; a group may have no leaves."""
    return "mu" in node.fields and bool({"mu", "count"} & node.data.keys())


def _starts_anew(node: Node, targets: Sequence[Node]) -> bool:
    """Whether a node belongs to a chain that compares momentum and second moment."""
    chains = [
        f"{chain.path}/"
        for chain in targets
        if chain.kind == "OrthoState" and node.path.startswith(f"{chain.path}/")
    ]
    return any(
        other.kind == "MomentNormState" and other.path.startswith(chain)
        for chain in chains
        for other in targets
    )


def _merged(nodes: Sequence[Node], field: str) -> Arrays:
    merged: Arrays = {}
    for node in nodes:
        merged |= node.data.get(field, {})
    return merged


def _steps(cores: Sequence[Node], source: Sequence[Node]) -> Any:
    """The number of steps of the optimizer inside all wrappers; None if unknown."""
    counting = [node for node in source if node.fields >= {"count", "direction"}]
    schedules = [node for node in source if node.fields == {"count"}]
    for nodes in (cores, counting, schedules):
        counts = [node.data["count"][""] for node in nodes if "count" in node.data]
        if counts:
            counts = [jnp.asarray(count, jnp.int32) for count in counts]
            return functools.reduce(jnp.maximum, counts)
    return None


def _counterpart(
    target: Node, peers: Sequence[Node], candidates: Sequence[Node]
) -> Node | None:
    """The node of the old state that a node of the new one continues.

    Where a group of leaves was divided or joined there is another number of nodes; then
    they continue together, if their numbers agree.
    """
    if len(peers) == len(candidates):
        return candidates[peers.index(target)]
    if not candidates:
        return None
    first = candidates[0]
    data = {field: _merged(candidates, field) for field in first.data}
    for node in candidates:
        for field, arrays in node.data.items():
            if "" in arrays and not np.array_equal(arrays[""], data[field][""]):
                raise ValueError(
                    f"The state has {len(candidates)} states {target.kind or 'alike'}, "
                    f"the optimizer {len(peers)}, and their {field!r} differ: "
                    f"{node.at(field)} is {arrays['']} and not {data[field]['']}. Put "
                    "the wrapper around the same groups, or name it in leave_out."
                )
    return first._replace(data=data)


def _hyperparams(target: Node, pair: Node | None, count: Any) -> dict[str, Any]:
    """The arrays of `optax.inject_hyperparams`, its schedules at their counts."""
    if pair is not None and "count" in pair.data:
        count = pair.data["count"][""]
    old = {} if pair is None else pair.data["hyperparams"]
    old_schedules = {} if pair is None else pair.data.get("hyperparams_states", {})
    schedules = target.data.get("hyperparams_states", {})
    values = {target.at("count"): count}
    for path in schedules:
        if path in old_schedules or path.endswith("/count"):
            values[target.at("hyperparams_states", path)] = old_schedules.get(
                path, count
            )
    scheduled, was_scheduled = (
        {path.split("/")[0] for path in states} for states in (schedules, old_schedules)
    )
    kept = {
        name: value
        for name, value in old.items()
        if (name in scheduled) == (name in was_scheduled)
    }
    shared = {name: kept[name] for name in target.data["hyperparams"] if name in kept}
    if shared:
        data = {
            "hyperparams": {name: target.data["hyperparams"][name] for name in shared}
        }
        values |= _taken(target._replace(data=data), "hyperparams", shared)
    return values


def _taken(
    target: Node, field: str, source: Arrays, scale: float = 1.0
) -> dict[str, Any]:
    """The arrays of one field by path in the new state, checked by shape."""
    values = {}
    for rest, old in target.data.get(field, {}).items():
        shape = np.shape(source[rest]) if rest in source else None
        if shape != np.shape(old):
            raise ValueError(
                f"Leaf {rest!r} needs a {field!r} of shape {np.shape(old)}, but the "
                f"state to convert has {'none' if shape is None else shape}. It "
                "must be the state of an optimizer of the same parameters."
            )
        value = source[rest]
        values[target.at(field, rest)] = value if scale == 1.0 else scale * value
    return values


def _like(value: Any, old: Any) -> Any:
    if isinstance(old, jax.Array) and jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
        return value
    # A copy, so that one count in two places is two buffers, and both can be donated.
    return jnp.array(value, jnp.result_type(old))


def _refuse_unused(source: Sequence[Node], used: Collection[str]) -> None:
    """Refuses numbers of wrappers that the new optimizer lacks."""
    for node in source:
        known = set(CONSTANTS)
        if _is_core(node):
            known |= {"mu", "nu", "count"}
        if node.fields == {"count"} or node.fields >= {"count", "direction"}:
            known |= {"count"}
        for field in (name for name in node.data if name not in known):
            if node.at(field) not in used:
                name = f"{node.kind}.{field}" if node.kind else field
                raise ValueError(
                    f"The state to convert has {name} at {node.at(field)!r}, for which "
                    "the new optimizer has no place. Put the same wrapper around it, "
                    "or name what is not to be converted: "
                    f"leave_out=({node.kind or node.at(field)!r},)."
                )


def _refuse_stacks(fresh: Any) -> None:
    def visit(node: Any) -> bool:
        if is_owned(getattr(node, "mu", None)):
            raise ValueError(
                "The momentum is stored with the owners of matrices: it needs to be "
                "converted with layouts.local(), and moved with move_state."
            )
        return False

    jax.tree.leaves(fresh, is_leaf=visit)

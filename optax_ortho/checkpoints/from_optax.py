"""States of Optax's own optimizers, taken over in the middle of a training."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optax_ortho.chain import OrthoState
from optax_ortho.layouts.stacks import is_owned
from optax_ortho.matrices import path_of
from optax_ortho.normalizers.moment_norm import MomentNormState
from optax_ortho.recipes import RecipeState

COUNTING = (RecipeState, optax.ScaleByScheduleState)  # States that count steps alone.


def from_optax(
    tx: optax.GradientTransformation,
    params: Any,
    state: Any,
    momentum_scale: float = 1.0,
) -> Any:
    """The state with which one of our optimizers goes on where Optax's stopped.

    Taken over are the step count, the momentum of every matrix, and both moments of the
    leaves that go to AdamW. What Optax's optimizer did not keep starts as at ``init``.
    NAMO and NAMO-D compare their momentum with a second moment that starts anew, so
    their momentum does too.

    Args:
      tx: one of our recipes.
      params: the parameters.
      state: the state of `optax.contrib.muon`, `optax.adamw` or another optimizer that
        keeps ``mu`` (and ``nu`` where AdamW goes on), under any wrapper.
      momentum_scale: what the momentum of the matrices is multiplied by. Optax keeps an
        average, and so do our recipes; `momentum.heavy_ball` and `dion` keep a sum,
        which is 1 / (1 - beta) times as large.

    Returns:
      The state for `tx`.

    Raises:
      ValueError: `state` holds no momentum of a leaf that needs one, or one of another
        shape; the message names it. Or `tx` keeps momenta with owners.

    Examples:
      >>> import optax_ortho
      >>> params = {"kernel": jnp.ones((4, 6))}
      >>> old = optax.contrib.muon(0.02)
      >>> _, state = old.update(params, old.init(params), params)
      >>> state = from_optax(optax_ortho.muon(0.02), params, state)
      >>> print(optax_ortho.diagnostics(state)["steps"])
      1
    """
    mu, nu = _by_path(state, "mu"), _by_path(state, "nu")
    counts = [x for keys, x in _leaves(state) if path_of(keys).endswith("count")]
    if not counts or not mu:
        raise ValueError(
            "The state holds no step count or no momentum 'mu'. It must be one of "
            "optax.contrib.muon, optax.adamw or alike; else start with init."
        )
    count = jnp.max(jnp.stack([jnp.asarray(x, jnp.int32) for x in counts]))

    def taken(tree: Any, source: dict, name: str, scale: float) -> Any:
        def take(keys, old):
            path = path_of(keys)
            shape = jnp.shape(source[path]) if path in source else None
            if shape != old.shape:
                raise ValueError(
                    f"Leaf {path!r} needs a {name!r} of shape {old.shape}, but the "
                    f"state to convert has {'none' if shape is None else shape}. It "
                    "must be the state of an optimizer of the same parameters."
                )
            return jnp.asarray(scale * source[path], old.dtype)

        return jax.tree_util.tree_map_with_path(take, tree)

    def walk(node: Any) -> Any:
        if isinstance(node, OrthoState) and _holds(node, MomentNormState):
            return node
        if isinstance(node, optax.ScaleByAdamState):
            first = taken(node.mu, mu, "mu", 1.0)
            return optax.ScaleByAdamState(count, first, taken(node.nu, nu, "nu", 1.0))
        fields = getattr(node, "_fields", ())
        if fields:
            new = {name: walk(getattr(node, name)) for name in fields}
            if "mu" in new and is_owned(new["mu"]):
                raise ValueError(
                    "The momentum is stored with the owners of matrices: convert it "
                    "with layouts.local(), and move it with move_state."
                )
            if "mu" in new:
                new["mu"] = taken(new["mu"], mu, "mu", momentum_scale)
            if "count" in new and ("mu" in new or isinstance(node, COUNTING)):
                new["count"] = count
            return type(node)(**new)
        if type(node) is tuple:
            return tuple(map(walk, node))
        if isinstance(node, dict):
            return {key: walk(value) for key, value in node.items()}
        return node

    return walk(tx.init(params))


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_leaves_with_path(tree)


def _by_path(state: Any, field: str) -> dict[str, Any]:
    """The leaves below every field of a name, by their path in the parameters.

    A state that was restored without its classes has keys in the place of fields. What
    comes first is the field: a parameter may have such a name too.
    """
    held = {}
    for keys, leaf in _leaves(state):
        names = [getattr(key, "name", getattr(key, "key", None)) for key in keys]
        first = next((i for i, name in enumerate(names) if name in ("mu", "nu")), None)
        if first is not None and names[first] == field:
            held[path_of(keys[first + 1 :])] = leaf
    return held


def _holds(tree: Any, kind: type) -> bool:
    held = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, kind))
    return any(isinstance(node, kind) for node in held)

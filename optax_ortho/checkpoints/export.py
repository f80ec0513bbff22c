"""Registration of optimizer states with `jax.export`."""

from typing import Any

import jax
import jax.export


def register_for_export(state: Any) -> None:
    """Registers the NamedTuples of a state with `jax.export`, ours and Optax's.

    An exported step that takes or returns a state needs it before ``serialize`` and, in
    the program that loads it, before ``deserialize``. Types that are registered already
    are skipped.

    Args:
      state: a state, or its shapes from ``jax.eval_shape(tx.init, params)``.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_ortho
      >>> tx, params = optax_ortho.muon(0.02), {"kernel": jnp.ones((4, 6))}
      >>> register_for_export(jax.eval_shape(tx.init, params))
    """
    kinds: set[type] = set()

    def visit(node: Any) -> bool:
        if isinstance(node, tuple) and hasattr(node, "_fields"):
            if type(node) in kinds:
                return False
            kinds.add(type(node))
        return False

    jax.tree.leaves(state, is_leaf=visit)
    for kind in kinds:
        name = f"{kind.__module__}.{kind.__qualname__}"
        try:
            jax.export.register_namedtuple_serialization(kind, serialized_name=name)
        except ValueError as error:
            if "Duplicate" not in str(error):
                raise

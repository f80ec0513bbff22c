"""States as dicts of named arrays, the simplest kind of checkpoint.

Format 2: one entry for each leaf, with its dtype and shape, named by its path in the
state, such as
``inner/inner_states/matrix/inner_state/direction/momentum/mu/dense/kernel``; and an
entry ``format`` with the value 2. A path joins the fields of NamedTuples, keys and
indices by slashes. Any change of a path or a shape in the default state of a released
optimizer increments the format. Format 1 is read too, see
`optax_ortho.checkpoints.format_1`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_ortho.checkpoints.format_1 import renamed
from optax_ortho.inputs import misfit
from optax_ortho.matrices import path_of

FORMAT = 2


def to_flat(state: Any) -> dict[str, np.ndarray]:
    """The arrays of a state by path, for `numpy.savez` or any other store of arrays.

    Args:
      state: the state of an optimizer.

    Returns:
      Arrays in host memory by path, and the entry ``format``.

    Examples:
      >>> sorted(to_flat(optax.trace(0.9).init({"kernel": jnp.ones(2)})))
      ['format', 'trace/kernel']
    """
    keyed = jax.tree_util.tree_leaves_with_path(state)
    flat = {path_of(keys): np.asarray(leaf) for keys, leaf in keyed}
    return {**flat, "format": np.asarray(FORMAT)}


def from_flat(
    tx: optax.GradientTransformation, params: Any, flat: Mapping[str, Any]
) -> Any:
    """The state from the arrays of `to_flat`.

    Args:
      tx: the optimizer.
      params: its parameters, or their shapes as `jax.ShapeDtypeStruct`.
      flat: the result of `to_flat`, or `numpy.load` of it with ``allow_pickle=False``.

    Returns:
      The state, on the default device.

    Raises:
      ValueError: another format, or arrays that do not fit the parameters.

    Examples:
      >>> tx, params = optax.trace(0.9), {"kernel": jnp.ones(2)}
      >>> from_flat(tx, params, to_flat(tx.init(params)))
      TraceState(trace={'kernel': Array([0., 0.], dtype=float32)})
    """
    arrays = {name: flat[name] for name in flat}
    version = arrays.pop("format", None)
    if version is None or int(version) not in (1, FORMAT):
        raise ValueError(
            f"The checkpoint has format {version}, this release reads 1 and {FORMAT}. "
            "Read it with the release that wrote it."
        )
    planned = jax.eval_shape(tx.init, params)
    arrays = renamed(arrays, planned) if int(version) == 1 else arrays
    problem = misfit(arrays, planned)
    if problem:
        raise ValueError(problem)

    def load(keys, leaf):
        array = np.asarray(arrays[path_of(keys)])
        # numpy.save stores bfloat16 as raw bytes, without the name of the dtype.
        array = array.view(leaf.dtype) if array.dtype.kind == "V" else array
        return jnp.asarray(array, leaf.dtype)

    return jax.tree_util.tree_map_with_path(load, planned)

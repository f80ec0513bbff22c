"""Optimizers by name, for trees of matrices and stacks of matrices.

contrib_muon     optax.contrib.muon, with explicit dimension numbers
muon/local       a recipe of ours, and its layout
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

import optax_ortho
from optax_ortho import layouts

LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "local": lambda params: layouts.local(),
    "sharded": layouts.sharded,
    # It needs the mesh "groups" of `topologies.mesh`.
    "shared": lambda params: layouts.sharded(params, shared="group"),
}


def contender(name: str, params: Any) -> optax.GradientTransformation:
    """An optimizer for `params`, which are shapes with shardings.

    Raises:
      ValueError: an unknown recipe or layout.
    """
    if name == "contrib_muon":
        return contrib_muon(params)
    recipe, _, layout = name.partition("/")
    if layout not in LAYOUTS or recipe not in optax_ortho.__all__:
        known = ", ".join(LAYOUTS)
        raise ValueError(f"{name!r} is not a recipe/layout. Layouts: {known}.")
    return getattr(optax_ortho, recipe)(
        1e-3, labels=a_matrix, layout=LAYOUTS[layout](params)
    )


def contrib_muon(params: Any) -> optax.GradientTransformation:
    by_hand = jax.tree.map(
        lambda leaf: optax.contrib.MuonDimensionNumbers(leaf.ndim - 2, leaf.ndim - 1),
        params,
    )
    return optax.contrib.muon(1e-3, muon_weight_dimension_numbers=by_hand)


def a_matrix(path: str, leaf: Any) -> optax_ortho.Label:
    return optax_ortho.Label("matrix", optax_ortho.MatrixAxes())

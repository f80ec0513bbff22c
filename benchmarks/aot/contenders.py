"""Optimizers by name, for a tree in which every leaf is a matrix or a stack of them.

contrib_muon     optax.contrib.muon, with dimension numbers by hand
muon/local       a recipe of ours, and the layout that spreads it
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
    # Where the mesh is made for it, see `topologies.mesh`.
    "shared": lambda params: layouts.sharded(params, shared="group"),
}


def contender(name: str, params: Any) -> optax.GradientTransformation:
    """An optimizer of `params`, shapes with shardings.

    Raises:
      ValueError: an unknown recipe or layout.
    """
    if name == "contrib_muon":
        return contrib_muon(params)
    recipe, _, layout = name.partition("/")
    if layout not in LAYOUTS or recipe not in optax_ortho.__all__:
        known = ", ".join(LAYOUTS)
        raise ValueError(f"{name!r} is no recipe/layout, with a layout of: {known}.")
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

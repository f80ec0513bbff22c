"""Labels that keep a bias with its kernel."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from optax_ortho.kronecker.layers import layers_of, paths_and_leaves
from optax_ortho.labels import Label, Labeller
from optax_ortho.matrices import MatrixAxes

MATRIX = "matrix"


@dataclasses.dataclass(frozen=True)
class WithBiases:
    """Labels, but for biases that are rows of a matrix.

    Args:
      labels: of all other leaves.
      rows: the axes of those biases, by path.
    """

    labels: Labeller
    rows: Mapping[str, MatrixAxes]

    def label(self, path: str, leaf: Any) -> Label:
        """The label of a leaf."""
        if path in self.rows:
            return Label(MATRIX, self.rows[path])
        return self.labels.label(path, leaf)

    def axes(self, path: str, leaf: Any) -> MatrixAxes:
        """The axes of a leaf that is a matrix."""
        return self.rows[path] if path in self.rows else self.labels.axes(path, leaf)


def with_biases(labels: Labeller, tree: Any) -> WithBiases:
    """Labels by which the bias of a matrix is in its group.

    Only a leaf with the role "bias" moves; one that is frozen, say, stays frozen.
    """
    layers = layers_of(
        tree, labels.axes, lambda path, leaf: labels.label(path, leaf).role == MATRIX
    )
    leaves = paths_and_leaves(tree)
    return WithBiases(
        labels,
        {
            bias: axes
            for bias, axes in layers.rows.values()
            if labels.label(bias, leaves[bias]).role == "bias"
        },
    )

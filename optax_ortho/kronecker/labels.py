"""Labels that keep a bias with its kernel."""

import dataclasses
from typing import Any

from optax_ortho.kronecker.layers import Layers, layers_of, paths_and_leaves
from optax_ortho.labels import Label, Labeller
from optax_ortho.matrices import MatrixAxes

MATRIX = "matrix"


@dataclasses.dataclass(frozen=True)
class WithBiases:
    """Labels by which a bias that is a row of a matrix is a matrix too.

    Args:
      labels: of all other leaves.
      layers: the kernels with such a bias.
    """

    labels: Labeller
    layers: Layers

    def label(self, path: str, leaf: Any) -> Label:
        """The label of a leaf."""
        if path in self.layers.members:
            return Label(MATRIX, self.layers.axes_of(path, leaf))
        return self.labels.label(path, leaf)

    def axes(self, path: str, leaf: Any) -> MatrixAxes:
        """The axes of a leaf that is a matrix."""
        if path in self.layers.members:
            return self.layers.axes_of(path, leaf)
        return self.labels.axes(path, leaf)


def with_biases(labels: Labeller, tree: Any) -> WithBiases:
    """Labels by which the bias of a matrix is in its group.

    Only a leaf with the role "bias" moves; one that is frozen, say, stays frozen.

    Args:
      labels: of the parameters.
      tree: the parameters.
    """
    layers = layers_of(
        tree, labels.axes, lambda path, leaf: labels.label(path, leaf).role == MATRIX
    )
    leaves = paths_and_leaves(tree)
    rows = {
        kernel: (bias, axes)
        for kernel, (bias, axes) in layers.rows.items()
        if labels.label(bias, leaves[bias]).role == "bias"
    }
    return WithBiases(labels, Layers(labels.axes, rows))

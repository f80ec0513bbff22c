"""Choices about which matrices are orthogonalized, with the defaults of the library."""

import dataclasses

from optax_ortho.labels.program import CHOOSES, INPUT_LAYER, Reading
from optax_ortho.labels.roles import MATRIX, Label
from optax_ortho.matrices import MatrixAxes, Split


@dataclasses.dataclass(frozen=True)
class Policy:
    """Choices about which matrices are orthogonalized.

    What a parameter does in a program is a fact; whether its matrix should be
    orthogonalized is not always one. The evidence for each default is on the page
    "Choices of labels" of the documentation.

    Args:
      heads: whether the last projections, to logits or outputs, are. By default they
        are left to the fallback optimizer, as in every published recipe of Muon.
      input_layers: whether the matrices that see the inputs themselves are: patch
        embeddings, stems, first convolutions. By default they are; False gives them
        the role "input". Needs example inputs.
      routers: whether the matrices are whose results choose experts. By default they
        are vectors.
      separate_heads: whether each head of an attention is a matrix of its own. By
        default a projection is one matrix over all heads. Needs example inputs.

    Examples:
      >>> Policy(input_layers=False).input_layers
      False
    """

    heads: bool = False
    input_layers: bool = True
    routers: bool = False
    separate_heads: bool = False

    @property
    def needs_program(self) -> bool:
        """Whether only the forward pass can tell what this asks for."""
        return self.separate_heads or not self.input_layers

    def label(self, reading: Reading) -> Label:
        """The label of a parameter, from what its program says."""
        axes = reading.axes
        chosen = {
            "head": self.heads,
            "vector": self.routers and CHOOSES in reading.notes,
            MATRIX: self.input_layers or INPUT_LAYER not in reading.notes,
        }
        if axes is not None and chosen.get(reading.role, False):
            return Label(MATRIX, self._separated(axes, reading.heads))
        return Label("input" if reading.role == MATRIX else reading.role)

    def _separated(
        self, axes: MatrixAxes, heads: tuple[int, ...] | Split | None
    ) -> MatrixAxes:
        """The axes, with the axes of attention heads as batch axes or blocks."""
        if not self.separate_heads or heads is None:
            return axes
        if isinstance(heads, Split):
            return dataclasses.replace(axes, split=heads)
        rest = tuple(axis for axis in axes.fan_out if axis not in heads)
        return MatrixAxes(axes.fan_in, rest)

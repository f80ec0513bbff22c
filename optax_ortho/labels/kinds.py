"""Kinds of leaves: the same parameter of the same layer, in every block of a model."""

import re
from collections.abc import Iterable
from typing import Protocol, TypeVar


class Placed(Protocol):
    """Anything with the path and the shape of a leaf."""

    @property
    def path(self) -> str:
        """Its path."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        ...


Leaf = TypeVar("Leaf", bound=Placed)


def by_kind(leaves: Iterable[Leaf]) -> list[list[Leaf]]:
    """Leaves grouped by the end of their path, whatever its numbers, and their axes.

    Args:
      leaves: in any order; kinds keep it, and so do the leaves of each.

    Examples:
      >>> from optax_ortho.labels.exact import Leaf
      >>> paths = ["layer_0/qkv/w", "layer_0/up/w", "layer_1/qkv/w"]
      >>> [len(kind) for kind in by_kind([Leaf(path, (4, 12)) for path in paths])]
      [2, 1]
    """
    kinds: dict[tuple[str, int], list[Leaf]] = {}
    for leaf in leaves:
        kinds.setdefault((numberless(tail_of(leaf.path)), len(leaf.shape)), []).append(
            leaf
        )
    return list(kinds.values())


def tail_of(path: str) -> str:
    """The end of a path, from its last name but one; an index is no name.

    Examples:
      >>> tail_of("encoder/layers/0/up/kernel"), tail_of("encoder/layers/0/kernel")
      ('up/kernel', 'layers/0/kernel')
    """
    names = path.split("/")
    named = [i for i, name in enumerate(names) if re.search("[a-zA-Z]", name)]
    return "/".join(names[(named[-2:] or [0])[0] :])


def numberless(path: str) -> str:
    """A path with stars for its numbers.

    Examples:
      >>> numberless("layer_12/up/kernel")
      'layer_*/up/kernel'
    """
    return re.sub(r"\d+", "*", path)

"""Facts about an intermediate array while a program is read."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax.numpy as jnp

from optax_ortho.labels.program.views import Axis, Kind, View, foreign, resized

# A residual stream would collect the result of every layer. Only recent results matter,
# since a bias is added, and a fused result is cut, soon after its matrix.
VIEWS = 12


@dataclasses.dataclass(frozen=True)
class Value:
    """The facts about an array.

    Args:
      views: the parameters that it shows.
      last: leaves of the last matrices and tables that reach it.
      terms: of a scalar, the same of each term of its sum, as of a loss and of an
        auxiliary loss that was added; empty for one term.
      chosen_by: leaves whose results selected it, through top_k, argmax or a sort.
      data: whether it depends on an input.
      param: whether it depends on a parameter.
      normed: whether it was divided by a root, and not mixed with others since.
      repeated: axes along which it was broadcast, and is constant.
    """

    views: tuple[View, ...] = ()
    last: frozenset[int] = frozenset()
    terms: frozenset[frozenset[int]] = frozenset()
    chosen_by: frozenset[int] = frozenset()
    data: bool = False
    param: bool = False
    normed: bool = False
    repeated: frozenset[int] = frozenset()

    def of(self, *kinds: Kind) -> list[View]:
        """The views of some kinds."""
        return [view for view in self.views if view.kind in kinds]

    def replace(self, **changes) -> "Value":
        """The same facts but for some."""
        return dataclasses.replace(self, **changes)

    def each_term(self) -> frozenset[frozenset[int]]:
        """The last leaves of every term; of an array, there is one."""
        return self.terms or frozenset({self.last})

    def map(self, function: Callable[[View], View]) -> "Value":
        """The same facts, of other views."""
        return self.replace(views=tuple(map(function, self.views)))


def merged(values: Sequence[Value], views: Iterable[View] = (), **changes) -> Value:
    """The facts about an array that is computed from several."""
    return Value(
        views=tuple(dict.fromkeys(views))[-VIEWS:],
        last=frozenset[int]().union(*(value.last for value in values)),
        chosen_by=frozenset[int]().union(*(value.chosen_by for value in values)),
        data=any(value.data for value in values),
        param=any(value.param for value in values),
    ).replace(**changes)


def smooth(value: Value, dtype: Any) -> Value:
    """The value as an array of some dtype; nothing trains through an integer."""
    return value if is_float(dtype) else value.replace(last=frozenset())


def is_float(dtype: Any) -> bool:
    """Whether an array of this dtype can carry a derivative."""
    return jnp.issubdtype(dtype, jnp.inexact)


def refitted(value: Value, shape: Sequence[int]) -> Value:
    """The value where a called program sees other lengths (see `resized`)."""
    return value.map(lambda view: resized(view, shape))


def broadcast_axes(
    view: View, shape: Sequence[int], target: Sequence[int], places: Sequence[int]
) -> list[Axis]:
    """The axes after a broadcast; `places[i]` is the new position of axis i."""
    axes = [foreign(n) for n in target]
    for i, place in enumerate(places):
        if shape[i] == target[place]:
            axes[place] = view.axes[i]
    return axes

"""Abstract interpretation of a jaxpr that records how each parameter is used."""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jax.extend import core

from optax_ortho.labels.program.values import Value, refitted
from optax_ortho.labels.program.views import Atom, Axis, Kind, View

Equation = Any  # jax.extend.core.JaxprEqn
Rule = Callable[["Reader", Equation, list[Value]], list[Value]]
# Where an equation keeps the program that it calls.
INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr", "call", "callee")


class Use(NamedTuple):
    """One use of a parameter.

    Attributes:
      kind: "product" (a dot or a convolution), "grouped", "lookup", "mixed" (a product
        that contracts a part of an axis), "resized" (by a product, into the kernel
        of a convolution), "norm", "scale", "bias", "table" (added along
        axes that no matrix made), "token" (joined to activations), "activation" (on
        the left of another parameter), "reduced", or "unread", with the primitive.
      fan_in, fan_out: of a product, axes of the parameter.
      marks: the marks of the view; "complex" for a part of a complex matrix;
        "inputless" for a product with something that no input reaches, "constant" where
        no parameter does; "by hand" for one that is a sum of products.
      primitive: the name of the primitive that could not be read through.
    """

    kind: str
    fan_in: tuple[int, ...] = ()
    fan_out: tuple[int, ...] = ()
    marks: frozenset[str] = frozenset()
    primitive: str = ""


@dataclasses.dataclass
class Ledger:
    """Everything that a program says about its parameters, by the index of a leaf.

    Args:
      uses: every use of a leaf.
      cuts: atoms of its result that were taken apart from the rest.
      rejoined: those (leaf, atom) that were concatenated again.
      stacked: axes (leaf, axis) of its result that other leaves have as a batch axis.
      attention: atoms of its result that number the heads of an attention.
      consumed: leaves whose results reach another matrix.
      choosers: leaves whose results choose what reaches another matrix.
      inputs: leaves that meet an input which no parameter has touched.
      ends: leaves of the last matrices before an output.
      heads: the ones among them that no matrix follows.
      outputs: leaves that are the only last one of an output.
    """

    uses: dict[int, set[Use]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(set)
    )
    cuts: dict[int, set[Atom]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(set)
    )
    rejoined: set[tuple[int, Atom]] = dataclasses.field(default_factory=set)
    stacked: set[tuple[int, int]] = dataclasses.field(default_factory=set)
    attention: dict[int, set[Atom]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(set)
    )
    consumed: set[int] = dataclasses.field(default_factory=set)
    choosers: set[int] = dataclasses.field(default_factory=set)
    inputs: set[int] = dataclasses.field(default_factory=set)
    ends: set[int] = dataclasses.field(default_factory=set)
    heads: set[int] = dataclasses.field(default_factory=set)
    outputs: set[int] = dataclasses.field(default_factory=set)


class Reader:
    """Follows parameters through a program, one rule for each primitive.

    Args:
      leaves: the parameters, as anything with a shape and a dtype.
      rules: the rule of each primitive, by name: a function of the reader, the
        equation and the values of its operands that gives the values of its results.
      unread: the rule for every other primitive.
    """

    def __init__(self, leaves: Sequence[Any], rules: Mapping[str, Rule], unread: Rule):
        self.leaves = leaves
        self.rules = rules
        self.unread = unread
        self.ledger = Ledger()

    def use(self, view: View, kind: str, *axes: tuple[int, ...], **more: Any) -> None:
        """Records a use of the parameter that a view shows."""
        if view.leaf >= 0:
            marks = view.marks | more.pop("marks", frozenset())
            self.ledger.uses[view.leaf].add(Use(kind, *axes, marks=marks, **more))

    def lose(self, value: Value, primitive: str) -> None:
        """Records that the parameters in a value cannot be followed any further."""
        for view in value.of(Kind.WEIGHT):
            self.use(view, "unread", primitive=primitive)

    def moved(
        self,
        value: Value,
        axes: Callable[[View], Sequence[Axis] | None],
        primitive: str,
    ) -> Value:
        """The value with the axes of its views moved; None drops a view."""
        views = []
        for view in value.views:
            placed = axes(view)
            if placed is not None:
                views.append(view.at(placed))
            elif view.kind is Kind.WEIGHT:
                self.use(view, "unread", primitive=primitive)
        return value.replace(views=tuple(views), repeated=frozenset())

    def run(self, jaxpr: Any, arguments: Sequence[Value]) -> list[Value]:
        """The values of the results of a jaxpr, closed or not."""
        jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
        known: dict[Any, Value] = {variable: Value() for variable in jaxpr.constvars}
        known.update(zip(jaxpr.invars, arguments, strict=True))

        def read(atom):
            return Value() if isinstance(atom, core.Literal) else known[atom]

        for equation in jaxpr.eqns:
            values = self.equation(equation, [read(atom) for atom in equation.invars])
            known.update(zip(equation.outvars, values, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, equation: Equation, values: list[Value]) -> list[Value]:
        """The values of the results of one equation."""
        name = equation.primitive.name
        if name in self.rules:
            return self.rules[name](self, equation, values)
        inner = called(equation)
        if inner is None:
            return self.unread(self, equation, values)
        shapes = [variable.aval.shape for variable in inner.invars]
        results = self.run(inner, list(map(refitted, values, shapes)))
        shapes = [variable.aval.shape for variable in equation.outvars]
        return list(map(refitted, results, shapes))


def called(equation: Equation) -> Any:
    """The program that an equation calls with its own operands, or None.

    This is how jit, remat, custom derivatives and shard_map appear, by whatever name.
    """
    for name in INNER:
        inner = equation.params.get(name)
        inner = getattr(inner, "jaxpr", inner)
        if hasattr(inner, "eqns") and len(inner.invars) == len(equation.invars):
            return inner
    return None

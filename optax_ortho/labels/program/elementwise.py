"""The rule of elementwise primitives: biases, scales, and weights made of weights."""

from collections.abc import Sequence

from jax.extend import core

from optax_ortho.labels.program.movement import broadcast
from optax_ortho.labels.program.reader import Equation, Reader
from optax_ortho.labels.program.values import Value, merged, smooth
from optax_ortho.labels.program.views import FOREIGN, WEIGHTS, Kind, View, leaf_axes

PRODUCTS = frozenset({"mul", "div"})
SUMS = frozenset({"add", "sub", "add_any"})
ROOTS = frozenset({"sqrt", "rsqrt"})


def elementwise(reader: Reader, equation: Equation, values: list[Value]) -> list[Value]:
    """The value of an elementwise primitive, whose operands broadcast."""
    name, result = equation.primitive.name, equation.outvars[0].aval
    # Axes of length one, and scalars, are broadcast without an equation of their own.
    full = [len(operand.aval.shape) == len(result.shape) for operand in equation.invars]
    everywhere = frozenset(range(len(result.shape)))
    values = [
        broadcast(reader, value, operand.aval.shape, result.shape)
        if whole
        else value.replace(repeated=everywhere)
        for value, operand, whole in zip(values, equation.invars, full, strict=True)
    ]
    literal = all(isinstance(operand, core.Literal) for operand in equation.invars[1:])
    views: list[View] = []
    for i, value in enumerate(values):
        others = [other for j, other in enumerate(values) if j != i]
        for view in value.views if full[i] else value.of(Kind.WEIGHT):
            kept = _kept(reader, name, view, others, literal, full[i])
            views += [] if kept is None else [kept]
    terms = _terms(name, values) if result.shape == () else frozenset()
    value = merged(
        values,
        views,
        normed=_normed(name, values),
        terms=terms,
        repeated=frozenset.intersection(*(value.repeated for value in values)),
    )
    return [smooth(value, result.dtype)]


def _kept(
    reader: Reader,
    name: str,
    view: View,
    others: Sequence[Value],
    literal: bool,
    full: bool,
) -> View | None:
    """The view in the result, or None after its use was recorded."""
    # What the parameter itself was reduced to, as its norm, is no result.
    own = [other for other in others if _shows(other, view.leaf)]
    mixed = any(
        other.data or (other not in own and _is_result(other, view)) for other in others
    )
    if view.kind is Kind.IOTA:
        if name == "eq":
            return view.at(view.axes, kind=Kind.ONE_HOT)
        return None if mixed else view
    if view.kind is Kind.ONE_HOT and name in SUMS and any(o.views for o in others):
        return None
    if view.kind in (Kind.RESULT, Kind.ONE_HOT):
        return view
    if view.kind is Kind.SCALED:
        return None
    partners = [w for other in others for w in other.of(*WEIGHTS)]
    if view.kind is Kind.PRODUCT and name in SUMS and _adapted(partners, view):
        # W + A @ B, as in an adapter: A has no input behind it, and is a matrix.
        reader.use(view, "product", leaf_axes(view.axes), view.inner)
        return None
    if not mixed and full and _rank(view) >= max(map(_rank, partners), default=0):
        plain = name in ("neg", "select_n") or (literal and name in PRODUCTS | SUMS)
        return view if plain else view.marked("computed")
    if view.kind is not Kind.WEIGHT or (own and not mixed):
        return None
    if name == "mul" and full and _selects(others, view):
        reader.use(view, "lookup")
        return view.at(view.axes, kind=Kind.LOOKUP)
    reader.use(view, _small(name, view, others))
    return _scaled(view, others) if name == "mul" and full else None


def _selects(others: Sequence[Value], view: View) -> bool:
    """Whether a one-hot encoding selects entries of a weight, to be summed later."""
    return any(
        leaf_axes([hot]) and leaf_axes([axis])
        for other in others
        for encoding in other.of(Kind.ONE_HOT)
        for hot, axis in zip(encoding.axes, view.axes, strict=True)
    )


def _adapted(partners: Sequence[View], product: View) -> bool:
    """Whether a product of parameters is added to a matrix, and not to a bias."""
    rows = [i for i, axis in enumerate(product.axes) if leaf_axes([axis])]
    return any(
        _rank(partner) > 1 and all(leaf_axes([partner.axes[i]]) for i in rows)
        for partner in partners
        if len(partner.axes) == len(product.axes)
    )


def _shows(value: Value, leaf: int) -> bool:
    return any(view.leaf == leaf for view in value.of(Kind.WEIGHT))


def _is_result(value: Value, beside: View) -> bool:
    """Whether a value is what matrices made, and no number that scales a weight.

    Spectral normalization divides a weight by a number that its own products made.
    """
    if not value.last or value.of(Kind.PRODUCT):
        return False
    return any(
        leaf_axes([axis])
        for i, axis in enumerate(beside.axes)
        if i not in value.repeated
    )


def _scaled(view: View, others: Sequence[Value]) -> View | None:
    """A weight times an input that is repeated along some of its axes.

    Summed over its other axes, this is a matrix product written by hand.
    """
    repeated = frozenset[int]().union(*(other.repeated for other in others))
    inner = leaf_axes([view.axes[i] for i in sorted(repeated)])
    return view.at(view.axes, kind=Kind.SCALED, inner=inner) if inner else None


def _small(name: str, view: View, others: Sequence[Value]) -> str:
    """The use of a parameter that meets a result elementwise."""
    if any(other.normed for other in others):
        return "norm"
    if name not in SUMS:
        return "scale"
    results = [w for other in others for w in other.of(Kind.RESULT)]
    made = {
        i
        for result in results
        if len(result.axes) == len(view.axes)
        for i, axis in enumerate(result.axes)
        if leaf_axes([axis])
    }
    held = {i for i, axis in enumerate(view.axes) if _rank(view.at([axis]))}
    return "table" if held - made and _rank(view) > 1 else "bias"


def _normed(name: str, values: Sequence[Value]) -> bool:
    """Whether a result was divided by a root, as in a normalization layer."""
    if name in ROOTS:
        return True
    before = any(value.normed for value in values)
    affine = name in PRODUCTS or (
        name in SUMS and not all(value.data for value in values)
    )
    return before and affine


def _terms(name: str, values: Sequence[Value]) -> frozenset[frozenset[int]]:
    """The terms of a scalar: of all summands, or of the one scalar that is scaled."""
    trained = [value for value in values if value.last]
    if name not in SUMS and len(trained) != 1:
        return frozenset()
    return frozenset[frozenset[int]]().union(*(each.each_term() for each in trained))


def _rank(view: View) -> int:
    """The number of parameter axes in a view that are longer than one."""
    return len(
        {
            atom.axis
            for axis in view.axes
            for atom in axis
            if atom.axis != FOREIGN and atom.size > 1
        }
    )

"""Rules of loops and branches."""

import functools
from collections.abc import Callable, Sequence

from jax.extend import core

from optax_ortho.labels.program.reader import Ledger, Reader
from optax_ortho.labels.program.values import Value, merged
from optax_ortho.labels.program.views import Kind, foreign

PASSES = 8  # More than a loop was seen to need, and each pass can only learn more.


def scan(reader, equation, values):
    """A loop over the first axis: what is scanned over is a stack."""
    params = equation.params
    body = params["jaxpr"].jaxpr
    constants = params["num_consts"]
    carried = constants + params["num_carry"]
    rows = [
        reader.moved(value, lambda view: view.axes[1:], "scan")
        for value in values[carried:]
    ]

    def step(carry):
        return reader.run(body, [*values[:constants], *carry, *rows])

    carry, results = _fixed_point(reader, step, values[constants:carried])
    outputs = list(carry)
    for variable, result in zip(
        body.outvars[len(carry) :], results[len(carry) :], strict=True
    ):
        scanned = body.invars[carried:]
        if isinstance(variable, core.Var) and variable in scanned:  # Passed through.
            outputs.append(values[carried + scanned.index(variable)])
            continue
        length = foreign(params["length"])
        made = (v.at((length, *v.axes)) for v in result.of(Kind.RESULT))
        outputs.append(result.replace(views=tuple(made)))
    return outputs


def while_(reader, equation, values):
    """A loop with a condition, of which fori_loop is one."""
    params = equation.params
    first = params["cond_nconsts"]
    carried = first + params["body_nconsts"]

    def step(carry):
        return reader.run(params["body_jaxpr"], [*values[first:carried], *carry])

    carry, _ = _fixed_point(reader, step, values[carried:])
    return carry


def cond(reader, equation, values):
    """Branches: the facts that hold whichever is taken."""
    index, *operands = values
    branches = [reader.run(branch, operands) for branch in equation.params["branches"]]
    join = functools.partial(_join, reader)
    joined = [functools.reduce(join, group) for group in zip(*branches, strict=True)]
    return [
        value.replace(
            data=value.data or index.data,
            chosen_by=value.chosen_by | index.chosen_by,
        )
        for value in joined
    ]


def _fixed_point(
    reader: Reader,
    step: Callable[[Sequence[Value]], list[Value]],
    carry: Sequence[Value],
) -> tuple[list[Value], list[Value]]:
    """The carry of a loop once nothing new comes around, and all results of a step."""
    ledger, carry = reader.ledger, list(carry)
    for _ in range(PASSES):
        # What a carry shows that is not complete, as one of zeros, is not recorded.
        reader.ledger = Ledger()
        results = step(carry)
        pairs = zip(carry, results[: len(carry)], strict=True)
        reader.ledger = ledger
        joined = [_join(reader, before, after) for before, after in pairs]
        if joined == carry:
            break
        carry = joined
    return carry, step(carry)


def _join(reader: Reader, a: Value, b: Value) -> Value:
    """The facts that hold in both of two cases."""
    for view in a.of(Kind.WEIGHT):
        if view not in b.views:
            reader.use(view, "activation")  # A learned initial state.
    views = [view for view in a.views if view in b.views]
    terms = a.each_term() | b.each_term() if a.terms or b.terms else frozenset()
    return merged([a, b], views, normed=a.normed and b.normed, terms=terms)

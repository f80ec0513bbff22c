"""The inputs that a program uses."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core


def used(f: Callable[..., Any], tree: Any) -> Any:
    """Whether each leaf of a function's argument is used.

    A jitted function that was traced before is not called again in a later trace, but
    its program is part of the trace, and is read here.

    Args:
      f: a function of one argument, that returns arrays.
      tree: the argument, a tree of arrays.

    Returns:
      The tree with a boolean in the place of each leaf. An input that is only handed
      to a part of the program which ignores it is not used.

    Examples:
      >>> jitted = jax.jit(lambda x, y: 2 * x)
      >>> used(lambda xs: jitted(xs["a"], xs["b"]), {"a": 1.0, "b": 2.0})
      {'a': True, 'b': False}
    """
    program = jax.make_jaxpr(f)(tree)
    return jax.tree.unflatten(jax.tree.structure(tree), _used(program.jaxpr))


def _used(program: Any) -> list[bool]:
    consumed = {
        variable
        for equation in program.eqns
        for variable, is_used in zip(equation.invars, _operands(equation), strict=True)
        if is_used and isinstance(variable, core.Var)
    }
    consumed |= {value for value in program.outvars if isinstance(value, core.Var)}
    return [variable in consumed for variable in program.invars]


def _operands(equation: Any) -> list[bool]:
    """Whether each operand of an equation is used by it."""
    number = len(equation.invars)
    operands = [True] * number
    inside = list(_programs(tuple(equation.params.values())))
    if inside and all(len(program.invars) <= number for program in inside):
        operands = [False] * number
        for program in inside:
            # The first operands that a program lacks decide which program runs, as the
            # index of jax.lax.switch, or belong to the condition of a loop.
            first = number - len(program.invars)
            operands[:first] = [True] * first
            for i, is_used in enumerate(_used(program), first):
                operands[i] |= is_used
    return operands


def _programs(value: Any) -> Iterator[Any]:
    """The programs in a parameter of an equation, such as the branches of a switch."""
    if isinstance(value, core.ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, core.Jaxpr):
        yield value
    elif isinstance(value, tuple):
        for entry in value:
            yield from _programs(entry)

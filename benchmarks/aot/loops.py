"""Trip counts of loops, found by running their counters.

The compilers for CPU and GPU write ``known_trip_count`` into a loop. For the TPU
compiler, which does not, the integers in the loop's state are followed from their
constant start through condition and body until the condition is false.
"""

import operator

from benchmarks.aot.hlo import Computation, Instruction, Program, arrays, root

MOST = 100_000
PASSING = ("copy", "bitcast", "convert", "reshape", "copy-start", "copy-done")
BINARY = {"add": operator.add, "subtract": operator.sub, "multiply": operator.mul}
COMPARE = {
    "LT": operator.lt,
    "LE": operator.le,
    "GT": operator.gt,
    "GE": operator.ge,
    "EQ": operator.eq,
    "NE": operator.ne,
}

Known = int | tuple | None
"""An integer, a tuple of known values, or None for unknown values."""


def trips(program: Program, around: Computation, loop: Instruction) -> int | None:
    """The trip count of a ``while`` in the computation `around`; None if unknown."""
    written = loop.attribute(r'known_trip_count"?:\{"n":"(\d+)"')
    if written is not None:
        return int(written)
    condition, body = (
        program.computations[loop.called(key)[0]] for key in ("condition", "body")
    )
    state = _value(program, around, around[loop.operands[0]], ())
    for count in range(MOST):
        goes_on = _value(program, condition, root(condition), (state,))
        if not goes_on:
            return None if goes_on is None else count
        state = _value(program, body, root(body), (state,))
    return None


def _value(
    program: Program,
    computation: Computation,
    i: Instruction,
    inputs: tuple[Known, ...],
) -> Known:
    """The integer result of an instruction for these parameters, if it has one."""

    def operand(k: int) -> Known:
        return _value(program, computation, computation[i.operands[k]], inputs)

    def operands() -> tuple[Known, ...]:
        return tuple(operand(k) for k in range(len(i.operands)))

    if i.opcode == "parameter":
        return inputs[int(i.inside)] if inputs else None
    if i.opcode == "tuple":
        return operands()
    if i.opcode == "get-tuple-element":
        whole = operand(0)
        number = int(i.need(r"index=(\d+)"))
        return whole[number] if isinstance(whole, tuple) else None
    dtype, dimensions, _ = arrays(i.shape)[0]
    if dimensions or dtype not in ("pred", "s32", "u32", "s64", "u64"):
        return None
    if i.opcode == "constant":
        return int(i.inside) if i.inside.lstrip("-").isdigit() else i.inside == "true"
    if i.opcode in PASSING:
        return operand(0)
    if i.opcode in ("fusion", "call"):
        inner = program.computations[i.called("calls|to_apply")[0]]
        return _value(program, inner, root(inner), operands())
    direction = i.attribute(r"direction=(\w+)")
    function = COMPARE[direction] if direction else BINARY.get(i.opcode)
    if function is None or None in (both := operands()):
        return None
    return function(*both)

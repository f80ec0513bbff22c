"""The role of every parameter of many small programs, worked out by hand."""

import pytest

from tests.labels.program import (
    attention,
    calls,
    control,
    elementwise,
    experts,
    functions,
    fused,
    heads,
    lookups,
    movement,
    products,
)
from tests.labels.program.case import roles

ROOMS = (
    movement,
    lookups,
    elementwise,
    products,
    control,
    calls,
    functions,
    attention,
    experts,
    heads,
    fused,
)
CASES = {
    f"{room.__name__.rsplit('.')[-1]}: {name}": case
    for room in ROOMS
    for name, case in room.table.items()
}


@pytest.mark.parametrize("name", CASES)
def test_roles(name):
    case = CASES[name]
    assert roles(case) == case.expected

"""The 25 requirements in order. A check takes a subject and returns its result."""

from collections.abc import Callable

from tests.reliability import bar_misuse, bar_numbers, bar_places, bar_programs
from tests.reliability.bar_numbers import NotPromised as NotPromised
from tests.reliability.subjects import Subject

_CHECKS = {
    name: check
    for module in (bar_numbers, bar_programs, bar_places, bar_misuse)
    for name, check in vars(module).items()
    if name.removeprefix("b").isdigit()
}
BAR: dict[str, Callable[[Subject], str]] = {
    f"B{number}": _CHECKS[f"b{number}"] for number in range(1, 26)
}

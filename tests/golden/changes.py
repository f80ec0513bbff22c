"""A case of a set with other facts, for tests that a replay can fail."""

import copy
from typing import Any

from tests.golden.replay import DATA, Line, replay_set
from tests.golden.sets import GoldenSet, read_set


def changed(
    name: str, case: str, change: dict[str, Any], part: str | None = None
) -> GoldenSet:
    """A set with only one case, and other hyperparameters in it.

    They stand under "hyper", in a `part` of another name, or among the case's facts.
    """
    golden = read_set(DATA / f"{name}.json")
    facts = copy.deepcopy(dict(golden.facts))
    one = facts["cases"][case]
    facts["cases"] = {case: one}
    one.get(part or "hyper", one).update(change)
    return golden._replace(facts=facts)


def replayed(golden: GoldenSet) -> Line:
    (line,) = replay_set(golden)
    return line

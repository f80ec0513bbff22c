"""A replay of the step controllers notices a wrong hyperparameter."""

import copy

import pytest

from tests.golden.replay import DATA, replay_set
from tests.golden.sets import read_set

pytestmark = pytest.mark.slow


def replayed(case, part, change):
    golden = read_set(DATA / "ghosts.json")
    facts = copy.deepcopy(dict(golden.facts))
    facts["cases"] = {case: facts["cases"][case]}
    changed = facts["cases"][case]
    (changed["kw"] if part == "kw" else changed).update(change)
    (line,) = replay_set(golden._replace(facts=facts))
    return line


WRONG = [
    ("sgd_cap", "kw", {"r": 0.99}),
    ("sgd_cap", "kw", {"mode": "set"}),
    ("sgd_cap", "kw", {"mom": 0.89}),
    ("sgd_cap", "kw", {"lrs": [0.05, 0.2, 5.0]}),  # The second step was capped.
    ("sgd_cap", "case", {"act": "relu"}),
    ("rsa", "kw", {"rhoFloor": 0.2}),
    ("rsa", "kw", {"rhoCap": 0.1}),
    ("rsa", "kw", {"rhoMethod": "top2"}),
    ("rsa", "kw", {"weight_decay": 0.1}),
]


@pytest.mark.parametrize("case, part, change", WRONG)
def test_a_wrong_hyperparameter_fails(case, part, change):
    line = replayed(case, part, change)
    assert line.verdict == "FAIL" and line.error > line.tolerance  # And no exception.


@pytest.mark.parametrize(
    "case, part, change, reason",
    [
        ("sgd_cap", "kw", {"quantile": 0.9}, "quantile"),
        ("sgd_cap", "kw", {"mode": "other"}, "mode='other'"),
        ("sgd_cap", "case", {"act": "cube"}, "'cube'"),
        ("rsa", "case", {"kind": "other"}, "'other'"),
    ],
)
def test_what_is_not_known_is_unsupported(case, part, change, reason):
    line = replayed(case, part, change)
    assert line.verdict == "unsupported" and reason in line.reason

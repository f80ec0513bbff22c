"""A replay of the step controllers notices a wrong hyperparameter."""

import pytest

from tests.golden.changes import changed, replayed

pytestmark = pytest.mark.slow


WRONG = [
    ("sgd_cap", "kw", {"r": 0.99}),
    ("sgd_cap", "kw", {"mode": "set"}),
    ("sgd_cap", "kw", {"mom": 0.89}),
    ("sgd_cap", "kw", {"lrs": [0.05, 0.2, 5.0]}),  # The second step was capped.
    ("sgd_cap", None, {"act": "relu"}),
    ("rsa", "kw", {"rhoFloor": 0.2}),
    ("rsa", "kw", {"rhoCap": 0.1}),
    ("rsa", "kw", {"rhoMethod": "top2"}),
    ("rsa", "kw", {"weight_decay": 0.1}),
]


@pytest.mark.parametrize("case, part, change", WRONG)
def test_a_wrong_hyperparameter_fails(case, part, change):
    line = replayed(changed("ghosts", case, change, part))
    assert line.verdict == "FAIL" and line.error > line.tolerance  # And no exception.


@pytest.mark.parametrize(
    "case, part, change, reason",
    [
        ("sgd_cap", "kw", {"quantile": 0.9}, "quantile"),
        ("sgd_cap", "kw", {"mode": "other"}, "mode='other'"),
        ("sgd_cap", None, {"act": "cube"}, "'cube'"),
        ("rsa", None, {"kind": "other"}, "'other'"),
    ],
)
def test_what_is_not_known_is_unsupported(case, part, change, reason):
    line = replayed(changed("ghosts", case, change, part))
    assert line.verdict == "unsupported" and reason in line.reason

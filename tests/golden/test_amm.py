"""A replay of adaptive memory notices wrong hyperparameters."""

import copy

import pytest

from tests.golden.replay import Line, replay_set
from tests.golden.sets import read_set
from tests.golden.test_replay import DATA

WRONG = [
    ("amm_sgd", {"lr_per_step": [0.1, 0.1, 0.11]}),
    ("amm_sgd", {"beta_max": 0.7}),
    ("amm_sgd", {"model_lambda": 0.2}),
    ("amm_sgd", {"weight_decay": 1.0}),
    ("amm_adamw", {"lr_per_step": [2e-4, 6e-4, 1.1e-3]}),
    ("amm_adamw", {"betas": [0.9, 0.95]}),
    ("amm_adamw", {"weight_decay": 0.0}),
    ("amm_adamw", {"model_lambda": 0.2}),
]


def with_change(name: str, change: dict) -> Line:
    golden = read_set(DATA / f"{name}.json")
    facts = copy.deepcopy(dict(golden.facts))
    (case,) = facts["cases"].values()
    case.update(change)
    (line,) = replay_set(golden._replace(facts=facts))
    return line


@pytest.mark.parametrize("name, change", WRONG)
def test_a_wrong_hyperparameter_fails(name, change):
    assert with_change(name, change).verdict == "FAIL"


@pytest.mark.parametrize(
    "change, reason",
    [({"amsgrad": True}, "amsgrad"), ({"class": "AM_Lion"}, "AM_Lion")],
)
def test_what_is_not_known_is_unsupported(change, reason):
    line = with_change("amm_adamw", change)
    assert line.verdict == "unsupported" and reason in line.reason

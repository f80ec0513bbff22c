"""A replay of AuON notices a wrong hyperparameter."""

import pytest

from tests.golden.changes import changed, replayed

pytestmark = pytest.mark.slow

WRONG = [
    ("auon_head", {"momentum": 0.9}),
    ("auon_head", {"lr": 0.241}),
    ("auon_head", {"gamma": 3.0}),
    ("hybrid_1step", {"ns_steps": 2}),
    ("hybrid_1step", {"weight_decay": 0.0}),
    ("auon_v1_fp32", {"nesterov": False}),
]


@pytest.mark.parametrize("case, change", WRONG)
def test_a_wrong_hyperparameter_fails(case, change):
    assert replayed(changed("auon", case, change)).verdict == "FAIL"


def test_what_is_not_known_is_unsupported():
    line = replayed(changed("auon", "auon_head", {"delta": 1e-8}))
    assert line.verdict == "unsupported" and "delta" in line.reason

"""A replay of NAMO notices a wrong hyperparameter, and a wrong second moment."""

import pytest

from tests.golden.changes import changed, replayed
from tests.golden.replay import DATA, replay_set
from tests.golden.sets import read_set

pytestmark = pytest.mark.slow

WRONG = [
    ("namo_default", {"wd": 0.12}),
    ("namo_default", {"nesterov": False}),
    ("namo_default", {"scale_coeff": 0.201}),
    ("namo_default", {"adamnorm_eps": 1e-2}),
    ("namo_default", {"class": "NAMO_D"}),
    ("namod_c012", {"mu2": 0.98}),
    ("namod_c012", {"col_state_clamp_c": 0.9}),
]


@pytest.mark.parametrize("case, change", WRONG)
def test_a_wrong_hyperparameter_fails(case, change):
    assert replayed(changed("namo", case, change)).verdict == "FAIL"


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"amsgrad": True}, "amsgrad"),
        ({"class": "NAMO_E"}, "NAMO_E"),
        ({"col_state_clamp_c": 0.5}, "col_state_clamp_c"),
    ],
)
def test_what_is_not_known_is_unsupported(change, reason):
    line = replayed(changed("namo", "namo_default", change))
    assert line.verdict == "unsupported" and reason in line.reason


def test_a_wrong_second_moment_fails():
    golden = read_set(DATA / "namo.json")
    wrong = {"namo_default/step2/v0": 1.001 * golden.arrays["namo_default/step2/v0"]}
    golden = golden._replace(arrays={**golden.arrays, **wrong})
    verdicts = {line.case: line.verdict for line in replay_set(golden)}
    assert verdicts == {"namo_default": "FAIL", "namod_c012": "ok"}

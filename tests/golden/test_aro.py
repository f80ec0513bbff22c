"""A replay of ARO notices what is wrong."""

import pytest

from tests.golden.changes import changed, replayed

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "case, change",
    [
        ("paper_sink", {"sinkhorn_iters": 4}),
        ("paper_sink", {"momentum": 0.9}),
        ("paper_sink", {"weight_decay": 0.0}),
        ("dion_rownorm", {"adjust_lr": "rms_norm"}),
        ("dion_rownorm", {"base_opt": "sign"}),
    ],
)
def test_a_wrong_hyperparameter_fails(case, change):
    assert replayed(changed("aro", case, {})).verdict == "ok"
    assert replayed(changed("aro", case, change)).verdict == "FAIL"


def test_what_is_not_known_is_unsupported():
    line = replayed(changed("aro", "dion_rownorm", {"base_opt": "adam"}))
    assert line.verdict == "unsupported" and "adam" in line.reason
    line = replayed(changed("aro", "dion_rownorm", {"nesterov": True}))
    assert line.verdict == "unsupported" and "nesterov" in line.reason


def test_ill_posed_parameters_are_not_compared():
    golden = changed("aro", "paper_sink", {"lr": 1.0})
    facts = {**golden.facts, "ill_posed_params": [0]}
    line = replayed(golden._replace(facts=facts))
    assert line.verdict == "unsupported" and "ill-posed" in line.reason

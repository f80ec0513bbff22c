"""A replay of ARO notices what is wrong."""

import pytest

from tests.golden.replay import DATA, replay_set
from tests.golden.sets import read_set

pytestmark = pytest.mark.slow


def replayed(name, case, change, **facts):
    """The line of one case with other hyperparameters or facts."""
    golden = read_set(DATA / f"{name}.json")
    hyper = {**golden.facts["cases"][case], **change}
    golden = golden._replace(facts={**golden.facts, "cases": {case: hyper}, **facts})
    (line,) = replay_set(golden)
    return line


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
    assert replayed("aro", case, {}).verdict == "ok"
    assert replayed("aro", case, change).verdict == "FAIL"


def test_what_is_not_known_is_unsupported():
    line = replayed("aro", "dion_rownorm", {"base_opt": "adam"})
    assert line.verdict == "unsupported" and "adam" in line.reason
    line = replayed("aro", "dion_rownorm", {"nesterov": True})
    assert line.verdict == "unsupported" and "nesterov" in line.reason


def test_ill_posed_parameters_are_not_compared():
    line = replayed("aro", "paper_sink", {"lr": 1.0}, ill_posed_params=[0])
    assert line.verdict == "unsupported" and "ill-posed" in line.reason

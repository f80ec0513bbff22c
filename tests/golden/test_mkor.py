"""A replay of MKOR notices a wrong hyperparameter, and a wrong rule."""

import numpy as np
import pytest

from tests.golden.changes import changed, replayed
from tests.golden.replay import DATA, replay_set
from tests.golden.sets import read_set

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "case, change",
    [
        ("sgd", {"momentum": 0.8}),
        ("sgd", {"inv_freq": 2}),
        ("sgd", {"weight_decay": 0.1}),
        ("sgd", {"sgd_layers": [0]}),
        ("sgd_invfreq2", {"lr": 0.101}),
        ("sgd_invfreq2", {"warmup_steps": 2}),
        ("sgd_invfreq2", {"clipping_value": 0.1}),
        ("sgd_invfreq2", {"force_reset": 2}),
        ("sgd_invfreq2", {"grad_scale": 2.0}),
    ],
    ids=str,
)
def test_a_wrong_hyperparameter_fails(case, change):
    line = replayed(changed("mkor", case, change))
    assert line.verdict == "FAIL" and line.error is not None, line


def test_factors_and_gradients_are_compared():
    for key in ("step5/Linv0", "step5/pg_b0"):
        bad = {f"sgd_invfreq2/{key}": np.ones((16, 16) if "inv" in key else 16)}
        golden = changed("mkor", "sgd_invfreq2", {})
        golden = golden._replace(arrays={**golden.arrays, **bad})
        assert replayed(golden).verdict == "FAIL", key


@pytest.mark.parametrize(
    "change",
    [
        {"half_precision": True},
        {"optimizer": "lion"},
        {"grad_accum_steps": 2},
        {"x": 1},
    ],
    ids=str,
)
def test_what_is_not_known_is_unsupported(change):
    assert replayed(changed("mkor", "sgd", change)).verdict == "unsupported"


def test_a_wrong_gamma_fails():
    golden = read_set(DATA / "mkor_rules_derived.json")
    facts = {**golden.facts, "gamma": 0.9}
    verdicts = {
        line.case: line.verdict for line in replay_set(golden._replace(facts=facts))
    }
    assert verdicts.pop("code_damped") == "ok"  # Its numbers stand in the code.
    assert set(verdicts.values()) == {"FAIL"}

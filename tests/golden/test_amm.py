"""A replay of adaptive memory notices wrong hyperparameters."""

import pytest

from tests.golden.changes import changed, replayed

WRONG = [
    ("amm_sgd", "am_msgd_wd", {"lr_per_step": [0.1, 0.1, 0.11]}),
    ("amm_sgd", "am_msgd_wd", {"beta_max": 0.7}),
    ("amm_sgd", "am_msgd_wd", {"model_lambda": 0.2}),
    ("amm_sgd", "am_msgd_wd", {"weight_decay": 1.0}),
    ("amm_adamw", "am_adamw_wd_sched", {"lr_per_step": [2e-4, 6e-4, 1.1e-3]}),
    ("amm_adamw", "am_adamw_wd_sched", {"betas": [0.9, 0.95]}),
    ("amm_adamw", "am_adamw_wd_sched", {"weight_decay": 0.0}),
    ("amm_adamw", "am_adamw_wd_sched", {"model_lambda": 0.2}),
]


@pytest.mark.parametrize("name, case, change", WRONG)
def test_a_wrong_hyperparameter_fails(name, case, change):
    assert replayed(changed(name, case, change)).verdict == "FAIL"


@pytest.mark.parametrize(
    "change, reason",
    [({"amsgrad": True}, "amsgrad"), ({"class": "AM_Lion"}, "AM_Lion")],
)
def test_what_is_not_known_is_unsupported(change, reason):
    line = replayed(changed("amm_adamw", "am_adamw_wd_sched", change))
    assert line.verdict == "unsupported" and reason in line.reason

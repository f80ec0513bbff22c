"""A replay of ROOT notices wrong hyperparameters, and replays what is drawn anew."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden.changes import changed, replayed
from tests.golden.formats import root as format_
from tests.golden.replay import DATA, replay_set
from tests.golden.sets import GoldenSet, read_set
from tests.reference import root as reference

TRIPLE = [3.4509, -4.579, 1.9325]

WRONG = [
    ("root_nonesterov_fp32", {"nesterov": True}),
    ("root_nonesterov_fp32", {"momentum": 0.9}),
    ("root_fp32", {"root_steps": 4}),
    ("root_coefmap_fp32", {"coeff_table": {"(32, 128)": TRIPLE}}),
]


@pytest.mark.parametrize("case, change", WRONG)
def test_a_wrong_hyperparameter_fails(case, change):
    assert replayed(changed("root", case, change)).verdict == "FAIL"


def test_an_unknown_hyperparameter_is_unsupported():
    line = replayed(changed("root", "root_fp32", {"quantile": 0.8}))
    assert line.verdict == "unsupported" and "quantile" in line.reason


def with_bfloat16(change):
    """The recorded run as if its parameters were bfloat16: rounded at every step."""
    golden = changed("root", "root_fp32", change)
    facts = json.loads(json.dumps(golden.facts))
    case = facts["cases"]["root_fp32"]
    case.update(desc="parameters in bf16", tol={}, params=["wide"])
    rounded = {
        key: np.asarray(jnp.asarray(array, jnp.bfloat16), np.float32)
        for key, array in golden.arrays.items()
    }
    return replayed(GoldenSet("root", facts, rounded))


def test_bfloat16_parameters_are_compared_to_their_spacing():
    assert with_bfloat16({}).verdict == "ok"
    assert with_bfloat16({"lr": 0.01}).verdict == "FAIL"


def drawn_anew(**change):
    """A record of the large kind, made by the reference for a small matrix."""
    facts = {
        "shape": [48, 80],
        "seed": 3,
        "grad": "(0.01*default_rng(seed).standard_t(3, shape)).astype(float32)",
        "coeffs": TRIPLE,
        "note": "nesterov=False",
    }
    gradient = format_.drawn(facts)
    update = reference.newton_schulz(
        reference.clip(gradient.astype(np.float64), 0.9), TRIPLE
    )
    at = np.divmod(np.arange(0, gradient.size, 7), 80)
    arrays = {
        "row": at[0],
        "col": at[1],
        "update": update[at],
        "grad_check": gradient[at],
        "row_norms_first64": np.linalg.norm(update, axis=1)[:64],
    }
    facts["threshold"] = float(np.quantile(np.abs(gradient), 0.9))
    facts["fro"] = float(np.linalg.norm(update))
    source = {"repo": "https://github.com/huawei-noah/noah-research", "cls": "ROOT"}
    set_facts = {"cases": {}, "methods": {}, "big": {"48x80": {**facts, **change}}}
    return GoldenSet(
        "root",
        {**set_facts, "source": source},
        {f"big/48x80/{key}": array for key, array in arrays.items()},
    )


@pytest.mark.parametrize(
    "change, verdict",
    [
        ({}, "ok"),
        ({"threshold": 0.02}, "FAIL"),
        ({"seed": 4}, "unsupported"),
        ({"note": ""}, "unsupported"),
    ],
    ids=str,
)
def test_what_is_drawn_anew_is_compared(change, verdict):
    assert replayed(drawn_anew(**change)).verdict == verdict


def test_the_sets_of_others_are_left_to_others():
    assert not format_.reads(read_set(DATA / "muon.json"))
    assert len(list(replay_set(read_set(DATA / "root.json")))) == 3

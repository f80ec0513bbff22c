"""A replay of NorMuon notices a wrong hyperparameter, and says what it cannot do."""

import json

import numpy as np
import pytest

from tests.golden.changes import changed, replayed
from tests.golden.replay import DATA, replay_set
from tests.golden.sets import read_set

pytestmark = pytest.mark.slow

WRONG = [
    ("normuon", "normuon_fp32_nonesterov", {"nesterov": True}),
    ("normuon", "normuon_fp32_nonesterov", {"muon": {"lr": 0.02, "beta2": 0.9}}),
    ("normuon", "normuon_fp32", {"aux_adam": {"lr": 3.3e-4}}),
    ("normuon_dion", "dion_normuon_polar_fp32", {"muon_beta2": 0.5}),
    ("normuon_dion", "dion_normuon_ns5_rms_nesterov_fp32", {"cautious_wd": True}),
]


@pytest.mark.parametrize("name, case, change", WRONG)
def test_a_wrong_hyperparameter_fails(name, case, change):
    assert replayed(changed(name, case, change)).verdict == "FAIL"


@pytest.mark.parametrize("name", ["normuon_speedrun", "normuon_shard"])
def test_a_wrong_decay_fails(name):
    golden = read_set(DATA / f"{name}.json")
    golden = golden._replace(facts={**golden.facts, "beta2": 0.8})
    assert {line.verdict for line in replay_set(golden)} == {"FAIL"}


def test_a_wrong_floor_fails():
    golden = read_set(DATA / "normuon_speedrun.json")
    said = json.dumps(golden.facts).replace("clamp_min(1e-10)", "clamp_min(1e-1)")
    golden = golden._replace(facts=json.loads(said))
    assert {line.verdict for line in replay_set(golden)} == {"FAIL"}


def test_shards_of_a_matrix_have_no_counterpart():
    golden = read_set(DATA / "normuon_shard.json")
    arrays = {**golden.arrays, "shard2/wide": np.zeros(1)}
    lines = {line.case: line for line in replay_set(golden._replace(arrays=arrays))}
    assert lines["whole/wide"].verdict == "ok"
    assert lines["shard2/wide"].verdict == "unsupported"
    assert "number of devices" in lines["shard2/wide"].reason

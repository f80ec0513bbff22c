"""The authors' runs are reproduced, and a replay notices when they are not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.golden.changes import changed, replayed
from tests.golden.replay import DATA, main, replay_set
from tests.golden.sets import GoldenSet, read_set

SETS = sorted(path.stem for path in DATA.glob("*.json"))


@pytest.mark.parametrize("name", SETS)
def test_the_authors_runs_are_reproduced(name):
    lines = list(replay_set(read_set(DATA / f"{name}.json")))
    assert {line.verdict for line in lines} == {"ok"}, "\n".join(map(str, lines))


WRONG = [
    ("muon", "kj_fp32_nonesterov", {"nesterov": True}),
    ("muon", "kj_fp32_nonesterov", {"ns_steps": 4}),
    ("muon", "kj_fp32_nonesterov", {"muon": {"lr": 0.0201}}),
    ("muon_moonlight", "moonlight_fp32_nonesterov", {"momentum": 0.9}),
    ("muon_moonlight", "moonlight_fp32_nonesterov", {"adamw_betas": [0.8, 0.95]}),
    ("muon_torch", "torch_nonesterov_fp32", {"adjust_lr_fn": "match_rms_adamw"}),
    ("muon_torch", "torch_nonesterov_fp32", {"ns_coefficients": [3.0, -4.0, 2.0]}),
    ("muon_dion", "dion_muon_ns5_rms_nesterov_fp32", {"use_polar_express": True}),
    ("muon_dion", "dion_muon_polar_bf16", {"adjust_lr": None}),
]


@pytest.mark.parametrize("name, case, change", WRONG)
def test_a_wrong_hyperparameter_fails(name, case, change):
    assert replayed(changed(name, case, change)).verdict == "FAIL"


def test_a_wrong_coefficient_fails():
    golden = read_set(DATA / "newton_schulz.json")
    facts = {"desc": "KJ, 5 steps, coefficients (3.4445, -4.775, 2.04)"}
    golden = golden._replace(facts={"methods": {"kj_5": facts}})
    verdicts = {line.case: line.verdict for line in replay_set(golden)}
    assert verdicts["kj_5"] == "FAIL"


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"amsgrad": True}, "amsgrad"),
        ({"adjust_lr_fn": "other"}, "adjust_lr_fn='other'"),
    ],
)
def test_what_is_not_known_is_unsupported(change, reason):
    line = replayed(changed("muon_torch", "torch_nonesterov_fp32", change))
    assert line.verdict == "unsupported" and reason in line.reason


def test_a_vector_without_hyperparameters_is_unsupported():
    line = replayed(changed("muon", "kj_fp32", {"aux_adam": None}))
    assert line.verdict == "unsupported" and "'vec'" in line.reason


def test_an_unknown_source_is_unsupported():
    golden = changed("muon_torch", "torch_nonesterov_fp32", {})
    golden.facts["cases"]["torch_nonesterov_fp32"]["source"]["cls"] = "Other"
    line = replayed(golden)
    assert line.verdict == "unsupported" and "Other" in line.reason


@pytest.mark.parametrize("value", [1.0, np.nan])
def test_ill_posed_parameters_are_not_compared(value):
    golden = changed("muon_moonlight", "moonlight_fp32_nonesterov", {})
    bad = "out/moonlight_fp32_nonesterov/tall"
    arrays = {**golden.arrays, bad: np.full_like(golden.arrays[bad], value)}
    golden = golden._replace(arrays=arrays)
    assert replayed(golden).verdict == "FAIL"
    facts = {**golden.facts, "ill_posed_params": ["tall"]}
    assert replayed(golden._replace(facts=facts)).verdict == "ok"


@pytest.mark.parametrize(
    "lr, code, counts", [(1e-3, 0, "1 ok, 0 "), (1, 1, "0 ok, 1 ")]
)
def test_the_command_counts_and_exits(tmp_path, capsys, lr, code, counts):
    write_set(
        tmp_path,
        changed("muon_torch", "torch_nonesterov_fp32", {"lr": lr}),
    )
    assert main([str(tmp_path)]) == code
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("muon_torch torch_nonesterov_fp32 ")
    assert last == f"{counts}FAIL, 0 unsupported"


def test_a_directory_without_sets_is_an_error(tmp_path):
    with pytest.raises(SystemExit):
        main([str(tmp_path)])


def write_set(directory: Path, golden: GoldenSet) -> None:
    path = directory / f"{golden.name}.json"
    path.write_text(json.dumps(golden.facts))
    arrays: Any = dict(golden.arrays)
    np.savez(path.with_suffix(".npz"), **arrays)

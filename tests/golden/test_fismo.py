"""A replay of FISMO notices what is wrong."""

import pytest

from tests.golden.changes import changed, replayed

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "case, change",
    [
        ("svd", {"mu": 0.5}),
        ("svd", {"gamma": 0.9}),
        ("svd", {"beta": 0.9}),
        ("svd", {"orth": "ns5"}),
        ("ns5", {"lr": 0.0101}),
    ],
)
def test_a_wrong_hyperparameter_fails(case, change):
    assert replayed(changed("fismo_derived", case, {})).verdict == "ok"
    assert replayed(changed("fismo_derived", case, change)).verdict == "FAIL"


def test_what_is_not_known_is_unsupported():
    line = replayed(changed("fismo_derived", "svd", {"orth": "qr"}))
    assert line.verdict == "unsupported" and "qr" in line.reason

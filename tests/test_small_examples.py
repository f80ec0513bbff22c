"""The loops in Linen, and on images."""

import dataclasses

import numpy as np
import pytest

from examples import train_cnn, train_linen

SMALL = train_linen.Options(
    steps=150, batch=8, context=16, layers=2, width=16, heads=2, learning_rate=0.05
)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["muon", "normuon"])
def test_the_linen_loop_learns(corpus, optimizer, capsys):
    options = dataclasses.replace(SMALL, data=corpus, optimizer=optimizer)
    loss = train_linen.main(options)
    assert loss < 2.5  # ln 28 = 3.3: the text has 28 different bytes.
    printed = capsys.readouterr().out
    assert "orthogonalized  6 leaves" in printed and "'skipped'" in printed


@pytest.mark.slow
def test_the_cnn_learns_with_each_optimizer(capsys):
    found = train_cnn.main(train_cnn.Options(steps=60, width=16, seeds=1))
    for (name, _), (result,) in found.items():
        assert result.accuracy > 0.5, name  # By chance a tenth.
    printed = capsys.readouterr().out
    assert "orthogonalized  3 leaves" in printed
    assert all(name in printed for name, _ in found)


def test_no_image_is_in_both_parts():
    (train, digits), (test, _) = train_cnn.data()
    assert len(train) + len(test) == 1797 and len(test) == train_cnn.TEST
    assert 0 <= train.min() and train.max() == 1 and set(digits) == set(range(10))
    seen = {image.tobytes() for image in np.asarray(train)}
    assert not seen & {image.tobytes() for image in np.asarray(test)}


def test_a_sweep_never_sees_the_test():
    (train, digits), (test, _) = train_cnn.data()
    (swept, swept_digits), (validation, others) = train_cnn.data(sweep=True)
    np.testing.assert_array_equal(np.concatenate([swept, validation]), train)
    np.testing.assert_array_equal(np.concatenate([swept_digits, others]), digits)
    assert len(validation) == train_cnn.VALIDATION

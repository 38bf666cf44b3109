"""Channels that lose precision in float32 are told, with the mend."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from stream_detector.models.precision import coarse_columns
from stream_detector.training.train import train
from tests.trained import make_config, windows

NOISE = np.random.default_rng(5).normal(size=(2_000, 1))


@pytest.mark.parametrize(
    ("level", "spread", "told"),
    [
        (0.0, 1e-9, False),
        (100.0, 0.1, False),
        (101_325.0, 10.0, False),
        (101_325.0, 0.1, True),
        (-2e6, 1.0, True),
        (1.6e9, 86_400.0, False),
        (5.0, 0.0, False),
    ],
)
def test_a_spread_of_few_steps_is_told(level, spread, told):
    """How many steps of float32 lie in the spread counts; of a constant channel nothing can be seen."""
    values = (level + spread * NOISE).astype(np.float32)
    found = coarse_columns(values, np.array([True]))
    assert told == bool(found)
    if told:
        assert (0, level, spread) == (
            found[0].column,
            pytest.approx(level, rel=1e-5),
            pytest.approx(spread, rel=0.2),
        )


def test_categories_are_not_judged():
    """Their codes are exact."""
    values = (1e7 + NOISE).astype(np.float32)
    assert [] == coarse_columns(values, np.array([False]))


def test_train_tells_the_channel_and_the_mend(caplog):
    """Once an asset and channel, with what to do."""
    batch = windows(200)
    batch.values[..., 1] = 101_325 + 0.05 * batch.values[..., 1] / batch.values[..., 1].std()
    with caplog.at_level(logging.WARNING):
        train(make_config(), [batch])
    told = [record.getMessage() for record in caplog.records if "float32" in record.getMessage()]
    assert 1 == len(told)
    assert told[0].startswith("asset 'pump-1': channel temperature is near 1013")
    assert "subtract a constant" in told[0]

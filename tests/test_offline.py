"""Recordings without a broker: the windows to train on and the alerts of a backtest."""

import json

import numpy as np
import pytest

from stream_detector.codec import encode_reading
from stream_detector.config import InputConfig
from stream_detector.errors import DataError
from stream_detector.evaluate.offline import Backtest, Encoded, offline, windows
from tests.rig import CALIBRATION, START_MS, LastValue, Plant, make_config, recorded


def encoded(sent):
    """Messages as `offline` takes them."""
    return [Encoded(one.asset.encode(), one.value, []) for one in sent]


def by_asset(alerts):
    """Alerts of each asset in their order."""
    found = {}
    for alert in alerts:
        found.setdefault(json.loads(alert)["asset"], []).append(alert)
    return found


def test_a_backtest_yields_what_a_worker_publishes():
    """The very bytes, dead letters as many."""
    messages = recorded()
    plant = Plant()
    plant.write(messages)
    plant.run(plant.worker())
    backtest = Backtest(make_config(), LastValue(), [CALIBRATION])
    assert sorted(plant.alerts) == sorted(backtest.run(encoded(messages)))
    assert len(plant.dead_letters) == backtest.dead_letters.total()


@pytest.mark.parametrize("batch", [1, 50, 1_000])
def test_a_backtest_does_not_depend_on_its_batches(batch):
    """Alerts are the same; each asset's come in the same order, too."""
    messages = encoded(recorded(2, 120, partitions=1))
    expected = Backtest(make_config(), LastValue(), [CALIBRATION]).run(messages)
    assert by_asset(expected) == by_asset(
        Backtest(make_config(), LastValue(), [CALIBRATION], batch=batch).run(messages)
    )


def test_recordings_may_come_one_after_the_other():
    """An asset's alerts are the same whether its readings come beside another's or after them, all at older times."""
    messages = [one for one in recorded(3, 200, partitions=1) if one.ts_ms >= START_MS]
    one_by_one = sorted(messages, key=lambda one: one.asset)
    beside = Backtest(make_config(), LastValue(), [CALIBRATION]).run(encoded(messages))
    after = Backtest(make_config(), LastValue(), [CALIBRATION]).run(encoded(one_by_one))
    assert sorted(beside) == sorted(after)


def test_a_backtest_takes_its_recordings_in_parts():
    """Calls continue each other: open windows and thresholds stay."""
    messages = encoded(recorded(2, 120, partitions=1))
    whole = Backtest(make_config(), LastValue(), [CALIBRATION]).run(messages)
    backtest = Backtest(make_config(), LastValue(), [CALIBRATION])
    assert by_asset(whole) == by_asset([*backtest.run(messages[:77]), *backtest.run(messages[77:])])


def test_field_names_of_the_configured_topics_do_not_matter():
    """Recordings carry the standard names, whatever the live topics call them."""
    config = make_config(kafka={"inputs": [{"topic": "odd", "fields": {"asset": "machine", "current": "i"}}]})
    messages = encoded(recorded(1, 60, partitions=1))
    assert 20 < sum(map(len, windows(config, messages)))
    assert [InputConfig(topic="recording", max_message_bytes=2**31)] == offline(config).inputs


def test_windows_are_those_a_worker_cuts():
    """By asset, in order, without the windows that gaps spoil; unusable readings are left out."""
    messages = recorded(2, 120, partitions=1)
    plant = Plant(partitions=1)
    plant.write(messages)
    worker = plant.worker()
    plant.run(worker)
    found = list(windows(make_config(), encoded(messages)))
    assert worker.pipeline.windows == sum(map(len, found))
    ends = [end for batch in found for asset, end in zip(batch.assets, batch.end_ms, strict=True) if asset == "pump-0"]
    assert sorted(ends) == ends
    assert (8, 2) == found[0].values.shape[1:]


def test_no_readings_no_windows():
    """An empty history is for `train` to complain of."""
    assert [] == list(windows(make_config(), []))


def test_a_history_that_is_mostly_unusable_is_refused():
    """With how many, and what was wrong."""
    with pytest.raises(DataError, match="10 of 10 readings can't be used: 10 not-json"):
        list(windows(make_config(), [Encoded(b"pump-0", b"not json", [])] * 10))


def test_a_recording_longer_than_a_chunk_is_one_stream():
    """Windows span the chunks in which messages are taken."""
    values = np.random.default_rng(0).normal(size=(9_000, 2))
    messages = [
        Encoded(b"pump-0", encode_reading("pump-0", START_MS + i * 1_000, {"vibration": v, "current": c}), [])
        for i, (v, c) in enumerate(values.tolist())
    ]
    # the first window ends at the first even cell 8 cells after the start, the last 2 s before the last reading
    assert (8_998 - 8) // 2 + 1 == pytest.approx(sum(map(len, windows(make_config(), messages))), abs=1)

"""Records: one window each, in the log's order."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from stream_detector.config import Config
from stream_detector.evaluate.offline import Backtest, Encoded, windows
from stream_detector.types import Partition, PlainMessage, ReadingBatch, WindowBatch
from stream_detector.windowing.records import RecordsWindower

TOPIC = "cards.readings"
TS = 1_700_000_000_000


def config(**sections: object) -> Config:
    """Return a set-up for card payments."""
    return Config.model_validate(
        {
            "stream": "cards",
            "channels": {"amount": {"log": True}, "country": {"kind": "category", "cell": "last"}},
            "window": {"mode": "records", "length": 1},
            **sections,
        }
    )


def batch(*records: tuple[str, float, float, float], first: int = 0, ingest_ms: int = -1) -> ReadingBatch:
    """Return records (key, ms after TS, amount, country's code) as a batch."""
    count = len(records)
    messages = [PlainMessage(first + i, ingest_ms, None, b"") for i in range(count)]
    return ReadingBatch(
        Partition(TOPIC, 0),
        messages,
        [key for key, *_ in records],
        np.arange(first, first + count),
        np.full(count, ingest_ms),
        None,
        np.array([TS + ms for _, ms, *_ in records], np.float64),
        np.array([[amount, country] for *_, amount, country in records], np.float64),
    )


def windower(**known: int) -> RecordsWindower:
    """Return an empty windower; `known`: keys with a committed state, and where it ends, ms after TS."""
    judged = {key: TS + ms for key, ms in known.items()}
    return RecordsWindower(config().window, config().channels, 0, [TOPIC], judged.get)


def ends(found: object) -> list[tuple[str, int]]:
    """Return key and end, ms after TS, of each window."""
    assert isinstance(found, WindowBatch)
    return [(key, int(end) - TS) for key, end in zip(found.assets, found.end_ms, strict=True)]


def test_every_record_is_a_window():
    """Whatever its key and time: several in one second, out of order, of several keys."""
    found, dead = windower().push(batch(("a", 0, 5, 1), ("b", 3, 6, 2), ("a", 400, 7, 3), ("c", 100, 8, 4)))
    assert ends(found) == [("a", 0), ("b", 3), ("a", 400), ("c", 100)]
    assert dead == []
    assert found is not None
    assert found.values[:, 0].tolist() == [[5, 1], [6, 2], [7, 3], [8, 4]]
    assert not found.filled.any()


def test_no_two_windows_of_a_key_end_alike():
    """Their ends name their alerts: the same millisecond, or an earlier one, becomes the next."""
    one = windower()
    found, _ = one.push(batch(("a", 10, 1, 1), ("a", 10, 1, 1), ("b", 10, 1, 1), ("a", 5, 1, 1), ("a", 20, 1, 1)))
    assert ends(found) == [("a", 10), ("a", 11), ("b", 10), ("a", 12), ("a", 20)]
    assert ends(one.push(batch(("a", 20, 1, 1)))[0]) == [("a", 21)]


def test_ends_go_on_where_a_committed_state_ended():
    """After a restart the same record must not get an end that was given away before."""
    found, _ = windower(a=30).push(batch(("a", 30, 1, 1), ("a", 31, 1, 1), ("b", 1, 1, 1)))
    assert ends(found) == [("a", 31), ("a", 32), ("b", 1)]


def test_how_records_are_batched_plays_no_role():
    """One by one gives what all at once gives."""
    records = [("ab"[i % 2], (i * 7) % 13, i, 0) for i in range(40)]
    whole, single = windower(), windower()
    apart = [pair for i, one in enumerate(records) for pair in ends(single.push(batch(one, first=i))[0])]
    assert ends(whole.push(batch(*records))[0]) == apart


def test_a_record_without_all_fields_is_a_dead_letter():
    """There is no last value to fill in: the last record was another event."""
    found, dead = windower().push(batch(("a", 0, 5, 1), ("a", 1, np.nan, 1), ("a", 2, 5, 1)))
    assert ends(found) == [("a", 0), ("a", 2)]
    assert [(letter.code, letter.message.offset) for letter in dead] == [("incomplete", 1)]
    assert "'amount'" in dead[0].detail
    assert windower().push(batch(("a", 1, np.nan, 1)))[0] is None


def test_a_record_from_the_future_is_a_dead_letter():
    """As with samples."""
    found, dead = windower().push(batch(("a", 0, 5, 1), ("a", 61_000, 5, 1), ingest_ms=TS))
    assert ends(found) == [("a", 0)]
    assert [letter.code for letter in dead] == ["too-far-ahead"]


def test_nothing_is_open():
    """So a restart reads no record twice."""
    one = windower()
    one.push(batch(("a", 0, 5, 1)))
    assert one.oldest_offsets() == {TOPIC: None}
    assert (one.event_ms, one.assets) == (TS, 1)


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"window": {"mode": "records"}}, "length must be 1"),
        ({"channels": {"x": {"cell": "waveform"}}}, "not possible with window.mode"),
        ({"kafka": {"inputs": [{"topic": "a"}, {"topic": "b"}]}}, "exactly one input topic"),
        ({"features": {"smoothing": 0.1}}, "not possible with categories"),
        ({"channels": {"x": {"kind": "category", "cell": "last", "log": True}}}, "no logarithm"),
    ],
)
def test_settings_that_make_no_sense_for_records_are_refused(sections: dict[str, object], says: str):
    """The message says which."""
    with pytest.raises(ValidationError, match=says):
        config(**sections)


def test_offline_windows_are_cut_by_records():
    """Training sees every record of a key, though all fall into one second."""
    said = [_message(f'{{"ts": {TS + i}, "amount": {i}, "country": "FR"}}') for i in range(5)]
    found = [
        (asset, int(end) - TS)
        for cut in windows(config(), said)
        for asset, end in zip(cut.assets, cut.end_ms, strict=True)
    ]
    assert found == [("card-1", i) for i in range(5)]


def test_a_backtest_judges_every_record():
    """Through the loop: trained on ordinary payments, it tells of an amount and of a country never seen."""
    from stream_detector.artifacts.model_set import ModelSet
    from stream_detector.scoring.scorer import Scorer
    from stream_detector.training.train import train

    draw = np.random.default_rng(0)
    setup = config(
        model={"kind": "mahalanobis"},
        threshold={"method": "quantile", "risk": 1e-3, "margin": 3},
        incident={"open_after": 1, "open_of": 1, "close_after": 1},
    )

    def payment(i: int, amount: float, country: str) -> Encoded:
        return _message(f'{{"ts": {TS + 10 * i}, "amount": {amount}, "country": "{country}"}}')

    usual = [payment(i, float(draw.lognormal(3, 1)), draw.choice(["FR", "DE", "IT"])) for i in range(600)]
    artifact = train(setup, windows(setup, usual))
    alerts = {}
    for size in (1, 1000):
        test = Backtest(setup, Scorer(ModelSet(artifact), setup.scorer), [artifact.calibration], batch=size)
        paid = [(20.0, "FR"), (1e9, "FR"), (20.0, "XX"), (20.0, "DE")]
        strange = [payment(700, amount, country) for amount, country in paid]
        alerts[size] = list(test.run(strange))
    assert alerts[1] == alerts[1000]
    assert [b'"event":"open"' in alert for alert in alerts[1]].count(True) >= 1
    assert all(b'"amount"' in alert and b'"country"' in alert for alert in alerts[1])


def _message(text: str) -> Encoded:
    return Encoded(b"card-1", text.encode(), [])


def test_a_restart_judges_no_record_twice():
    """What the states loaded have seen is left out when the log is read again from an earlier position."""
    from stream_detector.codec import ReadingDecoder
    from stream_detector.ports import TaskState
    from stream_detector.types import AssetState, IncidentState, MessageBatch, Position, ThresholdState
    from stream_detector.worker.resuming import Start
    from stream_detector.worker.task import Task

    setup = config()
    partition = Partition(TOPIC, 0)
    texts = [f'{{"ts": {TS + 7}, "asset": "card-1", "amount": {i}, "country": "FR"}}' for i in range(8)]
    messages = [PlainMessage(i, -1, None, text.encode()) for i, text in enumerate(texts)]
    state = AssetState(
        threshold=ThresholdState(method="spot", level=1.0, seen=9), incident=IncidentState(), judged_ms=TS + 9
    )
    loaded = TaskState({"card-1": state}, 1, {partition: Position(5, 5, 1)})
    decoders = {TOPIC: ReadingDecoder(setup.inputs[0], setup.channels)}
    task = Task(setup, 0, 1, loaded, {partition: Start(2, 5)}, decoders=decoders)
    cut = task.take(MessageBatch(partition, messages[2:]))
    ((found, silent),) = cut.windows
    assert found.values[:, 0, 0].tolist() == [5, 6, 7]
    assert ends(found) == [("card-1", 10), ("card-1", 11), ("card-1", 12)]
    assert not silent
    assert task.positions()[partition] == Position(8, 8, 2)

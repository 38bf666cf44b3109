"""Verdicts: what is one, how many are taken, and that every message is accounted for whatever fails on the way."""

from __future__ import annotations

import json
import random

import pytest

from stream_detector.adapters.memory.log import MemoryLog, MemorySource, make_memory_sink
from stream_detector.adapters.memory.store import MemoryServer, MemoryStore
from stream_detector.config import VerdictConfig
from stream_detector.errors import BrokerError, DecodeError, StoreError
from stream_detector.feedback.stage import VerdictStage, verdict_config
from stream_detector.feedback.verdicts import FeedbackLimiter, decode_verdict, encode_verdict
from stream_detector.telemetry.metrics import Metrics
from stream_detector.types import MessageBatch, Partition, PlainMessage, Position
from tests.rig import make_config

ALERT = "f354e300-8729-52db-b2ed-82bb28adfe45"
TOPIC = "pump.verdicts"
HERE = Partition(TOPIC, 0)


def made(**changes) -> bytes:
    """A verdict with some fields changed; None leaves one out."""
    fields = {"alert": ALERT, "verdict": "false-alarm", "by": "shift 2", "note": "hose was moved"} | changes
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def test_a_verdict():
    """The documented example, with and without what may be left out, comes back as it went."""
    assert (ALERT, "false-alarm", "shift 2", "hose was moved") == decode_verdict(made(), ALERT.encode())
    assert (ALERT, "maintenance", "", "") == decode_verdict(made(verdict="maintenance", by=None, note=None))
    assert (ALERT, "true-alarm", "é", "") == decode_verdict(encode_verdict(ALERT, "true-alarm", "é"))


@pytest.mark.parametrize(
    ("value", "code", "detail"),
    [
        (None, "empty", "no value"),
        (b"", "empty", "no value"),
        (b" " * 8_193, "too-large", "8193 bytes"),
        (b"\xff", "not-json", ""),
        (b"[" * 5_000, "not-json", ""),
        (b'{"alert": NaN}', "not-json", ""),
        (b"[]", "not-an-object", "list"),
        (made(extra=1), "bad-verdict", "unknown field 'extra'"),
        (made(alert=None), "bad-verdict", "alert is missing"),
        (made(alert=ALERT.upper()), "bad-verdict", "alert is"),
        (made(alert=ALERT.replace("-52db", "-42db")), "bad-verdict", "alert is"),
        (made(alert=ALERT + "\n"), "bad-verdict", "alert is"),
        (made(alert=[ALERT]), "bad-verdict", "alert is"),
        (made(verdict="TRUE"), "bad-verdict", "verdict is 'TRUE'"),
        (made(verdict=["true-alarm"]), "bad-verdict", "verdict is"),
        (made(verdict={}), "bad-verdict", "verdict is"),
        (made(by=7), "bad-verdict", "by is 7"),
        (made(by="x" * 101), "bad-verdict", "by has 101 characters"),
        (made(note="x" * 1_001), "bad-verdict", "note has 1001 characters"),
        (made(note="\x1b[2J"), "bad-verdict", "U+001B"),
        (made(note="a\u202eb"), "bad-verdict", "U+202E"),
        (made(note="a\nb"), "bad-verdict", "U+000A"),
    ],
)
def test_what_is_no_verdict(value, code, detail):
    """Every rule has its code, and the detail names the field."""
    with pytest.raises(DecodeError) as error:
        decode_verdict(value)
    assert (code, True) == (error.value.code, detail in error.value.detail), error.value


def test_a_key_that_names_another_alert():
    """Key and value must agree: the key decides the partition, and so the order of verdicts on one alert."""
    with pytest.raises(DecodeError, match="another alert"):
        decode_verdict(made(), b"somebody else")


def alert(number: int) -> str:
    """The id of some alert."""
    return f"{number:08x}-0000-5000-8000-000000000000"


def log_of(count: int, seed: int = 0) -> list[PlainMessage]:
    """Messages in bursts, of a few senders, some broken, clocks out of step."""
    rng = random.Random(seed)
    messages, ts = [], 1_600_000_000_000
    for offset in range(count):
        ts += rng.choice((0, 10, 200, 5_000))
        value = b"?" if rng.random() < 0.1 else made(alert=alert(offset % 50), by=f"sender-{rng.randrange(4)}")
        messages.append(PlainMessage(offset, ts - rng.choice((0, 0, 90_000)), None, value))
    return messages


def fates(config: VerdictConfig, messages: list[PlainMessage], sizes: list[int], stops: int = 0) -> dict[int, str]:
    """Return what becomes of each message, taken in batches; after every `stops` batches by a new desk."""
    found: dict[int, str] = {}
    desk, at, position = FeedbackLimiter(config, HERE, None), 0, None
    for number, size in enumerate(sizes, 1):
        accepted, refused = desk.take(MessageBatch(HERE, messages[at : at + size]))
        for one in accepted:
            assert found.setdefault(one.offset, "accepted") == "accepted"
        for letter in refused:
            assert found.setdefault(letter.message.offset, letter.code) == letter.code
        at = min(len(messages), at + size)
        if stops and number % stops == 0:
            position = desk.position()
            desk = FeedbackLimiter(config, HERE, position)
            at = position.offset
    return found


def test_limits_are_a_function_of_the_log():
    """Batches of any size, and workers that stop anywhere, refuse the very same messages; each has one fate."""
    config, messages = VerdictConfig(per_sender=5, in_all=12), log_of(600)
    whole = fates(config, messages, [600])
    assert list(range(600)) == sorted(whole)
    assert {"accepted", "rate-limited", "not-json"} == set(whole.values())
    assert whole == fates(config, messages, [7] * 90)
    for stops in (1, 3, 10):
        assert whole == fates(config, messages, [90] * 100, stops)


def test_a_minute_takes_so_many():
    """The limit of one sender leaves the others theirs; the next minute begins anew; a clock set back doesn't."""
    config = VerdictConfig(per_sender=2, in_all=3)
    senders = [("a", 0), ("a", 1), ("a", 2), ("b", 3), ("b", 4), ("a", 60_000), ("b", 0), ("b", 1), ("a", 119_999)]
    messages = [PlainMessage(i, ts, None, made(by=by)) for i, (by, ts) in enumerate(senders)]
    found = fates(config, messages, [20])
    assert [0, 1, 3, 5, 6, 7] == [offset for offset, fate in found.items() if fate == "accepted"]


def test_a_restarted_desk_reads_a_minute_again():
    """The position to begin with is the first message of the minute under way, what was read stays read."""
    desk = FeedbackLimiter(VerdictConfig(), HERE, Position(0, 0, 3))
    desk.take(MessageBatch(HERE, [PlainMessage(i, i * 25_000, None, made()) for i in range(7)]))
    assert Position(5, 7, 4) == desk.position()


class Site:
    """A verdict topic, a store, and stages that come and go."""

    def __init__(self, messages, exactly_once=True, **verdicts):
        delivery = "exactly_once" if exactly_once else "at_least_once"
        self.config = make_config(verdicts=verdicts, delivery=delivery)
        self.log = MemoryLog({TOPIC: 1})
        for one in messages:
            self.log.append(HERE, one.key, one.value, one.headers, one.timestamp)
        self.server, self.metrics = MemoryServer(), Metrics()

    def stage(self, batch=None):
        """One more member."""
        config = verdict_config(self.config)
        source = MemorySource(self.log, [TOPIC], group=config.group, batch=batch)
        self.sink = make_memory_sink(config, self.log, source)
        stage = VerdictStage(self.config, source, self.sink, MemoryStore(self.server), self.metrics)
        stage.open()
        return stage

    def letters(self):
        """Offset and code of all dead letters."""
        headers = [dict(one.headers) for one in self.sink.dead_letters]
        return [(int(each["offset"]), each["error"].decode()) for each in headers]

    def total(self, name):
        """A counter's sum over its labels."""
        families = self.metrics.registry.collect()
        return sum(s.value for f in families for s in f.samples if s.name == f"stream_detector_{name}")


def test_every_message_is_kept_or_a_dead_letter():
    """Accepted + dead letters = messages, in the metrics and on the topic; the store has the last verdict of each."""
    messages = log_of(400)
    site = Site(messages, per_sender=5, in_all=12)
    stage = site.stage()
    while stage.step(0):
        pass
    whole = fates(site.config.verdicts, messages, [400])
    assert sorted((offset, fate) for offset, fate in whole.items() if fate != "accepted") == sorted(site.letters())
    assert 400 == site.total("verdicts_total") + site.total("dead_letters_total") == site.total("messages_total")
    accepted = [messages[offset] for offset, fate in whole.items() if fate == "accepted"]
    assert len({json.loads(one.value)["alert"] for one in accepted}) == len(MemoryStore(site.server).verdicts())


@pytest.mark.parametrize("exactly_once", [True, False])
def test_failures_lose_and_repeat_nothing(exactly_once):
    """The store away, the broker away, members that come and go: the outcome is the undisturbed one's.

    Exactly once no dead letter is repeated either.
    """
    messages = log_of(300, seed=3)
    calm = Site(messages, exactly_once, per_sender=5, in_all=12)
    stage = calm.stage()
    while stage.step(0):
        pass
    site, rng = Site(messages, exactly_once, per_sender=5, in_all=12), random.Random(1)
    stage = site.stage(batch=20)
    idle = 0
    while idle < 20:
        kind = rng.choice(("calm", "calm", "store", "broker", "kill"))
        site.server.available, site.log.available = kind != "store", True
        try:
            idle = 0 if stage.step(0) else idle + 1
            if kind == "broker":
                site.log.available = False
                stage.step(0)
        except (BrokerError, StoreError):
            idle = 0
        site.log.available = True
        if kind == "kill":
            stage._source.expel()
            stage = site.stage(batch=20)
    site.server.available = True
    assert sorted(calm.letters()) == sorted(site.letters() if exactly_once else set(site.letters()))
    assert MemoryStore(calm.server).verdicts() == MemoryStore(site.server).verdicts()
    assert 300 == site.total("verdicts_total") + site.total("dead_letters_total")

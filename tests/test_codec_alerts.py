from __future__ import annotations

import importlib.resources
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped] # it ships no types
import pytest

from stream_detector.codec import (
    DEAD_LETTER_HEADERS,
    NAMESPACE,
    alert_headers,
    alert_id,
    dead_letter_headers,
    decode_alert,
    encode_alert,
    incident_id,
)
from stream_detector.errors import DecodeError
from stream_detector.types import (
    DEAD_LETTER_CODES,
    Alert,
    ChannelShare,
    DeadLetter,
    ModelRef,
    Partition,
    PlainMessage,
)

TS = 1_583_748_873_000
PARTITION = Partition("pump.readings", 3)
NAN = math.nan
DOCS = Path(__file__).parents[1] / "docs" / "wire-format.md"

ALERT = Alert(
    id=alert_id("pump", "pump-1", TS, "20201103-1f3c", "open"),
    incident=incident_id("pump", "pump-1", TS, "20201103-1f3c"),
    event="open",
    stream="pump",
    asset="pump-1",
    start_ms=1_583_749_201_000,
    end_ms=1_583_749_261_250,
    score=8.3123456,
    threshold=4.02,
    severity="warning",
    kind="contextual",
    channels=(ChannelShare("vibration", 0.71, 0.041, 0.027), ChannelShare("current", 0.29, 1.61, 1.34)),
    model=ModelRef("ae", "20201103-1f3c"),
    method="spot",
    risk=0.0001,
    seen=18_233,
)


def test_an_alert_has_fixed_bytes() -> None:
    """Key order, time format and rounding are the contract: replays give these bytes."""
    expected = (
        f'{{"schema":1,"id":"{ALERT.id}","incident":"{ALERT.incident}","event":"open","stream":"pump",'
        '"asset":"pump-1","start":"2020-03-09T10:20:01Z","end":"2020-03-09T10:21:01.250Z","score":8.31235,'
        '"threshold":4.02,"severity":"warning","kind":"contextual","channels":[{"name":"vibration","share":0.71,'
        '"observed":0.041,"expected":0.027},{"name":"current","share":0.29,"observed":1.61,"expected":1.34}],'
        '"model":{"kind":"ae","version":"20201103-1f3c"},"state":{"method":"spot","risk":0.0001,"seen":18233}}'
    )
    assert expected == encode_alert(ALERT).decode()


def test_last_bits_of_floats_do_not_show() -> None:
    """Scores that differ far beyond the sixth digit give equal bytes."""
    shaken = replace(ALERT, score=ALERT.score * (1 + 1e-12), ingest_ms=5, scored_ms=6)
    assert encode_alert(ALERT) == encode_alert(shaken)
    assert encode_alert(replace(ALERT, score=0.0)) == encode_alert(replace(ALERT, score=-0.0))


def test_alerts_fit_their_schema() -> None:
    """What is published validates against the JSON Schema shipped with the package, and the schema bites."""
    text = importlib.resources.files("stream_detector").joinpath("schemas/alert.schema.json").read_text("utf-8")
    validator = jsonschema.Draft202012Validator(json.loads(text))
    validator.check_schema(validator.schema)
    alert = json.loads(encode_alert(ALERT))
    validator.validate(alert)
    assert sorted(validator.schema["required"]) == sorted(alert)
    for key in alert:
        assert not validator.is_valid({name: value for name, value in alert.items() if name != key})
        assert not validator.is_valid({**alert, key: {"odd": 1}})


def test_a_reason_is_written_where_there_is_one() -> None:
    """Of a close that no window brought; other alerts have the bytes that they had."""
    text = importlib.resources.files("stream_detector").joinpath("schemas/alert.schema.json").read_text("utf-8")
    schema = json.loads(text)
    moved = replace(ALERT, event="close", channels=(), reason="moved")
    value = json.loads(encode_alert(moved))
    jsonschema.validate(value, schema)
    assert "moved" == value["reason"]
    assert "reason" in schema["properties"]
    assert not jsonschema.Draft202012Validator(schema).is_valid({**value, "reason": 1})
    assert "moved" == decode_alert(encode_alert(moved)).reason
    assert b"reason" not in encode_alert(ALERT)


def test_an_alert_is_read_back() -> None:
    """decode_alert returns what was encoded, rounded as written, header times unknown; unknown fields are ignored."""
    expected = replace(ALERT, score=8.31235, ingest_ms=-1, scored_ms=-1)
    assert expected == decode_alert(encode_alert(replace(ALERT, ingest_ms=7)))
    assert expected == decode_alert(encode_alert(ALERT)[:-1] + b',"later":[1]}')


@pytest.mark.parametrize("change", [{"score": NAN}, {"threshold": math.inf}, {"end_ms": 10**18}, {"risk": NAN}])
def test_an_alert_that_can_not_be_written_is_an_error(change: Any) -> None:
    """Numbers that are not finite and impossible times never reach the topic."""
    with pytest.raises(ValueError, match=r"finite|date"):
        encode_alert(replace(ALERT, **change))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema": 2}, "schema 2"),
        ({"schema": True}, "schema"),
        ({"event": "opened"}, "event"),
        ({"end": "2020-03-09T10:14:33"}, "end"),
        ({"end": "soon"}, "end"),
        ({"score": "8"}, "score"),
        ({"channels": [1]}, "channels"),
        ({"channels": [{"name": "x"}]}, "share"),
        ({"model": None}, "model"),
    ],
)
def test_foreign_bytes_are_no_alert(change: Any, told: str) -> None:
    """decode_alert names the field that is wrong."""
    with pytest.raises(DecodeError, match=told) as caught:
        decode_alert(json.dumps({**json.loads(encode_alert(ALERT)), **change}).encode())
    assert "bad-alert" == caught.value.code
    for value in (b"", b"[]", b"\xff"):
        with pytest.raises(DecodeError):
            decode_alert(value)


def test_ids_are_for_ever() -> None:
    """Ids are the documented UUIDv5s: equal for equal input, whatever program makes them."""
    assert "9888f71f-0919-5d25-a9ac-91529ed73d54" == str(NAMESPACE)
    shown = alert_id("pump", "pump-1", 1583749261000, "20201103-1f3c", "open")
    assert "f354e300-8729-52db-b2ed-82bb28adfe45" == shown
    assert "ccf6c1f4-41d8-5ac2-aac1-72e4951524a1" == incident_id("pump", "pump-1", 1583749261000, "20201103-1f3c")
    assert alert_id("p", 'a","b', 1, "v", "open") != alert_id('p","a', "b", 1, "v", "open")


def test_alert_headers_hold_the_known_times() -> None:
    """Times are decimal UNIX ms; unknown ones are left out."""
    expected = [("event-ms", b"1583749261250"), ("scored-ms", b"5"), ("published-ms", b"9")]
    assert expected == alert_headers(replace(ALERT, scored_ms=5), 9)


def test_dead_letter_headers_say_why_and_where() -> None:
    """A dead letter's headers name code, detail and origin."""
    letter = DeadLetter(PARTITION, PlainMessage(7, -1, None, b"?"), "not-json", "x" * 600)
    expected = [
        ("error", b"not-json"),
        ("detail", b"x" * 500),
        ("topic", b"pump.readings"),
        ("partition", b"3"),
        ("offset", b"7"),
    ]
    assert expected == dead_letter_headers(letter)


def test_a_dead_letter_keeps_its_own_headers() -> None:
    """Its own come first, untouched, also those named like ours."""
    own = [("content-type", b"application/json"), ("error", b"theirs"), ("empty", b"")]
    letter = DeadLetter(PARTITION, PlainMessage(7, -1, b"k", b"?", own), "not-json", "x")
    assert own == dead_letter_headers(letter)[:3]
    assert b"not-json" == dict(dead_letter_headers(letter))["error"]
    assert list(DEAD_LETTER_HEADERS) == [name for name, _ in dead_letter_headers(letter)[3:]]


def test_the_documentation_names_every_header() -> None:
    """docs/wire-format.md lists every header of a dead letter."""
    text = DOCS.read_text("utf-8")
    section = text[text.index("## Dead letters") : text.index("| code |")]
    assert [] == [name for name in (*DEAD_LETTER_HEADERS, "dropped-bytes") if f"`{name}`" not in section]


def test_the_documentation_is_right() -> None:
    """docs/wire-format.md lists every dead-letter code and shows an alert that is one."""
    text = DOCS.read_text("utf-8")
    section = text[text.index("## Dead letters") : text.index("## Alerts")]
    assert sorted(DEAD_LETTER_CODES) == sorted(
        re.findall(r"^\| `([a-z-]+)` \| [^|]+ \| [^|]+ \|$", section, re.MULTILINE)
    )
    (shown,) = [block for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL) if '"schema"' in block]
    alert = decode_alert(shown.encode())
    assert json.loads(shown) == json.loads(encode_alert(alert))
    assert alert.id == alert_id(alert.stream, alert.asset, alert.end_ms, alert.model.version, alert.event)
    assert alert.incident == incident_id(alert.stream, alert.asset, alert.end_ms, alert.model.version)

"""The contract of every reader, as checks that a package with its own format can run in its tests.

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_it_keeps_the_contract(check):
        check(Case("my-format", Path("sample.jsonl")))

Each check raises AssertionError with the part of the contract that is broken.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from stream_detector.datasets import format_of, read
from stream_detector.datasets.recording import Recording
from stream_detector.errors import DataError

#: Names of the fields of a message, which no channel may have.
RESERVED = {"asset", "ts", "values", "interval_ms"}


@dataclass(frozen=True, slots=True)
class Case:
    """A format and a file of that format with at least two rows, with or without labels."""

    format: str
    file: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `read`."""

    def read(self, path: Path | None = None, **more: Any) -> list[Recording]:
        """Return the file's recordings."""
        return read(self.file if path is None else path, self.format, **{**self.options, **more})


Check = Callable[[Case], None]


def a_file_is_found_by_itself_and_in_its_folder(case: Case) -> None:
    """`find` of the file returns that file; `find` of a folder above it returns the file, possibly with others."""
    find = format_of(case.format).find
    assert find(case.file) == [case.file], f"find({case.file.name}) is {find(case.file)}"
    with tempfile.TemporaryDirectory() as name:
        copied = Path(name, "deep", case.file.name)
        copied.parent.mkdir()
        shutil.copy(case.file, copied)
        assert copied in find(Path(name)), f"{case.file.name} is not found in a folder's folder"


def nothing_to_read_is_refused(case: Case) -> None:
    """A missing file and a folder without files of the format raise DataError with the expected layout."""
    with tempfile.TemporaryDirectory() as name:
        _refused(lambda: case.read(Path(name, "no-such")), "no such file or folder")
        _refused(lambda: case.read(Path(name)), format_of(case.format).layout)


def recordings_are_whole(case: Case) -> None:
    """Times, channels, source and asset are present, and no mark is a channel."""
    found = case.read()
    assert found, "there is no recording"
    for one in found:
        assert one.asset, "a recording has no asset"
        assert one.source, f"asset {one.asset!r}: `source` doesn't say where it comes from"
        assert len(one) >= 2, f"asset {one.asset!r}: {len(one)} rows"
        assert np.isfinite(one.ts_ms).all(), f"asset {one.asset!r}: a time is not finite"
        assert one.channels, f"asset {one.asset!r}: there is no channel"
        assert not RESERVED & set(one.channels), f"asset {one.asset!r}: {one.channels} has a message's own field"
        assert not set(one.marks) & set(one.channels), f"asset {one.asset!r}: a mark is a channel too"


def every_message_is_a_reading(case: Case) -> None:
    """Every message is JSON with asset, time and at least one channel."""
    for one in case.read():
        for message in one.messages():
            fields = orjson.loads(message.value)
            assert fields["asset"] == one.asset, f"a message is of {fields['asset']!r}, not of {one.asset!r}"
            assert fields["values"].keys() <= set(one.channels), f"a message has the channels {list(fields['values'])}"


def channels_can_be_chosen(case: Case) -> None:
    """`columns` keeps the named channels; an unknown one raises DataError with its name."""
    first = case.read()[0].channels[0]
    kept = case.read(columns=[first])[0].channels
    assert kept == [first], f"columns=[{first!r}] gives {kept}"
    _refused(lambda: case.read(columns=["no such channel"]), "no such channel")


def the_same_file_gives_the_same_recording(case: Case) -> None:
    """Reading a file twice gives the same messages."""
    for one, again in zip(case.read(), case.read(), strict=True):
        assert [m.value for m in one.messages()] == [m.value for m in again.messages()], f"{one.asset}: it differs"


def damage_is_refused(case: Case) -> None:
    """An empty file and one with arbitrary bytes raise DataError with the file's name."""
    with tempfile.TemporaryDirectory() as name:
        broken = Path(name, case.file.name)
        for harm in (b"", b"\x00\xff\xfe\x01 no such thing\n" * 3):
            broken.write_bytes(harm)
            _refused(lambda: case.read(broken), broken.name)


CHECKS: tuple[Check, ...] = (
    a_file_is_found_by_itself_and_in_its_folder,
    nothing_to_read_is_refused,
    recordings_are_whole,
    every_message_is_a_reading,
    channels_can_be_chosen,
    the_same_file_gives_the_same_recording,
    damage_is_refused,
)


def _refused(call: Callable[[], object], told: str) -> None:
    """Check that a call raises DataError whose message contains `told`."""
    message = None
    try:
        call()
    except DataError as error:
        message = str(error)
    assert message is not None, f"no DataError with the text {told!r}"
    assert told in message, f"the message doesn't contain {told!r}: {message}"

"""Messages -> readings, a batch at a time.

Decoding an ordinary message must cost little compared with polling it, so a batch is parsed with one call per message
and checked column by column in C. Any message that fails these checks (an exception, an unusual type, a block, a value
outside its limits) is passed to `strict`, which finds the reason; the rest of the batch stays fast.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter

import numpy as np
import orjson
from numpy.typing import NDArray

from stream_detector.codec.packing import unpack
from stream_detector.codec.strict import (
    END_MS,
    MAX_ASSET,
    NUMBERS,
    Channel,
    Layout,
    OneReading,
    StrictReader,
    category_code,
    content_format,
    event_ms,
    key_asset,
)
from stream_detector.config import ChannelConfig, InputConfig
from stream_detector.errors import DecodeError
from stream_detector.types import DeadLetter, Message, MessageBatch, ReadingBatch

FEW = 8  # with fewer messages of one layout, columns cost more than they save


class _Unreadable:
    """Placeholder for a value that didn't parse; `strict` finds the reason."""


_UNREADABLE = _Unreadable()
_PARSERS: Mapping[str, Callable[[bytes], object]] = {"json": orjson.loads, "msgpack": unpack}


class _Columns:
    """The decoded part of a batch of B messages, in its order. `assets[i] is None` until message i is decoded."""

    def __init__(self, size: int, width: int) -> None:
        self.assets: list[str | None] = [None] * size
        self.ts_ms = np.full(size, np.nan)  # (B,)
        self.values = np.full((size, width), np.nan)  # (B, C)


class ReadingDecoder:
    """Decodes the messages of one input topic. Holds no state between batches."""

    def __init__(self, config: InputConfig, channels: Mapping[str, ChannelConfig]) -> None:
        """Take the topic's field names and the stream's channels, in column order."""
        self._layout = Layout.of(config, channels)
        self._strict = StrictReader(self._layout)
        self._numbers = [(i, channel) for i, channel in enumerate(self._layout.channels) if not channel.category]
        self._categories = [(i, channel) for i, channel in enumerate(self._layout.channels) if channel.category]

    def decode(self, batch: MessageBatch) -> tuple[ReadingBatch | None, list[DeadLetter]]:
        """Return a batch's readings, and a dead letter for each message that is not a reading, both in offset order.

        Never raises, for any content. No message is used in part: one bad value makes the whole message a dead
        letter. The readings are None when there are none.
        """
        messages = batch.messages
        docs = self._parsed(messages)
        out = _Columns(len(docs), len(self._layout.channels))
        for top, members in _by_keys(docs, range(len(docs))):
            self._take_layout(out, docs, members, top, messages)
        blocks: dict[int, OneReading] = {}
        letters: list[DeadLetter] = []
        if None in out.assets:
            dead = set()
            for i, asset in enumerate(out.assets):
                if asset is not None:
                    continue
                try:
                    self._take_one(out, blocks, i, messages[i], docs)
                except DecodeError as error:
                    asset = self._strict.asset(docs[i], messages[i].key) if error.channel else ""
                    letters.append(
                        DeadLetter(batch.partition, messages[i], error.code, error.detail, asset, error.channel)
                    )
                    dead.add(i)
            if len(dead) == len(docs):
                return None, letters
            if dead:
                keep = [i for i in range(len(docs)) if i not in dead]
                return _assemble(batch, out, blocks, keep), letters
        elif not docs:
            return None, []
        return _assemble(batch, out, blocks, None), letters

    def asset(self, message: Message) -> str:
        """Return the asset of a message that may not be a reading, by its key where its value can't be parsed.

        "" where it can't be determined.
        """
        try:
            return self._strict.asset(self._strict.document(message), message.key)
        except DecodeError:
            pass
        try:
            return "" if message.key is None else key_asset(message.key)
        except DecodeError:
            return ""

    def _take_one(
        self, out: _Columns, blocks: dict[int, OneReading], i: int, message: Message, docs: list[object]
    ) -> None:
        if docs[i] is _UNREADABLE:
            docs[i] = self._strict.document(message)  # kept: a refusal asks it for the asset
        one = self._strict.reading(docs[i], message.key)
        out.assets[i], out.ts_ms[i] = one.asset, one.ts_ms
        if one.row is not None:
            out.values[i] = one.row
        else:
            blocks[i] = one

    def _parsed(self, messages: Sequence[Message]) -> list[object]:
        """Parse every value that is not too large; _UNREADABLE where that fails."""
        values = [message.value for message in messages]
        if max(map(len, filter(None, values)), default=0) > self._layout.max_bytes:
            values = [None if value is None or len(value) > self._layout.max_bytes else value for value in values]
        if self._layout.format != "auto":
            return _parse_all(_PARSERS[self._layout.format], values)
        headers = [message.headers for message in messages]
        if not any(headers):
            return _parse_all(orjson.loads, values)
        forms = list(map(_form, headers))
        if len(kinds := set(forms)) == 1 and "" not in kinds:
            return _parse_all(_PARSERS[forms[0]], values)
        docs: list[object] = [_UNREADABLE] * len(values)
        for form in kinds - {""}:
            members = [i for i, each in enumerate(forms) if each == form]
            for i, doc in zip(members, _parse_all(_PARSERS[form], [values[i] for i in members]), strict=True):
                docs[i] = doc
        return docs

    def _take_layout(
        self,
        out: _Columns,
        docs: list[object],
        members: Sequence[int],
        top: tuple[str, ...],
        messages: Sequence[Message],
    ) -> None:
        """Decode documents that have the same keys; those with an object of values are grouped by its keys as well."""
        if len(members) < FEW or self._layout.ts not in top:
            return
        whole = len(members) == len(docs)
        outer = docs if whole else [docs[i] for i in members]
        if self._layout.values not in top:
            self._take_group(out, members, outer, None, top=top, keys=(), messages=messages)
            return
        inner = list(map(itemgetter(self._layout.values), outer))  # type: ignore[arg-type] # all of them are dicts
        for keys, picked in _by_keys(inner, range(len(inner))):
            if len(picked) == len(inner):
                self._take_group(out, members, outer, inner, top=top, keys=keys, messages=messages)
            elif len(picked) >= FEW:
                chosen = [members[j] for j in picked]
                self._take_group(
                    out,
                    chosen,
                    [outer[j] for j in picked],
                    [inner[j] for j in picked],
                    top=top,
                    keys=keys,
                    messages=messages,
                )

    def _take_group(
        self,
        out: _Columns,
        members: Sequence[int],
        outer: list[object],
        inner: list[object] | None,
        *,
        top: tuple[str, ...],
        keys: tuple[str, ...],
        messages: Sequence[Message],
    ) -> None:
        """Check documents of one layout by columns and decode those that pass."""
        size = len(outer)
        bad: set[int] = set()
        parts: list[tuple[list[int], NDArray[np.float64]]] = []
        for source, present in ((inner, keys), (outer, tuple(key for key in top if key not in keys))):
            if source is None:
                continue
            numbers = [(i, channel) for i, channel in self._numbers if channel.field in present]
            if numbers:
                parts.append(([i for i, _ in numbers], _number_columns(source, [c for _, c in numbers], bad)))
            parts.extend(
                ([i], _category_column(source, channel, bad))
                for i, channel in self._categories
                if channel.field in present
            )
        if not parts:
            return
        ts_ms = _times(list(map(itemgetter(self._layout.ts), outer)))  # type: ignore[arg-type] # dicts
        if not (plain := (ts_ms >= 0.0) & (ts_ms < END_MS)).all():
            bad.update(np.flatnonzero(~plain).tolist())
        if self._layout.asset in top:
            assets = _named_assets(list(map(itemgetter(self._layout.asset), outer)), bad)  # type: ignore[arg-type] # dicts
        else:
            assets = _key_assets([messages[i].key for i in members], bad)
        if len(bad) == size:
            return
        if not bad and size == len(out.assets):
            out.assets, out.ts_ms = assets, ts_ms
            for columns, part in parts:
                if part.shape == out.values.shape:  # all channels, in their order
                    out.values = part
                else:
                    out.values[:, columns] = part
            return
        good = [j for j in range(size) if j not in bad]
        rows = np.array([members[j] for j in good], dtype=np.int64)
        for j in good:
            out.assets[members[j]] = assets[j]
        out.ts_ms[rows] = ts_ms[good]
        for columns, part in parts:
            out.values[rows[:, None], columns] = part[good]


def _form(headers: Sequence[tuple[str, bytes]]) -> str:
    """Return a message's format, "" for an unsupported one."""
    if not headers:
        return "json"
    try:
        return content_format(headers)
    except DecodeError:
        return ""


def _parse_all(parser: Callable[[bytes], object], values: Iterable[bytes | None]) -> list[object]:
    docs: list[object] = []
    rest = map(parser, values)  # type: ignore[arg-type] # None raises, like any value that can't be parsed
    while True:
        try:
            docs.extend(rest)  # keeps what was parsed before an exception; the iterator goes on after it
        except Exception:  # any error of a parser: `strict` parses that message again and reports it
            docs.append(_UNREADABLE)
        else:
            return docs


def _by_keys(docs: list[object], indices: Sequence[int]) -> list[tuple[tuple[str, ...], Sequence[int]]]:
    """Group the dicts among `docs` by their keys; other values are left out."""
    if set(map(type, docs)) == {dict}:
        first: tuple[str, ...] = tuple(docs[0])  # type: ignore[arg-type] # a dict: its keys
        if _have_keys(docs, first):
            return [(first, indices)]
        layouts: list[tuple[str, ...]] = list(map(tuple, docs))  # type: ignore[arg-type] # dicts
    else:
        indices = [i for i in indices if type(docs[i]) is dict]
        layouts = [tuple(docs[i]) for i in indices]  # type: ignore[arg-type] # dicts
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, layout in zip(indices, layouts, strict=True):
        groups.setdefault(layout, []).append(i)
    return list(groups.items())


def _have_keys(docs: list[object], keys: tuple[str, ...]) -> bool:
    """Whether each of the dicts has these keys and no other, in any order."""
    if set(map(len, docs)) != {len(keys)}:  # type: ignore[arg-type] # dicts
        return False
    try:
        deque(map(itemgetter(*keys), docs), maxlen=0)  # type: ignore[arg-type] # half the time of comparing all keys
    except (KeyError, TypeError):  # TypeError: there are no keys
        return not keys
    return True


def _number_columns(source: list[object], channels: list[Channel], bad: set[int]) -> NDArray[np.float64]:
    """Return number channels of all documents, (M, K), null as NaN; rows with any other value are added to `bad`."""
    width = len(channels)
    getter = itemgetter(*(channel.field for channel in channels))
    found = map(getter, source)  # type: ignore[arg-type] # dicts
    flat = list(found) if width == 1 else list(chain.from_iterable(found))
    nulls: list[int] = []
    if not set(map(type, flat)) <= NUMBERS:
        for j, value in enumerate(flat):
            kind = type(value)
            if kind is float or kind is int:
                continue
            if value is None:
                nulls.append(j)
            else:
                bad.add(j // width)
            flat[j] = math.nan
    part = np.array(flat, dtype=np.float64).reshape(len(source), width)
    inside = (part >= [channel.low for channel in channels]) & (part <= [channel.high for channel in channels])
    if not inside.all():
        if nulls:
            inside.flat[nulls] = True
        bad.update(np.flatnonzero(~inside.all(axis=1)).tolist())
    if nulls:  # a row of nulls only may not be a reading: `strict` decides
        bad.update(np.flatnonzero(np.isnan(part).all(axis=1)).tolist())
    return part


def _category_column(source: list[object], channel: Channel, bad: set[int]) -> NDArray[np.float64]:
    """Return a category channel's codes of all documents, (M, 1); rows that hold anything odd are added to `bad`."""
    found = list(map(itemgetter(channel.field), source))  # type: ignore[arg-type] # dicts
    if not (kinds := set(map(type, found))) <= {str, int}:
        for j, value in enumerate(found):
            if type(value) is not str and type(value) is not int:
                bad.add(j)
                found[j] = ""
    codes = {value: float(category_code(value if kinds == {str} else str(value))) for value in set(found)}
    return np.array([codes[value] for value in found]).reshape(-1, 1)


def _times(found: list[object]) -> NDArray[np.float64]:
    """Return timestamps as UNIX ms, (M,); NaN where there is none."""
    if set(map(type, found)) <= NUMBERS:
        return np.array(found, dtype=np.float64)
    times = np.full(len(found), np.nan)
    for j, value in enumerate(found):
        try:
            times[j] = event_ms(value)
        except DecodeError:
            continue
    return times


def _named_assets(found: list[object], bad: set[int]) -> list[str | None]:
    if set(map(type, found)) != {str} or not all(0 < len(asset) <= MAX_ASSET for asset in set(found)):  # type: ignore[arg-type] # strings
        bad.update(j for j, asset in enumerate(found) if type(asset) is not str or not 0 < len(asset) <= MAX_ASSET)
    return found  # type: ignore[return-value] # those that are not strings are in `bad`


def _key_assets(keys: list[bytes | None], bad: set[int]) -> list[str | None]:
    names: dict[bytes | None, str | None] = {}
    for key in set(keys):
        try:
            names[key] = None if key is None else key_asset(key)
        except DecodeError:
            names[key] = None
    assets = [names[key] for key in keys]
    if None in names.values():
        bad.update(j for j, asset in enumerate(assets) if asset is None)
    return assets


def _assemble(
    batch: MessageBatch, out: _Columns, blocks: Mapping[int, OneReading], keep: list[int] | None
) -> ReadingBatch:
    """Assemble the decoded messages; a block becomes several rows of its reading."""
    messages, assets, ts_ms, values = batch.messages, out.assets, out.ts_ms, out.values
    if keep is not None:
        messages, assets = [messages[i] for i in keep], [assets[i] for i in keep]
        ts_ms, values = ts_ms[keep], values[keep]
    reading = interval_ms = None
    if blocks:
        chosen = range(len(messages)) if keep is None else keep
        relocated = {m: blocks[i] for m, i in enumerate(chosen) if i in blocks}
        lengths = np.ones(len(messages), dtype=np.int64)
        interval_ms = np.full(len(messages), np.nan)
        for m, one in relocated.items():
            assert one.rows is not None
            lengths[m], interval_ms[m] = len(one.rows), one.interval_ms
        starts = np.cumsum(lengths) - lengths
        reading = np.repeat(np.arange(len(messages)), lengths)
        rows = np.empty((len(reading), values.shape[1]))
        rows[starts] = values  # right for single readings; a block's first row is written again below
        times = np.repeat(ts_ms, lengths)
        for m, one in relocated.items():
            span = slice(starts[m], starts[m] + lengths[m])
            rows[span] = one.rows
            times[span] += np.arange(lengths[m]) * one.interval_ms
        ts_ms, values = times, rows
    return ReadingBatch(
        partition=batch.partition,
        messages=messages,
        assets=assets,  # type: ignore[arg-type] # every kept message has an asset
        offsets=np.array([message.offset for message in messages], dtype=np.int64),
        ingest_ms=np.array([message.timestamp for message in messages], dtype=np.int64),
        reading=reading,
        ts_ms=ts_ms,
        values=values,
        interval_ms=interval_ms,
    )

"""The messages of a task as its stages take them: readings and dead letters between them, cut where their kind changes.

offset   ──▶  0 ……………………… judged ……………………… published …………………
              the states know     nobody has judged   nobody has published
              what they tell      them, alerts are    what they tell
                                  published
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stream_detector.types import DeadLetter, Partition, ReadingBatch
from stream_detector.windowing.jumps import Jumps
from stream_detector.windowing.windower import part


@dataclass(frozen=True, slots=True)
class Passage:
    """Successive messages of one partition."""

    partition: Partition
    readings: ReadingBatch | None
    letters: Sequence[DeadLetter]  # of messages that are no readings, in order
    processed: bool  # the states loaded know what they tell
    replayed: bool  # what they tell was published before
    lone: Sequence[DeadLetter] = ()  # of readings before, which were held back until now; they come first


def passages(
    passed: Sequence[ReadingBatch],
    letters: Sequence[DeadLetter],
    judged: Mapping[Partition, int],
    published: Mapping[Partition, int],
) -> Iterator[Passage]:
    """Yield readings in the order in which they were passed on, each partition's letters where its log has them.

    `judged`, `published`: one past the last message that was, by partition.
    """
    for partition, readings, between in _with_letters(passed, letters):
        known, said = judged.get(partition, 0), published.get(partition, 0)
        rest, letters_left = readings, between
        for bound in sorted({known, said}):
            before, rest = _split(rest, bound)
            letters_before = [letter for letter in letters_left if letter.message.offset < bound]
            letters_left = letters_left[len(letters_before) :]
            if before is not None or letters_before:
                yield Passage(partition, before, letters_before, bound <= known, bound <= said)
        if rest is not None or letters_left:
            yield Passage(partition, rest, letters_left, False, False)


def _with_letters(
    passed: Sequence[ReadingBatch], letters: Sequence[DeadLetter]
) -> Iterator[tuple[Partition, ReadingBatch | None, Sequence[DeadLetter]]]:
    """Yield each batch with the letters up to its partition's next one; then those of partitions without any."""
    left: dict[Partition, list[DeadLetter]] = {}
    for letter in letters:
        left.setdefault(letter.partition, []).append(letter)
    if not left:
        yield from ((batch.partition, batch, ()) for batch in passed)
        return
    following: dict[Partition, float] = {}
    ends: list[float] = []
    for batch in reversed(passed):
        ends.append(following.get(batch.partition, math.inf))
        following[batch.partition] = int(batch.offsets[0])
    for batch, end in zip(passed, reversed(ends), strict=True):
        mine = left.get(batch.partition, [])
        between = [letter for letter in mine if letter.message.offset < end]
        left[batch.partition] = mine[len(between) :]
        yield batch.partition, batch, between
    yield from ((partition, None, rest) for partition, rest in left.items() if rest)


def _split(batch: ReadingBatch | None, offset: int) -> tuple[ReadingBatch | None, ReadingBatch | None]:
    """Return the readings before an offset, and the others."""
    if batch is None or int(batch.offsets[0]) >= offset:
        return None, batch
    cut, count = int(np.searchsorted(batch.offsets, offset)), len(batch.assets)
    return (batch, None) if cut == count else (part(batch, 0, cut), part(batch, cut, count))


def in_turn(whole: Iterable[Passage], jumps: Jumps) -> Iterator[Passage]:
    """Yield passages whose readings need not wait until their times are confirmed, in the order to be used in."""
    for passage in whole:
        if passage.readings is None:
            yield passage
            continue
        letters = passage.letters
        for what, bound in jumps.push(passage.readings):
            if what is passage.readings:  # the usual case
                yield passage
                break
            before = [letter for letter in letters if letter.message.offset < bound]
            letters = letters[len(before) :]
            if isinstance(what, ReadingBatch) and (what.partition, what.offsets[-1]) == (
                passage.partition,
                bound,
            ):  # letters lie between its readings
                yield replace(passage, readings=what, letters=before)
                continue
            if before:
                yield replace(passage, readings=None, letters=before)
            lone = (what,) if isinstance(what, DeadLetter) else ()
            readings = what if isinstance(what, ReadingBatch) else None
            yield replace(passage, partition=what.partition, readings=readings, letters=(), lone=lone)
        else:
            if letters:
                yield replace(passage, readings=None, letters=letters)

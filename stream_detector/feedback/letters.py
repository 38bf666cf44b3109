"""Whether a dead letter would be used if it were sent again, by the rules of today's set-up. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from stream_detector.codec import ReadingDecoder
from stream_detector.codec.letters import Letter
from stream_detector.config import Config
from stream_detector.errors import DecodeError
from stream_detector.feedback.verdicts import decode_verdict
from stream_detector.types import MessageBatch


class Recheck:
    """Reads dead letters again: a set-up may have been corrected since."""

    def __init__(self, config: Config, judged_ms: Callable[[str], int | None]) -> None:
        """`judged_ms`: end of the last window judged of an asset, UNIX ms; None when nothing was."""
        self._config = config
        self._judged_ms = judged_ms
        self._decoders = {entry.topic: ReadingDecoder(entry, config.channels) for entry in config.inputs}

    def asset(self, letter: Letter) -> str:
        """Return the asset that the message is of, "" where it can't be known."""
        decoder = self._decoders.get(letter.source.topic)
        return "" if decoder is None else decoder.asset(letter.original)

    def in_vain(self, letter: Letter, now_ms: float) -> str:
        """Return why it helps nothing to send the message again; "" when it would be used."""
        if letter.source.topic == self._config.verdict_topic:
            try:
                decode_verdict(letter.original.value, letter.original.key)
            except DecodeError as error:
                return str(error)
            return ""
        decoder = self._decoders.get(letter.source.topic)
        if decoder is None:
            return f"{letter.source.topic!r} is no input topic of the set-up"
        batch, letters = decoder.decode(MessageBatch(letter.source, [letter.original]))
        if letters:
            return f"{letters[0].code}: {letters[0].detail}"
        assert batch is not None
        newest = float(batch.ts_ms.max(initial=-math.inf))
        if newest > now_ms + self._config.window.max_ahead_ms:
            return "too-far-ahead: its time is still further ahead than window.max_ahead_ms"
        if self._config.window.mode == "records":
            lacking = np.isnan(batch.values).any(axis=0)
            return f"incomplete: no {list(self._config.channels)[int(lacking.argmax())]!r}" if lacking.any() else ""
        judged = self._judged_ms(batch.assets[0])
        if judged is not None and newest <= judged:
            return "too-late: the asset has been judged beyond its time"
        if letter.code == "too-late":
            return "too-late: what was late is later still"
        return ""

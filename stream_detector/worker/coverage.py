"""Which assets of a worker are not judged: counted per task, reported once per asset, as a metric, and to /readyz."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

from stream_detector.telemetry.logs import event
from stream_detector.telemetry.metrics import Metrics
from stream_detector.types import NOT_JUDGED_REASONS, DeadLetter, NotJudged

log = logging.getLogger(__name__)

_MOST = 1_000  # assets that are logged individually
_REFUSED = 20  # readings in a row, all refused, after which an asset is reported
_NAMED = 3  # assets that /readyz names


class Discarded:
    """Windows of one task that are not judged, because their assets were judged beyond them before."""

    def __init__(self) -> None:
        """Nothing is discarded."""
        self._found: dict[str, tuple[int, int]] = {}  # asset -> how many, end of the newest, UNIX ms

    def add(self, assets: Iterable[str], ends_ms: Iterable[int]) -> None:
        """Count windows that are discarded although nothing was published of their messages."""
        for asset, end in zip(assets, ends_ms, strict=True):
            count, newest = self._found.get(asset, (0, end))
            self._found[asset] = count + 1, max(newest, end)

    def judged(self, assets: Sequence[str]) -> None:
        """Forget assets of which windows are judged."""
        if self._found:
            for asset in self._found.keys() & set(assets):
                del self._found[asset]

    def not_judged(self, judged_ms: Callable[[str], int | None]) -> list[NotJudged]:
        """Return the assets; `judged_ms` returns up to when one was judged before, UNIX ms."""
        found = []
        for asset, (count, newest) in self._found.items():
            until = judged_ms(asset)
            found.append(
                NotJudged(
                    asset,
                    count,
                    "already-judged",
                    f"its newest window ends at {_time(newest)}, and it was judged up to "
                    f"{'later' if until is None else _time(until)}: an older recording, a "
                    "topic made again, or offsets set back; to have it judged again, stop the workers, run "
                    "`stream-detector thresholds reset CONFIG` for it, and set the offsets back",
                )
            )
        return found


class Unusable:
    """Assets of one task whose readings are all refused, so that none of them gets to the windows."""

    def __init__(self) -> None:
        """Nothing was refused."""
        self._found: dict[str, tuple[int, DeadLetter]] = {}  # asset -> how many in a row, the last one

    def heard(self, assets: Sequence[str], refused: Iterable[DeadLetter]) -> None:
        """Count refused readings; `assets` are those of all readings that are none of the decoder's dead letters."""
        bad = Counter(letter.asset for letter in refused if letter.asset)
        if self._found:
            for asset in self._found.keys() & set(assets):
                if assets.count(asset) > bad[asset]:
                    del self._found[asset]
        for letter in refused:
            if letter.asset and (letter.asset in self._found or len(self._found) < _MOST):
                self._found[letter.asset] = self._found.get(letter.asset, (0, letter))[0] + 1, letter

    def not_judged(self) -> list[NotJudged]:
        """Return the assets."""
        return [
            NotJudged(asset, count, "refused", f"its last readings are all dead letters ({one.code}): {one.detail}")
            for asset, (count, one) in self._found.items()
            if count >= _REFUSED
        ]


class Coverage:
    """Reports the assets of one worker that are not judged."""

    def __init__(self, metrics: Metrics) -> None:
        """Every asset is judged."""
        self._metrics = metrics
        self._reported: set[tuple[str, str]] = set()
        self._now: list[NotJudged] = []
        for reason in NOT_JUDGED_REASONS:
            metrics.assets_not_judged.labels(reason).set(0)

    def update(self, found: list[NotJudged]) -> None:
        """Report what is new; the metric counts all of them."""
        if not found and not self._now:
            return
        self._now = found
        counts = Counter(one.reason for one in found)
        for reason in NOT_JUDGED_REASONS:
            self._metrics.assets_not_judged.labels(reason).set(counts[reason])
        for one in found:
            if one.reason == "no-detector" or (one.asset, one.reason) in self._reported:
                continue  # the scoring logs assets without a detector
            self._reported.add((one.asset, one.reason))
            if len(self._reported) > _MOST:
                if len(self._reported) == _MOST + 1:
                    log.warning("more assets are not judged; see the metric", extra=event("not-judged", reason="more"))
                continue
            log.warning(
                "asset %s is not judged (%d readings): %s",
                one.asset,
                one.readings,
                one.detail,
                extra=event("not-judged", asset=one.asset, reason=one.reason, readings=one.readings),
            )

    @property
    def text(self) -> str:
        """One line for /readyz: how many assets are not judged, and why; empty when all are."""
        now = self._now
        if not now:
            return ""
        named = ", ".join(f"{one.asset!a} ({one.reason})" for one in now[:_NAMED])
        more = ", …" if len(now) > _NAMED else ""
        return f"{len(now)} assets are not judged: {named}{more}"


def _time(ms: int) -> str:
    try:
        return datetime.fromtimestamp(ms / 1_000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return f"{ms} ms"

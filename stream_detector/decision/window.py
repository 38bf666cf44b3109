"""One window with its score, as the decision engine takes it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from stream_detector.types import ModelRef, ScoreBatch, WindowBatch

Floats = NDArray[np.float32]
#: Scores one window under some shifts (K, N): its scores (K,) and offsets (K, N), the shifts included. A pure function.
Probe = Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], Floats]]


class ScoredWindow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A window of one asset after scoring. Its details stay in the batch it was scored in: only alarms look at them."""

    asset: str
    end_ms: int
    """Event time of its end, UNIX ms."""
    score: float
    """Higher is stranger; NaN is stranger than any number."""
    scores: ScoreBatch
    row: int = 0
    """Its place in `scores`."""
    model: int = 0
    """Index of its detector in `scores.models`, and in the engine's calibrations."""
    ingest_ms: int = -1
    """Broker time of the reading that completed it, UNIX ms; -1 when unknown."""
    due: bool | None = None
    """Whether adaptation looks at it; None: by its end time."""
    serial: int | None = None
    """Serial of the shift it was scored under; None: any shift is as good."""
    flags: NDArray[np.uint8] | None = None
    """(C,) what sensor checks say of each channel (sensor_checks.py); None: nothing."""
    windows: WindowBatch | None = None
    """The batch of windows it is in, and ..."""
    place: int = 0
    """... where; needed where `flags` are or a sensor fault is open."""
    probe: Callable[[ScoredWindow, NDArray[np.float64]], tuple[NDArray[np.float64], Floats]] | None = None
    """Scores this window under other shifts; None: a regime change is located by the mean offsets."""

    @classmethod
    def of(
        cls,
        asset: str,
        end_ms: int,
        score: float,
        *,
        contributions: ArrayLike,
        observed: ArrayLike,
        expected: ArrayLike,
        model: ModelRef,
    ) -> ScoredWindow:
        """Return a window that was scored by itself; the arrays are (C,), an entry per column of the configuration.

        `contributions` are >= 0; `observed` and `expected` are in the channels' units.
        """
        rows = [np.asarray(one, np.float32)[None] for one in (contributions, observed, expected)]
        scores = ScoreBatch(np.array([score]), rows[0], rows[1], rows[2], np.zeros(1, np.int32), (model,))
        return cls(asset=asset, end_ms=end_ms, score=score, scores=scores)

    @property
    def newest(self) -> Floats:
        """The values of its last cell, (C,), in the channels' units. Only where `windows` are known."""
        assert self.windows is not None
        found: Floats = self.windows.values[self.place, -1]
        return found

    @property
    def ref(self) -> ModelRef:
        """The detector that scored it."""
        return self.scores.models[self.model]

    @property
    def contributions(self) -> Floats:
        """Each column's part of the score, (C,), >= 0."""
        found: Floats = self.scores.channels[self.row]
        return found

    @property
    def observed(self) -> Floats:
        """What was measured, (C,), in the channels' units."""
        found: Floats = self.scores.observed[self.row]
        return found

    @property
    def expected(self) -> Floats:
        """What the model would have expected there, (C,), in the channels' units."""
        found: Floats = self.scores.expected[self.row]
        return found

    @property
    def offset(self) -> Floats | None:
        """(N,) how far the last cell is from the expectation, in training spreads; None where nothing says so."""
        return None if self.scores.offset is None else self.scores.offset[self.row]

    def prober(self) -> Probe | None:
        """Return what scores this window under other shifts, if anything does."""
        probe = self.probe
        return None if probe is None else lambda shifts: probe(self, shifts)

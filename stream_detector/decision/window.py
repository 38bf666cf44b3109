"""One window with its score, the input of the decision engine."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from stream_detector.types import ModelRef, ScoreBatch, WindowBatch

Floats = NDArray[np.float32]
#: Scores one window under K shifts (K, N); returns its scores (K,) and its offsets (K, N), shifts included. Pure.
Probe = Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], Floats]]


class ScoredWindow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A window of one asset after scoring. Its details remain in the batch of scores; only alarms need them."""

    asset: str
    end_ms: int
    """Event time of its end, UNIX ms."""
    score: float
    """Higher is more anomalous; NaN counts as higher than any number."""
    scores: ScoreBatch
    row: int = 0
    """Its index in `scores`."""
    model: int = 0
    """Index of its detector in `scores.models`, and in the engine's calibrations."""
    ingest_ms: int = -1
    """Broker time of the reading that completed it, UNIX ms; -1 when unknown."""
    due: bool | None = None
    """Whether adaptation uses it; None: this depends on its end time."""
    serial: int | None = None
    """Serial of the shift it was scored under; None: the shift is not checked."""
    flags: NDArray[np.uint8] | None = None
    """(C,) flags of the sensor checks for each channel (sensor_checks.py); None: no flag is set."""
    windows: WindowBatch | None = None
    """The batch that contains the window, ..."""
    place: int = 0
    """... and its index there; needed if there are `flags` or a sensor fault is open."""
    probe: Callable[[ScoredWindow, NDArray[np.float64]], tuple[NDArray[np.float64], Floats]] | None = None
    """Scores this window under other shifts; None: relocation uses the mean offsets."""

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
        """Return a window that was scored by itself; the arrays are (C,), one entry per column of the configuration.

        `contributions` are >= 0; `observed` and `expected` are in the channels' units.
        """
        rows = [np.asarray(one, np.float32)[None] for one in (contributions, observed, expected)]
        scores = ScoreBatch(np.array([score]), rows[0], rows[1], rows[2], np.zeros(1, np.int32), (model,))
        return cls(asset=asset, end_ms=end_ms, score=score, scores=scores)

    @property
    def newest(self) -> Floats:
        """The values of its last cell, (C,), in the channels' units. Requires `windows`."""
        assert self.windows is not None
        found: Floats = self.windows.values[self.place, -1]
        return found

    @property
    def ref(self) -> ModelRef:
        """The detector that scored it."""
        return self.scores.models[self.model]

    @property
    def contributions(self) -> Floats:
        """Each column's contribution to the score, (C,), >= 0."""
        found: Floats = self.scores.channels[self.row]
        return found

    @property
    def observed(self) -> Floats:
        """The measured values, (C,), in the channels' units."""
        found: Floats = self.scores.observed[self.row]
        return found

    @property
    def expected(self) -> Floats:
        """The values that the model expected instead, (C,), in the channels' units."""
        found: Floats = self.scores.expected[self.row]
        return found

    @property
    def offset(self) -> Floats | None:
        """The last cell less the expectation, (N,), in training spreads; None if the detector gives no expectation."""
        return None if self.scores.offset is None else self.scores.offset[self.row]

    def prober(self) -> Probe | None:
        """Return a function that scores this window under other shifts; None if there is no `probe`."""
        probe = self.probe
        return None if probe is None else lambda shifts: probe(self, shifts)

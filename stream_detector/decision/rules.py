"""The rules of one stream, shared by the policies; built once from the configuration and the calibrations. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stream_detector.config import Config
from stream_detector.decision.adaptation import AdaptationRules
from stream_detector.decision.incident import Basis, Incidents, Limit
from stream_detector.decision.policy import Draft
from stream_detector.decision.sensor_faults import SensorFaults
from stream_detector.decision.threshold import ThresholdMethod, alarm_level, make_method
from stream_detector.decision.threshold.budget import Budget
from stream_detector.decision.threshold.spot import Spot
from stream_detector.types import AssetState, ThresholdState
from stream_detector.windowing.channel_profile import ChannelProfile


class Rules:
    """The rules that follow from a configuration. Holds no state of any asset."""

    def __init__(
        self,
        config: Config,
        calibrations: Sequence[NDArray[np.float64]],
        profiles: Sequence[ChannelProfile | None] = (),
    ) -> None:
        """`calibrations` and `profiles`: by model index, as for an `Engine`."""
        self.config = config
        self.calibrations = calibrations
        self.method: ThresholdMethod = make_method(config.threshold)
        self.margin = config.threshold.alarm_margin
        self.fresh: list[ThresholdState] = [self.method.calibrate(scores) for scores in calibrations]
        self.incidents = Incidents(config.stream, config.columns, config.incident, config.threshold, profiles)
        self.sensors = SensorFaults(config, profiles, self.incidents)
        stride_ms = config.window.stride * config.window.cell_ms
        self.follows = config.window.mode == "grid"
        """Whether the baseline is followed: not for records."""
        columns = len(config.numeric_columns) if self.follows else 0
        self.adaptation = AdaptationRules(config.adaptation, stride_ms, columns)
        self.budget: Budget | None = None
        if config.threshold.budget is not None:
            assert isinstance(self.method, Spot)
            self.budget = Budget(config.threshold.budget, config.incident, self.method, stride_ms)

    def risk_of(self, threshold: ThresholdState) -> float:
        """Return the risk of a threshold: the configured one, or the one adjusted by the alert budget."""
        if self.budget is None or not threshold.numbers:
            return self.method.risk
        assert isinstance(self.method, Spot)
        return self.method.risk_of(threshold)

    def set_budget(self, draft: Draft) -> None:
        """Set the risk of a newly calibrated threshold by the alert budget, if there is one."""
        if self.budget is not None:
            scores, end_ms = self.calibrations[draft.window.model], draft.window.end_ms
            draft.budget, draft.threshold = self.budget.start(draft.threshold, scores, end_ms)

    def basis(self, draft: Draft) -> Basis:
        """Return the basis of a draft's alerts."""
        threshold = draft.threshold
        return Basis(draft.judgement, self.risk_of(threshold), threshold.seen)

    def limit(self, state: AssetState | Draft, pinned: float | None) -> Limit:
        """Return the limit that scores are compared with, for alerts about sensors."""
        threshold = state.threshold
        level = alarm_level(threshold.level, self.margin) if pinned is None else pinned
        method = threshold.method if pinned is None else "pinned"
        return Limit(level, method, self.risk_of(threshold), threshold.seen)

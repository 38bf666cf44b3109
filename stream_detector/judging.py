"""Scores -> verdicts -> alerts, and the states of assets on the way: threshold, then incident. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stream_detector.config import Config
from stream_detector.incident import Incidents
from stream_detector.norms import Norms
from stream_detector.records import (
    Alert,
    AssetState,
    Controls,
    IncidentState,
    ScoreBatch,
    ThresholdState,
    WindowBatch,
)
from stream_detector.sensing import Sensing
from stream_detector.task import Task
from stream_detector.threshold import ThresholdMethod, alarm_level, judge, make_method

_NEVER = -(2**62)  # the end of the last window judged of an asset that has had none
_OTHER_METHOD = "\0method"  # a reset that no operator can ask for


class Judging:
    """The threshold method and the incident rules of one stream. Holds no state of any asset; tasks do."""

    def __init__(
        self, config: Config, calibrations: Sequence[NDArray[np.float64]], norms: Sequence[Norms | None] = ()
    ) -> None:
        """`calibrations`: by model index, scores (n,) of normal windows that the model wasn't trained on.

        `norms`: by model index, what is usual for its channels; sensor faults are told where there are any.
        """
        self._method: ThresholdMethod = make_method(config.threshold)
        self._margin, self._learn_after = config.threshold.margin, config.threshold.learn_after
        self._adapt = config.threshold.adapt
        self._fresh: list[ThresholdState] = [self._method.calibrate(scores) for scores in calibrations]
        self._incidents = Incidents(config.stream, config.columns, config.incident, config.threshold, norms)
        self._sensing = Sensing(config, norms, self._incidents)
        self.anomalies = 0
        """Scores judged anomalous so far."""

    def adopt(self, states: dict[str, AssetState]) -> None:
        """Fit states that were stored under another configuration to this one, in place."""
        for asset, state in states.items():
            adopted = self._method.adopt(state.threshold)
            if adopted is None:
                states[asset] = replace(state, reset=_OTHER_METHOD)
            elif adopted is not state.threshold:
                states[asset] = replace(state, threshold=replace(adopted, pending=state.threshold.pending))

    def judge(self, task: Task, windows: WindowBatch, scores: ScoreBatch, row: int, controls: Controls) -> list[Alert]:
        """Judge one task's windows, whose scores begin at `row`, in order; return the alerts they call for.

        The task's states become those after the windows. Windows without a score (no detector) change nothing.
        """
        states, changed = task.states, task.changed
        pins, resets = controls.pins, controls.resets
        everybody = resets.get("*", "")
        alerts: list[Alert] = []
        count = len(windows)
        score_of, model_of = scores.score[row : row + count].tolist(), scores.model[row : row + count].tolist()
        ends, ingests = windows.end_ms.tolist(), windows.ingest_ms.tolist()
        looks = self._sensing.look(windows, scores.model[row : row + count])
        odd = [False] * count if looks is None else [bool(row.any()) for row in looks]
        for index, asset in enumerate(windows.assets):
            model = model_of[index]
            if model < 0:
                continue
            token = max(resets.get(asset, ""), everybody) if resets else ""  # tokens sort by time
            state = states.get(asset)
            if state is None:
                state = AssetState(self._fresh[model], IncidentState(), _NEVER, token)
            elif state.reset != token:
                state = AssetState(self._fresh[model], state.incident, state.judged_ms, token, state.sensors)
            end = ends[index]
            sensors = state.sensors
            if odd[index] or sensors.faults:
                codes = looks[index] if looks is not None and odd[index] else None
                sensors, incident, said, muted = self._sensing.step(
                    sensors, state.incident, asset, end, codes, windows, index, scores, row + index,
                    self._told(state.threshold, pins.get(asset)), ingests[index],
                )  # fmt: skip
                alerts += said
                if muted:  # neither alarms nor teaches
                    states[asset] = AssetState(state.threshold, incident, end, token, sensors)
                    changed.add(asset)
                    continue
                state = replace(state, incident=incident)
            judgement, threshold = judge(
                self._method, state.threshold, score_of[index], pins.get(asset), self._margin, self._learn_after,
                self._adapt,
            )  # fmt: skip
            incident, found = self._incidents.step(
                state.incident, asset, end, judgement, scores, row + index, threshold.seen, ingests[index]
            )
            self.anomalies += judgement.anomalous
            if found:
                alerts += found
            states[asset] = AssetState(threshold, incident, end, token, sensors)
            changed.add(asset)
        return alerts

    def _told(self, state: ThresholdState, pinned: float | None) -> tuple[float | None, str, float, int]:
        """Return alarm level, method, risk and scores seen, for alerts about sensors."""
        level = alarm_level(state.level, self._margin) if pinned is None else pinned
        return level, state.method if pinned is None else "pinned", self._method.risk, state.seen

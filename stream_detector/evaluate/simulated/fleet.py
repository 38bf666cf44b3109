"""Machines that share a partition: trained on the beginning of their recordings; the rest is judged as by a worker.

Windows, scores and judgements equal those of a worker: the same task cuts the windows and the same stages judge them,
in the order in which the machines sent their readings. Cutting and scoring don't depend on thresholds, so they are done
once, and the result can be judged with several configurations.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stream_detector.artifacts.model_set import ModelSet
from stream_detector.codec import ReadingDecoder
from stream_detector.config import Config
from stream_detector.decision.driver import Driver, Trace
from stream_detector.decision.engine import Engine
from stream_detector.decision.table import StateTable
from stream_detector.errors import DataError
from stream_detector.evaluate import data
from stream_detector.evaluate.fitting import history
from stream_detector.evaluate.live import copied
from stream_detector.evaluate.offline import TOPIC, offline
from stream_detector.ports import TaskState
from stream_detector.scoring.scorer import Scorer
from stream_detector.training.train import train_many
from stream_detector.types import (
    Alert,
    Controls,
    LivenessEvent,
    MessageBatch,
    Partition,
    PlainMessage,
    ScoreBatch,
    WindowBatch,
)
from stream_detector.worker.task import Task

_CHUNK = 4_000  # messages at a time
_PARTITION = Partition(TOPIC, 0)


class Truth(Protocol):
    """A fault or an event of a machine, [start_ms, end_ms], UNIX ms."""

    @property
    def name(self) -> str:
        """Its kind."""

    @property
    def start_ms(self) -> float:
        """Its beginning."""

    @property
    def end_ms(self) -> float:
        """Its end."""


class Message(data.Message, Protocol):
    """A reading as a message, with the time it is sent."""

    @property
    def sent_ms(self) -> float:
        """UNIX ms."""


class Machine(data.Recording, Protocol):
    """One machine's readings and ground truth; `stream_detector.datasets.recording.Recording` implements it."""

    @property
    def faults(self) -> Sequence[Truth]:
        """The faults, for which there should be alarms."""

    @property
    def events(self) -> Sequence[Truth]:
        """Causes of changed readings that are not faults."""

    def messages(self) -> Iterator[Message]:
        """Yield one message per row that has a value."""


#: Simulates machines NAME-1, NAME-2, … as `simulation.simulate.simulate` does: (machines, hours, seed, rate in Hz,
#: channels=…, and `scenario` or `faults`). Raises DataError.
Simulate = Callable[..., Sequence[Machine]]


@dataclass(slots=True)
class Watched:
    """The judgements of one machine's windows under one configuration, in event-time order, and the alerts."""

    end_ms: list[int] = field(default_factory=list)
    exceeded: list[bool] = field(default_factory=list)  # the score was above the adaptive level
    anomalous: list[bool] = field(default_factory=list)  # … above the alarm level
    alarm: list[bool] = field(default_factory=list)  # an incident was open after the window
    alerts: list[Alert] = field(default_factory=list)


class Fleet:
    """Machines with a trained detector each, and the windows of their live part, scored."""

    def __init__(self, config: Config, machines: Sequence[Machine], trained: float) -> None:
        """Train on the first `trained` share of each machine's rows, cut and score the rest."""
        self.machines = machines
        self._config = offline(config)
        rows = {one.asset: int(trained * len(one)) for one in machines}
        models = train_many(config, history(config, [one.rows(0, rows[one.asset]) for one in machines]))
        self._models = ModelSet(by_asset=models)
        self.live = [one.rows(rows[one.asset]) for one in machines]
        self._scorer = Scorer(self._models, config.scorer)
        self._after: list[LivenessEvent] = []  # liveness events from messages after the last window
        self._parts = list(self._cut(self._scorer))

    @property
    def windows(self) -> int:
        """Number of windows judged, over all machines."""
        return sum(len(windows) for windows, _, _ in self._parts)

    def judged(self, config: Config) -> Mapping[str, Watched]:
        """Judge from a new state with the thresholds and incident rules of `config`; return the result by asset."""
        config = offline(config)
        engine = Engine(
            config,
            [artifact.calibration for artifact in self._models.artifacts],
            [artifact.profile for artifact in self._models.artifacts],
            self._models.ref_of,
        )
        driver, table, controls = Driver(engine, self._scorer.score), StateTable(), Controls()
        found = {one.asset: Watched() for one in self.machines}
        for windows, scores, events in self._parts:  # scores without relocation; relocated windows are scored again
            for event in events:
                found[event.asset].alerts += driver.on_liveness(table, event, controls)
            trace = Trace(len(windows))
            for alert in driver.judge(table, windows, copied(scores), controls=controls, trace=trace).alerts:
                found[alert.asset].alerts.append(alert)
            _watch(found, windows, trace)
        for event in self._after:
            found[event.asset].alerts += driver.on_liveness(table, event, controls)
        return found

    def _cut(self, scorer: Scorer) -> Iterator[tuple[WindowBatch, ScoreBatch, list[LivenessEvent]]]:
        """Yield windows, their scores, and the liveness events before them."""
        profiles = [artifact.profile for artifact in self._models.artifacts]
        task = _task(self._config, Engine.usual_gap(self._config, profiles))
        waiting: list[LivenessEvent] = []
        sent = heapq.merge(*(_sent(one, place) for place, one in enumerate(self.live)))
        messages = (
            PlainMessage(offset, round(sent_ms), message.key, message.value, message.headers)
            for offset, (sent_ms, _, message) in enumerate(sent)
        )
        while chunk := list(islice(messages, _CHUNK)):
            cut = task.take(MessageBatch(_PARTITION, chunk))
            for place, (windows, _) in enumerate(cut.windows):
                waiting += [one for at, one, _ in cut.liveness if at == place]
                yield windows, scorer.score(windows), waiting
                waiting = []
            waiting += [one for at, one, _ in cut.liveness if at == len(cut.windows)]
        self._after = waiting


def simulated(
    simulate: Simulate, config: Config, machines: int, days: float, seed: int, **options: Any
) -> Sequence[Machine]:
    """Return machines that send one reading per cell of the configuration's grid.

    Raises DataError when the simulator lacks a channel, or the configuration is for records or waveforms.
    """
    if config.window.mode == "records":
        raise DataError("window.mode is records, but simulated machines send samples; use window.mode: grid")
    if waves := [name for name, channel in config.channels.items() if channel.cell == "waveform"]:
        raise DataError(f"channels.{waves[0]}.cell is waveform; suites simulate one number per cell")
    return simulate(
        machines, 24.0 * days, seed, 1_000.0 / config.window.cell_ms, channels=list(config.channels), **options
    )


def spans(watched: Watched) -> list[tuple[float, float, Alert]]:
    """Return each incident's opening and closing (infinite while it is open) and its last alert, UNIX ms."""
    opened: dict[str, float] = {}
    last: dict[str, Alert] = {}
    for alert in watched.alerts:
        opened.setdefault(alert.incident, float(alert.end_ms))
        last[alert.incident] = alert
    return [
        (start, float(last[name].end_ms) if last[name].event == "close" else np.inf, last[name])
        for name, start in opened.items()
    ]


def share(flags: Sequence[bool]) -> float | None:
    """Return the share of true flags; None if there are none."""
    array: NDArray[np.bool_] = np.asarray(flags, np.bool_)
    return float(array.mean()) if len(array) else None


def _watch(found: Mapping[str, Watched], windows: WindowBatch, trace: Trace) -> None:
    """Append the judgements of the windows to the results of their assets."""
    with np.errstate(invalid="ignore"):
        exceeded = ~np.isnan(trace.level) & ~(trace.score <= trace.level)
    for place in np.flatnonzero(trace.judged).tolist():
        watched = found[windows.assets[place]]
        watched.end_ms.append(int(windows.end_ms[place]))
        watched.exceeded.append(bool(exceeded[place]))
        watched.anomalous.append(bool(trace.anomalous[place]))
        watched.alarm.append(bool(trace.alarm[place]))


def _sent(machine: Machine, place: int) -> Iterator[tuple[float, int, Message]]:
    for message in machine.messages():
        yield message.sent_ms, place, message  # `place` decides between messages sent at the same time


def _task(config: Config, usual_gap_ms: float = 0.0) -> Task:
    decoders = {entry.topic: ReadingDecoder(entry, config.channels) for entry in config.inputs}
    return Task(config, 0, 0, TaskState({}, 0, {}), {}, decoders=decoders, usual_gap_ms=usual_gap_ms)

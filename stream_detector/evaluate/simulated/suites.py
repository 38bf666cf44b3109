"""The four suites of the simulated evaluation; docs/evaluation.md defines each figure.

healthy   is the measured exceedance rate the configured risk, and does an alert budget hold?
nuisance  do alarms about changes that are not faults end in time?
faults    are hidden faults detected, and do their alarms last to the end of the fault?
kinds     is the kind of each fault identified?
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stream_detector.config import BudgetConfig, Config
from stream_detector.evaluate.data import Tell, silent
from stream_detector.evaluate.simulated.fleet import Fleet, Machine, Simulate, Watched, share, simulated, spans
from stream_detector.types import AlertKind

#: Risks whose exceedance rate `healthy` checks.
RISKS = (1e-3, 1e-4)
#: The alert budget that `healthy` uses if the configuration has none, incidents per week and machine.
_BUDGET = BudgetConfig(incidents=3, per="week")
#: Machines that share a partition.
TOGETHER = 10
NUISANCES = ("load-steps", "season", "maintenance", "sensor-replaced")
FAULTS = ("slow-wear", "intermittent", "two-faults")
#: Share of a scenario's run used for training; it has no faults or events (simulation/scenarios.py).
TRAINED = 0.4
#: An alarm about a change that is not a fault must end within this multiple of `adaptation.flat_ms`: the scores must be
#: flat for that time and for twice the duration of the change, counted in blocks, after its heat has settled.
OVER_AFTER = 6.0
#: The last part of a fault, as a share of its duration, in which an alarm must still be active.
TAIL = 0.2
#: Reaction time that does not count against the detector: a fault's alarm may open this long after the fault's end.
_LATE_WINDOWS = 1.0
DAY_MS = 86_400_000.0
HOUR_MS = 3_600_000.0


@dataclass(frozen=True, slots=True)
class Trial:
    """One requested run of a suite."""

    config: Config
    simulate: Simulate
    seeds: Sequence[int] = (0,)
    machines: int = 100  # `healthy`: machines per seed
    days: float = 7.0  # `healthy`: judged days, besides another 40 % for training; others: the whole run
    tell: Tell = silent


def healthy(trial: Trial) -> dict[str, Any]:
    """Return the measured rate of exceedances for each risk, and the number of incidents under an alert budget."""
    config = trial.config
    counted = {risk: [0, 0] for risk in RISKS}  # exceedances, windows
    opened, weeks = 0, 0.0
    groups = [(seed, first) for seed in trial.seeds for first in range(0, trial.machines, TOGETHER)]
    for done, (seed, first) in enumerate(groups):
        trial.tell("healthy", done, len(groups))
        count = min(TOGETHER, trial.machines - first)
        total = trial.days * (1 + TRAINED)
        fleet = _fleet(trial, count, total, [seed, first], TRAINED / (1 + TRAINED), scenario="healthy")
        for risk in RISKS:
            watched = fleet.judged(_with(config, threshold={"risk": risk}))
            for one in watched.values():
                counted[risk][0] += sum(one.exceeded)
                counted[risk][1] += len(one.exceeded)
        watched = fleet.judged(_budgeted(config))
        opened += sum(len(spans(one)) for one in watched.values())
        weeks += count * trial.days / 7.0
    trial.tell("healthy", len(groups), len(groups))
    return {
        "machines": trial.machines * len(trial.seeds),
        "windows": counted[RISKS[0]][1],
        "risks": [
            {"asked": risk, "measured": over / windows if windows else None}
            for risk, (over, windows) in counted.items()
        ],
        "budget": {"asked_per_week": _asked(config), "achieved_per_week": opened / weeks},
    }


def nuisance(trial: Trial) -> dict[str, Any]:
    """Return the incidents that harmless changes opened, and the share of changes whose alarms ended in time."""
    rows: list[dict[str, Any]] = []
    for scenario, machine, watched, _ in _scenarios(trial, NUISANCES):
        found = spans(watched)
        ends = [event.start_ms for event in machine.events[1:]] + [np.inf]
        for event, end_ms in zip(machine.events, ends, strict=True):
            mine = [(start, end) for start, end, _ in found if event.start_ms <= start < end_ms]
            over_ms = over_after_ms(trial.config)
            in_time = all(min(end, watched.end_ms[-1] + 1.0) - start <= over_ms for start, end in mine)
            rows.append({"scenario": scenario, "false": len(mine), "in_time": in_time})
        rows[-1]["before"] = sum(start < machine.events[0].start_ms for start, _, _ in found)
    by_scenario = {}
    for scenario in NUISANCES:
        those = [row for row in rows if row["scenario"] == scenario]
        by_scenario[scenario] = {
            "events": len(those),
            "false_incidents": sum(row["false"] for row in those),
            "most": max(row["false"] for row in those),
            "over_in_time": share([row["in_time"] for row in those]),
            "false_before": sum(row.get("before", 0) for row in those),
        }
    return {
        "events": len(rows),
        "false_incidents": sum(row["false"] for row in rows),
        "over_in_time": share([row["in_time"] for row in rows]),
        "over_after_hours": over_after_ms(trial.config) / HOUR_MS,
        "by_scenario": by_scenario,
    }


def faults(trial: Trial) -> dict[str, Any]:
    """Return how many hidden faults were detected, and how many were learnt as normal before they ended.

    The latter: at the end of the fault a frozen threshold still detects it, and the adaptive one has no alarm.
    """
    by_scenario = {name: {"faults": 0, "caught": 0, "learned_away": 0, "false_before": 0} for name in FAULTS}
    for scenario, machine, watched, frozen in _scenarios(trial, FAULTS):
        counts = by_scenario[scenario]
        first_ms = min(fault.start_ms for fault in machine.faults)
        found = spans(watched)
        counts["false_before"] += sum(start < first_ms for start, _, _ in found)
        for fault in machine.faults:
            late_ms = fault.end_ms + _LATE_WINDOWS * _reach_ms(trial.config)
            caught = any(first_ms <= start <= late_ms and end >= fault.start_ms for start, end, _ in found)
            tail_ms = fault.end_ms - TAIL * (fault.end_ms - fault.start_ms)
            ends = np.asarray(watched.end_ms)
            tail = (ends >= tail_ms) & (ends <= late_ms)
            seen = int(np.asarray(frozen.anomalous)[tail].sum()) >= trial.config.incident.open_after
            alarmed = bool(np.asarray(watched.alarm)[tail].any())
            counts["faults"] += 1
            counts["caught"] += caught
            counts["learned_away"] += seen and not alarmed
    return {
        "faults": sum(counts["faults"] for counts in by_scenario.values()),
        "caught": sum(counts["caught"] for counts in by_scenario.values()),
        "learned_away": sum(counts["learned_away"] for counts in by_scenario.values()),
        "by_scenario": by_scenario,
    }


#: One machine's faults, one per kind, each at a time of the run that suits its kind and far from the others. Two shifts
#: per day begin at 06 h; a run begins at 14 h.
_KINDS = {
    "point": "knock@{a}h+60s:0.9",
    "contextual": "unbalance@{b}h+40m~60s:0.6",  # idling at night as much as by day at work
    "collective": "bearing-outer@{c}h+4h~10m:0.7",
}


def kinds(trial: Trial) -> dict[str, Any]:
    """Return the share of faults of each kind that were detected and whose kind was identified correctly."""
    right: dict[AlertKind, list[bool]] = {"point": [], "contextual": [], "collective": [], "sensor-fault": []}
    said: dict[str, dict[str, int]] = {}
    as_machine: list[bool] = []
    for done, seed in enumerate(trial.seeds):
        trial.tell("kinds", done, len(trial.seeds))
        rng = np.random.default_rng([seed, 7])
        start = 24.0 * trial.days * TRAINED
        night = 24.0 * np.ceil((start + 10.0) / 24.0) + 10.0  # midnight of a night after the training
        at = {
            "a": round(float(night + 12.0 + rng.uniform(-4, 4)), 2),  # by day
            "b": round(float(night + rng.uniform(0.0, 4.0)), 2),  # idling
            "c": round(float(night + 34.0 + rng.uniform(-4, 0)), 2),  # by day
        }
        text = ",".join(fault.format(**at) for fault in _KINDS.values())
        truth = dict(zip((fault.split("@")[0] for fault in _KINDS.values()), _KINDS, strict=True))
        fleets = (
            _fleet(trial, 1, trial.days, [seed, 0], TRAINED, faults=text, profile="day"),
            _fleet(trial, SENSORS, trial.days, [seed, 1], TRAINED, scenario="sensor-faults"),
        )
        for fleet in fleets:
            for asset, watched in fleet.judged(trial.config).items():
                machine = next(one for one in fleet.machines if one.asset == asset)
                for fault in machine.faults:
                    kind = truth.get(fault.name, "sensor-fault")
                    late_ms = fault.end_ms + _reach_ms(trial.config)
                    told = [last.kind for start, end, last in spans(watched) if fault.start_ms <= start <= late_ms]
                    right[kind].append(bool(told) and told[0] == kind)  # type: ignore[index]  # a key of it
                    if kind == "sensor-fault":
                        as_machine.append(any(one != "sensor-fault" for one in told))
                    row = said.setdefault(fault.name, {})
                    name = told[0] if told else "missed"
                    row[name] = row.get(name, 0) + 1
    trial.tell("kinds", len(trial.seeds), len(trial.seeds))
    return {
        "right": {kind: share(flags) for kind, flags in right.items()},
        "sensor_as_machine": share(as_machine),
        "told_as": said,
    }


#: Machines of the sensor part of `kinds`: two turns of the kinds of sensor faults.
SENSORS = 14

SUITES: Mapping[str, Callable[[Trial], dict[str, Any]]] = {
    "healthy": healthy,
    "nuisance": nuisance,
    "faults": faults,
    "kinds": kinds,
}


def over_after_ms(config: Config) -> float:
    """Return the time, ms, in which an alarm about a change that is not a fault must end; a week if nothing ends it."""
    flat_ms = config.adaptation.flat_ms
    return 7.0 * DAY_MS if flat_ms is None else OVER_AFTER * flat_ms


def _fleet(trial: Trial, machines: int, days: float, seed: Sequence[int], trained: float, **options: Any) -> Fleet:
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])  # combine the numbers into one seed
    return Fleet(trial.config, simulated(trial.simulate, trial.config, machines, days, number, **options), trained)


def _scenarios(trial: Trial, names: Sequence[str]) -> list[tuple[str, Machine, Watched, Watched]]:
    """Return scenario, machine, its result and the result with a frozen threshold: one machine per seed."""
    found = []
    steps = len(names) * len(trial.seeds)
    done = 0
    for place, name in enumerate(names):
        for first in range(0, len(trial.seeds), TOGETHER):
            some = trial.seeds[first : first + TOGETHER]
            trial.tell(name, done, steps)
            fleet = _fleet(trial, len(some), trial.days, [some[0], place], TRAINED, scenario=name)
            watched = fleet.judged(trial.config)
            frozen = fleet.judged(_with(trial.config, threshold={"adapt": False}))
            found += [(name, one, watched[one.asset], frozen[one.asset]) for one in fleet.machines]
            done += len(some)
    trial.tell("done", steps, steps)
    return found


def _with(config: Config, **sections: Mapping[str, Any]) -> Config:
    """Return the configuration with keys of some sections changed."""
    update = {name: getattr(config, name).model_copy(update=keys) for name, keys in sections.items()}
    return config.model_copy(update=update)


def _asked(config: Config) -> float:
    """Return the alert budget, incidents per week and machine."""
    return (config.threshold.budget or _BUDGET).rate * 7 * DAY_MS


def _budgeted(config: Config) -> Config:
    threshold = config.threshold.model_copy(update={"budget": config.threshold.budget or _BUDGET})
    return config.model_copy(update={"threshold": threshold})


def _reach_ms(config: Config) -> float:
    return config.window.length * config.window.cell_ms

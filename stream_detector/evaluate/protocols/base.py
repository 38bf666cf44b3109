"""What a protocol is asked and what it offers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stream_detector.config import ChannelConfig, Config
from stream_detector.errors import DataError
from stream_detector.evaluate import series
from stream_detector.evaluate.data import Case, Fit, Read, Recording, Tell, silent
from stream_detector.evaluate.series import Outcome, Run

log = logging.getLogger(__name__)

#: Printed beside point-adjusted figures, always.
POINT_ADJUSTED = "flatters: one alarmed row counts its whole anomaly as found; only for comparison with papers"


@dataclass(frozen=True, slots=True)
class Request:
    """An evaluation asked for."""

    data: Path  # folder (or file) in the public data set's own layout
    config: Config  # of the detector asked for
    read: Read
    baselines: Mapping[str, Config] = field(default_factory=dict)  # kind -> the same set-up with that detector
    seeds: Sequence[int] = (0,)
    tell: Tell = silent
    options: Mapping[str, Any] = field(default_factory=dict)  # how to read a csv: ts_column, label_column, …
    format: str = "csv"  # of the files, for the protocol csv
    train: float | None = None  # rows (1 or more) or share of rows that train, where the protocol leaves it open
    own_config: bool = False  # the set-up is the user's, not one shipped


@dataclass(frozen=True, slots=True)
class Protocol:
    """One public data set's way of being judged."""

    name: str
    about: str  # one line of help
    layout: str  # what --data holds
    config: str  # name of the shipped set-up, configs/NAME.yaml
    columns: tuple[str, ...]  # figures to print, in order
    run: Callable[[Request], Outcome]


def cut(recording: Recording, train_rows: int, name: str, config: Config, fit: Fit | None = None) -> Case:
    """Return the case of one file whose first rows train and whose others are judged.

    Raises DataError when there is nothing left to judge.
    """
    if len(recording) <= train_rows:
        raise DataError(
            f"{recording.source}: {len(recording)} rows, of which the first {train_rows} train: none is left to judge; "
            "leave the file out"
        )
    return Case.of(
        name, recording.rows(0, train_rows), recording.rows(train_rows), config, first_row=train_rows, fit=fit
    )


def sweep(
    request: Request,
    name: str,
    cases: Sequence[Case],
    judged: Callable[[Sequence[Case], int], tuple[Run, dict[str, Any]]],
    lower_is_better: Sequence[str] = series.LOWER_IS_BETTER,
) -> Outcome:
    """Judge the cases with every seed, and with each baseline under the first one; return means and all of them.

    `judged(cases, seed)` gives the run and its figures.
    """
    steps, done = len(request.seeds) + len(request.baselines), 0
    first: Run | None = None
    seeds: list[dict[str, Any]] = []
    for seed in request.seeds:
        request.tell(f"{request.config.model.kind}, seed {seed}", done, steps)
        run, found = judged(cases, seed)
        first = first or run
        seeds.append({"seed": seed, **found})
        done += 1
    assert first is not None
    baselines: dict[str, Any] = {}
    for kind, config in request.baselines.items():
        request.tell(f"baseline {kind}", done, steps)
        baselines[kind] = judged([case.under(config) for case in cases], request.seeds[0])[1]
        done += 1
    request.tell("done", steps, steps)
    means = series.over_seeds(seeds, lower_is_better)
    if (adjusted := means.pop("f1_point_adjusted", None)) is not None:
        means["point_adjusted"] = {"f1": adjusted, "warning": POINT_ADJUSTED}
    figures = {
        "files": len(cases),
        "rows": sum(len(case.test) for case in cases),
        "untrained": _untrained(first),
        **means,
        "seeds": seeds,
        "baselines": baselines,
    }
    return Outcome(name, request.config.model.kind, figures, first)


def _untrained(run: Run) -> list[str]:
    """Return the files whose training rows were too few for a detector."""
    pairs = zip(run.cases, run.lives, strict=True)
    return [case.name for case, live in pairs if live.models.for_asset(case.asset) is None]


def file_of(recording: Recording) -> str:
    """Return a file's name as its data set has it: folder/file."""
    full = Path(recording.source).resolve()
    return f"{full.parent.name}/{full.name}"


def with_channels(config: Config, recording: Recording, every: bool = False) -> Config:
    """Return the set-up with the recording's channels where its own are none of them; `every`: with all of them."""
    known = set(config.channels) & set(recording.channels)
    if known and not every:
        return config
    channels: dict[str, ChannelConfig] = {}
    for name in recording.channels:
        words = name in recording.values and recording.values[name].dtype == object
        if words and config.features.smoothing is not None:
            log.warning(
                "%s: column %r holds words, which can't be smoothed: it is left out; give --config to use it",
                recording.source,
                name,
            )
        elif not len(recording.carrying([name])):
            log.warning("%s: column %r is empty: it is left out", recording.source, name)
        else:
            own = ChannelConfig(kind="category", cell="last") if words else ChannelConfig()
            channels[name] = config.channels.get(name, own)
    if not channels:
        raise DataError(f"{recording.source}: no column of numbers beside time and labels; nothing to detect on")
    return config if channels == config.channels else Config.model_validate({**_plain(config), "channels": channels})


def with_cells(config: Config, recording: Recording) -> Config:
    """Return the set-up on a grid of the recording's own step: one cell a row."""
    steps = np.diff(recording.ts_ms)
    steps = steps[steps > 0]
    if not len(steps):
        raise DataError(
            f"{recording.source}: of the {len(recording)} rows that train no two have different times; a series needs "
            "a step: leave the file out, or give --config"
        )
    scale = float(np.median(steps)) / config.window.cell_ms
    times = ("cell_ms", "lateness_ms", "max_gap_ms", "max_ahead_ms")
    window = config.window.model_copy(update={name: getattr(config.window, name) * scale for name in times})
    return config.model_copy(update={"window": window})


def on_own_grid(recording: Recording, every_channel: bool = False) -> Fit:
    """Return how a set-up is fitted to a series: a cell a row, and its channels where the set-up has none of them.

    `recording`: the rows that train, so that nothing of those to be judged is looked at. `every_channel`: all of its
    channels, whichever the set-up has. Every other time of the window section is scaled along; lengths in cells stay.
    """
    return lambda config: with_channels(with_cells(config, recording), recording, every_channel)


def _plain(config: Config) -> dict[str, Any]:
    return {name: getattr(config, name) for name in type(config).model_fields if name in config.model_fields_set}

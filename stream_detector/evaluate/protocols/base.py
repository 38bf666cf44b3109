"""The interface of a protocol, and what several protocols share."""

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

#: Always printed beside point-adjusted figures.
POINT_ADJUSTED = "flatters: one alarmed row counts its whole anomaly as found; only for comparison with papers"


@dataclass(frozen=True, slots=True)
class Request:
    """The input of an evaluation."""

    data: Path  # folder (or file) in the public data set's own layout
    config: Config  # with the detector to evaluate
    read: Read
    baselines: Mapping[str, Config] = field(default_factory=dict)  # kind -> the configuration with that detector
    seeds: Sequence[int] = (0,)
    tell: Tell = silent  # receives the progress
    options: Mapping[str, Any] = field(default_factory=dict)  # for reading a csv: ts_column, label_column, …
    format: str = "csv"  # format of the files, for the protocol csv
    train: float | None = None  # number (1 or more) or share of training rows, if the protocol doesn't define it
    own_config: bool = False  # whether the configuration is the user's, not one of those shipped


@dataclass(frozen=True, slots=True)
class Protocol:
    """How detectors are evaluated on one public data set."""

    name: str
    about: str  # one line of help
    layout: str  # expected content of --data
    config: str  # name of the shipped configuration, configs/NAME.yaml
    columns: tuple[str, ...]  # figures to print, in order
    run: Callable[[Request], Outcome]


def cut(recording: Recording, train_rows: int, name: str, config: Config, fit: Fit | None = None) -> Case:
    """Return a case of one file: the first `train_rows` rows are for training, the others are judged.

    Raises DataError when there are no other rows.
    """
    if len(recording) <= train_rows:
        raise DataError(
            f"{recording.source}: {len(recording)} rows, of which the first {train_rows} are for training, so none is "
            "left to judge; leave the file out"
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
    """Judge the cases with every seed, and with each baseline under the first seed; return all figures and their means.

    `judged(cases, seed)` returns the run and its figures.
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
    """Return the names of the files with too few training rows for a detector."""
    pairs = zip(run.cases, run.lives, strict=True)
    return [case.name for case, live in pairs if live.models.for_asset(case.asset) is None]


def file_of(recording: Recording) -> str:
    """Return a file's name within its data set: folder/file."""
    full = Path(recording.source).resolve()
    return f"{full.parent.name}/{full.name}"


def with_channels(config: Config, recording: Recording, every: bool = False) -> Config:
    """Return the configuration, with all of the recording's channels if it names none of them or `every` is set."""
    known = set(config.channels) & set(recording.channels)
    if known and not every:
        return config
    channels: dict[str, ChannelConfig] = {}
    for name in recording.channels:
        words = name in recording.values and recording.values[name].dtype == object
        if words and config.features.smoothing is not None:
            log.warning(
                "%s: column %r has text, which can't be smoothed, so it is left out; give --config to use it",
                recording.source,
                name,
            )
        elif not len(recording.carrying([name])):
            log.warning("%s: column %r is empty, so it is left out", recording.source, name)
        else:
            own = ChannelConfig(kind="category", cell="last") if words else ChannelConfig()
            channels[name] = config.channels.get(name, own)
    if not channels:
        raise DataError(f"{recording.source}: no column besides time and labels can be used; give --config")
    return config if channels == config.channels else Config.model_validate({**_plain(config), "channels": channels})


def with_cells(config: Config, recording: Recording) -> Config:
    """Return the configuration with the recording's median step as the grid: one cell per row."""
    steps = np.diff(recording.ts_ms)
    steps = steps[steps > 0]
    if not len(steps):
        raise DataError(
            f"{recording.source}: all {len(recording)} training rows have the same time, so there is no sampling "
            "interval; leave the file out, or give --config"
        )
    scale = float(np.median(steps)) / config.window.cell_ms
    times = ("cell_ms", "lateness_ms", "max_gap_ms", "max_ahead_ms")
    window = config.window.model_copy(update={name: getattr(config.window, name) * scale for name in times})
    return config.model_copy(update={"window": window})


def on_own_grid(recording: Recording, every_channel: bool = False) -> Fit:
    """Return a function that adapts a configuration to a series: one cell per row, and the series' channels.

    `recording`: the training rows only, so that no judged row has an influence. The configuration keeps its channels if
    the series has any of them, unless `every_channel` is set. The other times of the `window` section are scaled by the
    same factor; lengths in cells stay the same.
    """
    return lambda config: with_channels(with_cells(config, recording), recording, every_channel)


def _plain(config: Config) -> dict[str, Any]:
    return {name: getattr(config, name) for name in type(config).model_fields if name in config.model_fields_set}

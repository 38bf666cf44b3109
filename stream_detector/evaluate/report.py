"""The report: one self-contained HTML file with tables and a drawing of every recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.datasets.ground_truth import incidents
from stream_detector.errors import DataError
from stream_detector.evaluate.data import Case, Recording
from stream_detector.evaluate.drawing import Canvas, moment
from stream_detector.evaluate.live import Rows, Track
from stream_detector.evaluate.pointwise import stretches
from stream_detector.evaluate.protocols import Protocol
from stream_detector.evaluate.series import Outcome

#: Maximum number of channels drawn per recording, and of incidents listed.
CHANNELS = 8
INCIDENTS = 40

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5d6b7e;--paper:#fff;--lane:#f4f6f9;--edge:#d8dee7;--line:#2c6fbb;
--score:#1c2430;--level:#c77700;--alarm:#d5382c;--truth:#7a4fd0;--train:#2c6fbb18;--fault:#7a4fd01f}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#9aa7b8;--paper:#12161c;--lane:#1a2028;--edge:#2d3743;
--line:#6aa9ee;--score:#e6eaf0;--level:#f0a93b;--alarm:#ff6a5c;--truth:#b08cff;--train:#6aa9ee18;--fault:#b08cff26}}
body{font:14px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0 auto;max-width:1080px;
padding:24px}
h1{font-size:22px;margin:0}h2{font-size:15px;margin:28px 0 6px}p{margin:6px 0;color:var(--soft)}
table{border-collapse:collapse;margin:10px 0;font-variant-numeric:tabular-nums}
th,td{white-space:nowrap;padding:3px 12px 3px 0;text-align:right;border-bottom:1px solid var(--edge)}
th:first-child,td:first-child{text-align:left}th{color:var(--soft);font-weight:500}
tr.own td{font-weight:600}.wide{overflow-x:auto}
svg{width:100%;display:block}svg text{fill:var(--soft);font:11px system-ui,sans-serif}
rect.train,rect.fault{pointer-events:none}svg .tick{text-anchor:end;font-size:9px}.lane,.strip{fill:var(--lane)}
polyline{fill:none;stroke-width:1;stroke:var(--line)}polyline.score{stroke:var(--score)}
polyline.level{stroke:var(--level);stroke-width:1.4}
rect.alarm{fill:var(--alarm)}rect.truth{fill:var(--truth)}rect.train{fill:var(--train)}rect.fault{fill:var(--fault)}
.key span{display:inline-block;width:12px;height:12px;margin:0 5px 0 14px;vertical-align:-2px}
details{margin:4px 0 0}summary{color:var(--soft);cursor:pointer}
"""


def write(path: Path, outcome: Outcome, protocol: Protocol) -> None:
    """Write the report of an evaluation. Raises DataError when the file can't be written."""
    try:
        path.write_text(render(outcome, protocol), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: can't be written: {error.strerror or error}; choose another --report") from error


def render(outcome: Outcome, protocol: Protocol) -> str:
    """Return the report's HTML."""
    figures, run = outcome.figures, outcome.first
    title = f"{outcome.detector} on {protocol.name}"
    seeds = [str(row["seed"]) for row in figures["seeds"]]
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(protocol.about)}. {figures['files']} files, {figures['rows']} rows judged; seeds "
        f"{', '.join(seeds)}, the drawings are of seed {run.seed}. Every decision uses the rows up to it and no "
        "others. Shares, not percentages.</p>",
        _main_table(outcome, protocol),
        _incidents_line(figures.get("incidents")),
        _table("Seeds", ["seed", *protocol.columns], figures["seeds"], "seed"),
        _file_table(figures.get("per_file", [])),
        '<p class="key"><span style="background:var(--truth)"></span>labelled anomalous'
        '<span style="background:var(--alarm)"></span>in alarm<span style="background:var(--score)"></span>score'
        '<span style="background:var(--level)"></span>alarm level<span style="background:var(--line)"></span>signal'
        '<span style="background:var(--train);outline:1px solid var(--edge)"></span>training rows</p>',
    ]
    for case, track, rows in zip(run.cases, run.tracks, run.rows, strict=True):
        body.append(_section(case, track, rows))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style><body>{''.join(body)}</body></html>\n"
    )


def _main_table(outcome: Outcome, protocol: Protocol) -> str:
    figures = outcome.figures
    spread, several = figures.get("spread", {}), len(figures["seeds"]) > 1
    head = "".join(f"<th>{escape(name)}</th>" for name in ("detector", *protocol.columns))
    own = []
    for name in protocol.columns:
        text = _number(figures.get(name))
        if several and name in spread:
            text += f" ± {spread[name]['sd']:.3f}"
        own.append(f"<td>{text}</td>")
    rows = [f'<tr class="own"><td>{escape(outcome.detector)}</td>{"".join(own)}</tr>']
    for name, row in figures["baselines"].items():
        rows.append(_row(name, row, protocol.columns))
    for name, row in figures.get("published", {}).items():
        if any(column in row for column in protocol.columns):
            rows.append(_row(f"{name} (published)", row, protocol.columns))
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _file_table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = [name for name in (rows[0] if rows else ()) if name != "file"]
    return _table("Files", ["file", *columns], rows, "file") if len(rows) > 1 else ""


def _table(title: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], key: str) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(_row(str(row[key]), row, columns[1:]) for row in rows)
    return f'<details><summary>{title}</summary><div class="wide"><table><tr>{head}</tr>{body}</table></div></details>'


def _row(name: str, row: Mapping[str, Any], columns: Sequence[str]) -> str:
    return f"<tr><td>{escape(name)}</td>{''.join(f'<td>{_number(row.get(column))}</td>' for column in columns)}</tr>"


def _incidents_line(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    return (
        f"<p>{_count(found['caught'])} of {_count(found['faults'])} faults caught, of these "
        f"{_count(found['already_open'])} by an incident that was open before; median delay "
        f"{_number(found['delay_s_median'])} s; {_count(found['false'])} false incidents, "
        f"{_number(found['false_per_day'])} per day; in alarm {_number(found['alarm_share'])} of the time.</p>"
    )


def _section(case: Case, track: Track, rows: Rows) -> str:
    test = case.test
    if not len(test):
        return ""
    before = case.train if case.first_row else None
    start = float((test if before is None else before).ts_ms[0])
    canvas = Canvas(start, float(test.ts_ms[-1]))
    truth = _intervals(test.ts_ms, case.labels)
    if test.labels is not None:
        canvas.band("labels", "truth", truth)
    canvas.band("alarm", "alarm", _intervals(test.ts_ms, rows.alarm))
    ends = np.minimum(track.end_ms.astype(np.float64), canvas.end_ms)
    canvas.line("score", ends, track.score, "score", second=track.level, log=True, height=90)
    for name in test.channels[:CHANNELS]:
        values = [_drawn(one, name) for one in (before, test) if one is not None]
        if all(value is not None for value in values):
            ts_ms = np.concatenate([one.ts_ms for one in (before, test) if one is not None])
            canvas.line(name, ts_ms, np.concatenate([value for value in values if value is not None]))
    shades = [canvas.shade(at, until, "fault", "labelled anomalous") for at, until in truth]
    if before is not None:
        shades.append(canvas.shade(start, float(test.ts_ms[0]), "train", "training rows"))
    more = f" (the first {CHANNELS} of {len(test.channels)} channels)" if len(test.channels) > CHANNELS else ""
    return f"<h2>{escape(case.name)}{more}</h2>{canvas.svg(shades)}{_incident_list(track)}"


def _incident_list(track: Track) -> str:
    found = incidents(track.alerts)
    if not found:
        return "<p>No incident.</p>"
    worst = {alert.incident: alert for alert in track.alerts if alert.event != "close"}
    body = []
    for one in found[:INCIDENTS]:
        alert = worst[one.id]
        end = "open" if one.end_ms == float("inf") else moment(one.end_ms)
        if not alert.channels:
            continue
        leader = alert.channels[0]
        body.append(
            f"<tr><td>{moment(one.start_ms)}</td><td>{end}</td><td>{alert.severity}</td><td>{alert.kind}</td>"
            f"<td>{_number(alert.score)}</td><td>{escape(leader.name)} {leader.share:.0%}</td></tr>"
        )
    count = "1 incident" if len(found) == 1 else f"{len(found)} incidents"
    head = "<tr><th>first anomalous</th><th>closed</th><th>severity</th><th>kind</th><th>score</th><th>led by</th></tr>"
    return f"<details><summary>{count}</summary><table>{head}{''.join(body)}</table></details>"


def _intervals(ts_ms: NDArray[np.float64], flags: NDArray[Any]) -> list[tuple[float, float]]:
    last = len(ts_ms) - 1
    return [(float(ts_ms[start]), float(ts_ms[min(stop, last)])) for start, stop in stretches(flags)]


def _drawn(recording: Recording, channel: str) -> NDArray[np.float64] | None:
    """Return a channel's values; for a waveform the RMS of each block; None for categories."""
    if channel in recording.blocks:
        blocks = recording.blocks[channel]
        return np.array([np.nan if one is None else float(np.sqrt(np.mean(np.square(one)))) for one in blocks])
    values = recording.values[channel]
    return None if values.dtype == object else np.asarray(values, np.float64)


def _count(value: float) -> str:
    """Format a count, which may have a fraction when it is a mean over seeds."""
    return f"{round(value, 2):g}"


def _number(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:.0f}" if float(value).is_integer() and abs(value) >= 2 else f"{value:.3f}"
    return escape(str(value))

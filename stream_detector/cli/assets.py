"""`stream-detector assets`: every asset that workers have seen, and what state it is in."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

from stream_detector.cli.options import add_config, add_json
from stream_detector.cli.printing import print_json, print_line, print_table, utc

if TYPE_CHECKING:  # argparse names the type of its subparsers only privately; the rest is imported when it is used
    from stream_detector.adapters.redis import RedisStore
    from stream_detector.config import Config
    from stream_detector.types import AssetReport, AssetState, Controls

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_ACTIONS = ("list",)


def add_parser(subparsers: Subparsers) -> None:
    """Add the command and its own subcommands; without one of them it lists."""
    parser = subparsers.add_parser(
        "assets",
        help="list every asset: last reading, last score, level, state, and why it is not judged",
        description="Show the assets that workers have seen, as Redis holds them. `assets CONFIG` is short for "
        "`assets list CONFIG`.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = _action(
        actions,
        "list",
        "print one row per asset: its last reading, last window, last score, level to alarm above and state",
    )
    listing.add_argument("--not-judged", action="store_true", help="only assets that are not judged, with the reason")
    parser.set_defaults(run=run)
    parse = parser.parse_known_args

    def with_action(args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        words = list(args or ())
        if words and not {words[0]} & {*_ACTIONS, "-h", "--help"}:
            words.insert(0, "list")
        return parse(words, namespace)

    parser.parse_known_args = with_action  # type: ignore[method-assign,assignment]


def _action(actions: Subparsers, name: str, text: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    add_config(parser)
    add_json(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry it out; return the exit status. Raises ConfigError for a wrong argument, StoreError when Redis is away."""
    from stream_detector.adapters.redis import RedisStore
    from stream_detector.config import loading as settings

    config = settings.load(args.config)
    with closing(RedisStore(config.redis, config.stream)) as store:
        _list(store, config, args)
    return 0


# The list ------------------------------------------------------------------------------------------------------------


class _Known(NamedTuple):
    """What Redis holds of one asset."""

    task: int | None = None
    state: AssetState | None = None
    report: AssetReport | None = None


def known_assets(store: RedisStore) -> dict[str, _Known]:
    """Return what the store holds of each asset; of several tasks' the newest state and report.

    An asset can lie in several tasks when a topic was given more partitions.
    """
    found: dict[str, _Known] = {}
    for task, asset, state in store.assets():
        before = found.get(asset, _Known())
        if before.state is None or before.state.judged_ms <= state.judged_ms:
            found[asset] = _Known(task, state)
    for task, asset, report in store.reports():
        before = found.get(asset, _Known())
        if before.report is None or (before.report.read_ms or 0) <= (report.read_ms or 0):
            place = task if before.state is None else before.task
            found[asset] = _Known(place, before.state, report)
    return found


def _list(store: RedisStore, config: Config, args: argparse.Namespace) -> None:
    controls, known = store.controls(), known_assets(store)
    margin = config.threshold.alarm_margin
    rows = [_row(asset, known.get(asset, _Known()), controls, margin) for asset in sorted({*known, *controls.pins})]
    if args.not_judged:
        rows = [row for row in rows if row["reason"] is not None]
    if args.json:
        print_json(rows)
        return
    if not rows:
        print_line("every asset is judged" if args.not_judged and known else "no asset has been seen yet")
        return
    print_table(
        ["asset", "task", "last reading", "judged up to", "score", "level", "state", "why not judged"],
        (
            [
                *(row[name] for name in ("asset", "task", "read", "judged", "score", "level")),
                _state_text(row),
                row["detail"] or row["reason"],
            ]
            for row in rows
        ),
        right=("task", "score", "level"),
    )


def _row(asset: str, known: _Known, controls: Controls, margin: float) -> dict[str, Any]:
    """Return what the list says of one asset; None where nothing is known."""
    from stream_detector.decision.threshold import alarm_level

    state, report = known.state, known.report
    pinned = controls.pins.get(asset)
    level = None if state is None else alarm_level(state.threshold.level, margin)
    severity, faults = None, []
    if state is not None:
        severity = state.incident.severity if state.incident.opened_ms is not None else None
        faults = [
            {"fault": one.fault, "channel": one.channel or None, "since": utc(one.since_ms)}
            for one in state.sensors.faults
            if one.incident is not None
        ]
    reason, detail = (report.reason or None, report.detail or None) if report is not None else (None, None)
    if reason is None and state is None:
        reason, detail = "no-window", "no window of it has been judged yet"
    name = "normal"
    for applies, called in (
        (reason is not None, "not-judged"),
        (severity is not None, "alarm"),
        (faults, "sensor-fault"),
        (pinned is not None, "pinned"),
    ):
        if applies:
            name = called
            break
    return {
        "asset": asset,
        "task": known.task,
        "read": None if report is None else utc(report.read_ms),
        "judged": None if state is None else utc(state.judged_ms),
        "score": None if report is None else report.score,
        "level": level if pinned is None else pinned,
        "state": name,
        "severity": severity,
        "faults": faults,
        "pinned": pinned,
        "reason": reason,
        "detail": detail,
    }


def _state_text(row: dict[str, Any]) -> str:
    """Return all that is the case, the gravest first."""
    parts = ["not judged"] if row["reason"] is not None else []
    if row["severity"] is not None:
        parts.append(f"in alarm: {row['severity']}")
    parts += [" ".join(filter(None, ("sensor fault:", one["fault"], one["channel"]))) for one in row["faults"]]
    if row["pinned"] is not None:
        parts.append("pinned")
    return ", ".join(parts) or "normal"

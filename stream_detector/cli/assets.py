"""`stream-detector assets`: every asset that workers have seen and its state; remove those that are no more."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

from stream_detector.cli.options import add_config, add_json
from stream_detector.cli.printing import print_json, print_line, print_table, utc
from stream_detector.errors import BrokerError, ConfigError

if TYPE_CHECKING:  # argparse names the type of its subparsers only privately; the rest is imported when it is used
    from stream_detector.adapters.redis import RedisStore
    from stream_detector.config import Config
    from stream_detector.types import AssetReport, AssetState, Controls

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_ACTIONS = ("list", "retire", "forget")
_WAIT_S = 15.0
_LOOK_EVERY_S = 0.2


def add_parser(subparsers: Subparsers) -> None:
    """Add the command and its own subcommands; without one of them it lists."""
    parser = subparsers.add_parser(
        "assets",
        help="list every asset with its state, and why it is not judged; retire or forget one",
        description="Show the assets that workers have seen, as Redis holds them, and remove those that are no more. "
        "`assets CONFIG` is short for `assets list CONFIG`.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = _action(
        actions,
        "list",
        "print one row per asset: its last reading, last window, last score, level to alarm above and state",
    )
    listing.add_argument("--not-judged", action="store_true", help="only assets that are not judged, with the reason")
    for name, text in (
        ("retire", "close the incidents of an asset that was taken away; it starts again from the calibration"),
        ("forget", "as retire, and delete people's verdicts on its alerts: for data that must go"),
    ):
        removal = _action(actions, name, text)
        removal.add_argument("asset", metavar="ASSET", help="the asset")
        removal.add_argument(
            "--wait",
            type=_seconds,
            default=_WAIT_S,
            metavar="SECONDS",
            help=f"how long to wait for the workers; 0: don't wait (default: {_WAIT_S:g})",
        )
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
        if args.action == "list":
            _list(store, config, args)
            return 0
        return _remove(store, config, args)


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
    # A report may be some seconds older than the state; whatever was judged was read.
    newest = (None if report is None else report.read_ms, None if state is None or report is None else state.judged_ms)
    times = [time for time in newest if time is not None]
    return {
        "asset": asset,
        "task": known.task,
        "read": utc(max(times, default=None)),
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


# Removing ------------------------------------------------------------------------------------------------------------


def _remove(store: RedisStore, config: Config, args: argparse.Namespace) -> int:
    """Have an asset removed; return 1 when no worker has done it in time."""
    from difflib import get_close_matches

    asset: str = args.asset
    known = {*known_assets(store), *store.controls().pins, *store.controls().removals}
    verdicts = _verdicts_on(config, store, asset) if args.action == "forget" else []
    if asset not in known and verdicts == []:  # a repeated `forget` may have verdicts only left to delete
        near = get_close_matches(asset, sorted(known), n=3) or sorted(known)[:3]
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "no asset has been seen yet"
        raise ConfigError(f"there is no asset {asset!r}; {hint}")
    token = store.remove(asset, args.action)
    deleted = store.delete_verdicts(verdicts or [])
    waiting = _await(store, asset, token, args.wait)
    if not waiting:
        store.settle(asset, token)
    done = "retired" if args.action == "retire" else "forgotten"
    if args.json:
        found: dict[str, Any] = {"action": args.action, "asset": asset, "done": not waiting, "tasks": waiting}
        if args.action == "forget":
            found["verdicts"] = None if verdicts is None else deleted
        print_json(found)
    else:
        if waiting:
            tasks = ", ".join(map(str, waiting))
            print_line(
                f"{asset} is {done} as soon as a worker has task {tasks}: none has done it within {args.wait:g} s"
            )
        else:
            print_line(f"{asset} is {done}: nothing of it is known any more, until readings come again")
        if verdicts is None:
            print_line("the alert topic can't be read, so people's verdicts on its alerts are still kept; repeat this")
        elif deleted:
            print_line(f"{deleted} verdicts on its alerts are deleted")
    return 1 if (waiting and args.wait > 0) or verdicts is None else 0


def _await(store: RedisStore, asset: str, token: str, seconds: float) -> list[int]:
    """Return the tasks in which the asset's state is not removed yet, after at most this many seconds."""
    deadline = time.monotonic() + seconds
    while (waiting := store.holding(asset, token)) and time.monotonic() < deadline:
        time.sleep(min(_LOOK_EVERY_S, seconds))
    return waiting


def _verdicts_on(config: Config, store: RedisStore, asset: str) -> list[str] | None:
    """Return the alerts of an asset with a verdict, as far as the topic has them; None when it can't be read."""
    wanted = {one.alert for one in store.verdicts()}
    if not wanted:
        return []
    from stream_detector.cli.verdict import alerts_of

    try:
        return [alert for alert, fields in alerts_of(config, wanted).items() if fields["asset"] == asset]
    except BrokerError:
        return None


def _seconds(text: str) -> float:
    """Return a time of 0 s or more. Raises ArgumentTypeError."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds <= 86_400.0:
        raise argparse.ArgumentTypeError(f"expected 0 to 86400 seconds, got {text!r}")
    return seconds

"""`stream-detector thresholds`: look at the adaptive thresholds, pin, unpin and reset them, while workers run."""

from __future__ import annotations

import argparse
import json
import math
import sys
from contextlib import closing
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream_detector.codec import audit_id, encode_point
from stream_detector.config import loading as settings
from stream_detector.errors import ConfigError
from stream_detector.types import AssetState, Controls

if TYPE_CHECKING:  # argparse names the type of its subparsers only privately; redis is imported when it is used
    from stream_detector.adapters.redis import RedisStore
    from stream_detector.config import BudgetConfig, Config

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

PIPED_WIDTH = 160  # of a table that no terminal bounds


def add_parser(subparsers: Subparsers) -> None:
    """Add the command and its own subcommands."""
    parser = subparsers.add_parser(
        "thresholds",
        help="list, show, pin, unpin, reset, accept and roll back adaptive thresholds; show their history",
        description="Show the adaptive thresholds in Redis and set them by hand. Running workers apply a change within "
        "a second.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _action(actions, "list", "print one row per asset")
    _asset(_action(actions, "show", "print the full state of one asset"))
    pin = _action(actions, "pin", "alarm above a fixed level instead of the adaptive one")
    _asset(pin)
    pin.add_argument("level", type=float, metavar="LEVEL", help="alarm above this score; finite and above 0")
    pin.add_argument("--force", action="store_true", help="pin even if no worker has judged the asset yet")
    _asset(_action(actions, "unpin", "go back to the adaptive level"))
    reset = _action(actions, "reset", "discard what was learnt and start again from the model's calibration")
    which = reset.add_mutually_exclusive_group(required=True)
    which.add_argument("asset", nargs="?", metavar="ASSET", help="the asset")
    which.add_argument("--all", action="store_true", help="all assets")
    _asset(_action(actions, "accept", "accept an asset's flat incident as its new normal (adaptation.policy: ask)"))
    past = _action(actions, "history", "print what changed an asset's level, and when, from the audit topic")
    _asset(past)
    past.add_argument("--last", type=int, metavar="N", help="only the newest N entries")
    back = _action(actions, "rollback", "restore an asset's level and shift as they were after an entry of the history")
    _asset(back)
    back.add_argument("--to", required=True, metavar="ID", help="the entry's id, or its beginning")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry it out; return the exit status. Raises ConfigError for a wrong argument, StoreError when Redis is away."""
    from stream_detector.adapters.redis import RedisStore

    config = settings.load(args.config)
    with closing(RedisStore(config.redis, config.stream)) as store:
        if args.action == "list":
            _list(store, config.threshold.budget, args.json)
        elif args.action == "show":
            _show(store, args.asset, config.threshold.budget, args.json)
        elif args.action == "history":
            _history(config, args)
        elif args.action == "rollback":
            _roll_back(config, store, args)
        else:
            _change(store, args)
    return 0


def _action(actions: Subparsers, name: str, text: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file of the set-up")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _asset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("asset", metavar="ASSET", help="the asset")


def _list(store: RedisStore, budget: BudgetConfig | None, as_json: bool) -> None:
    controls = store.controls()
    # An asset can lie in several tasks when a topic was given more partitions: the one that judged it last counts.
    newest: dict[str, tuple[int, AssetState]] = {}
    for task, asset, state in store.assets():
        if asset not in newest or newest[asset][1].judged_ms <= state.judged_ms:
            newest[asset] = (task, state)
    rows = [_row(asset, newest.get(asset), controls, budget) for asset in sorted({*newest, *controls.pins})]
    if as_json:
        _print_json(rows)
        return
    from rich.console import Console
    from rich.table import Table

    columns = _COLUMNS if budget is None else (*_COLUMNS, *_BUDGET_COLUMNS)
    table = Table(*("judged up to" if name == "judged" else name for name in columns))
    for name in ("task", "level", "pinned", "seen"):
        next(column for column in table.columns if column.header == name).justify = "right"
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in columns))
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else PIPED_WIDTH)
    console.print(table if rows else "no asset has been judged yet")


_COLUMNS = ("asset", "task", "method", "level", "pinned", "seen", "incident", "judged")
_BUDGET_COLUMNS = ("risk", "promised", "achieved")  # incidents since the budget counts


def _show(store: RedisStore, asset: str, budget: BudgetConfig | None, as_json: bool) -> None:
    controls = store.controls()
    found = store.find(asset)
    if found is None and asset not in controls.pins:
        raise _unknown(store, asset)
    row = _row(asset, found, controls, budget)
    if found is not None:
        threshold, incident = found[1].threshold, found[1].incident
        row |= {
            "scores_kept": len(threshold.sample),
            "anomalous_of_last": incident.recent.bit_count(),
            "quiet_windows": incident.quiet,
            "incident_opened": _time(incident.opened_ms),
            "incident_leader": incident.leader,
            "incident_peak": incident.peak if incident.opened_ms is not None else None,
            "incident_windows": incident.windows,
            "model": found[1].model or None,
            "reset": _time(int(found[1].applied.reset) // 1_000) if found[1].applied.reset.isdecimal() else None,
        }
    requested = max(controls.resets.get(asset, ""), controls.resets.get("*", ""))
    row["reset_requested"] = _time(int(requested) // 1_000) if requested.isdecimal() else None
    if as_json:
        _print_json(row)
        return
    width = max(len(name) for name in row)
    sys.stdout.writelines(f"{name.replace('_', ' '):<{width}}  {_cell(value)}\n" for name, value in row.items())


def _change(store: RedisStore, args: argparse.Namespace) -> None:
    asset: str = "*" if args.action == "reset" and args.all else args.asset
    done: dict[str, Any] = {"action": args.action, "asset": asset}
    if args.action == "pin":
        if not (math.isfinite(args.level) and args.level > 0.0):
            raise ConfigError(f"LEVEL must be finite and above 0, got {args.level}")
        if not args.force and store.find(asset) is None:
            raise _unknown(store, asset, "; pin it all the same with --force")
        store.pin(asset, args.level)
        done["level"] = args.level
        text = f"{asset} is pinned: alarms above {args.level:g}"
    elif args.action == "unpin":
        done["was_pinned"] = store.unpin(asset)
        if not done["was_pinned"] and store.find(asset) is None:
            raise _unknown(store, asset)
        text = f"{asset} is judged by its adaptive level again" if done["was_pinned"] else f"{asset} was not pinned"
    elif args.action == "accept":
        found = store.find(asset)
        if found is None:
            raise _unknown(store, asset)
        if found[1].incident.opened_ms is None or not found[1].adaptation.asked:
            raise ConfigError(f"{asset} has no open incident that was told as a regime change, so there is nothing new")
        store.accept(asset)
        text = f"{asset}: the state it is in becomes its normal with its next window"
    else:
        if asset != "*" and store.find(asset) is None:
            raise _unknown(store, asset)
        store.reset(asset)
        text = f"{'all assets start' if asset == '*' else asset + ' starts'} from the model's calibration again"
    if args.json:
        _print_json(done)
    else:
        sys.stdout.write(f"{text}\n")


def _history(config: Config, args: argparse.Namespace) -> None:
    from stream_detector.cli import trail

    if args.last is not None and args.last < 1:
        raise ConfigError(f"--last must be at least 1, got {args.last}")
    every = trail.history(config, args.asset)
    found = list(zip([None, *every], every, strict=False))[-(args.last or 0) :]
    if args.json:
        _print_json([trail.plain(entry) for _, entry in found])
        return
    for earlier, entry in found:
        sys.stdout.write(
            f"{audit_id(entry)[:8]}  {_time(entry.at_ms)}  {entry.cause:<13}  {trail.change(entry, earlier)}"
            f"  ({trail.MEANING[entry.cause]})\n"
        )


def _roll_back(config: Config, store: RedisStore, args: argparse.Namespace) -> None:
    from stream_detector.cli import trail

    entry = trail.entry_of(config, args.asset, args.to)
    if entry.method != config.threshold.method:
        raise ConfigError(
            f"--to {args.to}: it was made by threshold.method {entry.method}, the set-up says {config.threshold.method}"
        )
    store.rollback(args.asset, encode_point(entry.threshold, entry.adaptation, entry.model.version))
    if args.json:
        _print_json({"action": "rollback", "asset": args.asset, "to": audit_id(entry), "level": entry.after.level})
    else:
        sys.stdout.write(
            f"{args.asset} goes back to {audit_id(entry)[:8]} ({_time(entry.at_ms)}) with its next window\n"
        )


def _row(
    asset: str, found: tuple[int, AssetState] | None, controls: Controls, budget: BudgetConfig | None
) -> dict[str, Any]:
    """Return what the list says of one asset; None where nothing is known."""
    pin = controls.pins.get(asset)
    if found is None:  # pinned before it was ever judged
        columns = _COLUMNS if budget is None else (*_COLUMNS, *_BUDGET_COLUMNS)
        return dict.fromkeys(columns) | {"asset": asset, "pinned": pin}
    task, state = found
    threshold, incident = state.threshold, state.incident
    return {
        "asset": asset,
        "task": task,
        "method": threshold.method,
        "level": threshold.level,
        "pinned": pin,
        "seen": threshold.seen,
        "incident": incident.severity if incident.opened_ms is not None else None,
        "judged": _time(state.judged_ms),
        **({} if budget is None else _kept(state, budget)),
    }


def _kept(state: AssetState, budget: BudgetConfig) -> dict[str, Any]:
    """Return what an asset's budget promised and what came of it."""
    counted = state.budget
    if counted is None or not state.threshold.numbers:
        return dict.fromkeys(_BUDGET_COLUMNS)
    return {
        "risk": state.threshold.numbers[0],
        "promised": budget.rate * max(state.judged_ms - counted.start_ms, 0),
        "achieved": counted.opened_ever,
    }


def _unknown(store: RedisStore, asset: str, hint: str = "") -> ConfigError:
    known = sorted({name for _, name, _ in store.assets()})
    if not known:
        return ConfigError(f"no asset has been judged yet, so there is no {asset!r}{hint}")
    near = get_close_matches(asset, known, n=3) or known[:3]
    return ConfigError(f"there is no asset {asset!r}; did you mean {' or '.join(map(repr, near))}?{hint}")


def _time(ms: int | None) -> str | None:
    if ms is None or ms < 0:  # below 0: nothing judged yet
        return None
    return datetime.fromtimestamp(ms / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

"""`stream-detector thresholds`: look at the adaptive thresholds, pin, unpin and reset them, while workers run."""

from __future__ import annotations

import argparse
import math
from contextlib import closing
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from stream_detector.cli.options import add_config, add_json, add_limit
from stream_detector.cli.printing import cell, print_json, print_line, print_table, utc
from stream_detector.errors import ConfigError

if TYPE_CHECKING:  # argparse names the type of its subparsers only privately; the rest is imported when it is used
    from stream_detector.adapters.redis import RedisStore
    from stream_detector.config import BudgetConfig, Config
    from stream_detector.types import AssetState, Controls

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


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
    add_limit(past, "print only the newest N entries", former="--last")
    back = _action(actions, "rollback", "restore an asset's level and shift as they were after an entry of the history")
    _asset(back)
    back.add_argument("--to", required=True, metavar="ID", help="the entry's id, or its beginning")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry it out; return the exit status. Raises ConfigError for a wrong argument, StoreError when Redis is away."""
    from stream_detector.adapters.redis import RedisStore
    from stream_detector.config import loading as settings

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
    add_config(parser)
    add_json(parser)
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
        print_json(rows)
        return
    if not rows:
        print_line("no asset has been judged yet")
        return
    columns = _COLUMNS if budget is None else (*_COLUMNS, *_BUDGET_COLUMNS)
    titles = ["judged up to" if name == "judged" else name for name in columns]
    print_table(titles, ([row[name] for name in columns] for row in rows), right=("task", "level", "pinned", "seen"))


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
            "incident_opened": utc(incident.opened_ms),
            "incident_leader": incident.leader,
            "incident_peak": incident.peak if incident.opened_ms is not None else None,
            "incident_windows": incident.windows,
            "model": found[1].model or None,
            "reset": _token_time(found[1].applied.reset),
        }
    row["reset_requested"] = _token_time(max(controls.resets.get(asset, ""), controls.reset_all))
    if as_json:
        print_json(row)
        return
    width = max(len(name) for name in row)
    for name, value in row.items():
        print_line(f"{name.replace('_', ' '):<{width}}  {cell(value)}")


def _change(store: RedisStore, args: argparse.Namespace) -> None:
    asset: str = args.asset
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
            raise ConfigError(f"{asset} has no open incident that was reported as a regime change: nothing to accept")
        store.accept(asset)
        text = f"{asset}: the state it is in becomes its normal with its next window"
    else:
        if not args.all and store.find(asset) is None:
            raise _unknown(store, asset)
        store.reset(None if args.all else asset)
        done["all"] = args.all
        text = f"{'all assets start' if args.all else asset + ' starts'} from the model's calibration again"
    if args.json:
        print_json(done)
    else:
        print_line(text)


def _history(config: Config, args: argparse.Namespace) -> None:
    from stream_detector.cli import trail
    from stream_detector.codec import audit_id

    every = trail.history(config, args.asset)
    found = list(zip([None, *every], every, strict=False))[-(args.limit or 0) :]
    if args.json:
        print_json([trail.plain(entry) for _, entry in found])
        return
    for earlier, entry in found:
        print_line(
            f"{audit_id(entry)[:8]}  {utc(entry.at_ms)}  {entry.cause:<13}  {trail.change(entry, earlier)}"
            f"  ({trail.MEANING[entry.cause]})"
        )


def _roll_back(config: Config, store: RedisStore, args: argparse.Namespace) -> None:
    from stream_detector.cli import trail
    from stream_detector.codec import audit_id, encode_point

    entry = trail.entry_of(config, args.asset, args.to)
    if entry.method != config.threshold.method:
        raise ConfigError(
            f"--to {args.to}: it was made by threshold.method {entry.method}, the set-up says {config.threshold.method}"
        )
    if entry.cause in ("retire", "forget"):
        raise ConfigError(f"--to {args.to}: nothing is known after it, since {args.asset} was removed then")
    store.rollback(args.asset, encode_point(entry.threshold, entry.adaptation, entry.model.version))
    if args.json:
        print_json({"action": "rollback", "asset": args.asset, "to": audit_id(entry), "level": entry.after.level})
    else:
        print_line(f"{args.asset} goes back to {audit_id(entry)[:8]} ({utc(entry.at_ms)}) with its next window")


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
        "judged": utc(state.judged_ms),
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


def _token_time(token: str) -> str | None:
    """Return when a control was set: its token is in microseconds."""
    return utc(int(token) // 1_000) if token.isdecimal() else None

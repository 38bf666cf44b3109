"""`stream-detector dead-letters`: look at the messages that could not be used, and send them again."""

from __future__ import annotations

import argparse
import base64
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from stream_detector.cli.options import add_config, add_json, add_limit, moment
from stream_detector.cli.printing import print_json, print_line, print_table, utc
from stream_detector.errors import ConfigError
from stream_detector.telemetry.logs import Output

if TYPE_CHECKING:
    from stream_detector.adapters.kafka import Requeuer
    from stream_detector.codec.letters import Letter
    from stream_detector.config import Config
    from stream_detector.feedback.letters import Recheck

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

SHOWN = 100  # newest dead letters that `list` prints without --limit
AT_ONCE, BYTES_AT_ONCE = 500, 8_000_000  # in one transaction
EXAMPLES = 5  # refusals that are printed one by one


def add_parser(subparsers: Subparsers) -> None:
    """Add the command and its own subcommands."""
    parser = subparsers.add_parser(
        "dead-letters",
        help="list the messages that could not be used; send them again",
        description="Look at the dead-letter topic: messages that could not be used, with the reason. After the cause "
        "is removed, say a wrong field name in the set-up, requeue sends them to their topics again.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser(
        "list",
        help="print dead letters, oldest first",
        description="Print dead letters, oldest first, and the count of each reason on standard error.",
    )
    add_config(listing)
    _filters(listing)
    add_limit(listing, f"print only the newest N (default: {SHOWN})")
    add_json(listing, "print JSON, with keys and values")
    again = actions.add_parser(
        "requeue",
        help="send dead letters to their topics again",
        description="Send dead letters to the topics they came from: the original bytes, key and headers. Each is "
        "noted on the dead-letter topic and not sent twice. Those that could not be used now either, by the set-up "
        "as it is, are refused, with status 1.",
    )
    add_config(again)
    _filters(again)
    again.add_argument("--id", action="append", metavar="PARTITION:OFFSET", help="this one, as `list` names it")
    again.add_argument("--all", action="store_true", help="all of them, if nothing else chooses")
    again.add_argument("--force", action="store_true", help="send also what could not be used now, and what was sent")
    again.add_argument("--dry-run", action="store_true", help="send nothing; say what would be sent")
    add_json(again)
    parser.set_defaults(run=run)


def _filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", action="append", metavar="CODE", help="with this reason (docs/wire-format.md)")
    parser.add_argument("--asset", action="append", metavar="NAME", help="of this asset")
    parser.add_argument(
        "--since", type=moment, metavar="TIME", help="written since: 2020-03-09T10:14:33Z, or 90m, 6h, 3d before now"
    )


def run(args: argparse.Namespace) -> int:
    """Carry it out; return the exit status. Raises ConfigError for a wrong argument, BrokerError, StoreError."""
    from stream_detector.config import loading as settings
    from stream_detector.types import DEAD_LETTER_CODES

    for code in args.reason or ():
        if code not in DEAD_LETTER_CODES:
            raise ConfigError(f"--reason {code}: expected one of {', '.join(sorted(DEAD_LETTER_CODES))}")
    config = settings.load(args.config)
    return _list(args, config) if args.action == "list" else _requeue(args, config)


def _list(args: argparse.Namespace, config: Config) -> int:
    from stream_detector.feedback.letters import Recheck

    recheck = Recheck(config, lambda asset: None)
    limit = args.limit or SHOWN
    newest: deque[dict[str, Any]] = deque(maxlen=limit)
    reasons: Counter[str] = Counter()
    sent, letters = _read(config)
    for letter in letters():
        if _chosen(args, letter, recheck):
            reasons[letter.code] += 1
            newest.append(_row(letter, recheck, letter.place in sent, values=args.json))
    rows = sorted(newest, key=lambda row: row["written"] or "")
    if args.json:
        print_json(rows)
    elif rows:
        names = ("id", "written", "error", "asset", "from", "requeued", "detail")
        print_table(names, ([_shown(row, name) for name in names] for row in rows))
    else:
        print_line("there are no such dead letters")
    if reasons:
        output: Output = args.output
        counts = ", ".join(f"{number} {code}" for code, number in reasons.most_common())
        more = f"; the newest {limit} are shown, --limit shows more" if reasons.total() > limit else ""
        output.tell(f"{reasons.total()} dead letters ({counts}){more}")
    return 0


def _requeue(args: argparse.Namespace, config: Config) -> int:
    from stream_detector.adapters.kafka import Requeuer
    from stream_detector.adapters.redis import RedisStore
    from stream_detector.feedback.letters import Recheck

    if not (args.reason or args.asset or args.since or args.id or args.all):
        raise ConfigError("say which: --reason, --asset, --since or --id, or --all")
    counts = {"requeued": 0, "already": 0, "refused": 0}
    refused: list[dict[str, str]] = []
    waiting: list[Letter] = []
    size = 0
    found: set[str] = set()
    with ExitStack() as exits:
        store = exits.enter_context(closing(RedisStore(config.redis, config.stream)))
        # Before the dead letters are read: it ends what an earlier command has not committed.
        requeuer = None if args.dry_run else exits.enter_context(Requeuer(config))

        @lru_cache(maxsize=10_000)
        def judged_ms(asset: str) -> int | None:
            state = store.find(asset)
            return None if state is None else state[1].judged_ms

        recheck = Recheck(config, judged_ms)
        sent, letters = _read(config)
        for letter in letters():
            if (args.id and letter.place not in args.id) or not _chosen(args, letter, recheck):
                continue
            found.add(letter.place)
            if letter.place in sent and not args.force:
                counts["already"] += 1
                continue
            why = "" if args.force else recheck.in_vain(letter, time.time() * 1_000)
            if letter.dropped is not None:
                why = f"{letter.dropped} bytes of it were left out, so that the message is not whole"
            if why:
                counts["refused"] += 1
                refused.append({"id": letter.place, "error": letter.code, "why": why})
                continue
            counts["requeued"] += 1
            waiting.append(letter)
            size += len(letter.original.value or b"")
            if len(waiting) >= AT_ONCE or size >= BYTES_AT_ONCE:
                _send(requeuer, waiting)
                size = 0
        _send(requeuer, waiting)
    _report(args, counts, refused)
    if args.id and (missing := sorted(set(args.id) - found)):
        raise ConfigError(f"--id: there is no such dead letter: {', '.join(missing)}; `dead-letters list` names them")
    return 1 if refused else 0


def _send(requeuer: Requeuer | None, waiting: list[Letter]) -> None:
    if waiting and requeuer is not None:
        requeuer.send(waiting)
    waiting.clear()


def _report(args: argparse.Namespace, counts: dict[str, int], refused: list[dict[str, str]]) -> None:
    if args.json:
        print_json({**counts, "dry_run": args.dry_run, "refusals": refused})
        return
    would = "would be sent" if args.dry_run else "were sent"
    print_line(f"{counts['requeued']} messages {would} again, {counts['already']} had been before")
    if not refused:
        return
    print_line(f"{len(refused)} could not be used now either; --force sends those that are whole all the same:")
    for one in refused[:EXAMPLES]:
        print_line(f"  {one['id']}  {one['error']}: {one['why']}")
    if len(refused) > EXAMPLES:
        print_line(f"  and {len(refused) - EXAMPLES} more (--json lists them)")


def _read(config: Config) -> tuple[set[str], Callable[[], Iterator[Letter]]]:
    """Return the places of letters that were sent again, and what reads the letters there are up to now.

    The topic is read twice, so that nothing of it must be kept: a note stands behind its letter.
    """
    from stream_detector.adapters.kafka import read_to_end
    from stream_detector.codec.letters import read_letter, requeued_place

    topic = config.dead_letter_topic
    sent: set[str] = set()
    last: dict[int, int] = {}
    for batch in read_to_end(config.kafka, topic):
        sent.update(filter(None, map(requeued_place, batch.messages)))
        last[batch.partition.index] = batch.messages[-1].offset

    def letters() -> Iterator[Letter]:
        for batch in read_to_end(config.kafka, topic):
            index = batch.partition.index
            for message in batch.messages:
                if message.offset > last.get(index, -1):  # whether it was sent again is not known
                    break
                if (letter := read_letter(index, message)) is not None:
                    yield letter

    return sent, letters


def _chosen(args: argparse.Namespace, letter: Letter, recheck: Recheck) -> bool:
    if args.reason and letter.code not in args.reason:
        return False
    if args.since is not None and letter.written_ms < args.since:
        return False
    return not args.asset or recheck.asset(letter) in args.asset


def _row(letter: Letter, recheck: Recheck, requeued: bool, values: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": letter.place,
        "written": utc(letter.written_ms),
        "error": letter.code,
        "detail": letter.detail,
        "asset": recheck.asset(letter) or None,
        "topic": letter.source.topic,
        "partition": letter.source.index,
        "offset": letter.original.offset,
        "requeued": requeued,
    }
    if values:
        row |= {"key": _bytes(letter.original.key), "value": _bytes(letter.original.value)}
        row["dropped_bytes"] = letter.dropped
    return row


def _shown(row: dict[str, Any], name: str) -> object:
    if name == "from":
        return f"{row['topic']} {row['partition']}:{row['offset']}"
    return {True: "yes", False: None}[row[name]] if name == "requeued" else row[name]


def _bytes(value: bytes | None) -> str | dict[str, str] | None:
    """Return bytes for JSON: as text where they are text, else in base64."""
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}

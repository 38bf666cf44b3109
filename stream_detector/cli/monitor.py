"""`stream-detector monitor`: follow the alert topic."""

from __future__ import annotations

import argparse
import signal
import sys
from threading import Event
from typing import TYPE_CHECKING

from stream_detector.cli.options import add_config, add_json, add_limit
from stream_detector.errors import DecodeError

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "monitor",
        help="follow the alert topic",
        description="Follow the alert topic: one readable line per alert, or with --json the alerts as published.",
    )
    add_config(parser)
    add_json(parser, "one JSON object per line, as published")
    parser.add_argument("--from-beginning", action="store_true", help="start with the oldest alert on the topic")
    parser.add_argument("--asset", metavar="NAME", help="only this asset's alerts")
    add_limit(parser, "end after N alerts", former="--count")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry it out; return the exit status."""
    from stream_detector.adapters.kafka import AlertReader
    from stream_detector.cli.show import alert_line
    from stream_detector.codec import decode_alert
    from stream_detector.config import loading as settings
    from stream_detector.telemetry.printable import printable, printable_json

    config = settings.load(args.config)
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    shown = 0
    if not args.json:
        sys.stderr.write(f"following {config.alert_topic}; Ctrl-C ends it\n")
    with AlertReader(config, from_beginning=args.from_beginning) as alerts:
        while not stop.is_set():
            for record in alerts.read(timeout_ms=200):
                try:
                    alert = decode_alert(record.value)
                except DecodeError as error:
                    where = f"offset {record.offset} of partition {record.partition}"
                    sys.stderr.write(printable(f"not an alert, at {where}: {error}") + "\n")
                    continue
                if args.asset is not None and alert.asset != args.asset:
                    continue
                line = printable_json(record.value.decode()) if args.json else alert_line(record.value)
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
                shown += 1
                if args.limit is not None and shown >= args.limit:
                    return 0
    return 0

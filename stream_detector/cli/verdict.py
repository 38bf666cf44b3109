"""`stream-detector verdict`: say what an alert was worth; `stream-detector verdicts`: what people have said."""

from __future__ import annotations

import argparse
import getpass
import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

from stream_detector.cli.options import add_config, add_json
from stream_detector.cli.printing import print_json, print_line, print_table, utc
from stream_detector.errors import ConfigError, DecodeError

if TYPE_CHECKING:  # argparse names the type of its subparsers only privately
    from stream_detector.config import Config

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

#: What a person may say of an alert, as `feedback.verdicts` decodes it.
KINDS = ("true-alarm", "false-alarm", "maintenance")


def add_parser(subparsers: Subparsers) -> None:
    """Add both commands."""
    send = subparsers.add_parser(
        "verdict",
        help="send a verdict on an alert",
        description="Send a verdict on an alert to the verdict topic, from which workers store it in Redis. A missing "
        "topic is created.",
    )
    add_config(send)
    send.add_argument("alert", metavar="ALERT", help="the alert's id, as `monitor --json` shows it")
    send.add_argument("verdict", metavar="VERDICT", choices=KINDS, help=" or ".join(KINDS))
    send.add_argument("--by", metavar="NAME", help="who gives the verdict (default: your login name)")
    send.add_argument("--note", default="", metavar="TEXT", help="reason for the verdict")
    send.set_defaults(run=run)
    show = subparsers.add_parser(
        "verdicts",
        help="list people's verdicts on alerts",
        description="List the verdicts kept in Redis, oldest first.",
    )
    add_config(show)
    show.add_argument("--alerts", action="store_true", help="add asset, time and incident from the alert topic")
    add_json(show)
    show.set_defaults(run=run_list)


def run(args: argparse.Namespace) -> int:
    """Send one; return the exit status. Raises ConfigError when it is no verdict, BrokerError."""
    from stream_detector.config import loading as settings
    from stream_detector.feedback.verdicts import encode_verdict

    config = settings.load(args.config)
    alert = args.alert.strip().lower()
    try:
        value = encode_verdict(alert, args.verdict, getpass.getuser() if args.by is None else args.by, args.note)
    except DecodeError as error:
        raise ConfigError(error.detail) from None
    from stream_detector.adapters.kafka import MessageWriter, ensure_topics  # the client is slow to import

    # The limits are per minute of message time, so it must be the broker's and not the sender's to set.
    ensure_topics(config.kafka, {config.verdict_topic: 1}, message_timestamp_type="LogAppendTime")
    with MessageWriter(config.kafka, client_id="stream-detector-verdict") as writer:
        writer.send(config.verdict_topic, alert.encode(), value, [("content-type", b"application/json")])
    print_line(f"sent to {config.verdict_topic}: {args.verdict} on {alert}")
    return 0


def run_list(args: argparse.Namespace) -> int:
    """List them; return the exit status. Raises StoreError, with --alerts BrokerError."""
    from stream_detector.adapters.redis import RedisStore
    from stream_detector.config import loading as settings

    config = settings.load(args.config)
    with closing(RedisStore(config.redis, config.stream)) as store:
        verdicts = store.verdicts()
    about = alerts_of(config, {one.alert for one in verdicts}) if args.alerts else {}
    rows: list[dict[str, Any]] = [
        {
            "alert": one.alert,
            "verdict": one.verdict,
            "by": one.by or None,
            "note": one.note or None,
            "sent": utc(one.ts_ms, "seconds"),
            **(about.get(one.alert, dict.fromkeys(_FROM_ALERT)) if args.alerts else {}),
        }
        for one in verdicts
    ]
    if args.json:
        print_json(rows)
        return 0
    if not rows:
        print_line("no verdicts are kept")
        return 0
    names = ["sent", "verdict", "alert", *(_FROM_ALERT if args.alerts else ()), "by", "note"]
    print_table(names, ([row[name] for name in names] for row in rows))
    return 0


_FROM_ALERT = ("asset", "end", "event", "incident")


def alerts_of(config: Config, wanted: set[str]) -> dict[str, dict[str, Any]]:
    """Return what the alert topic holds of these alerts."""
    from stream_detector.adapters.kafka import AlertReader

    found: dict[str, dict[str, Any]] = {}
    if wanted:
        with AlertReader(config, from_beginning=True) as reader:
            while records := reader.read(timeout_ms=1_000):
                for record in records:
                    try:
                        alert = json.loads(record.value)
                        if alert["id"] in wanted:
                            found[alert["id"]] = {name: alert[name] for name in _FROM_ALERT}
                    except (ValueError, KeyError, TypeError):
                        continue
                if len(found) == len(wanted):
                    break
    return found

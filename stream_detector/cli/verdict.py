"""`stream-detector verdict`: say what an alert was worth; `stream-detector verdicts`: what people have said."""

from __future__ import annotations

import argparse
import getpass
import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

from stream_detector.cli.options import add_config, add_json
from stream_detector.cli.printing import print_json, print_line, print_table, utc
from stream_detector.errors import BrokerRightsError, ConfigError, DecodeError
from stream_detector.telemetry.logs import Output

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
        description="Send a verdict on an alert to the verdict topic, from which workers store it in Redis. An id "
        "that no alert has is refused, if the alert topic still holds all alerts. A missing verdict topic is created.",
    )
    add_config(send)
    send.add_argument("alert", metavar="ALERT", help="the alert's id, as `monitor --json` shows it")
    send.add_argument("verdict", metavar="VERDICT", choices=KINDS, help=" or ".join(KINDS))
    send.add_argument("--by", metavar="NAME", help="who gives the verdict (default: your login name)")
    send.add_argument("--note", default="", metavar="TEXT", help="reason for the verdict")
    send.add_argument("--force", action="store_true", help="send it even if the alert topic has no such alert")
    add_json(send)
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
    from stream_detector.adapters.kafka import MessageWriter, ensure_topics

    if not args.force:
        _require_alert(args, config, alert)

    # The limits are per minute of message time, so it must be the broker's and not the sender's to set.
    ensure_topics(config.kafka, {config.verdict_topic: 1}, message_timestamp_type="LogAppendTime")
    with MessageWriter(config.kafka, client_id="stream-detector-verdict") as writer:
        writer.send(config.verdict_topic, alert.encode(), value, [("content-type", b"application/json")])
    if args.json:
        print_json({"topic": config.verdict_topic, "alert": alert, "verdict": args.verdict})
    else:
        print_line(f"sent to {config.verdict_topic}: {args.verdict} on {alert}")
    return 0


def _require_alert(args: argparse.Namespace, config: Config, wanted: str) -> None:
    """Raise ConfigError when no alert has this id; where that can't be known, warn."""
    from stream_detector.adapters.kafka import first_offsets, read_to_end

    output: Output = args.output
    mine: list[str] = []
    try:
        for batch in read_to_end(config.kafka, config.alert_topic):
            for message in batch.messages:
                ids = _ids(message.value)
                if ids is None:
                    continue
                if ids[0] == wanted:
                    return
                if ids[1] == wanted:
                    mine.append(ids[0])
        whole = not any(first_offsets(config.kafka, config.alert_topic).values())
    except BrokerRightsError:
        output.warn(f"this user may not read {config.alert_topic}: whether there is such an alert is not known")
        return
    if mine:
        raise ConfigError(
            f"{wanted} is an incident; a verdict is on one of its alerts, of which the last is {mine[-1]}"
        )
    if whole:
        raise ConfigError(f"{config.alert_topic} has no alert {wanted}; `monitor --json` shows ids; --force sends it")
    output.warn(f"{config.alert_topic} has no alert {wanted} any more: retention has taken the oldest")


def _ids(value: bytes | None) -> tuple[str, str] | None:
    """Return an alert's id and its incident's."""
    try:
        alert = json.loads(value or b"")
        return alert["id"], alert["incident"]
    except (ValueError, KeyError, TypeError):
        return None


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

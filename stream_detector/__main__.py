"""The command line: `stream-detector COMMAND …`, also as `python -m stream_detector`."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterator, Sequence

from stream_detector import __version__
from stream_detector.cli import (
    assets,
    backtest,
    check,
    dead_letters,
    demo,
    evaluate,
    monitor,
    run,
    thresholds,
    train,
    verdict,
)
from stream_detector.errors import DetectorError, exit_status
from stream_detector.telemetry.logs import Output

_EPILOG = """\
typical use:
  stream-detector demo                                     everything on this machine, with simulated machines
  stream-detector check configs/machine.yaml               validate the set-up
  stream-detector train configs/machine.yaml --data normal.csv
  stream-detector backtest configs/machine.yaml --data last-week.csv
  stream-detector run configs/machine.yaml                 the worker; start as many as you like
  stream-detector monitor configs/machine.yaml             watch the alerts
  stream-detector assets configs/machine.yaml              every asset, its state, and why it is not judged
  stream-detector thresholds list configs/machine.yaml     the adaptive threshold of each asset
  stream-detector verdict configs/machine.yaml ALERT false-alarm --note 'hose was moved'
  stream-detector dead-letters list configs/machine.yaml   the messages that can't be used, and why

Exit status: 0 success, 2 wrong setting, file or option, 1 any other error.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="stream-detector",
        description="Real-time anomaly detection beside Kafka.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    _add_log(parser, "info", "text")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (demo, check, train, backtest, evaluate, run, monitor, assets, thresholds, verdict, dead_letters):
        command.add_parser(commands)
    for each in _leaves(parser):
        _add_log(each, argparse.SUPPRESS, argparse.SUPPRESS)  # behind the command, too; what stands there counts
    return parser


def _add_log(parser: argparse.ArgumentParser, level: str, format: str) -> None:
    group = parser.add_argument_group("log")
    levels = ["debug", "info", "warning", "error"]
    group.add_argument("--log-level", choices=levels, default=level, help="default: info")
    group.add_argument(
        "--log-format", choices=["text", "json"], default=format,
        help="json: one object per line (docs/operations.md); default: text",
    )  # fmt: skip


def _leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield the parsers of the commands that have no commands of their own."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                deeper = list(_leaves(inner))
                yield from deeper or [inner]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    args = build_parser().parse_args(argv)
    args.output = Output(args.log_format, args.log_level)
    args.output.install()
    for stream in (sys.stdout, sys.stderr):  # an encoding of few characters must not end a command half-way
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for warning in getattr(args, "renamed", ()):
        args.output.warn(warning)
    try:
        status: int = args.run(args)
        sys.stdout.flush()  # here, where a closed pipe is caught, and not when Python ends
    except DetectorError as error:
        args.output.fail(error)
        return exit_status(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # a mistake of ours; all there is goes to the user, but for secrets
        args.output.crash(error)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())

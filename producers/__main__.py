"""The commands `python -m producers replay` and `python -m producers simulate`."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, TextIO

from producers.arguments import build_parser
from stream_detector.datasets.recording import Recording
from stream_detector.datasets.replay import Plan, Progress, SystemClock, Writer, messages_in, replay
from stream_detector.errors import ConfigError, DataError, DetectorError
from stream_detector.telemetry.printable import printable_lines

if TYPE_CHECKING:
    from stream_detector.config import InputConfig, KafkaConfig

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status: 0 done or stopped by a signal, 1 Kafka failed, 2 invalid input or options.

    It is 130 after a Ctrl-C outside of sending, for example while files are read.
    """
    args = build_parser().parse_args(argv)
    for warning in getattr(args, "renamed", ()):
        _say(f"warning: {warning}", sys.stderr)
    try:
        if args.command == "replay":
            _replay(args)
        else:
            _simulate(args)
    except (ConfigError, DataError) as error:
        _say(f"error: {error}", sys.stderr)
        return EXIT_USAGE
    except DetectorError as error:
        _say(f"error: {error}", sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return EXIT_OK


def _replay(args: argparse.Namespace) -> None:
    from stream_detector.datasets import read

    recordings = read(
        args.files,
        args.format,
        asset=args.asset,
        ts_column=args.ts_column,
        ts_unit=args.ts_unit,
        asset_column=args.asset_column,
        label_column=args.label_column,
        columns=args.columns,
        rate_hz=args.rate_hz,
        block=args.block,
        start_ms=args.start,
    )
    if args.skip is not None:
        recordings = [recording.rows(args.skip) for recording in recordings]
    if args.rows is not None:
        recordings = [recording.head(args.rows) for recording in recordings]
    _send(recordings, args)


def _simulate(args: argparse.Namespace) -> None:
    from stream_detector.datasets.output import write
    from stream_detector.simulation.simulate import DEFAULT_START_MS, Waveforms, simulate

    if args.out is None and args.topic is None and args.config is None:
        raise DataError("nothing to do: give --out DIR to write files, --topic or --config to send readings, or both")
    waveforms = None
    if args.waveform:
        waveforms = Waveforms(args.waveform_every, args.block, args.sample_rate)
    recordings = simulate(
        machines=args.machines,
        hours=args.hours,
        seed=args.seed,
        rate_hz=args.rate,
        faults=args.faults,
        start_ms=DEFAULT_START_MS if args.start is None else args.start,
        profile=args.profile,
        scenario=args.scenario,
        name=args.name,
        channels=args.channels,
        waveforms=waveforms,
    )
    if args.out is not None:
        paths = write(recordings, args.out, args.format)
        if not args.quiet:
            _say(
                f"wrote {sum(map(len, recordings)):,} readings of {len(recordings)} machines into {len(paths)} files "
                f"in {args.out}"
            )
    if args.topic is not None or args.config is not None:
        _send(recordings, args)


def _send(recordings: Sequence[Recording], args: argparse.Namespace) -> None:
    kafka, entry = _target(args)
    topic = args.topic or entry.topic
    plan = Plan(
        topic=topic,
        speed=args.speed,
        times=args.times,
        loops=args.loop,
        format=args.message_format or ("msgpack" if entry.format == "msgpack" else "json"),
        fields=entry.fields,
    )
    if plan.times == "now" and plan.speed != 1 and not args.quiet:
        _say(
            "note: with --times now and a --speed other than 1, event times run ahead of the clock, and a detector "
            "takes such readings for those of a wrong clock; use --times until-now or keep",
            sys.stderr,
        )
    total = messages_in(recordings, plan.loops)
    stop = threading.Event()
    with connect(kafka, topic, args.partitions) as writer, _stopping(stop), _progress(total, args.quiet) as report:
        done = replay(recordings, plan, writer, clock=SystemClock(stop.wait), stopped=stop.is_set, report=report)
    if not args.quiet:
        _say(_summary(done, len(recordings), topic))


def connect(kafka: KafkaConfig, topic: str, partitions: int) -> AbstractContextManager[Writer]:
    """Create the topic if it is missing and open a writer. Raises BrokerError."""
    from stream_detector.adapters.kafka import MessageWriter, ensure_topics

    ensure_topics(kafka, {topic: partitions})
    return MessageWriter(kafka, client_id="stream-detector-producer")


def _target(args: argparse.Namespace) -> tuple[KafkaConfig, InputConfig]:
    """Return the Kafka settings and the input from --config, or from the options; options have precedence."""
    from stream_detector.config import InputConfig, KafkaConfig

    servers = args.bootstrap_servers
    if args.config is not None:
        from stream_detector.config.loading import load

        config = load(args.config, overrides=None if servers is None else {"kafka.bootstrap_servers": servers})
        return config.kafka, config.inputs[0]
    if args.topic is None:
        raise ConfigError("no topic to send to: give --topic, or --config with a set-up that has one")
    kafka = KafkaConfig() if servers is None else KafkaConfig(bootstrap_servers=servers)
    return kafka, InputConfig(topic=args.topic)


@contextmanager
def _stopping(stop: threading.Event) -> Iterator[None]:
    """Within this context, SIGTERM and Ctrl-C set `stop` instead of ending the process."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    before = {which: signal.signal(which, lambda *_: stop.set()) for which in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


@contextmanager
def _progress(total: int | None, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """Show a progress bar on standard error if it is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda progress: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("[bold]replay"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TextColumn("lag {task.fields[lag]:.1f} s"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("replay", total=total, rate=0.0, lag=0.0)
        yield lambda progress: bar.update(task, completed=progress.sent, rate=progress.rate, lag=progress.lag_s)


def _summary(done: Progress, assets: int, topic: str) -> str:
    from stream_detector.datasets.times import ms_to_iso

    until = "" if done.event_ms is None else f", up to event time {ms_to_iso(done.event_ms)}"
    how = "" if done.done else "stopped early: "
    return (
        f"{how}sent {done.sent:,} readings of {assets} assets to {topic} "
        f"in {done.elapsed_s:.1f} s ({done.rate:,.0f}/s){until}"
    )


def _say(text: str, stream: TextIO | None = None) -> None:
    out = sys.stdout if stream is None else stream
    out.write(printable_lines(text) + "\n")
    out.flush()


if __name__ == "__main__":
    sys.exit(main())

"""The command line: what it sends, writes and says, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from producers import __main__ as program
from producers.__main__ import main
from stream_detector.adapters.kafka import end_offsets
from stream_detector.config import KafkaConfig
from stream_detector.errors import BrokerError
from tests.producers import files

ROOT = Path(__file__).parents[2]


@pytest.fixture
def topic(monkeypatch):
    """What would have gone to Kafka: connections asked for and messages sent."""

    class Topic:
        kafka, name, partitions, sent, flushed = None, None, None, [], False

        def send(self, topic, key, value, headers, timestamp_ms=None):
            """Keep it."""
            assert topic == self.name
            self.sent.append((key.decode(), orjson.loads(value) if headers[0][1].endswith(b"json") else value))

        def flush(self):
            """Note it."""
            self.flushed = True

    seen = Topic()
    seen.sent = []

    @contextmanager
    def connect(kafka, name, partitions):
        seen.kafka, seen.name, seen.partitions = kafka, name, partitions
        yield seen

    monkeypatch.setattr(program, "connect", connect)
    return seen


def errors(capsys):
    """What was said on standard error."""
    return capsys.readouterr().err


# ── replay ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_replay_sends_files_and_says_so(tmp_path, topic, capsys):
    """One line at the end, on standard output; no bar where there is no terminal."""
    for name in ("0", "1"):
        files.skab(tmp_path / "valve1" / f"{name}.csv")
    argv = ["replay", str(tmp_path), "--format", "skab", "--topic", "pump.readings", "--speed", "max"]
    assert main([*argv, "--bootstrap-servers", "a:1,b:2", "--partitions", "3"]) == 0
    assert [key for key, _ in topic.sent] == ["valve1-0", "valve1-1"] * 3
    assert topic.sent[0][1]["values"]["Volume Flow RateRMS"] == 0.7
    assert "anomaly" not in topic.sent[0][1]["values"]
    assert (topic.kafka.bootstrap_servers, topic.partitions, topic.flushed) == (["a:1", "b:2"], 3, True)
    out, err = capsys.readouterr()
    assert out.startswith("sent 6 readings of 2 assets to pump.readings in ")
    assert out.endswith("up to event time 2020-03-09T10:14:35Z\n")
    assert err == ""


def test_replay_takes_topic_brokers_names_and_format_from_a_config(tmp_path, topic):
    """One file says where readings go, for the producer as for the worker; options win over it."""
    config = files.write(
        tmp_path / "pump.yaml",
        """
stream: pump
channels: {Current: {unit: A}}
kafka:
  bootstrap_servers: [broker:9092]
  inputs: [{topic: plant.pumps, fields: {asset: machine, ts: time, Current: amps}}]
""",
    )
    file = files.skab(tmp_path / "0.csv")
    argv = ["replay", str(file), "--format", "skab", "--config", str(config), "--speed", "max", "--columns", "Current"]
    assert main([*argv, "--asset", "p1"]) == 0
    assert (topic.name, topic.kafka.bootstrap_servers) == ("plant.pumps", ["broker:9092"])
    assert topic.sent[0] == ("p1", {"machine": "p1", "time": 1_583_748_873_000, "values": {"amps": 0.2}})
    assert main([*argv, "--topic", "other", "--bootstrap-servers", "else:1", "--message-format", "msgpack"]) == 0
    assert (topic.name, topic.kafka.bootstrap_servers) == ("other", ["else:1"])
    assert isinstance(topic.sent[-1][1], bytes)


def test_replay_limits_and_loops(tmp_path, topic, capsys):
    """--rows takes the first rows of each recording, --loop sends them again, later."""
    file = files.skab(tmp_path / "a.csv")
    argv = ["replay", str(file), "--format", "skab", "--topic", "t", "--speed", "max", "--rows", "2", "--loop", "2"]
    assert main([*argv, "--quiet"]) == 0
    start = 1_583_748_873_000
    assert [message["ts"] - start for _, message in topic.sent] == [0, 1_000, 2_000, 3_000]
    assert capsys.readouterr() == ("", "")


def test_replay_of_a_table_by_options(tmp_path, topic):
    """Every reading option reaches the reader."""
    file = files.write(tmp_path / "a.csv", "when,who,a,b,bad\n1.5,p,1,x,1\n")
    argv = ["replay", str(file), "--format", "csv", "--topic", "t", "--speed", "max", "--ts-column", "when"]
    options = ["--ts-unit", "s", "--asset-column", "who", "--label-column", "bad", "--columns", "a"]
    assert main([*argv, *options]) == 0
    assert topic.sent == [("p", {"asset": "p", "ts": 1_500, "values": {"a": 1.0}})]


def test_times_ahead_of_the_clock_are_warned_of(tmp_path, topic, capsys):
    """At speed max, times that start now end in the future, where a detector takes them for a broken clock's."""
    file = files.skab(tmp_path / "a.csv")
    argv = ["replay", str(file), "--format", "skab", "--topic", "t", "--speed", "max", "--times"]
    main([*argv, "now"])
    assert "use --times until-now or keep" in errors(capsys)
    main([*argv, "until-now"])
    assert errors(capsys) == ""
    assert topic.sent[-1][1]["ts"] <= time.time() * 1_000 + 1  # whole milliseconds, rounded


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["replay", "no-such", "--format", "csv", "--topic", "t"], "error: no-such: no such file or folder"),
        (
            ["replay", "a.csv", "--format", "xls", "--topic", "t"],
            "error: format 'xls' is not known; expected one of: 'skab'",
        ),
        (["replay", "a.csv", "--format", "skab"], "error: no topic to send to: give --topic, or --config"),
        (["replay", "a.csv", "--format", "skab", "--config", "no.yaml"], "error: no.yaml"),
        (["replay", "a.csv", "--format", "csv", "--topic", "t"], "expected a number"),
        (["simulate"], "error: nothing to do: give --out DIR"),
        (["simulate", "--out", "d", "--faults", "rust@1h"], "error: fault 'rust' is not known"),
    ],
)
def test_wrong_input_ends_with_2_and_one_message(tmp_path, monkeypatch, topic, capsys, argv, said):
    """Nothing is sent, nothing is traced back; the message names the mend."""
    monkeypatch.chdir(tmp_path)
    files.skab(Path("a.csv"))
    if "csv" in argv:
        files.write(Path("a.csv"), "ts,a\n2020-01-01,1\n2020-01-02,x\n")
    assert main(argv) == 2
    assert said in errors(capsys)
    assert topic.sent == []


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "COMMAND"),
        (["replay", "a", "--format", "csv", "--speed", "fast"], "--speed: expected a number above 0, got 'fast'"),
        (["replay", "a", "--format", "csv", "--loop", "0"], "--loop: expected a whole number of at least 1, got '0'"),
        (["simulate", "--start", "soon"], "--start: expected ISO 8601"),
        (["simulate", "--machines", "-1"], "--machines: expected a whole number of at least 1"),
    ],
)
def test_wrong_usage_ends_with_2(capsys, argv, said):
    """As every program's."""
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert said in errors(capsys)


def test_a_broker_that_is_away_ends_with_1(tmp_path, monkeypatch, capsys):
    """Not the user's input, but the world."""

    def connect(kafka, name, partitions):
        raise BrokerError("Kafka at x:1 can't be reached")

    monkeypatch.setattr(program, "connect", connect)
    argv = ["replay", str(files.skab(tmp_path / "a.csv")), "--format", "skab", "--topic", "t"]
    assert main(argv) == 1
    assert errors(capsys) == "error: Kafka at x:1 can't be reached\n"


@pytest.mark.parametrize("command", [[], ["replay"], ["simulate"]])
def test_help_shows_what_to_type(capsys, command):
    """Help fits no more than 120 columns and holds examples or lists."""
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert {(): "examples:", ("replay",): "formats", ("simulate",): "faults:"}[tuple(command)] in text
    assert max(map(len, text.splitlines())) <= 120


# ── simulate ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_simulate_writes_files_that_replay_reads(tmp_path, topic, capsys):
    """Files and faults in a folder; the same machines go through a replay."""
    argv = ["simulate", "--machines", "2", "--hours", "0.02", "--faults", "none", "--out", str(tmp_path / "m")]
    assert main(argv) == 0
    assert capsys.readouterr().out == f"wrote 144 readings of 2 machines into 3 files in {tmp_path / 'm'}\n"
    assert main(["replay", str(tmp_path / "m"), "--format", "csv", "--topic", "t", "--speed", "max"]) == 0
    assert len(topic.sent) == 144
    assert topic.sent[0][1]["ts"] == 1_736_172_000_000


def test_simulate_live_starts_now(topic):
    """Without files, straight to the topic, times from now on."""
    before = time.time() * 1_000
    argv = ["simulate", "--machines", "1", "--hours", "0.01", "--faults", "none", "--topic", "t", "--speed", "max"]
    assert main([*argv, "--name", "fan", "--channels", "current,speed"]) == 0
    key, message = topic.sent[0]
    assert (key, sorted(message["values"])) == ("fan-1", ["current", "speed"])
    assert before - 1_000 < message["ts"] < before + 5_000


def test_simulate_waveforms_live(topic):
    """Blocks of samples beside the slow channels."""
    argv = ["simulate", "--machines", "1", "--hours", "0.01", "--faults", "none", "--topic", "t", "--speed", "max"]
    assert main([*argv, "--waveform", "--waveform-every", "5", "--block", "256", "--times", "keep"]) == 0
    blocks = [message for _, message in topic.sent if "vibration" in message["values"]]
    assert ([len(message["values"]["vibration"]) for message in blocks], len(topic.sent)) == ([256] * 8, 44)


# ── with a broker ─────────────────────────────────────────────────────────────────────────────────────────────────────


def started(*argv):
    """Start the program as a user would."""
    return subprocess.Popen(
        [sys.executable, "-m", "producers", *argv],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def count(kafka, topic):
    """How many messages a topic holds; 0 before it is made."""
    try:
        return sum(end_offsets(kafka, [topic]).values())
    except Exception:  # made by the program under test, some time soon
        return 0


def test_replay_into_a_broker(tmp_path, embedded, unique):
    """The topic is made with the partitions asked for, and every reading is in it."""
    name = unique("replayed")
    for each in ("0", "1", "2"):
        files.skab(tmp_path / "valve1" / f"{each}.csv", rows=20)
    run = started(
        "replay",
        str(tmp_path),
        "--format",
        "skab",
        "--topic",
        name,
        "--speed",
        "max",
        "--bootstrap-servers",
        embedded.bootstrap_servers,
        "--partitions",
        "2",
    )
    out, err = run.communicate(timeout=60)
    assert (run.returncode, err) == (0, "")
    assert out.startswith(f"sent 60 readings of 3 assets to {name} in ")
    ends = end_offsets(KafkaConfig(bootstrap_servers=[embedded.bootstrap_servers]), [name])
    assert (len(ends), sum(ends.values())) == (2, 60)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_replay_cleanly(tmp_path, embedded, unique, how):
    """What was sent is in the topic, the summary says it stopped early, the exit code is 0."""
    name, kafka = unique("stopped"), KafkaConfig(bootstrap_servers=[embedded.bootstrap_servers])
    file = files.skab(tmp_path / "a.csv")
    run = started(
        "replay",
        str(file),
        "--format",
        "skab",
        "--topic",
        name,
        "--loop",
        "forever",
        "--speed",
        "20",
        "--bootstrap-servers",
        embedded.bootstrap_servers,
    )
    deadline = time.monotonic() + 60
    while not count(kafka, name) and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    run.send_signal(how)
    out, err = run.communicate(timeout=30)
    assert (run.returncode, err) == (0, "")
    assert out.startswith("stopped early: sent ")
    assert f"sent {count(kafka, name):,} readings" in out

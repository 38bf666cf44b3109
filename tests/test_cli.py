"""The command line from outside: exit codes, messages, and what goes to standard output."""

import argparse
import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import get_args

import jsonschema
import pytest
import yaml

from stream_detector.__main__ import build_parser, main
from stream_detector.cli.show import alert_line
from stream_detector.datasets.output import write
from stream_detector.simulation.simulate import simulate
from stream_detector.types import AlertEvent

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "stream_detector" / "schemas" / "alert.schema.json").read_text())
COMMANDS = ["demo", "check", "train", "backtest", "run", "monitor", "thresholds"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two machines with faults, recorded; a set-up and a detector trained on their healthy beginnings."""
    folder = tmp_path_factory.mktemp("cli")
    faults = "machine-1=bearing-outer@12m+5m:0.9, machine-2=overheating@12m+8m:0.9"
    write(simulate(2, 0.4, seed=3, faults=faults), folder / "recordings")
    (folder / "plant.yaml").write_text(
        yaml.safe_dump(
            {
                "stream": "plant",
                "channels": {"vibration": {}, "temperature": {}, "current": {}},
                "window": {"length": 30, "stride": 5, "lateness_ms": 1_000},
                "features": {"smoothing": 0.2, "keep": 1},
                "model": {"kind": "ae", "hidden": [8], "latent": 2},
                "train": {"epochs": 8},
                "artifact": "plant.safetensors",
                "threshold": {"risk": 1e-3},
                "kafka": {"bootstrap_servers": ["127.0.0.1:1"]},
                "redis": {"url": "redis://127.0.0.1:1/0"},
            }
        )
    )
    data = [str(path) for path in sorted((folder / "recordings").glob("*.csv"))]
    assert 0 == main(["train", str(folder / "plant.yaml"), "--data", *data, "--rows", "600", "--quiet"])
    return folder


@pytest.fixture
def command(folder, capsys):
    """Run a command in this process; return exit status, standard output and standard error."""

    def run(*arguments):
        data = [str(path) for path in sorted((folder / "recordings").glob("*.csv"))]
        fill = {"CONFIG": [str(folder / "plant.yaml")], "DATA": ["--data", *data]}
        try:
            status = main([part for each in arguments for part in fill.get(each, [str(each)])])
        except SystemExit as ended:  # argparse ends the program itself
            status = ended.code
        return (status, *capsys.readouterr())

    return run


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(command, name):
    """--help goes to standard output with status 0."""
    status, out, err = command(name, "--help")
    assert (0, "", True) == (status, err, out.startswith(f"usage: stream-detector {name}"))


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["train"], ["backtest", "CONFIG"], ["thresholds", "CONFIG"]])
def test_a_wrong_command_line_is_told_with_status_2(command, arguments):
    """Usage and what is wrong go to standard error."""
    status, out, err = command(*arguments)
    assert (2, "", True) == (status, out, err.startswith("usage: stream-detector"))


def test_a_backtest_that_judges_nothing_says_why_and_fails(command, tmp_path):
    """With the exit status of data that can't be used."""
    values = {"vibration": 0.1, "temperature": 20.0, "current": 1.0}
    lines = [json.dumps({"asset": "pump-1", "ts": 1_700_000_000 + second, "values": values}) for second in range(200)]
    messages = tmp_path / "messages.jsonl"
    messages.write_text("\n".join(lines))
    status, out, err = command("backtest", "CONFIG", "--messages", messages)
    assert (2, "") == (status, out)
    assert "not judged: asset 'pump-1': 200 readings, event-times" in err
    assert "they look like seconds" in err
    assert "nothing was judged" in err


@pytest.mark.parametrize("name", ["check", "run", "monitor", "train", "backtest"])
def test_a_wrong_setting_is_told_by_its_path(command, name, tmp_path):
    """Path, value got and what was expected, with status 2 and no traceback."""
    (tmp_path / "wrong.yaml").write_text("stream: pump\nchannels: {vibration: {}}\nwindow: {length: 8, stride: 9}\n")
    status, out, err = command(name, tmp_path / "wrong.yaml", *(["DATA"] if name in ("train", "backtest") else []))
    assert (2, "") == (status, out)
    assert "window.stride must be in 1..8 (length), got 9" in err


def test_a_set_up_that_is_not_there_is_named(command):
    """The path as given."""
    assert (2, "", "stream-detector: /no/such.yaml: no such file\n") == command("run", "/no/such.yaml")


def test_a_recording_that_is_not_there_is_named(command):
    """Before anything is trained or loaded."""
    for name in ("train", "backtest"):
        status, out, err = command(name, "CONFIG", "--data", "/no/such.csv")
        assert (2, "", "stream-detector: /no/such.csv: no such file or folder\n") == (status, out, err)


def test_a_recording_of_other_channels_is_refused(command, tmp_path):
    """Its columns and the set-up's channels are both named."""
    (tmp_path / "other.csv").write_text("timestamp,pressure\n2025-01-01T00:00:00Z,1\n2025-01-01T00:00:01Z,2\n")
    status, _, err = command("backtest", "CONFIG", "--data", tmp_path / "other.csv")
    assert 2 == status
    assert "pressure" in err
    assert all(channel in err for channel in ("vibration", "temperature", "current"))


def test_too_little_data_is_told(command, tmp_path):
    """Rows that make no window can't train."""
    status, out, err = command("train", "CONFIG", "DATA", "--rows", 20, "--out", tmp_path / "x.safetensors")
    assert (2, "", False) == (status, out, (tmp_path / "x.safetensors").exists())
    assert err.startswith("stream-detector: ")


def test_a_detector_that_is_not_there_is_named(command, tmp_path):
    """With the command that makes it."""
    for name, data in (("run", []), ("backtest", ["DATA"])):
        status, _, err = command(name, "CONFIG", *data, "--artifact", tmp_path / "none.safetensors")
        assert 2 == status
        assert f"{tmp_path}/none.safetensors doesn't exist; run `stream-detector train`" in err


def test_a_broken_detector_is_refused(command, tmp_path):
    """A damaged file is told from a missing one, and nothing of it is run."""
    (tmp_path / "broken.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{not json at all}")
    status, _, err = command("backtest", "CONFIG", "DATA", "--artifact", tmp_path / "broken.safetensors")
    assert 2 == status
    assert "broken.safetensors" in err


def test_servers_that_are_not_there_are_named(command):
    """Status 1: nothing is wrong with the set-up; broker and store are named as configured."""
    status, _, err = command("thresholds", "list", "CONFIG")
    assert (1, True) == (status, "redis://127.0.0.1:1/0" in err)
    status, _, err = command("monitor", "CONFIG")
    assert (1, True) == (status, "127.0.0.1:1" in err)


def test_training_reports_what_it_made(command, tmp_path):
    """--json prints one object; the same data gives the same version."""
    runs = [
        command("train", "CONFIG", "DATA", "--rows", 400, "--out", tmp_path / f"{i}.safetensors", "--json", "--quiet")
        for i in range(2)
    ]
    reports = [json.loads(out) for status, out, _ in runs if status == 0]
    assert [str(tmp_path / f"{i}.safetensors") for i in range(2)] == [report["path"] for report in reports]
    assert reports[0]["artifacts"] == reports[1]["artifacts"]
    assert {"assets", "version", "kind", "windows_trained", "windows_calibrated"} <= set(reports[0]["artifacts"][0])
    assert (tmp_path / "0.safetensors").read_bytes() == (tmp_path / "1.safetensors").read_bytes()


def test_training_per_asset_makes_a_folder_a_worker_can_use(command, tmp_path):
    """One file an asset; `backtest --artifact FOLDER` judges each with its own."""
    assert 0 == command("train", "CONFIG", "DATA", "--rows", 600, "--per-asset", "--out", tmp_path / "fleet")[0]
    assert {"machine-1.safetensors", "machine-2.safetensors"} == {file.name for file in (tmp_path / "fleet").iterdir()}
    _, out, _ = command("backtest", "CONFIG", "DATA", "--artifact", tmp_path / "fleet", "--json")
    versions = {(alert["asset"], alert["model"]["version"]) for alert in map(json.loads, out.splitlines())}
    assert 2 == len(versions) == len({version for _, version in versions})


def test_backtest_prints_alerts_as_published(command):
    """--json: an alert a line, each valid against the published schema; the summary goes to standard error."""
    status, out, err = command("backtest", "CONFIG", "DATA", "--json")
    alerts = [json.loads(line) for line in out.splitlines()]
    validator = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())
    assert [] == [error.message for alert in alerts for error in validator.iter_errors(alert)]
    assert {"machine-1", "machine-2"} == {alert["asset"] for alert in alerts if alert["event"] == "open"}
    assert 0 == status
    assert err.startswith("2880 readings, ")
    assert f" {len(alerts)} alerts, 0 dead letters" in err


def test_backtest_prints_a_line_an_alert_for_people(command):
    """When, what, where, how far above, and which channel."""
    status, out, err = command("backtest", "CONFIG", "DATA", "--quiet")
    _, as_json, _ = command("backtest", "CONFIG", "DATA", "--quiet", "--json")
    assert (0, "", len(as_json.splitlines())) == (status, err, len(out.splitlines()))
    assert any("OPEN" in line and "machine-1" in line and "vibration" in line for line in out.splitlines())


def test_every_event_has_its_line(command):
    """A regime change too."""
    _, out, _ = command("backtest", "CONFIG", "DATA", "--json", "--quiet")
    alert = out.splitlines()[0]
    for event in get_args(AlertEvent):
        line = alert_line(alert.replace('"event":"open"', f'"event":"{event}"').encode())
        assert event.split("-")[0].upper() in line


def test_backtest_takes_what_lay_on_a_topic(command, folder, tmp_path):
    """--messages: the alerts of the recordings, and what is no reading is written with its reason, as is the audit."""
    messages = []
    for path in sorted((folder / "recordings").glob("*.csv")):
        file = tmp_path / f"{path.stem}.jsonl"
        lines = []
        for row in csv.DictReader(path.open(newline="")):
            values = {name: float(row[name]) for name in ("vibration", "temperature", "current") if row[name]}
            lines.append(json.dumps({"asset": path.stem, "ts": row["timestamp"], "values": values}))
        file.write_text("\n".join([*lines[:5], "no reading", *lines[5:]]) + "\n")
        messages.append(file)
    audit, dead = tmp_path / "audit", tmp_path / "dead"
    outputs = ("--audit", audit, "--dead-letters", dead, "--json", "--quiet")
    status, out, err = command("backtest", "CONFIG", "--messages", *messages, *outputs)
    assert (0, "", command("backtest", "CONFIG", "DATA", "--json", "--quiet")[1]) == (status, err, out)
    assert [("not-json", "no reading")] * 2 == [
        (letter["error"], letter["value"]) for letter in map(json.loads, dead.read_text().splitlines())
    ]
    entries = [json.loads(line) for line in audit.read_text().splitlines()]
    assert ["calibrate"] * 2 == [entry["cause"] for entry in entries if entry["before"] is None]


def test_what_lay_on_a_topic_must_be_there(command, tmp_path):
    """A file that can't be read is named."""
    status, _, err = command("backtest", "CONFIG", "--messages", tmp_path / "none.jsonl")
    assert (2, True) == (status, "none.jsonl: can't be read" in err)


def test_backtest_repeats_itself(command):
    """The same bytes, run after run."""
    assert command("backtest", "CONFIG", "DATA", "--json") == command("backtest", "CONFIG", "DATA", "--json")


def test_a_recording_without_rows_has_no_alerts(command, tmp_path):
    """A header alone is told or gives nothing, but never a traceback."""
    (tmp_path / "empty.csv").write_text("timestamp,vibration,temperature,current\n")
    status, out, err = command("backtest", "CONFIG", "--data", tmp_path / "empty.csv", "--json")
    assert (2, "") == (status, out)
    assert "empty.csv" in err


@pytest.mark.parametrize("arguments", [["--speed", "x"], ["--speed", "0"], ["--machines", "0"], ["--train-rows", "0"]])
def test_a_wrong_demo_is_told_before_anything_starts(command, arguments):
    """Status 2, and the option is named."""
    status, out, err = command("demo", *arguments)
    assert (2, "") == (status, out)
    assert arguments[0].strip("-").split("-")[0] in err


@pytest.mark.parametrize("arguments", [["backtest", "CONFIG", "DATA", "--json", "--quiet"], ["check", "CONFIG"]])
def test_head_may_close_the_pipe(folder, arguments):
    """`stream-detector … | head -1` ends with 0 and no traceback."""
    fill = {"CONFIG": [folder / "plant.yaml"], "DATA": ["--data", *sorted((folder / "recordings").glob("*.csv"))]}
    filled = [str(part) for each in arguments for part in fill.get(each, [each])]
    with subprocess.Popen(
        [sys.executable, "-m", "stream_detector", *filled], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()  # sooner than any head
        assert process.stderr is not None
        said = process.stderr.read()
        assert (b"", 0) == (said, process.wait(timeout=60))


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["run", "C", "--model", "x"], "artifact", Path("x")),
        (["backtest", "C", "--data", "d", "--model", "x"], "artifact", Path("x")),
        (["monitor", "C", "--count", "3"], "limit", 3),
        (["thresholds", "history", "C", "A", "--last", "3"], "limit", 3),
        (["demo", "--kafka", "h:1"], "bootstrap_servers", "h:1"),
    ],
)
def test_former_names_of_options_still_work(words, name, value):
    """For a version, and with a warning that says the present one."""
    args = build_parser().parse_args(words)
    assert value == getattr(args, name)
    assert [f"--{name.replace('_', '-')}" in warning for warning in args.renamed] == [True]


def test_a_former_name_is_warned_of(command):
    """On standard error; the command goes on."""
    status, _, err = command("monitor", "none.yaml", "--count", "1")
    assert (2, True) == (status, err.startswith("warning: --count is now --limit; the former name works until 0."))


def test_an_option_has_one_name_everywhere():
    """What means the same is called the same: no option of one command is another's under another name."""
    options = {
        name
        for parser in parsers(build_parser())
        for action in parser._actions
        if action.help is not argparse.SUPPRESS
        for name in action.option_strings
    }
    assert {"--artifact", "--limit", "--json", "--quiet", "--bootstrap-servers"} <= options
    assert not {"--model", "--count", "--last", "--kafka", "--max"} & options


def parsers(parser):
    """Yield every command's parser."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from parsers(inner)


@pytest.mark.parametrize("literal", ["NaN", "-Infinity", "nan", "1.#QNAN"])
def test_a_sensor_that_sends_nan_is_a_sensor_fault(folder, command, tmp_path, literal):
    """As a literal, which is no JSON, or as a text: the same alerts, the same counts."""
    rows = [
        {"asset": "machine-1", "ts": row * 1_000, "values": {"vibration": 0.1, "temperature": 50.0, "current": 9.0}}
        for row in range(200)
    ]
    lines = [json.dumps(row) for row in rows]
    printed = []
    for shown in (literal, json.dumps(literal)):
        broken = [line.replace("0.1", shown) if 80 <= row < 160 else line for row, line in enumerate(lines)]
        (tmp_path / "messages.jsonl").write_text("\n".join(broken) + "\n")
        printed.append(command("backtest", "CONFIG", "--messages", tmp_path / "messages.jsonl", "--json"))
    assert printed[0] == printed[1]
    status, out, err = printed[0]
    faults = [alert["sensor"] for line in out.splitlines() if (alert := json.loads(line))["kind"] == "sensor-fault"]
    assert {"fault": "out-of-range", "channel": "vibration"} in faults
    assert (0, True) == (status, "80 dead letters (80 not-a-number)" in err)


def test_a_port_in_use_is_told_before_anything_slow(folder, tmp_path):
    """Before torch is loaded, a detector read or a broker looked for."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code = (
            "import sys\nfrom stream_detector.__main__ import main\n"
            f"status = main(['run', {str(folder / 'plant.yaml')!r}])\n"
            "print(status, 'torch' in sys.modules)"
        )
        env = {**os.environ, "STREAM_DETECTOR__METRICS__PORT": str(port)}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )
    assert "2 False\n" == done.stdout
    assert f"metrics: can't listen on host 127.0.0.1, port {port}: Address already in use" in done.stderr


def test_the_log_options_stand_before_or_behind_the_command(command):
    """Wherever a person looks for them."""
    parser = build_parser()
    assert ("info", "text") == (parser.parse_args(["run", "C"]).log_level, parser.parse_args(["run", "C"]).log_format)
    for words in (["--log-format", "json", "run", "C"], ["run", "C", "--log-format", "json"]):
        assert "json" == parser.parse_args(words).log_format
    assert "error" == parser.parse_args(["thresholds", "list", "C", "--log-level", "error"]).log_level

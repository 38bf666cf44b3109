from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from stream_detector.config import Config, RedisConfig, Secret
from stream_detector.config import loading as settings
from stream_detector.config.redis import Sentinels, parse_sentinels
from stream_detector.errors import ConfigError

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
MINIMAL = "stream: pump\nchannels:\n  vibration: {unit: g}\n"


@pytest.fixture
def write(tmp_path):
    """Write a set-up file and return its path."""

    def _write(text: str) -> Path:
        path = tmp_path / "pump.yaml"
        path.write_text(text)
        return path

    return _write


@pytest.fixture
def problems(write):
    """Return the lines of the one error that loading a text raises, without the first."""

    def _problems(text: str, env: dict[str, str] | None = None) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            settings.load(write(text), env or {})
        return [line.strip() for line in str(caught.value).splitlines()][1:]

    return _problems


def message(path: Path, env: dict[str, str] | None = None) -> str:
    """Return the message of the error that loading raises."""
    with pytest.raises(ConfigError) as caught:
        settings.load(path, env or {})
    return str(caught.value)


# ── the file ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_the_file_leaves_out_takes_the_default(write):
    """Two keys make a whole set-up."""
    config = settings.load(write(MINIMAL), {})
    assert (config.window.length, config.alert_topic, config.inputs[0].topic) == (60, "pump.alerts", "pump.readings")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_set_ups_are_valid(path):
    """Every file in configs/ loads, and names the schema for editors by a relative path that exists."""
    assert isinstance(settings.load(path, {}), Config)
    first = path.read_text().splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (path.parent / first.partition("=")[2]).resolve() == ROOT / "stream_detector/schemas/config.schema.json"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_set_ups_fit_the_schema(path):
    """An editor that knows the schema shows no error in a shipped set-up."""
    assert list(Draft202012Validator(settings.schema()).iter_errors(yaml.safe_load(path.read_text()))) == []


def test_several_set_ups_are_shipped():
    """The tests above have something to test."""
    assert {"machine", "skab", "bearing-waveform"} <= {path.stem for path in CONFIGS}


def test_every_problem_is_told_at_once(problems):
    """One error lists each wrong key with its path, what was got, what was expected and the line."""
    text = MINIMAL + "window:\n  stride: 0\n  lenght: 4\nmodel: {body: sparse}\ncommit_interval_ms: soon\n"
    assert sorted(problems(text)) == [
        "commit_interval_ms: got 'soon', expected a valid number (line 8)",
        "model.body: got 'sparse', expected 'dense', 'conv', 'recurrent' or 'mixer' (line 7)",
        "window.lenght: unknown key; did you mean length? (line 6)",
        "window.stride: got 0, expected greater than or equal to 1 (line 5)",
    ]


def test_rules_between_keys_name_the_key(problems):
    """A value that doesn't fit another one is told with its own path and line."""
    text = MINIMAL + "window:\n  length: 60\n  stride: 100\n"
    assert problems(text) == ["window.stride must be in 1..60 (length), got 100 (line 6)"]


def test_a_missing_key_is_told_with_its_meaning(problems):
    """`stream` is required, and the message says what it is."""
    (told,) = problems("channels:\n  vibration: {}\n")
    assert told.startswith("stream: missing, expected: Name of the stream")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{kind: AE}", "model.kind: got 'AE', expected one of: 'ae', 'vae', "),
        ("{kind: vae, samples: 0}", "model.samples: got 0, expected greater than or equal to 1 (line 4)"),
        ("{kind: vae, betta: 0.1}", "model.betta: unknown key; did you mean beta? (line 4)"),
        (
            "{samples: 4}",
            "model.samples: unknown key; expected one of: body, hidden, kernel, kind, latent, patch (line",
        ),
        ("{kind: gan, r1: x}", "model.r1: got 'x', expected a valid number (line 4)"),
    ],
)
def test_a_detector_is_checked_by_its_own_keys(problems, text, told):
    """Each family has its settings; without `kind` an autoencoder is meant."""
    (line,) = problems(f"{MINIMAL}model: {text}\n")
    assert line.startswith(told)


def test_an_unknown_key_in_a_channel_is_told_with_what_may_stand_there(problems):
    """Keys inside a channel are checked like any other."""
    (told,) = problems("stream: pump\nchannels:\n  vibration: {zzz: 1}\n")
    assert told.startswith("channels.vibration.zzz: unknown key; expected one of: bands, buckets, cell, ")


def test_a_section_left_empty_is_told_with_the_mend(problems):
    """`kafka:` with everything below it commented out is a common slip."""
    assert problems(MINIMAL + "kafka:\n") == [
        "kafka: got nothing, expected a mapping (leave the key out to take the defaults) (line 4)"
    ]


def test_a_key_given_twice_is_refused_with_both_lines(write):
    """YAML would silently take the last one."""
    path = write(MINIMAL + "stream: fan\n")
    assert f"{path}, line 4: 'stream' is given twice, first on line 1" == message(path)


def test_bad_yaml_is_told_with_line_and_column(write):
    """The place of a syntax error is named."""
    path = write("stream: pump\nchannels: {vibration: [}\n")
    assert message(path).startswith(f"{path}, line 2, column 24: not valid YAML: ")


def test_a_tab_is_told_with_line_and_column(write):
    """Tabs as indentation are the commonest slip."""
    assert "line 3, column 1: not valid YAML" in message(write("stream: pump\nchannels:\n\tvibration: {}\n"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "expected a mapping of settings, got an empty file"),
        (b"- 1\n", "expected a mapping of settings, got [1]"),
        (b"pump", "expected a mapping of settings, got 'pump'"),
        (b"stream: \xff\n", "is not UTF-8"),
        (b"stream: a\x07b\n", "line 1: not valid YAML: it holds a control character"),
        (b"stream: &a [*a]\n", "an anchor holds itself"),
        (b"a: " + b"[" * 5_000, "nested too deeply"),
        (b"? [a, b]\n: 1\n", "line 1: a key must be a plain word"),
        (b"stream: pump\n---\nstream: fan\n", "line 2, column 1: not valid YAML"),
        (b"stream: !!python/object:os.system x\n", "not valid YAML"),
    ],
)
def test_files_that_are_no_settings_are_refused(tmp_path, content, expected):
    """Whatever the file holds, the error names the file and what is wrong."""
    path = tmp_path / "pump.yaml"
    path.write_bytes(content)
    assert expected in message(path)
    assert message(path).startswith(str(path))


def test_a_missing_file_and_a_folder_are_told(tmp_path):
    """The error names the path and the reason."""
    assert f"{tmp_path / 'none.yaml'}: no such file" == message(tmp_path / "none.yaml")
    assert message(tmp_path).startswith(f"{tmp_path}: can't be read: ")


def test_scalars_are_read_as_yaml_1_2(write):
    """`no` is a name, 1e-3 a number, 010 ten, 12:30 text."""
    text = "stream: pump\nchannels:\n  no: {unit: on}\n  12:30: {}\nthreshold: {risk: 1e-3}\nwindow: {length: 010}\n"
    config = settings.load(write(text), {})
    assert (list(config.channels), config.channels["no"].unit, config.threshold.risk, config.window.length) == (
        ["no", "12:30"],
        "on",
        1e-3,
        10,
    )


def test_merged_keys_may_be_overridden(write):
    """`<<` takes another channel's settings; a key beside it wins and is no duplicate."""
    text = "stream: pump\nchannels:\n  a: &a {unit: g, bands: 1}\n  b: &b {<<: *a, unit: m}\n  c: {<<: *b}\n"
    channels = settings.load(write(text), {}).channels
    assert [(each.unit, each.bands) for each in channels.values()] == [("g", 1), ("m", 1), ("m", 1)]


def test_relative_paths_are_relative_to_the_file(write, tmp_path):
    """A set-up works from any working directory; absolute paths stay."""
    redis = "redis: {url: 'rediss://r/0', ca_file: /etc/ca.pem, password: {file: pw}}\n"
    text = MINIMAL + f"artifact: models/pump.safetensors\n{redis}"
    config = settings.load(write(text), {})
    assert (tmp_path / "models/pump.safetensors", Path("/etc/ca.pem"), tmp_path / "pw") == (
        config.artifact,
        config.redis.ca_file,
        config.redis.password.file,
    )


# ── the environment and the command line ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "value", "get", "expected"),
    [
        ("WINDOW__STRIDE", "4", lambda c: c.window.stride, 4),
        ("window__stride", "4", lambda c: c.window.stride, 4),
        ("THRESHOLD__RISK", "1e-3", lambda c: c.threshold.risk, 1e-3),
        ("FEATURES__CLIP", "null", lambda c: c.features.clip, None),
        ("MODEL__HIDDEN", "[32, 8]", lambda c: c.model.hidden, [32, 8]),
        ("MODEL__HIDDEN__1", "8", lambda c: c.model.hidden, [16, 8]),
        ("CHANNELS__VIBRATION__UNIT", "m/s2", lambda c: c.channels["vibration"].unit, "m/s2"),
        ("CHANNELS__FLOW_RATE__UNIT", "l/min", lambda c: c.channels["Flow Rate"].unit, "l/min"),
        ("KAFKA__INPUTS__0__TOPIC", "123", lambda c: c.inputs[0].topic, "123"),
        ("KAFKA__BOOTSTRAP_SERVERS__0", "kafka:9092", lambda c: c.kafka.bootstrap_servers, ["kafka:9092"]),
        ("REDIS__PASSWORD", "{env: PW}", lambda c: c.redis.password.env, "PW"),
        ("REDIS__PASSWORD__ENV", "PW", lambda c: c.redis.password.env, "PW"),
        ("ARTIFACT", "models/a.safetensors", lambda c: c.artifact, Path("models/a.safetensors")),
        ("KAFKA__GROUP", "", lambda c: c.kafka.group, None),
    ],
)
def test_the_environment_wins_over_the_file(write, name, value, get, expected):
    """A variable sets what its name spells, whatever its case; its value is YAML."""
    channels = "channels: {vibration: {unit: g}, Flow Rate: {}}"
    path = write(f"stream: pump\n{channels}\nwindow: {{stride: 2}}\nkafka: {{group: a}}\n")
    assert expected == get(settings.load(path, {f"STREAM_DETECTOR__{name}": value, "PATH": "/bin"}))


def test_list_places_are_taken_in_order_of_number(write):
    """Place 10 comes after place 9, and a whole before its parts."""
    env = {f"STREAM_DETECTOR__MODEL__HIDDEN__{place}": str(place + 1) for place in reversed(range(11))}
    config = settings.load(write(MINIMAL), env | {"STREAM_DETECTOR__MODEL__HIDDEN": "[99]"})
    assert list(range(1, 12)) == config.model.hidden


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("WINDOW__STRIDES", "4", "no key 'strides' in window; expected one of: cell_ms, lateness_ms, length"),
        ("WINDOW", "4", "window: got 4, expected a mapping (from STREAM_DETECTOR__WINDOW)"),
        ("WINDOW__STRIDE", "0", "window.stride: got 0, expected greater than or equal to 1 (from "),
        ("WINDOW__STRIDE", "99", "window.stride must be in 1..60 (length), got 99 (from STREAM_DETECTOR__WINDOW__ST"),
        ("STREAM__NAME", "x", "stream is a single value and has no keys"),
        ("CHANNELS__FLOW__UNIT", "x", "no key 'flow' in channels; expected one of: vibration"),
        ("MODEL__HIDDEN__FIRST", "1", "model.hidden is a list; expected a number in 0..1, got 'FIRST'"),
        ("MODEL__HIDDEN__7", "1", "model.hidden is a list; expected a number in 0..1, got '7'"),
        ("MODEL__HIDDEN", "[1", "STREAM_DETECTOR__MODEL__HIDDEN, line 1, column 3: not valid YAML"),
        ("", "1", "no key '' in the settings"),
    ],
)
def test_a_wrong_variable_is_named(problems, name, value, expected):
    """A variable that fits nothing is an error, not silence."""
    assert any(expected in line for line in problems(MINIMAL, {f"STREAM_DETECTOR__{name}": value}))


def test_channels_that_differ_in_case_only_are_told_apart_by_case(write, problems):
    """A variable written like one of them means that one; otherwise it is refused."""
    text = "stream: pump\nchannels: {Flow: {}, flow: {}}\n"
    config = settings.load(write(text), {"STREAM_DETECTOR__CHANNELS__flow__UNIT": "l"})
    assert [channel.unit for channel in config.channels.values()] == ["", "l"]
    (told,) = problems(text, {"STREAM_DETECTOR__CHANNELS__FLOW__UNIT": "l"})
    assert "is ambiguous: 'Flow' or 'flow' of channels" in told


def test_overrides_win_over_the_environment(write):
    """What stands on the command line is the last word."""
    env = {"STREAM_DETECTOR__REDIS__URL": "redis://a"}
    overrides = {"redis.url": "redis://b", "kafka.bootstrap_servers": ["b:1"]}
    config = settings.load(write(MINIMAL), env, overrides)
    assert (config.redis.url, config.kafka.bootstrap_servers) == ("redis://b", ["b:1"])


def test_changing_what_an_alias_gave_leaves_the_others(write):
    """Two channels may share their settings in the file; a variable changes one of them."""
    path = write("stream: pump\nchannels:\n  a: &a {unit: g}\n  b: *a\n")
    config = settings.load(path, {"STREAM_DETECTOR__CHANNELS__A__UNIT": "m"})
    assert [channel.unit for channel in config.channels.values()] == ["m", "g"]


# ── secrets ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    [
        "redis: {password: hunter2}",
        "redis: {password: 'hunter2'}",
        "redis: {password: [hunter2]}",
        "redis: {password: {value: hunter2}}",
        "redis: {passwort: hunter2}",
        "redis: {url: 'redis://:hunter2@host'}",
        "redis: {url: 'http://user:hunter2@host'}",
        "redis: {url: 'redis://host?password=hunter2'}",
        "redis: {url: ['redis://:hunter2@host']}",
        "redis: {password: *hunter2}",
        "redis: {password: !hunter2 x}",
        "redis: {password: 'hunter2}",
        "redis: {password: @hunter2}",
        "redis: {password: {hunter2}",
        "kafka: {security: {password: hunter2}}",
        "kafka: {security: {password: hunter2: x}}",
    ],
)
def test_errors_never_repeat_a_secret(write, text):
    """A password typed into the file, however wrongly, does not come back in the message."""
    path = write(f"{MINIMAL}{text}\n")
    assert "hunter2" not in message(path)
    env = {f"STREAM_DETECTOR__{text.split(':')[0].upper()}": text.partition(":")[2]}
    assert "hunter2" not in message(write(MINIMAL), env)


def test_a_secret_in_a_variable_is_refused_without_repeating_it(problems):
    """The variable is for the place, not for the password."""
    (told,) = problems(MINIMAL, {"STREAM_DETECTOR__REDIS__PASSWORD": "hunter2"})
    assert told == (
        "redis.password: a secret must not be in the configuration; write {env: NAME} or {file: PATH} "
        "(from STREAM_DETECTOR__REDIS__PASSWORD)"
    )


def test_effective_settings_name_the_secrets_place_only(write, monkeypatch):
    """What is printed holds where the secret is, never what it is."""
    monkeypatch.setenv("PW", "hunter2")
    plain = settings.effective(settings.load(write(MINIMAL + "redis: {password: {env: PW}}\n"), {}))
    assert plain["redis"]["password"] == {"env": "PW"}
    assert "hunter2" not in str(plain)


# ── what is printed and stored ────────────────────────────────────────────────────────────────────────────────────────


def test_effective_settings_load_to_the_same_settings(write):
    """The printed settings are a set-up themselves: nothing is lost in printing."""
    text = MINIMAL + "artifact: a.safetensors\nredis: {password: {file: pw}}\nfeatures: {clip: null}\n"
    plain = settings.effective(settings.load(write(text), {}))
    again = settings.effective(settings.load(write(yaml.safe_dump(plain)), {}))
    assert plain == again
    assert (plain["kafka"]["group"], plain["kafka"]["dead_letter_topic"]) == ("pump-detector", "pump.dead-letter")


def test_the_schema_describes_every_key():
    """An editor can show help for each key: none is without a description."""
    nameless = [
        f"{name}.{key}"
        for name, part in [("", settings.schema()), *settings.schema()["$defs"].items()]
        for key, member in part.get("properties", {}).items()
        if not member.get("description")
    ]
    assert nameless == []


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis+sentinel://a:26379,b:26379/plant", None),
        ("rediss+sentinel://a:26379,[::1]:26379/plant/3", None),
        ("redis+sentinel://a,b:26379/plant", "HOST:PORT"),
        ("redis+sentinel://a:26379", "SERVICE"),
        ("redis+sentinel://a:26379/plant/x", "DATABASE"),
        ("redis+sentinel://u:secret@a:26379/plant", "credentials"),
        ("redis+cluster://a:6379", "must start with"),
    ],
)
def test_a_url_names_the_sentinels_and_the_service(url, told):
    """What can't be meant is an error that shows the form, without a secret."""
    if told is None:
        assert RedisConfig(url=url).tls == url.startswith("rediss")
        assert parse_sentinels(url).service == "plant"
        assert parse_sentinels("rediss+sentinel://[::1]:1/plant/3") == Sentinels((("::1", 1),), "plant", 3)
        return
    with pytest.raises(ValidationError, match=told) as caught:
        RedisConfig(url=url)
    assert "secret@" not in caught.value.errors()[0]["msg"]


def test_a_password_of_sentinels_needs_sentinels():
    """A setting that would have no effect is an error."""
    with pytest.raises(ValidationError, match="sentinel_password needs a url"):
        RedisConfig(sentinel_password=Secret(env="X"))
    with pytest.raises(ValidationError, match="sentinel_username needs sentinel_password"):
        RedisConfig(url="redis+sentinel://a:1/plant", sentinel_username="x")

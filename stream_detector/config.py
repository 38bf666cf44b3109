"""The settings: one typed tree, every key documented. `settings.load` reads it from YAML and the environment.

Frozen: what a worker runs with can't change under it. Secrets never stand in the tree; `{env: NAME}` or
`{file: PATH}` says where they are, and `Secret.reveal` fetches them when a connection is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from stream_detector.config_adaptation import AdaptationConfig as AdaptationConfig
from stream_detector.config_base import Section as Section
from stream_detector.config_budget import BudgetConfig as BudgetConfig
from stream_detector.config_kafka import InputConfig as InputConfig
from stream_detector.config_kafka import KafkaConfig as KafkaConfig
from stream_detector.config_kafka import KafkaSecurity as KafkaSecurity
from stream_detector.config_kafka import OAuthConfig as OAuthConfig
from stream_detector.config_kafka import Secret as Secret
from stream_detector.config_model import AEConfig as AEConfig
from stream_detector.config_model import ModelConfig as ModelConfig
from stream_detector.config_sensors import SensorsConfig as SensorsConfig

PositiveMs = Annotated[float, Field(gt=0)]
WaveformFeature = Literal["rms", "peak", "crest", "kurtosis"]
#: Scores kept of an asset: its state has 4 kB ...
MOST_SCORES = 720
#: ... of which each numeric column takes as much as so many scores (see adaptation.py).
SCORES_A_COLUMN = 5


def most_scores(columns: int) -> int:
    """Return how many scores an asset's state can hold beside so many numeric columns."""
    return MOST_SCORES - SCORES_A_COLUMN * columns


class ChannelConfig(Section):
    """One measured quantity (or field of a record)."""

    kind: Literal["number", "category"] = "number"
    """`category` takes strings (record streams): they travel as codes and are encoded as `encoding` says."""
    encoding: Literal["one-hot", "hash"] = "one-hot"
    """Category only. `one-hot`: a feature for each category of the training part and one for all others; `hash`: a
    feature for each of `buckets`, shared by whatever categories come, for sets that are open or large."""
    buckets: int = Field(default=16, ge=2, le=1024)
    """Category with `hash` only: features."""
    log: bool = False
    """Number only: the model sees log(1 + |x|) with x's sign, for amounts, counts and sizes."""
    unit: str = ""
    """Unit, shown in alerts and dashboards."""
    cell: Literal["mean", "last", "min", "max", "waveform"] = "mean"
    """What becomes of the readings in one grid cell; `waveform`: the features below of its samples."""
    valid: tuple[float, float] | None = None
    """Readings outside [low, high] are dead letters (`out-of-range`)."""
    features: list[WaveformFeature] = Field(default=["rms", "peak", "crest", "kurtosis"])
    """Waveform only: features of a cell's samples. Kurtosis is Pearson's (3 for a Gaussian)."""
    bands: int = Field(default=0, ge=0, le=64)
    """Waveform only: so many log band energies, evenly spaced from 0 to half the sample rate."""
    max_gap_ms: float | None = Field(default=None, ge=0)
    """Longest gap filled in this channel; `window.max_gap_ms` when left out. A slow sensor needs a longer one."""

    @field_validator("valid")
    @classmethod
    def _ordered(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] >= value[1]:
            raise ValueError(f"must be [low, high] with low < high, got {list(value)}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> ChannelConfig:
        if self.kind == "category" and self.cell != "last":
            raise ValueError(f"a category can't be averaged: cell must be last, got {self.cell}")
        if self.kind == "category" and self.log:
            raise ValueError("a category has no logarithm: leave log out")
        if self.cell == "waveform" and not self.features and not self.bands:
            raise ValueError("a waveform needs at least one of features and bands")
        return self

    def columns(self, name: str) -> list[str]:
        """Names of the window columns this channel becomes."""
        if self.cell != "waveform":
            return [name]
        return [f"{name}.{feature}" for feature in self.features] + [f"{name}.band{i}" for i in range(self.bands)]


class WindowConfig(Section):
    """The event-time grid and the windows on it. Windows end at whole multiples of `stride` cells since 1970."""

    mode: Literal["grid", "records"] = "grid"
    """`grid`: readings are samples of a signal, put on the grid; `records`: each reading is an event (a transaction, a
    connection) and a window of its own, whatever its time; `length` must be 1, the grid plays no role."""
    cell_ms: PositiveMs = 1_000.0
    """Width of a grid cell, ms; fractions are allowed (0.0833333 for samples at 12 kHz)."""
    length: int = Field(default=60, ge=1, le=100_000)
    """Cells in a window."""
    stride: int = Field(default=1, ge=1)
    """Cells from one window's end to the next."""
    lateness_ms: float = Field(default=0.0, ge=0)
    """A cell closes when its asset's clock is so far past the cell's end; later readings for it are dead letters."""
    max_gap_ms: float = Field(default=5_000.0, ge=0)
    """A gap up to this is filled with the last value known, and marked; a longer one cuts the window."""
    max_ahead_ms: float = Field(default=60_000.0, gt=0)
    """A reading further ahead of the broker's clock is a dead letter (`too-far-ahead`)."""

    @model_validator(mode="after")
    def _fits(self) -> WindowConfig:
        if self.stride > self.length:
            raise ValueError(f"stride must be in 1..{self.length} (length), got {self.stride}")
        if self.mode == "records" and self.length != 1:
            raise ValueError(f"length must be 1 in mode records, got {self.length}")
        return self


class FeatureConfig(Section):
    """What is done to a window before the model sees it; part of the artifact."""

    smoothing: float | None = Field(default=None, gt=0, le=1)
    """Weight of the newest cell in a causal exponential moving average along the window; none when left out."""
    keep: int | None = Field(default=None, ge=1)
    """The model sees the last so many cells (after smoothing); all when left out. 1: one vector a window."""
    difference: bool = False
    """Take differences from cell to cell first."""
    scaling: Literal["robust", "standard"] = "robust"
    """`robust`: median and (q90 - q10)/2.563 of the training part; `standard`: mean and standard deviation."""
    clip: float | None = Field(default=100.0, gt=0)
    """Scaled values are clipped to ±clip; left out (null): not clipped."""


class TrainConfig(Section):
    """How a detector is fitted."""

    epochs: int = Field(default=60, ge=1)
    """Most passes over the training part."""
    batch: int = Field(default=64, ge=1)
    """Windows in a gradient step."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Step size of Adam."""
    patience: int = Field(default=10, ge=1)
    """Stop after so many epochs without a better loss on the held-out tail."""
    holdout: float = Field(default=0.25, gt=0, lt=1)
    """Share of the history, at its end, kept out of the fit: for early stopping and calibration."""
    folds: int = Field(default=0, ge=0, le=10)
    """Cross-fitting, for short histories (up to some thousand windows). Instead of a tail held out, each asset's
    history is cut into so many blocks; one network is trained without each two of them, their scores are averaged,
    and each block is calibrated by those that never saw it. 5 makes ten networks. 0: a tail is held out."""
    short_history: Literal["refuse", "leave-out", "shared"] = "refuse"
    """`train --per-asset` into one file: what becomes of an asset whose history is too short for a detector of its own.
    `refuse`: training fails and names it; `leave-out`: it has none and is not judged; `shared`: a detector trained on
    all assets serves it, and every asset that training never saw."""
    seed: int = 0
    """Seed of initial weights and shuffling."""

    @field_validator("folds")
    @classmethod
    def _enough(cls, value: int) -> int:
        if value in (1, 2):
            raise ValueError(f"must be 0 or at least 3, so that something is left to train on, got {value}")
        return value


class ScorerConfig(Section):
    """Batching and the device."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: CUDA where there is a device."""
    precision: Literal["float64", "float32"] = "float64"
    """Arithmetic of the model. float64 makes scores independent of how windows were batched."""
    max_batch: int = Field(default=512, ge=1)
    """Most windows in one forward pass."""
    max_wait_ms: float = Field(default=50.0, ge=0)
    """Longest a window waits for others to share its batch."""
    max_waiting_mb: float = Field(default=64.0, gt=0)
    """Windows that may wait to be scored, MiB; while they are more nothing is read."""
    compile: bool = False
    """Compile the model (torch.compile, CUDA graphs where there are any); batches are padded to few sizes."""
    threads: int = Field(default=1, ge=1)
    """CPU threads of one worker."""


class ThresholdConfig(Section):
    """How scores are judged. The threshold adapts with every normal score and lives in Redis, per asset."""

    method: Literal["spot", "dspot", "quantile", "mad"] = "spot"
    """`spot`: extreme value theory (Siffer et al. 2017); `dspot`: the same around the scores' own recent mean, for
    scores that drift; `quantile`: rolling quantile; `mad`: median + k·MAD."""
    risk: float = Field(default=1e-4, gt=0, lt=0.5)
    """Wanted probability that a normal window's score exceeds the adaptive level."""
    budget: BudgetConfig | None = None
    """spot, dspot: at most so many incidents in so long, instead of a risk: each asset's risk is set by what its
    scores do, beginning with `risk`'s place taken by the budget at once. `margin` counts as 1 then."""
    margin: float = Field(default=1.7, ge=1, le=100)
    """Alarm only above margin times the adaptive level: room for conditions that a short history did not show. Scores
    between the two neither alarm nor are learnt."""
    learn_after: int = Field(default=60, ge=0, le=400)
    """A normal score is learnt once so many more were normal: a slow rise must not pull the level up with it. 0: at
    once."""
    adapt: bool = True
    """Learn from normal scores. false: the level stays as the calibration set it, for streams that may be mostly
    anomalies for a time."""
    tail: float = Field(default=0.02, gt=0, lt=0.5)
    """spot, dspot: share of normal scores taken as the tail the generalised Pareto law is fitted to."""
    max_peaks: int = Field(default=200, ge=10, le=800)
    """spot, dspot: most recent tail excesses kept."""
    depth: int = Field(default=200, ge=2, le=100_000)
    """dspot: normal scores that the recent mean is taken of."""
    memory: int = Field(default=500, ge=20, le=900)
    """quantile, mad: recent normal scores kept."""

    @property
    def kept(self) -> tuple[str, int]:
        """The key that says how many scores are kept, and how many."""
        key = "max_peaks" if self.method in ("spot", "dspot") else "memory"
        return key, getattr(self, key)

    @property
    def alarm_margin(self) -> float:
        """`margin`, or 1 under a budget: that says how tolerant the alarm is."""
        return 1.0 if self.budget is not None else self.margin

    @model_validator(mode="after")
    def _budgeted(self) -> ThresholdConfig:
        if self.budget is not None and self.method not in ("spot", "dspot"):
            raise ValueError(f"budget needs method spot or dspot, got {self.method}")
        return self


class IncidentConfig(Section):
    """From verdicts to incidents."""

    open_after: int = Field(default=2, ge=1, le=64)
    """Open when so many ..."""
    open_of: int = Field(default=3, ge=1, le=64)
    """... of the last so many windows were anomalous ..."""
    min_duration_ms: float = Field(default=0.0, ge=0)
    """... and the first anomalous one of the run is so long ago, event time."""
    close_after: int = Field(default=25, ge=1)
    """Close after so many quiet windows in a row."""
    exit_ratio: float = Field(default=0.2, gt=0, le=1)
    """A window of an open incident is quiet when its score is at most exit_ratio times the alarm level ..."""
    exit_peak_share: float = Field(default=0.2, ge=0, lt=1)
    """... or below this share of the incident's highest score, even above the level: what went wrong is over, though
    the machine is not as it was. 0: never."""
    rearm_factor: float = Field(default=4.0, ge=1)
    """After an incident that ended by its peak's share, alarm only above so many times the score it ended at, a limit
    that falls with the score and is gone once the score is quiet by exit_ratio."""
    warning_ratio: float = Field(default=1.5, ge=1)
    """Score over level from which an incident is a warning (below: info)."""
    critical_ratio: float = Field(default=4.0, ge=1)
    """Score over level from which an incident is critical."""
    point_windows: int = Field(default=3, ge=1)
    """An incident of at most so many anomalous windows is of kind `point`."""
    collective_windows: int = Field(default=60, ge=2)
    """An incident of at least so many windows is of kind `collective`."""

    @model_validator(mode="after")
    def _fits(self) -> IncidentConfig:
        if self.open_after > self.open_of:
            raise ValueError(f"open_after must be in 1..{self.open_of} (open_of), got {self.open_after}")
        if self.critical_ratio < self.warning_ratio:
            raise ValueError(f"critical_ratio must be at least warning_ratio ({self.warning_ratio})")
        return self


class RedisConfig(Section):
    """Where thresholds live."""

    url: str = "redis://127.0.0.1:6379/0"
    """redis://, rediss:// (TLS) or unix:// without a password."""
    username: str | None = None
    """ACL user."""
    password: Secret | None = None
    """ACL or server password."""
    ca_file: Path | None = None
    """Certificate authority of a TLS server; the system's when left out."""
    cert_file: Path | None = None
    """Client certificate (PEM), for a TLS server that asks for one; may hold its key too."""
    key_file: Path | None = None
    """Private key of the client certificate (PEM)."""
    key_password: Secret | None = None
    """Password of an encrypted private key."""
    verify_hostname: bool = True
    """Whether a TLS server's certificate must name the host it was reached under."""
    prefix: str = "stream-detector"
    """All keys start with this and the stream's name."""
    timeout_ms: float = Field(default=2_000.0, gt=0)
    """Longest wait for an answer."""

    @field_validator("url")
    @classmethod
    def _no_password(cls, value: str) -> str:
        if not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must start with redis://, rediss:// or unix://")
        if "@" in value or "password=" in value:
            raise ValueError("must hold no credentials; use redis.username and redis.password: {env: NAME}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> RedisConfig:
        files = [key for key in ("ca_file", "cert_file", "key_file", "key_password") if getattr(self, key) is not None]
        if files and not self.url.startswith("rediss://"):
            raise ValueError(f"{files[0]} needs a url that begins with rediss://")
        if self.cert_file is None and (self.key_file is not None or self.key_password is not None):
            raise ValueError("key_file and key_password need cert_file")
        if self.username is not None and self.password is None:
            raise ValueError("username needs password: {env: NAME} or {file: PATH}")
        return self


class VerdictConfig(Section):
    """What is taken of people's verdicts on alerts."""

    enabled: bool = True
    """Whether workers read the verdict topic, where there is one."""
    per_sender: int = Field(default=60, ge=1)
    """Most verdicts of one sender (`by`) in a minute of message time; more are dead letters (`rate-limited`)."""
    in_all: int = Field(default=600, ge=1)
    """Most verdicts in a minute of message time, of a partition."""
    keep: int = Field(default=10_000, ge=1, le=1_000_000)
    """Verdicts kept in Redis, the newest ones."""


class MetricsConfig(Section):
    """Prometheus metrics and health."""

    port: int | None = Field(default=None, ge=0, le=65_535)
    """Serve /metrics, /healthz and /readyz here; not at all when left out. 0 takes a free port (named in the log)."""
    host: str = "127.0.0.1"
    """Address to listen on."""


class Config(Section):
    """One set-up: a stream of readings, its detector, its thresholds and where it all lives."""

    stream: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    """Name of the stream; the default topics, group and keys derive from it."""
    channels: dict[str, ChannelConfig] = Field(min_length=1)
    """Channels by name, in the order of the model's inputs."""
    delivery: Literal["at_least_once", "exactly_once"] = "at_least_once"
    """What a crash may cost. `at_least_once`: alerts may repeat, with the same id. `exactly_once`: nothing, for
    consumers that read with `read_committed`; needs a broker with transactions (docs/delivery.md)."""
    alert_delay_ms: float = Field(default=100.0, ge=0)
    """exactly_once: longest an alert waits for the commit that makes it readable; commits are that frequent while there
    are alerts, and no more frequent."""
    on_store_outage: Literal["continue", "pause"] = "continue"
    """While Redis is away: `continue` with the thresholds in memory, or `pause` until it is back."""
    on_state_lost: Literal["replay", "recalibrate"] = "replay"
    """When Redis holds no state of a task that Kafka says has one: `replay` the topics from their oldest message, in
    silence, or `recalibrate`: begin again from the model's calibration. exactly_once only."""
    commit_interval_ms: float = Field(default=1_000.0, gt=0)
    """Longest time between commits of alerts, state and offsets."""
    kafka: KafkaConfig = KafkaConfig()
    """Brokers, topics, consumer group."""
    window: WindowConfig = WindowConfig()
    """Event-time grid and windows."""
    features: FeatureConfig = FeatureConfig()
    """From window to model input."""
    model: ModelConfig = AEConfig()
    """The detector."""
    artifact: Path | None = None
    """Trained detector: a file for all assets, or a folder of `<asset>.safetensors` and perhaps
    `default.safetensors`."""
    artifact_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Pins the artifact: what `sha256sum FILE` prints of it, for a folder
    `LC_ALL=C sha256sum *.safetensors | sha256sum` in it. Anything else is refused before it is looked into."""
    train: TrainConfig = TrainConfig()
    """Fitting."""
    scorer: ScorerConfig = ScorerConfig()
    """Batching and device."""
    threshold: ThresholdConfig = ThresholdConfig()
    """Adaptive thresholds."""
    incident: IncidentConfig = IncidentConfig()
    """Hysteresis and severity."""
    sensors: SensorsConfig = SensorsConfig()
    """Broken sensors told from broken machines."""
    adaptation: AdaptationConfig = AdaptationConfig()
    """The way back to normal. Of streams of records (`window.mode: records`) nothing is followed."""
    audit: bool = True
    """Write every change of an asset's level, shift and settings to the audit topic (docs/thresholds.md)."""
    redis: RedisConfig = RedisConfig()
    """Threshold store."""
    verdicts: VerdictConfig = VerdictConfig()
    """Verdicts on alerts."""
    metrics: MetricsConfig = MetricsConfig()
    """Metrics and health."""

    @field_validator("model", mode="before")
    @classmethod
    def _autoencoder_unless_said(cls, value: object) -> object:
        return {"kind": "ae", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _whole(self) -> Config:
        keep, length = self.features.keep, self.window.length
        if keep is not None and keep > length:
            raise ValueError(f"features.keep must be in 1..{length} (window.length), got {keep}")
        for index, entry in enumerate(self.kafka.inputs):
            known = {"asset", "ts", "interval_ms", "values", *self.channels}
            if unknown := sorted(set(entry.fields) - known):
                where = f"kafka.inputs.{index}.fields"
                raise ValueError(f"{where}: {unknown[0]!r} is no channel; expected one of {sorted(known)}")
        topics = [entry.topic for entry in self.inputs]
        if twice := [topic for topic in topics if topics.count(topic) > 1]:
            raise ValueError(f"kafka.inputs: topic {twice[0]!r} is there twice; expected each input topic once")
        outputs = {
            "alert_topic": self.alert_topic,
            "dead_letter_topic": self.dead_letter_topic,
            "audit_topic": self.audit_topic,
        }
        for key, topic in {**outputs, "verdict_topic": self.verdict_topic}.items():
            if key == "verdict_topic" and topic in outputs.values():
                raise ValueError(f"kafka.{key}: {topic!r} is an output topic too; expected a topic of its own")
            if topic in topics:
                raise ValueError(f"kafka.{key}: {topic!r} is an input topic too; expected a topic of its own")
        if self.window.mode == "records":
            if len(self.kafka.inputs) > 1:
                raise ValueError("kafka.inputs: records come from one topic (window.mode is records)")
            if waves := [name for name, channel in self.channels.items() if channel.cell == "waveform"]:
                raise ValueError(f"channels.{waves[0]}.cell: a record holds no waveform (window.mode is records)")
        if categories := [name for name, channel in self.channels.items() if channel.kind == "category"]:
            for key in ("smoothing", "difference"):
                if getattr(self.features, key):
                    raise ValueError(f"features.{key}: categories have none, and channels.{categories[0]} is one")
        key, kept = self.threshold.kept
        columns = len(self.numeric_columns) if self.window.mode == "grid" else 0
        waiting, most = self.threshold.learn_after, most_scores(columns)
        if kept + waiting > most:
            where = f"threshold: {key} and learn_after must sum to at most {most} with {columns} columns"
            raise ValueError(f"{where}, so that an asset's state stays below 4 kB, got {kept} + {waiting}")
        reserved = {"asset", "ts", "interval_ms", "values"} & set(self.channels)
        if reserved:
            raise ValueError(f"channels: {sorted(reserved)[0]!r} is a field of every reading; choose another name")
        return self

    @property
    def columns(self) -> list[str]:
        """Names of the window columns, in order: one a channel, several of a waveform."""
        return [column for name, channel in self.channels.items() for column in channel.columns(name)]

    @property
    def numeric_columns(self) -> list[str]:
        """Names of the window columns that hold numbers, in order."""
        return [c for name, channel in self.channels.items() if channel.kind == "number" for c in channel.columns(name)]

    @property
    def inputs(self) -> list[InputConfig]:
        """Input topics, the default filled in."""
        return self.kafka.inputs or [InputConfig(topic=f"{self.stream}.readings")]

    @property
    def group(self) -> str:
        """Consumer group, the default filled in."""
        return self.kafka.group or f"{self.stream}-detector"

    @property
    def alert_topic(self) -> str:
        """Alert topic, the default filled in."""
        return self.kafka.alert_topic or f"{self.stream}.alerts"

    @property
    def dead_letter_topic(self) -> str:
        """Dead-letter topic, the default filled in."""
        return self.kafka.dead_letter_topic or f"{self.stream}.dead-letter"

    @property
    def verdict_topic(self) -> str:
        """Verdict topic, the default filled in."""
        return self.kafka.verdict_topic or f"{self.stream}.verdicts"

    @property
    def audit_topic(self) -> str:
        """Audit topic, the default filled in."""
        return self.kafka.audit_topic or f"{self.stream}.audit"

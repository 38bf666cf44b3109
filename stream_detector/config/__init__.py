"""The settings: one typed tree, every key documented. `settings.load` reads it from YAML and the environment.

Frozen: what a worker runs with can't change under it. Secrets never stand in the tree; `{env: NAME}` or
`{file: PATH}` says where they are, and `Secret.reveal` fetches them when a connection is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from stream_detector.config.adaptation import AdaptationConfig as AdaptationConfig
from stream_detector.config.base import Section as Section
from stream_detector.config.budget import BudgetConfig as BudgetConfig
from stream_detector.config.channels import ChannelConfig as ChannelConfig
from stream_detector.config.fitting import ScorerConfig as ScorerConfig
from stream_detector.config.fitting import TrainConfig as TrainConfig
from stream_detector.config.judging import IncidentConfig as IncidentConfig
from stream_detector.config.judging import ThresholdConfig as ThresholdConfig
from stream_detector.config.judging import most_scores as most_scores
from stream_detector.config.judging import spare as spare
from stream_detector.config.kafka import InputConfig as InputConfig
from stream_detector.config.kafka import KafkaConfig as KafkaConfig
from stream_detector.config.kafka import KafkaSecurity as KafkaSecurity
from stream_detector.config.kafka import OAuthConfig as OAuthConfig
from stream_detector.config.model import AEConfig as AEConfig
from stream_detector.config.model import ModelConfig as ModelConfig
from stream_detector.config.redis import RedisConfig as RedisConfig
from stream_detector.config.secret import Secret as Secret
from stream_detector.config.sensors import SensorsConfig as SensorsConfig
from stream_detector.config.service import MetricsConfig as MetricsConfig
from stream_detector.config.service import VerdictConfig as VerdictConfig
from stream_detector.config.windows import FeatureConfig as FeatureConfig
from stream_detector.config.windows import WindowConfig as WindowConfig


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
        waiting = self.threshold.learn_after + spare(self.threshold.learn_after)
        most = most_scores(columns)
        if kept + waiting > most:
            where = f"threshold: {key} and 1.25 learn_after must sum to at most {most} with {columns} columns"
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

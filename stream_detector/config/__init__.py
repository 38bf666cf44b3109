"""The settings: one typed tree, every key documented. `settings.load` reads it from YAML and the environment.

The tree is frozen, so a running worker's settings can't change. It never contains secrets: `{env: NAME}` or
`{file: PATH}` names where they are stored, and `Secret.reveal` reads them when a connection is made.
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
from stream_detector.config.judging import AnyThresholdConfig
from stream_detector.config.judging import IncidentConfig as IncidentConfig
from stream_detector.config.judging import PluginThresholdConfig as PluginThresholdConfig
from stream_detector.config.judging import ThresholdConfig as ThresholdConfig
from stream_detector.config.judging import most_scores as most_scores
from stream_detector.config.judging import spare as spare
from stream_detector.config.kafka import InputConfig as InputConfig
from stream_detector.config.kafka import KafkaConfig as KafkaConfig
from stream_detector.config.kafka import KafkaSecurity as KafkaSecurity
from stream_detector.config.kafka import OAuthConfig as OAuthConfig
from stream_detector.config.model import AEConfig as AEConfig
from stream_detector.config.model import ModelConfig as ModelConfig
from stream_detector.config.model import PluginModelConfig as PluginModelConfig
from stream_detector.config.redis import RedisConfig as RedisConfig
from stream_detector.config.secret import Secret as Secret
from stream_detector.config.sensors import SensorsConfig as SensorsConfig
from stream_detector.config.service import MetricsConfig as MetricsConfig
from stream_detector.config.service import VerdictConfig as VerdictConfig
from stream_detector.config.windows import FeatureConfig as FeatureConfig
from stream_detector.config.windows import WindowConfig as WindowConfig


class Config(Section):
    """One set-up: a stream of readings, its detector, its thresholds and the servers it uses."""

    stream: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    """Name of the stream. The default names of topics and consumer group and the Redis keys derive from it, so keep it
    once workers run."""
    channels: dict[str, ChannelConfig] = Field(min_length=1)
    """The channels by name, in the order of the model's inputs. Retrain the detector after changing them."""
    delivery: Literal["at_least_once", "exactly_once"] = "at_least_once"
    """What a crash may cost. `at_least_once`: alerts may be repeated, with the same id. `exactly_once`: nothing is
    repeated for consumers that read with `read_committed`; choose it where duplicates do harm and the brokers support
    transactions (docs/delivery.md)."""
    alert_delay_ms: float = Field(default=100.0, ge=0)
    """`exactly_once` only: longest time, ms, that an alert waits for the commit that makes it readable. While there are
    alerts, commits are this frequent and not more frequent; lower it for faster alerts."""
    on_store_outage: Literal["continue", "pause"] = "continue"
    """What a worker does while Redis is away: `continue` with the thresholds in memory, or `pause` until Redis is back.
    Choose `pause` if alerts must never rely on unsaved thresholds."""
    on_state_lost: Literal["replay", "recalibrate"] = "replay"
    """`exactly_once` only: what a worker does when Redis has no state for a task that Kafka says has one. `replay`:
    replay the topics from their oldest message without publishing again; `recalibrate`: start from the model's
    calibration, where a replay would take too long."""
    commit_interval_ms: float = Field(default=1_000.0, gt=0)
    """Longest time, ms, between commits of alerts, state and offsets. Raise it for fewer commits; after a crash more
    work is then repeated."""
    kafka: KafkaConfig = KafkaConfig()
    """The brokers to connect to, their topics and the consumer group."""
    window: WindowConfig = WindowConfig()
    """The event-time grid and the windows on it."""
    features: FeatureConfig = FeatureConfig()
    """How a window becomes the model's input."""
    model: ModelConfig = AEConfig()
    """The detector; `kind` chooses its family (docs/detectors.md)."""
    artifact: Path | None = None
    """Path of the trained detector: a file for all assets, or a folder of `<asset>.safetensors` and optionally
    `default.safetensors` for all other assets."""
    artifact_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Checksum that the artifact must have; any other is refused before it is parsed. It is what `sha256sum FILE`
    prints, or for a folder `LC_ALL=C sha256sum *.safetensors | sha256sum` in it. Set it where others can write the
    artifact."""
    train: TrainConfig = TrainConfig()
    """How the detector is trained."""
    scorer: ScorerConfig = ScorerConfig()
    """Batching and device."""
    threshold: AnyThresholdConfig = ThresholdConfig()
    """How each asset's threshold adapts."""
    incident: IncidentConfig = IncidentConfig()
    """When incidents open and close, and their severity."""
    sensors: SensorsConfig = SensorsConfig()
    """How sensor faults are distinguished from machine faults."""
    adaptation: AdaptationConfig = AdaptationConfig()
    """How an asset's baseline follows drift and accepted regime changes. Streams of records (`window.mode: records`)
    have no adaptation."""
    audit: bool = True
    """Whether every change of an asset's level, shift and settings is written to the audit topic, which
    `stream-detector thresholds history` and `rollback` read (docs/thresholds.md)."""
    redis: RedisConfig = RedisConfig()
    """The store of states and thresholds."""
    verdicts: VerdictConfig = VerdictConfig()
    """How people's verdicts on alerts are accepted."""
    metrics: MetricsConfig = MetricsConfig()
    """Where metrics and health checks are served."""

    @field_validator("model", mode="before")
    @classmethod
    def _autoencoder_unless_said(cls, value: object) -> object:
        return {"kind": "ae", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _kept_cells_are_there(self) -> Config:
        keep, length = self.features.keep, self.window.length
        if keep is not None and keep > length:
            raise ValueError(f"features.keep must be in 1..{length} (window.length), got {keep}")
        return self

    @model_validator(mode="after")
    def _topics_differ(self) -> Config:
        for index, entry in enumerate(self.kafka.inputs):
            known = {"asset", "ts", "interval_ms", "values", *self.channels}
            if unknown := sorted(set(entry.fields) - known):
                where = f"kafka.inputs.{index}.fields"
                raise ValueError(f"{where}: {unknown[0]!r} is not a channel; expected one of {sorted(known)}")
        topics = [entry.topic for entry in self.inputs]
        if twice := [topic for topic in topics if topics.count(topic) > 1]:
            raise ValueError(f"kafka.inputs: topic {twice[0]!r} is listed twice; list each input topic once")
        outputs = {
            "alert_topic": self.alert_topic,
            "dead_letter_topic": self.dead_letter_topic,
            "audit_topic": self.audit_topic,
        }
        for key, topic in {**outputs, "verdict_topic": self.verdict_topic}.items():
            if key == "verdict_topic" and topic in outputs.values():
                raise ValueError(f"kafka.{key}: {topic!r} is also an output topic; use a separate topic")
            if topic in topics:
                raise ValueError(f"kafka.{key}: {topic!r} is also an input topic; use a separate topic")
        return self

    @model_validator(mode="after")
    def _channels_fit_the_windows(self) -> Config:
        if self.window.mode == "records":
            if len(self.kafka.inputs) > 1:
                raise ValueError("kafka.inputs: window.mode: records takes exactly one input topic")
            if waves := [name for name, channel in self.channels.items() if channel.cell == "waveform"]:
                raise ValueError(f"channels.{waves[0]}.cell: waveform is not possible with window.mode: records")
        if categories := [name for name, channel in self.channels.items() if channel.kind == "category"]:
            for key in ("smoothing", "difference"):
                if getattr(self.features, key):
                    raise ValueError(
                        f"features.{key} is not possible with categories, such as channels.{categories[0]}"
                    )
        return self

    @model_validator(mode="after")
    def _states_stay_small(self) -> Config:
        key, kept = self.threshold.kept
        columns = len(self.numeric_columns) if self.window.mode == "grid" else 0
        waiting = self.threshold.learn_after + spare(self.threshold.learn_after)
        most = most_scores(columns)
        if kept + waiting > most:
            where = f"threshold: {key} and 1.25 learn_after must sum to at most {most} with {columns} columns"
            raise ValueError(f"{where}, so that an asset's state stays below 4 kB, got {kept} + {waiting}")
        return self

    @model_validator(mode="after")
    def _names_are_free(self) -> Config:
        reserved = {"asset", "ts", "interval_ms", "values"} & set(self.channels)
        if reserved:
            raise ValueError(f"channels: {sorted(reserved)[0]!r} is a field of every reading; choose another name")
        return self

    @property
    def columns(self) -> list[str]:
        """Names of the window columns, in order: one per channel, several per waveform."""
        return [column for name, channel in self.channels.items() for column in channel.columns(name)]

    @property
    def numeric_columns(self) -> list[str]:
        """Names of the numeric window columns, in order."""
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

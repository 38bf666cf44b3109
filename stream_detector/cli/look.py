"""What `stream-detector check` looks at beyond the settings: the artifact, the brokers, the store."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import NamedTuple, TypeVar

from stream_detector.config import Config
from stream_detector.errors import ArtifactError, BrokerError, BrokerRightsError, ConfigError, DetectorError, StoreError


class Found(NamedTuple):
    """What one look brought: an error that stops a worker, a warning, or that all is well."""

    good: str = ""
    warning: str = ""
    error: DetectorError | None = None


# The artifact --------------------------------------------------------------------------------------------------------


def at_artifact(config: Config) -> Iterator[Found]:
    """Yield what is wrong with the trained detectors that the set-up names, and what to look at; they exist."""
    from stream_detector.artifacts.fleet import Fleet, load
    from stream_detector.artifacts.model_set import SUFFIX, ModelSet

    path = config.artifact
    assert path is not None
    try:
        models = ModelSet.load(config)
    except ArtifactError as first:
        others = [str(first)]
        for file in sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else ():  # all that is wrong, not the first only
            try:
                found = load(file)
                one = next(iter(found.artifacts.values())) if isinstance(found, Fleet) else found
                one.check_compatible(config, file)
            except ArtifactError as error:
                others.append(str(error))
        yield from (Found(error=ArtifactError(text)) for text in dict.fromkeys(others))
        return
    kinds = sorted({artifact.ref.kind for artifact in models.artifacts} - {config.model.kind})
    if kinds:
        yield Found(
            warning=f"model.kind is {config.model.kind}, but {path} holds {', '.join(kinds)}: "
            "the next training gives another detector than the one that runs"
        )
    newer = {text for artifact in models.artifacts for text in _newer(artifact.packages)}
    yield from (Found(warning=f"{path} was trained with {text}; scores may differ") for text in sorted(newer))


def _newer(packages: Mapping[str, str]) -> Iterator[str]:
    """Yield each package whose version in training was newer than the one installed: only that way is untested."""
    from importlib.metadata import PackageNotFoundError, version

    for name, then in packages.items():
        try:
            now = version(name)
        except PackageNotFoundError:
            continue
        if _release(then) > _release(now):
            yield f"{name} {then}, and {now} is installed here"


def _release(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text.partition("+")[0])[:2])


# Brokers and store -----------------------------------------------------------------------------------------------


def online(config: Config) -> Iterator[Found]:
    """Yield what a worker that starts now would meet: brokers, topics, permissions, transactions, the store."""
    topics, wrong = _tried(lambda: _topics(config))
    if any(isinstance(one.error, BrokerRightsError) for one in wrong):
        yield from _permissions(config)  # which names all that is missing, not one topic
    else:
        yield from wrong or topics or ()
        if topics is not None and all(one.error is None for one in topics):
            yield from _permissions(config)
    yield from _store(config)


T = TypeVar("T")


def _tried(look: Callable[[], T]) -> tuple[T | None, list[Found]]:
    """Return what a look brought, or its error."""
    try:
        return look(), []
    except (ConfigError, BrokerError, StoreError) as error:
        return None, [Found(error=error)]


def _topics(config: Config) -> list[Found]:
    """Look whether all topics are there, and whether those that are joined can be."""
    from stream_detector.adapters.kafka import partition_counts

    inputs = [entry.topic for entry in config.inputs]
    needed = [*inputs, config.alert_topic, config.dead_letter_topic, *([config.audit_topic] if config.audit else [])]
    counts = partition_counts(config.kafka, [*needed, config.verdict_topic])
    found = [
        Found(error=ConfigError(f"Kafka has no topic {name!r}; create it, or start with `run --create-topics N`"))
        for name in needed
        if name not in counts
    ]
    partitions = {name: counts[name] for name in inputs if name in counts}
    if len(set(partitions.values())) > 1:
        listed = ", ".join(f"{name}: {count}" for name, count in partitions.items())
        found.append(Found(error=ConfigError(f"topics that are joined need equally many partitions, got {listed}")))
    if config.verdicts.enabled and config.verdict_topic not in counts:
        found.append(Found(warning=f"Kafka has no topic {config.verdict_topic!r}: verdicts are read once it exists"))
    if not found or all(one.error is None for one in found):
        listed = ", ".join(f"{name} ({counts[name]})" for name in needed)
        found.append(Found(good=f"Kafka at {','.join(config.kafka.bootstrap_servers)} has the topics {listed}"))
    return found


def _permissions(config: Config) -> Iterator[Found]:
    from stream_detector.adapters.kafka import require_rights, require_transactions

    wrong = _tried(lambda: require_rights(config))[1]
    yield from wrong or [Found(good="this user has the permissions of a worker on its topics and its group")]
    if config.delivery == "exactly_once" and not wrong:
        wrong = _tried(lambda: require_transactions(config))[1]
        yield from wrong or [Found(good="the broker has the transactions that delivery: exactly_once needs")]


def _store(config: Config) -> Iterator[Found]:
    from stream_detector.adapters.redis import RedisStore

    def look() -> None:
        with closing(RedisStore(config.redis, config.stream)) as store:
            store.controls_version()
            store.require_rights()

    yield from _tried(look)[1] or [
        Found(good=f"the store at {config.redis.url} answers, and allows what a worker does")
    ]

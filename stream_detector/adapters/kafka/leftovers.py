"""Transactions that dead workers of a group left open.

Until one ends, readers of the alert topic wait behind it, and so does whoever asks for the offsets it holds. The broker
ends it after its time-out, half a minute and more; a worker that takes over ends it at once.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from kafka import KafkaAdminClient
from kafka import errors as kafka_errors

from stream_detector.adapters.kafka import client_patches
from stream_detector.adapters.kafka.settings import client_settings, connect_producer, translated
from stream_detector.config import KafkaConfig
from stream_detector.errors import BrokerError
from stream_detector.telemetry.logs import event

log = logging.getLogger(__name__)

_TIMEOUT_MS = 5_000
#: States of a transaction that nobody ends but its owner or the time-out.
_OPEN = ["Ongoing"]


def end_leftovers(kafka: KafkaConfig, group: str, own: str) -> list[str]:
    """End open transactions of the group whose owners are no members of it; return their ids.

    Workers' transactional ids are `<group>#<worker>`, and their client ids too, so the group's coordinator knows
    whose owner is alive. Ending the transaction of one that lives after all costs it a reload and nothing else: a
    worker that is no member can't commit anyway. What fails (a broker or a user's rights that don't allow the look) is
    logged: the time-out ends them too.
    """
    ended = []
    try:
        for name in _leftovers(kafka, group, own):
            producer = connect_producer(kafka, transactional_id=name, max_block_ms=_TIMEOUT_MS, retry_backoff_ms=5)
            try:
                with translated(kafka, f"ending the transaction of {name}"):
                    producer.init_transactions()
            finally:
                with suppress(kafka_errors.KafkaError):
                    producer.close(timeout=0)
            log.info("ended the transaction that %s left open", name, extra=event("transaction-ended", of=name))
            ended.append(name)
    except BrokerError as error:
        log.warning(
            "transactions that dead workers left open stay so until they time out: %s",
            error,
            extra=event("transactions-left"),
        )
    return ended


def _leftovers(kafka: KafkaConfig, group: str, own: str) -> list[str]:
    with translated(kafka, "looking for open transactions"):
        client: Any = KafkaAdminClient(**client_settings(kafka))  # type: ignore[no-untyped-call]  # ships no types
        client_patches.ignore_permissions(client)
        try:
            listed = client.list_transactions(state_filters=_OPEN)
            names = {one.transactional_id for found in listed.values() for one in found}
            names = {name for name in names if name.rpartition("#")[0] == group and name != own}
            if not names:
                return []
            described = client.describe_groups([group])[group]
            if described["error"]:
                raise BrokerError(f"describing the group {group}: {described['error']}")
            return sorted(names - {member["client_id"] for member in described["members"]})
        except ValueError as error:  # a state, say, that the client doesn't know
            raise BrokerError(f"looking for open transactions: the broker's answer can't be read: {error}") from error
        finally:
            client.close()

"""Everything that depends on kafka-python's internals: what the client lacks, and the workarounds.

The other modules use its public names (`kafka`, `kafka.admin`, `kafka.coordinator.assignors`, `kafka.errors`,
`kafka.net.sasl.oauth`, `kafka.structs`) and functions of this module. In each docstring, `Lacks` describes what
upstream is missing and `Gone when` how to check that the function can be removed: mostly a test that fails without it
on the version supported here.

To move to another minor version: read each function against the new source, change or delete it, set `VERSION` here and
the requirement in pyproject.toml, and run tests/test_client_patches.py and tests/contracts on Apache Kafka.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kafka import AsyncConsumerRebalanceListener, TopicPartition
from kafka import errors as kafka_errors
from kafka.version import __version__ as _installed

from stream_detector.errors import ConfigError

#: The version these workarounds were written for; later patch releases are assumed to be compatible.
VERSION = (3, 0, 12)


def require_version(found: str) -> None:
    """Raise ConfigError unless the client's version is supported here."""
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", found)
    version = tuple(map(int, numbers.groups())) if numbers else ()
    if version[:2] != VERSION[:2] or version < VERSION:
        known = ".".join(map(str, VERSION))
        raise ConfigError(
            f"kafka-python {found} is installed, but this package changes parts of the client that it knows in {known} "
            f"and later releases of {VERSION[0]}.{VERSION[1]} only; install it: pip install 'kafka-python~={known}'"
        )


require_version(_installed)  # before the imports that another version may not have

from kafka.consumer.fetcher import Fetcher  # noqa: E402
from kafka.net.sasl import get_sasl_mechanism, register_sasl_mechanism  # noqa: E402
from kafka.net.wakeup_notifier import WakeupNotifier  # noqa: E402
from kafka.protocol.consumer.metadata import (  # noqa: E402
    ConsumerProtocolAssignment,
    ConsumerProtocolSubscription,
)
from kafka.protocol.parser import KafkaProtocol  # noqa: E402
from kafka.protocol.sasl import SaslAuthenticateRequest, SaslHandshakeRequest  # noqa: E402
from kafka.record.default_records import DefaultRecordBatch  # noqa: E402

from stream_detector.adapters.kafka.client_patches import records  # noqa: E402

# Records ------------------------------------------------------------------------------------------------------------

_strict: Any = DefaultRecordBatch._read_msg


class _Name(bytes):
    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        """Decode any bytes; invalid ones are escaped."""
        return super().decode(encoding, errors)


class _Buffer(bytes):
    def __getitem__(self, place: Any) -> Any:
        """Return slices whose `decode` never fails."""
        part = super().__getitem__(place)
        return _Name(part) if isinstance(part, bytes) else part


def _read_msg(batch: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return _strict(batch, *args, **kwargs)
    except UnicodeDecodeError:  # the place in the buffer has not moved
        buffer = batch._buffer
        batch._buffer = _Buffer(buffer)
        try:
            return _strict(batch, *args, **kwargs)
        finally:
            batch._buffer = buffer


def read_any_header_name() -> None:
    """Read record headers whose name is not UTF-8, in this process: the bytes that are no text become `\\xff`.

    Costs nothing while there are none.
    Lacks: Kafka takes any bytes as a name. The client calls such a record corrupt and comes no further in its
    partition, so that one message would stop the stream.
    Gone when: test_a_header_name_of_any_bytes says that the client reads one.
    """
    setattr(DefaultRecordBatch, "_read_msg", _read_msg)  # noqa: B010 - mypy takes no assignment to a method


def read_quickly(consumer: Any) -> None:
    """Let a consumer that has not fetched yet return `PlainMessage`s, read in one loop (records.py).

    Lacks: the client makes two objects and several calls for each record, which is most of a poll.
    Gone when: `python -m tests.benchmarks.throughput --stride 1` gives the same `ratio_tuned` without it.
    """
    records.read_quickly(consumer)


class UndecodableError(kafka_errors.KafkaError):
    """What was fetched of a partition can't be read on from an offset; the exception's cause says why.

    Lacks: as for `let_go_of_undecodable`.
    Gone when: that is.
    """

    def __init__(self, partition: TopicPartition, offset: int, error: BaseException) -> None:
        """`offset`: the first that was not handed out."""
        self.partition, self.offset, self.error = partition, offset, error
        super().__init__(f"{partition.topic}[{partition.partition}] at offset {offset}: {error}")

    def __reduce__(self) -> Any:
        """Pickle by the arguments of `__init__`."""
        return type(self), (self.partition, self.offset, self.error)


_take: Any = Fetcher.PartitionRecords.take


def _take_or_let_go(part: Any, n: int | None = None) -> Any:
    try:
        return _take(part, n)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # what a codec library written in Rust raises in a panic is no Exception
        offset = part.next_fetch_offset
        part.drain()
        raise UndecodableError(part.topic_partition, offset, error) from error


def let_go_of_undecodable() -> None:
    """Let a poll that can't decode a batch raise UndecodableError, in this process; the next one fetches it again.

    Lacks: the error is raised once. What was fetched stays in line with an iterator that has ended, and the next poll
    asks it for records without end, or for a signal. The error names neither partition nor offset.
    Gone when: test_a_poll_after_an_undecodable_batch_returns passes without it.
    """
    setattr(Fetcher.PartitionRecords, "take", _take_or_let_go)  # noqa: B010 - mypy takes no assignment to a method


# The consumer: reading ----------------------------------------------------------------------------------------------


def unpark(consumer: Any) -> None:
    """Let the consumer hand out what it keeps of partitions that were paused; call before each poll.

    Lacks: the fetcher looks for kept records only while no partition is in line, and a partition whose records are all
    handed out stays in line. Resumed then, the kept records stay where they are, and none are fetched.
    Gone when: test_a_partition_paused_while_another_is_read_goes_on_after_it passes without it.
    """
    fetcher = consumer._fetcher
    if fetcher._next_partition_records is not None and not fetcher._next_partition_records:
        fetcher._next_partition_records = None


def denied_topics(consumer: Any) -> set[str]:
    """Return the topics that brokers no longer show to this user.

    Lacks: a subscribed consumer that may not see its topic any more asks for it again and again, and its polls return
    nothing, without an error: the one that its metadata listener raises reaches nobody.
    Gone when: test_a_permission_that_is_withdrawn_is_told_once passes without it.
    """
    return set(consumer._client._manager.cluster.unauthorized_topics)


# The consumer: its group --------------------------------------------------------------------------------------------

#: How long a poll waits for the join before it looks for messages, ms.
_JOIN_WAIT_MS = 10


def joining(consumer: Any) -> bool:
    """Whether this member is joining its group.

    A join begins and ends in `poll` only. In between the group may go on to its next generation at any moment, and
    offsets of this member's last one are refused.
    Lacks: a public name for it. `group_metadata().state` says REBALANCING a moment after the join has begun, and
    UNJOINED in the middle of one that the member is put out of.
    Gone when: a public call says so from the beginning of a join to its end.
    """
    return bool(consumer._coordinator.rejoining)


def put_out(consumer: Any) -> bool:
    """Whether this member knows that it was removed from the group.

    Lacks: a name for it; what it reads is public.
    Gone when: `cooperate` is, and `group_metadata` has such a state.
    """
    membership = consumer.group_metadata()
    return bool(membership.generation_id < 0 or not membership.member_id)


def heartbeat_age_s(consumer: Any) -> float:
    """Return for how many seconds the coordinator has answered no heartbeat.

    Lacks: the metric `last-heartbeat-seconds-ago` counts from when one was sent, answered or not.
    Gone when: a public call or metric counts from the last answer.
    """
    beat = consumer._coordinator.heartbeat
    return time.monotonic() - float(max(beat.last_receive, beat.last_reset))


def keep_joins(consumer: Any) -> None:
    """Let the next poll have the outcome of a join that ended since the last one.

    Lacks: a join that ends while the caller is not in `poll` is forgotten, and the group is joined once more. A group
    of busy members is never at rest: three members polled every 100 ms were still joining after a minute.
    Gone when: test_only_what_moves_is_taken passes without it.
    """
    coordinator = consumer._coordinator
    join = coordinator.join_group_async

    async def join_or_take_outcome(timeout_ms: float | None = None) -> Any:
        ended = coordinator._join_task
        if ended is not None and ended.is_done:

            def outcome() -> Any:
                if ended.exception is not None:
                    raise ended.exception
                return ended.value

            coordinator._join_task = coordinator._manager.call_soon(outcome)  # done once the loop turns: waited for
        return await join(timeout_ms=timeout_ms)

    coordinator.join_group_async = join_or_take_outcome


def finish_joins(consumer: Any) -> None:
    """Let a join go on that the leader has begun because partitions were added to a topic.

    Lacks: such a join is wanted only while the topics differ from those of the last assignment. When the leader has
    assigned the new ones, its next poll no longer takes the outcome: it has no heartbeat by then, is removed after the
    session timeout, and the group is joined once more.
    Gone when: test_added_partitions_are_read_within_seconds passes without it.
    """
    coordinator = consumer._coordinator
    need_rejoin = coordinator.need_rejoin
    coordinator.need_rejoin = lambda: bool(coordinator.rejoining or need_rejoin())


def cooperate(consumer: Any) -> None:
    """Let a cooperative consumer read during a join, and revoke everything once it knows that it was removed.

    Lacks: while the group is joined `poll` returns nothing, of partitions that stay (KIP-429) either. A member that
    learns in the middle of a join that it was put out joins as a new one without calling `on_partitions_lost`, and
    keeps partitions that others may have got meanwhile.
    Gone when: test_what_stays_is_read_while_the_group_is_joined_anew and
    test_who_is_put_out_while_it_joins_gives_up_everything pass without it.
    """
    coordinator = consumer._coordinator
    poll, reset_generation = coordinator.poll, coordinator.reset_generation

    def poll_and_read_on(timeout_ms: float | None = None) -> bool:
        if put_out(consumer) or not consumer.assignment() or not coordinator.need_rejoin():
            return bool(poll(timeout_ms=timeout_ms))
        poll(timeout_ms=_JOIN_WAIT_MS if timeout_ms is None else min(timeout_ms, _JOIN_WAIT_MS))
        return True

    def reset_and_begin_again(*args: Any, **kwargs: Any) -> None:
        reset_generation(*args, **kwargs)
        coordinator.rejoining = False  # so that the next attempt begins with giving up what it had

    coordinator.poll, coordinator.reset_generation = poll_and_read_on, reset_and_begin_again


Callback = Callable[[set[TopicPartition]], None]


class ThreadedListener(AsyncConsumerRebalanceListener):
    """A rebalance listener whose callbacks run on a thread of their own, where they may commit and look up offsets.

    The rebalance goes on when a callback has returned. Empty sets are not passed on.
    Lacks: the client calls listeners on the thread that also carries heartbeats and answers, where a commit waits for
    itself without end.
    Gone when: test_members_share_and_hand_over passes with a plain `ConsumerRebalanceListener`.
    """

    def __init__(self, consumer: Any, *, assigned: Callback, revoked: Callback, lost: Callback) -> None:
        """The callbacks must not raise: nobody would see it."""
        self._net = consumer._net
        self._on_assigned, self._on_revoked, self._on_lost = assigned, revoked, lost

    async def _call(self, callback: Callback, partitions: Iterable[Any]) -> None:
        names = set(partitions)
        if not names:
            return
        done: Any = WakeupNotifier(self._net)  # type: ignore[no-untyped-call]  # the client ships no types

        def work() -> None:
            try:
                callback(names)
            finally:
                done.notify()

        threading.Thread(target=work, name="stream-detector-rebalance", daemon=True).start()
        await done()

    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        """Forward."""
        await self._call(self._on_assigned, assigned)

    async def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        """Forward."""
        await self._call(self._on_revoked, revoked)

    async def on_partitions_lost(self, lost: Iterable[Any]) -> None:
        """Forward."""
        await self._call(self._on_lost, lost)


#: Version of a member's data: from 2 on it names the generation in which the member came to own what it owns.
_MEMBER_VERSION = 2


def member_data(topics: Iterable[str], owned: Mapping[str, Iterable[int]], generation: int) -> Any:
    """Return what a member tells the leader of its group: topics, the partitions it owns, and since which generation.

    Lacks: an assignor of one's own is public, but the classes that its `metadata` must return have no public name.
    Gone when: `kafka.coordinator.assignors` exports them.
    """
    listed = ConsumerProtocolSubscription.TopicPartition
    return ConsumerProtocolSubscription(
        version=_MEMBER_VERSION,
        topics=sorted(topics),
        user_data=b"",
        owned_partitions=[listed(topic=name, partitions=sorted(owned[name])) for name in sorted(owned)],
        generation_id=generation,
    )


def member_assignment(given: list[tuple[str, list[int]]]) -> Any:
    """Return what the leader gives a member: partitions by topic.

    Lacks: as for `member_data`, of its `assign`.
    Gone when: `member_data` is.
    """
    return ConsumerProtocolAssignment(_MEMBER_VERSION, given, b"")


# The producer -------------------------------------------------------------------------------------------------------


def track_topic(producer: Any, topic: str) -> None:
    """Keep the topic in the producer's metadata; call once for each topic before the first message to it.

    Lacks: the client does so only for topics it had to look up. A broker that answers the first request with all topics
    (Tansu, the embedded one) makes it forget them at the next lookup, and messages to them wait until they expire.
    Gone when: test_a_reader_starts_now_and_waits_for_its_topic passes without it on the embedded broker.
    """
    producer._sender.add_topic(topic)


def begin_transaction(producer: Any) -> None:
    """Begin a transaction without offsets of the last one.

    Lacks: offsets that were refused are kept through the abort, and sent with the next transaction's: under the
    membership of now, over what their new owner has committed since.
    Gone when: test_refused_offsets_are_kept says that they are not.
    """
    producer._transaction_manager._pending_txn_offset_commits.clear()
    producer.begin_transaction()


def send_offsets(producer: Any, offsets: Mapping[TopicPartition, Any], membership: Any, timeout_ms: float) -> None:
    """Send offsets as a part of the open transaction. Raises KafkaError: the answer, or that none came in time.

    Lacks: `send_offsets_to_transaction` waits without limit.
    Gone when: test_transactions_have_no_time_limit says that it takes one.
    """
    wait_for(producer, producer._transaction_manager.send_offsets_to_transaction(offsets, membership), timeout_ms)


def end_transaction(producer: Any, *, commit: bool, timeout_ms: float) -> None:
    """Commit or abort the open transaction. Raises KafkaError: the answer, or that none came in time.

    Lacks: `commit_transaction` and `abort_transaction` wait without limit.
    Gone when: test_transactions_have_no_time_limit says that they take one.
    """
    manager = producer._transaction_manager
    wait_for(producer, manager.begin_commit() if commit else manager.begin_abort(), timeout_ms)


def wait_for(producer: Any, result: Any, timeout_ms: float) -> None:
    """Wait for what was asked of the producer's transaction. Raises KafkaError: its answer, or that none came in time.

    Lacks: as for `end_transaction`.
    Gone when: `send_offsets` and `end_transaction` are.
    """
    producer._sender.wakeup()
    if not result.wait(timeout_ms=timeout_ms):
        raise kafka_errors.KafkaTimeoutError(f"no answer within {timeout_ms / 1000:g} s")


# The admin client ---------------------------------------------------------------------------------------------------


def ignore_permissions(admin: Any) -> None:
    """Leave what a user may do out of this client's answers.

    Lacks: it always asks for it, and raises ValueError at the answer of a broker that leaves it out.
    Gone when: test_permissions_that_are_left_out says that the client reads such an answer.
    """
    admin._process_acl_operations = lambda described: described


# The login ----------------------------------------------------------------------------------------------------------


def _asking(mechanism: Any) -> Any:
    class Asking(mechanism):  # type: ignore[misc]  # the client is not typed
        def __init__(self, **settings: Any) -> None:
            password = settings.get("sasl_plain_password")
            super().__init__(**(settings | {"sasl_plain_password": password()} if callable(password) else settings))

    return Asking


def ask_for_passwords() -> None:
    """Let clients of this process take a function in place of a password, and call it at each login.

    Lacks: a password is a text for the life of a client, while a token has a provider. One that is replaced would need
    a new client, and so a rebalance.
    Gone when: test_a_password_is_a_text says that the client calls one.
    """
    for name in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        register_sasl_mechanism(name, _asking(get_sasl_mechanism(name)), overwrite=True)  # type: ignore[no-untyped-call]


class LoginDialogue:
    """The SASL login exchange over one connection.

    Lacks: a client whose login is refused retries until its timeout, and then reports that no broker answered.
    Gone when: test_logins_that_kafka_refuses passes with a `login.require_login` that does nothing.
    """

    def __init__(
        self, exchange: Callable[[bytes], bytes], mechanism: str, host: str, settings: Mapping[str, Any]
    ) -> None:
        """`exchange` sends bytes and returns those of one answer; `settings` are a client's."""
        self._exchange = exchange
        self._mechanism = mechanism
        self._host, self._settings = host, settings
        self._parser: Any = KafkaProtocol(client_id="stream-detector-login")  # type: ignore[no-untyped-call]

    def _ask(self, request: Any) -> Any:
        self._parser.send_request(request)
        return self._parser.receive_bytes(self._exchange(self._parser.send_bytes()))[0][1]

    def log_in(self) -> None:
        """Raise UnsupportedSaslMechanismError or SaslAuthenticationFailedError when the broker refuses."""
        offered = self._ask(SaslHandshakeRequest(version=1, mechanism=self._mechanism))
        if self._mechanism not in offered.mechanisms:
            raise kafka_errors.UnsupportedSaslMechanismError(
                f"it doesn't offer {self._mechanism}, but {', '.join(offered.mechanisms) or 'none'}"
            )
        sasl: Any = get_sasl_mechanism(self._mechanism)(host=self._host, **self._settings)  # type: ignore[no-untyped-call]
        while not sasl.is_done():
            answer = self._ask(SaslAuthenticateRequest(sasl.auth_bytes(), version=1))
            if answer.error_code:
                raise kafka_errors.SaslAuthenticationFailedError(answer.error_message or "no reason given")
            sasl.receive(answer.auth_bytes)
            if self._mechanism == "OAUTHBEARER" and not sasl.is_done():
                # The broker's refusal is the answer to an empty reply (RFC 7628, section 3.2.3).
                refused = self._ask(SaslAuthenticateRequest(sasl.auth_bytes(), version=1))
                raise kafka_errors.SaslAuthenticationFailedError(refused.error_message or "the token is not accepted")

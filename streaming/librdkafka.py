"""The Kafka stream read by librdkafka (`confluent-kafka`): a member of a group at a fraction of the processor time.

What makes reading exact is `KafkaSource`'s: where a partition begins, the identity of the log, that nothing is returned
from below where reading stood. Here positions are kept besides, and each assignment is given to the library with them.
Its callbacks run within `poll`, on the caller's thread. What keeps it from the brokers it tells its log alone, so the
reason is had from the admin client that every source has. It does not know what the bytes mean.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from operator import methodcaller
from pathlib import Path
from typing import Any

import confluent_kafka
from confluent_kafka import OFFSET_STORED, Consumer, KafkaError, KafkaException

from streaming.errors import BrokerUnavailable, StreamError
from streaming.kafka import KafkaSource, named
from streaming.kafka_client import hush
from streaming.kafka_options import KafkaOptions
from streaming.kafka_trouble import missing_right
from streaming.source import Envelope, StartAt, TopicPartition, from_committed
from streaming.wire import Headers

_ANSWER_S = 2.0
_SLICE_S = 0.5
_RENEW_EVERY_S = 1.0
_QUEUE_KIB = 32_768
"""What the library fetches ahead at most."""
_FETCH_BYTES = 4 * 1_048_576

# Said of what mends itself: the library goes on by itself, and a deleted topic is found by its identity.
_PASSING = {
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._MAX_POLL_EXCEEDED,
    KafkaError._RESOLVE,
    KafkaError._SSL,
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._AUTHENTICATION,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
}
_UNAUTHORIZED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "TopicAuthorizationFailed",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "GroupAuthorizationFailed",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "ClusterAuthorizationFailed",
}

_log = logging.getLogger("librdkafka")


class LibrdkafkaSource(KafkaSource):
    """`RecordSource` over a topic, as a member of `group`. Raises as `KafkaSource` does.

    A password or certificate that was exchanged is read again once the brokers can't be reached by the old one.
    """

    def __init__(
        self,
        options: KafkaOptions,
        topic: str,
        *,
        group: str,
        start_at: StartAt = from_committed,
        expected_identity: str | None = None,
    ) -> None:
        self._standing: dict[TopicPartition, int | None] = {}
        """Of each partition that is read, the next offset to be fetched; None: where its group stands."""
        self._assigned: frozenset[TopicPartition] = frozenset()
        self._must_assign = False
        self._failure: KafkaException | None = None
        """What the library said behind records, to be raised once those are returned."""
        self._is_cut_off = False
        self._renew_at = 0.0
        super().__init__(options, topic, group=group, start_at=start_at, expected_identity=expected_identity)

    def assignment(self) -> frozenset[TopicPartition]:
        return self._assigned

    def partitions(self) -> frozenset[TopicPartition]:
        with self._plain_errors(f"asking for the partitions of {self._topic!r}"):
            found = self._consumer.list_topics(self._topic, timeout=_ANSWER_S).topics[self._topic]
        return frozenset(TopicPartition(self._topic, number) for number in found.partitions)

    def positions(self) -> dict[TopicPartition, int]:
        found = {each: position for each, position in self._standing.items() if position is not None}
        for envelope in reversed(self._held):
            found[envelope.topic_partition] = envelope.offset
        return found

    def bounds(self, partition: TopicPartition) -> tuple[int, int]:
        with self._plain_errors(f"asking where {partition} begins and ends"):
            begins, ends = self._consumer.get_watermark_offsets(_theirs(partition), timeout=_ANSWER_S)
        return begins, max(ends, self._seen_end(partition) or 0)

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        wanted = set(partitions)
        self._paused |= wanted
        self._consumer.pause([_theirs(each) for each in wanted & self._read_now()])

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        wanted = set(partitions)
        self._paused -= wanted
        self._consumer.resume([_theirs(each) for each in wanted & self._read_now()])

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        noted = [_theirs(each, next_) for each, next_ in offsets.items() if each in self._assigned]
        if noted:
            # Advisory by contract, and not waited for.
            with suppress(KafkaException):
                self._consumer.commit(offsets=noted, asynchronous=True)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._described.close()
            self._consumer.close()

    # -- the library --------------------------------------------------------------------------------------------------

    def _build(self) -> Any:
        hush(_log)
        secrets = _secrets(self._options)
        try:
            made = Consumer(_settings(self._options, self._group or "", self._note), logger=_log)
            self._built_of = secrets
            return made
        except (KafkaException, ValueError, TypeError) as error:
            raise StreamError(f"{self._options}: the settings are refused: {_words(error)}") from error

    def _subscribe(self) -> None:
        self._consumer.subscribe([self._topic], on_assign=self._take, on_revoke=self._drop, on_lost=self._drop)

    def _take(self, consumer: Any, assigned: Sequence[Any]) -> None:
        # Answered with nothing to be read yet; a rebalance brings all of this member's partitions anew.
        consumer.assign([])
        self._stand_on([TopicPartition(each.topic, each.partition) for each in assigned])

    def _drop(self, consumer: Any, _revoked: Sequence[Any]) -> None:
        consumer.unassign()
        self._stand_on([])

    def _stand_on(self, partitions: Sequence[TopicPartition]) -> None:
        self._beginnings.add(partitions)
        self._assigned, self._standing, self._held = frozenset(partitions), {}, []
        self._must_assign = False

    def _place(self, each: TopicPartition, wanted: int | None) -> None:
        self._floor.pop(each, None)
        if wanted is not None:
            self._floor[each] = wanted
        self._standing[each] = wanted
        self._must_assign = True

    def _assign(self) -> None:
        """Have the library read what is placed, from where it stands: what was fetched ahead is fetched again."""
        self._must_assign = False
        starts = {each: OFFSET_STORED if next_ is None else next_ for each, next_ in self._standing.items()}
        self._consumer.assign([_theirs(each, start) for each, start in starts.items()])
        self._consumer.pause([_theirs(each) for each in self._paused & self._read_now()])

    def _read_now(self) -> frozenset[TopicPartition]:
        """What the library was told to read."""
        return frozenset() if self._must_assign else frozenset(self._standing)

    def _fetch(self, timeout_s: float, max_records: int) -> list[Envelope]:
        leave_at, left_s = time.monotonic() + timeout_s, 0.0
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        while True:
            if self._must_assign:
                self._assign()
            messages = self._consumer.consume(max_records, 0)
            if not messages and left_s > 0 and (first := self._consumer.poll(min(left_s, _SLICE_S))) is not None:
                messages = [first, *self._consumer.consume(max_records - 1, 0)] if max_records > 1 else [first]
            if found := self._envelopes(messages):
                self._is_cut_off = False
                return found
            self._beginnings.settle(self._place)
            left_s = leave_at - time.monotonic()
            if left_s <= 0 and not self._must_assign:
                self._renew_if_due()
                return []

    def _envelopes(self, messages: Sequence[Any]) -> list[Envelope]:
        read = {each.partition for each in self._standing}
        # One question at a time to all of them: what the library says of a message costs little, asking for it does.
        if any(map(_ask_error, messages)) or not read.issuperset(map(_ask_partition, messages)):
            for message in messages:
                if (error := message.error()) is not None:
                    self._heed(error, message.partition(), message.offset())
            # What is not placed was fetched for an assignment that is no more.
            messages = [each for each in messages if each.error() is None and each.partition() in read]
        numbers, offsets = list(map(_ask_partition, messages)), list(map(_ask_offset, messages))
        for number, last in dict(zip(numbers, offsets, strict=True)).items():
            each = TopicPartition(self._topic, number)
            self._standing[each] = max(last + 1, self._standing[each] or 0)
        if self._failure is not None and not messages:
            failure, self._failure = self._failure, None
            raise failure
        keys, values, times = (map(ask, messages) for ask in (_ask_key, _ask_value, _ask_time))
        columns = zip(numbers, offsets, keys, values, _headers_of(messages), times, strict=True)
        topic = self._topic
        return [
            Envelope(topic, number, at, key, value, said, when[1]) for number, at, key, value, said, when in columns
        ]

    def _heed(self, error: Any, number: int, offset: int) -> None:
        """What the library says beside records: that a partition was read to its end, or what is wrong."""
        if error.code() == KafkaError._PARTITION_EOF:
            each = TopicPartition(self._topic, number)
            if each in self._standing:
                self._is_cut_off = False
                self._standing[each] = max(offset, self._standing[each] or 0)
        elif error.code() not in _PASSING:
            self._failure = KafkaException(error)

    def _note(self, error: Any) -> None:
        """Called within `poll` with what happened to connections."""
        self._is_cut_off = self._is_cut_off or error.code() in _PASSING

    def _renew_if_due(self) -> None:
        """Begin anew with the secrets as they are now, where those that are in use don't lead to the brokers."""
        if not self._is_cut_off or time.monotonic() < self._renew_at:
            return
        self._renew_at = time.monotonic() + _RENEW_EVERY_S
        if _secrets(self._options) != self._built_of:
            self._options.check()
            cut_off, self._consumer = self._consumer, self._build()
            cut_off.close()
            self._stand_on([])
            self._subscribe()

    def _seen_end(self, partition: TopicPartition) -> int | None:
        if partition not in self._standing:
            return None
        try:
            seen = self._consumer.get_watermark_offsets(_theirs(partition), cached=True)
        except KafkaException:
            return None
        return None if seen is None or seen[1] < 0 else int(seen[1])

    def _plain_errors(self, doing: str) -> AbstractContextManager[None]:
        return self._mapped(doing)

    @contextmanager
    def _mapped(self, doing: str) -> Iterator[None]:
        try:
            yield
        except KafkaException as exception:
            error = exception.args[0]
            if (name := _UNAUTHORIZED.get(error.code())) is not None:
                right = missing_right(Exception(name))
                raise StreamError(f"{doing}: {self._options} refuses it: {_words(exception)}; {right}") from exception
            if error.code() in _PASSING:
                # The admin client says what stands in the way of a session, if anything does.
                self._described.identity()
                raise BrokerUnavailable(
                    f"{doing}: no answer from {self._options}: {_words(exception)}; see whether the broker is up"
                ) from exception
            raise StreamError(f"{doing}: {self._options} answered: {_words(exception)}") from exception


_ask_error, _ask_partition, _ask_offset = methodcaller("error"), methodcaller("partition"), methodcaller("offset")
_ask_key, _ask_value, _ask_time = methodcaller("key"), methodcaller("value"), methodcaller("timestamp")
_ask_headers = methodcaller("headers")
"""Never called directly: the library returns a broken list for a name that is no text, which only this way of calling
turns into an error; touched, it would end the process."""


def _headers_of(messages: Iterable[Any]) -> Iterator[Headers]:
    """The headers of each record; none where the name of one is no text."""
    raw: Any = None
    headers: Headers = ()
    for message in messages:
        try:
            written = _ask_headers(message)
        except (SystemError, UnicodeDecodeError):
            written = None
        if written != raw:  # Mostly they are those of the record before.
            raw, headers = written, named(written)
        yield headers


def _settings(options: KafkaOptions, group: str, note: Any) -> dict[str, Any]:
    """The library's settings."""
    settings: dict[str, Any] = {
        "bootstrap.servers": options.bootstrap,
        "client.id": options.client_id,
        "security.protocol": options.security_protocol,
        "group.id": group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "allow.auto.create.topics": False,
        "partition.assignment.strategy": "range,roundrobin",
        "session.timeout.ms": options.session_timeout_ms,
        "heartbeat.interval.ms": max(options.session_timeout_ms // 4, 100),
        "max.poll.interval.ms": max(options.max_poll_interval_ms, options.session_timeout_ms),
        "max.partition.fetch.bytes": _FETCH_BYTES,
        "queued.max.messages.kbytes": _QUEUE_KIB,
        "isolation.level": "read_committed",
        # By it a partition is known to be read beyond what holds no record.
        "enable.partition.eof": True,
        "check.crcs": True,
        "fetch.error.backoff.ms": 100,
        "reconnect.backoff.max.ms": 1_000,
        "log.connection.close": False,
        "error_cb": note,
    }
    if options.uses_sasl:
        settings |= {
            "sasl.mechanism": options.sasl_mechanism,
            "sasl.username": options.sasl_username,
            "sasl.password": options.password(),
        }
    if options.uses_tls:
        files = {
            "ssl.ca.location": options.ssl_cafile,
            "ssl.certificate.location": options.ssl_certfile,
            "ssl.key.location": options.ssl_keyfile or options.ssl_certfile,
            "ssl.key.password": options.key_password() or None,
        }
        settings |= {name: value for name, value in files.items() if value is not None}
    return settings


def _secrets(options: KafkaOptions) -> tuple[bytes | None, ...]:
    """What lies in the files that a session depends on."""
    files = (
        options.sasl_password_file,
        options.ssl_cafile,
        options.ssl_certfile,
        options.ssl_keyfile,
        options.ssl_key_password_file,
    )
    found: list[bytes | None] = []
    for file in files:
        try:
            found.append(None if file is None else Path(file).read_bytes())
        except OSError:
            found.append(None)
    return tuple(found)


def _words(exception: Exception) -> str:
    error = exception.args[0] if exception.args else exception
    return " ".join((error.str() if isinstance(error, KafkaError) else str(exception)).split())[:200]


def _theirs(each: TopicPartition, offset: int | None = None) -> Any:
    if offset is None:
        return confluent_kafka.TopicPartition(each.topic, each.partition)
    return confluent_kafka.TopicPartition(each.topic, each.partition, offset)

"""Which stream: a location, and the functions that open it. The only place that branches on the kind of stream.

Text forms: `embedded` (the system's own file), `embedded:PATH`, `kafka://host:port[,host:port]/topic`. Credentials
never stand in a location; they come with `KafkaOptions`. This module does not know records.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from streaming.dead_letters import DeadLetters
from streaming.embedded import EmbeddedSink, EmbeddedSource
from streaming.embedded_log import BUSY_S, EmbeddedLog
from streaming.errors import StreamError
from streaming.kafka import KafkaOptions, KafkaSink, KafkaSource
from streaming.kafka import ensure_topic as ensure_kafka_topic
from streaming.source import RecordSink, RecordSource, StartAt, from_beginning, from_committed

if TYPE_CHECKING:
    from streaming.librdkafka import LibrdkafkaSource

DEFAULT_TOPIC = "anabranch"
DEAD_LETTERS_SUFFIX = ".dead-letters"

_TOPIC = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,230}")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")
_FORMS = "expected 'embedded', 'embedded:PATH' or 'kafka://host:port/topic'"


@dataclass(frozen=True, slots=True)
class StreamLocation:
    """Where a stream lives. `path` belongs to the embedded kind, `bootstrap` ("host:port,...") to Kafka; the other is
    not looked at. Raises StreamError where the kind's own is missing or malformed."""

    kind: Literal["embedded", "kafka"]
    topic: str = DEFAULT_TOPIC
    path: Path | None = None
    bootstrap: str | None = None

    def __post_init__(self) -> None:
        if not _TOPIC.fullmatch(self.topic):
            raise StreamError(
                f"bad topic {self.topic!r}: expected 1 to 230 of the characters A-Z a-z 0-9 . _ -; rename it"
            )
        if self.kind == "embedded":
            if self.path is None:
                raise StreamError("an embedded stream needs a file; write 'embedded:PATH'")
        elif self.kind == "kafka":
            for host in (self.bootstrap or "").split(","):
                match = _HOST.fullmatch(host)
                if match is None or not 0 < int(match.group(2)) < 65_536:
                    raise StreamError(f"bad Kafka address {self.bootstrap!r}: expected host:port[,host:port]")
        else:
            raise StreamError(f"unknown kind of stream {self.kind!r}: expected 'embedded' or 'kafka'")

    @classmethod
    def parse(cls, text: str, *, topic: str = DEFAULT_TOPIC, path: Path | None = None) -> StreamLocation:
        """Read a text form. `path` is the file of a bare `embedded`; `topic` the one where the text names none."""
        if text == "embedded":
            return cls("embedded", topic, path=path)
        if text.startswith("embedded:") and len(text) > len("embedded:"):
            return cls("embedded", topic, path=Path(text.removeprefix("embedded:")).expanduser())
        if text.startswith("kafka://"):
            hosts, slash, named = text.removeprefix("kafka://").partition("/")
            if "@" in hosts:
                raise StreamError("credentials don't belong in a stream's location; give them in the environment")
            if slash and not named:
                raise StreamError(f"no topic behind the slash in {text!r}: {_FORMS}")
            return cls("kafka", named or topic, bootstrap=hosts)
        raise StreamError(f"bad stream location {text!r}: {_FORMS}")

    @property
    def dead_letters(self) -> StreamLocation:
        """The location of this stream's dead letters."""
        return dataclasses.replace(self, topic=self.topic + DEAD_LETTERS_SUFFIX)

    def __str__(self) -> str:
        if self.kind == "embedded":
            return f"embedded:{self.path} (topic {self.topic})"
        return f"kafka://{self.bootstrap}/{self.topic}"


def ensure_topic(location: StreamLocation, partitions: int, *, options: KafkaOptions | None = None) -> int:
    """Create the topic if it is missing. Returns the number of partitions it has, which may be another one."""
    if location.kind == "kafka":
        return ensure_kafka_topic(_kafka(location, options), location.topic, partitions)
    log = _log(location)
    try:
        return log.ensure_topic(location.topic, partitions)
    finally:
        log.close()


def open_source(
    location: StreamLocation,
    *,
    group: str | None,
    start_at: StartAt = from_committed,
    member: int = 0,
    members: int = 1,
    options: KafkaOptions | None = None,
    expected_identity: str | None = None,
) -> RecordSource:
    """A source of the topic, which must exist (`ensure_topic`).

    `group` = None reads all partitions alone and commits nothing. `member` of `members` shares the partitions where
    there is no coordinator to do it (the embedded kind); `options` are Kafka's security and timing. With
    `expected_identity`, the `identity()` of the source that the known positions came from, another log under the same
    name is refused with LogReplaced; a log that has no identity is not compared.
    """
    if location.kind == "kafka":
        kafka = _kafka(location, options)
        if kafka.client == "librdkafka" and group is not None:
            member_of = _librdkafka()
            return member_of(kafka, location.topic, group=group, start_at=start_at, expected_identity=expected_identity)
        return KafkaSource(kafka, location.topic, group=group, start_at=start_at, expected_identity=expected_identity)
    log = _log(location)
    try:
        return EmbeddedSource(
            log,
            location.topic,
            group=group,
            start_at=start_at,
            member=member,
            members=members,
            expected_identity=expected_identity,
        )
    except BaseException:
        log.close()
        raise


def open_sink(
    location: StreamLocation,
    *,
    options: KafkaOptions | None = None,
    patience_s: float | None = None,
    max_value_bytes: int | None = None,
) -> RecordSink:
    """A sink of the topic, which must exist (`ensure_topic`).

    `patience_s`: about how long an append may take before it fails, in seconds, for callers that are waited for;
    without it, as long as an outage that feeding should survive (`delivery_timeout_ms`, or another's transaction).
    `max_value_bytes`: the largest record that the readers of this stream take.
    """
    if location.kind == "kafka":
        kafka = _kafka(location, options)
        if patience_s is not None:
            patience_ms = int(patience_s * 1000)
            kafka = dataclasses.replace(
                kafka,
                delivery_timeout_ms=min(kafka.delivery_timeout_ms, patience_ms),
                bootstrap_timeout_ms=min(kafka.bootstrap_timeout_ms, patience_ms),
            )
        return KafkaSink(kafka, location.topic, max_value_bytes=max_value_bytes)
    log = _log(location, BUSY_S if patience_s is None else patience_s)
    try:
        return EmbeddedSink(log, location.topic, max_value_bytes=max_value_bytes)
    except BaseException:
        log.close()
        raise


def open_dead_letters(location: StreamLocation, *, options: KafkaOptions | None = None) -> DeadLetters:
    """The dead letters of this stream, in a topic of their own, created if missing."""
    beside = location.dead_letters
    ensure_topic(beside, 1, options=options)
    return DeadLetters(
        open_sink(beside, options=options),
        lambda: open_source(beside, group=None, start_at=from_beginning, options=options),
    )


def _librdkafka() -> type[LibrdkafkaSource]:
    """The source that is imported where it is asked for: its library is an extra."""
    try:
        from streaming.librdkafka import LibrdkafkaSource
    except ImportError as error:
        raise StreamError(
            f"ingest.client librdkafka needs the package confluent-kafka, which can't be imported ({error}); install"
            " it, or set ingest.client to kafka-python"
        ) from error
    return LibrdkafkaSource


def _kafka(location: StreamLocation, options: KafkaOptions | None) -> KafkaOptions:
    bootstrap = location.bootstrap or ""
    return KafkaOptions(bootstrap) if options is None else dataclasses.replace(options, bootstrap=bootstrap)


def _log(location: StreamLocation, busy_s: float = BUSY_S) -> EmbeddedLog:
    if location.path is None:
        raise StreamError("an embedded stream needs a file; write 'embedded:PATH'")
    return EmbeddedLog(location.path, busy_s=busy_s)

"""Dead letters: records that could not be read, kept as they were with the reason, to be looked at and replayed.

They lie in a topic of their own. A letter's origin (topic, partition, offset) names it: the same record put twice is
listed once. A replayed letter is marked by a further entry in that topic and no longer listed; if it fails again, it
comes back with its new origin. This module does not decide what is unreadable (`wire` does).
"""

from __future__ import annotations

import builtins
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from streaming.errors import RecordError, StreamError
from streaming.source import Envelope, RecordSink, RecordSource
from streaming.wire import Headers

PREFIX = "x-anabranch-"
REASON, DETAIL = PREFIX + "reason", PREFIX + "detail"
TOPIC, PARTITION, OFFSET = PREFIX + "topic", PREFIX + "partition", PREFIX + "offset"
TRUNCATED, REPLAYED = PREFIX + "truncated", PREFIX + "replayed"

MAX_LETTER_BYTES = 900_000
"""Longer values are cut: with our headers added, a record at the broker's size limit could not be written any more."""

_DETAIL_BYTES = 500
_POLL_RECORDS = 1_000
_SETTLE_S = 30.0

Origin = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One unreadable record: why, where it came from, and its original key, value and headers.

    `original_bytes` is the value's length before it was cut, None if it is whole.
    """

    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    recorded_at_ms: int
    original_bytes: int | None = None

    @property
    def origin(self) -> Origin:
        return (self.topic, self.partition, self.offset)

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}: {self.reason}: {self.detail}"


class DeadLetters:
    """Writes to a sink of the dead-letter topic, which it takes over and closes; `source` opens a reader of that topic
    from its beginning."""

    def __init__(self, sink: RecordSink, source: Callable[[], RecordSource]) -> None:
        self._sink = sink
        self._source = source

    def put(self, envelope: Envelope, error: RecordError) -> None:
        """Keep this record; durable on return. Raises StreamError."""
        self.put_all([(envelope, error)])

    def put_all(self, letters: Iterable[tuple[Envelope, RecordError]]) -> None:
        """Keep these records; durable on return, with one flush for all. Raises StreamError."""
        for envelope, error in letters:
            value = envelope.value
            headers = _without_ours(envelope.headers)
            headers += _origin_headers(envelope.topic, envelope.partition, envelope.offset)
            detail = error.message.encode(errors="replace")[:_DETAIL_BYTES].decode(errors="ignore")
            headers += ((REASON, error.reason.encode()), (DETAIL, detail.encode()))
            if value is not None and len(value) > MAX_LETTER_BYTES:
                headers += ((TRUNCATED, str(len(value)).encode()),)
                value = value[:MAX_LETTER_BYTES]
            self._sink.append_raw(value, headers, envelope.key or _keyless(envelope))
        self._sink.flush()

    def list(self) -> list[DeadLetter]:
        """The letters not yet replayed, oldest first, each origin once. Raises StreamError."""
        letters: dict[Origin, DeadLetter] = {}
        replayed: set[Origin] = set()
        for envelope in self._read():
            letter = _letter(envelope)
            if letter is None:
                continue
            if any(name == REPLAYED for name, _ in envelope.headers):
                replayed.add(letter.origin)
            else:
                letters.setdefault(letter.origin, letter)
        return [letter for origin, letter in letters.items() if origin not in replayed]

    def replay(self, sink: RecordSink) -> int:
        """Send the listed letters to `sink` as they were; returns how many. Cut letters stay listed: resend those from
        their origin. A crash midway sends some twice, which their ids undo."""
        whole = [letter for letter in self.list() if letter.original_bytes is None]
        for letter in whole:
            sink.append_raw(letter.value, letter.headers, letter.key)
        sink.flush()
        now = str(time.time_ns() // 1_000_000).encode()
        for letter in whole:
            headers = (*_origin_headers(*letter.origin), (REPLAYED, now))
            self._sink.append_raw(b"", headers, b"replayed")
        self._sink.flush()
        return len(whole)

    def close(self) -> None:
        """Release everything. Twice is fine."""
        self._sink.close()

    def _read(self) -> builtins.list[Envelope]:
        """Everything in the topic up to its end as it is now."""
        source = self._source()
        try:
            found: list[Envelope] = []
            deadline = time.monotonic() + _SETTLE_S
            while time.monotonic() < deadline:
                polled = source.poll(0.2, _POLL_RECORDS)
                found += polled
                if polled:
                    deadline = time.monotonic() + _SETTLE_S
                lag = source.lag()
                if set(lag) == source.partitions() and not any(lag.values()):
                    return found
            raise StreamError(f"the dead letters could not be read to their end within {_SETTLE_S:.0f} s; try again")
        finally:
            source.close()


def _origin_headers(topic: str, partition: int, offset: int) -> Headers:
    return ((TOPIC, topic.encode()), (PARTITION, str(partition).encode()), (OFFSET, str(offset).encode()))


def _without_ours(headers: Headers) -> Headers:
    """A sender can't forge or shadow an origin."""
    return tuple((name, value) for name, value in headers if not name.lower().startswith(PREFIX))


def _keyless(envelope: Envelope) -> bytes:
    """Kafka refuses an entry with neither key nor value, so a record without a key gets its origin as one."""
    return f"{PREFIX}{envelope}".encode()


def _letter(envelope: Envelope) -> DeadLetter | None:
    """The letter in this entry; None for what others wrote into the topic."""
    ours = {name: value.decode(errors="replace") for name, value in envelope.headers if name.startswith(PREFIX)}
    try:
        topic, partition, offset = ours[TOPIC], int(ours[PARTITION]), int(ours[OFFSET])
        original_bytes = int(ours[TRUNCATED]) if TRUNCATED in ours else None
    except (KeyError, ValueError):
        return None
    keyless = envelope.key is not None and envelope.key.startswith(PREFIX.encode())
    return DeadLetter(
        reason=ours.get(REASON, ""),
        detail=ours.get(DETAIL, ""),
        topic=topic,
        partition=partition,
        offset=offset,
        key=None if keyless else envelope.key,
        value=envelope.value,
        headers=_without_ours(envelope.headers),
        recorded_at_ms=envelope.timestamp_ms,
        original_bytes=original_bytes,
    )

"""One dead letter: the unreadable record's origin, reason and parts as an entry of the dead-letter topic, and back.

An entry always fits its topic: what would be too large is cut, and headers of ours say what was and how large it had
been. This module does not write or read any topic (`dead_letters`), nor does it decide what is unreadable (`wire`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from streaming.errors import RecordError
from streaming.source import Envelope
from streaming.wire import Headers, entry_bytes

PREFIX = "x-anabranch-"
REASON, DETAIL = PREFIX + "reason", PREFIX + "detail"
TOPIC, PARTITION, OFFSET = PREFIX + "topic", PREFIX + "partition", PREFIX + "offset"
TRUNCATED, REPLAYED = PREFIX + "truncated", PREFIX + "replayed"
TRUNCATED_KEY, TRUNCATED_HEADERS = PREFIX + "truncated-key", PREFIX + "truncated-headers"

_DETAIL_BYTES = 500
# Of what a letter may take: one share for a key that is cut, one for the headers kept; the value gets all the rest.
_KEY_SHARE, _HEADERS_SHARE = 16, 8
_NOTES_BYTES = 200
"""What the headers about cuts take at most."""

Origin = tuple[str, int, int]


class LetterEntry(NamedTuple):
    """What is written for a letter."""

    value: bytes | None
    headers: Headers
    key: bytes


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One unreadable record: why, where it came from, and its original key, value and headers.

    `original_bytes` is the value's length before it was cut, `original_key_bytes` the key's; `original_headers` says
    how many headers of how many bytes there had been ("count bytes"). Each is None where the part is whole.
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
    original_key_bytes: int | None = None
    original_headers: str | None = None

    @property
    def origin(self) -> Origin:
        return (self.topic, self.partition, self.offset)

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the record was cut."""
        return self.original_bytes is None and self.original_key_bytes is None and self.original_headers is None

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}: {self.reason}: {self.detail}"


def letter_entry(envelope: Envelope, error: RecordError, max_bytes: int) -> LetterEntry:
    """The entry that keeps this record, of at most `max_bytes` as `wire.entry_bytes` counts.

    A record that fits with our headers is kept whole. Of any other, the key is cut to a sixteenth of the room, headers
    are kept as long as they fit into an eighth of it (a large one is left out, smaller ones behind it are not), and the
    value is cut to what remains.
    """
    theirs, ours = _without_ours(envelope.headers), _our_headers(envelope, error)
    key = envelope.key or _stand_in(envelope.topic, envelope.partition, envelope.offset)
    value = envelope.value
    if entry_bytes(value, theirs + ours, key) <= max_bytes:
        return LetterEntry(value, theirs + ours, key)
    room = max(0, max_bytes - entry_bytes(b"", ours) - _NOTES_BYTES)
    cut_key, kept = key[: room // _KEY_SHARE], _fitting(theirs, room // _HEADERS_SHARE)
    if len(cut_key) < len(key):
        ours += ((TRUNCATED_KEY, str(len(key)).encode()),)
    if len(kept) < len(theirs):
        ours += ((TRUNCATED_HEADERS, f"{len(theirs)} {sum(map(_header_bytes, theirs))}".encode()),)
    left = max_bytes - entry_bytes(b"", kept + ours, cut_key) - _NOTES_BYTES
    if value is not None and len(value) > left:
        ours += ((TRUNCATED, str(len(value)).encode()),)
        value = value[: max(0, left)]
    return LetterEntry(value, kept + ours, cut_key)


def replayed_entry(letter: DeadLetter, at_ms: int) -> LetterEntry:
    """The entry that marks a letter as replayed."""
    return LetterEntry(b"", (*_origin_headers(*letter.origin), (REPLAYED, str(at_ms).encode())), b"replayed")


def read_letter(envelope: Envelope) -> DeadLetter | None:
    """The letter, or the mark of one, in this entry; None for what others wrote into the topic."""
    ours = {name: value.decode(errors="replace") for name, value in envelope.headers if name.startswith(PREFIX)}
    try:
        topic, partition, offset = ours[TOPIC], int(ours[PARTITION]), int(ours[OFFSET])
        original_bytes = int(ours[TRUNCATED]) if TRUNCATED in ours else None
        original_key_bytes = int(ours[TRUNCATED_KEY]) if TRUNCATED_KEY in ours else None
    except (KeyError, ValueError):
        return None
    return DeadLetter(
        reason=ours.get(REASON, ""),
        detail=ours.get(DETAIL, ""),
        topic=topic,
        partition=partition,
        offset=offset,
        key=None if envelope.key == _stand_in(topic, partition, offset) else envelope.key,
        value=envelope.value,
        headers=_without_ours(envelope.headers),
        recorded_at_ms=envelope.timestamp_ms,
        original_bytes=original_bytes,
        original_key_bytes=original_key_bytes,
        original_headers=ours.get(TRUNCATED_HEADERS),
    )


def is_mark(envelope: Envelope) -> bool:
    """Whether the entry marks a letter as replayed."""
    return any(name == REPLAYED for name, _ in envelope.headers)


def _our_headers(envelope: Envelope, error: RecordError) -> Headers:
    detail = error.message.encode(errors="replace")[:_DETAIL_BYTES].decode(errors="ignore")
    why = ((REASON, error.reason.encode()), (DETAIL, detail.encode()))
    return _origin_headers(envelope.topic, envelope.partition, envelope.offset) + why


def _origin_headers(topic: str, partition: int, offset: int) -> Headers:
    return ((TOPIC, topic.encode()), (PARTITION, str(partition).encode()), (OFFSET, str(offset).encode()))


def _without_ours(headers: Headers) -> Headers:
    """A sender can't forge or shadow an origin."""
    return tuple((name, value) for name, value in headers if not name.lower().startswith(PREFIX))


def _stand_in(topic: str, partition: int, offset: int) -> bytes:
    """Kafka refuses an entry with neither key nor value, so a record without a key gets its origin as one."""
    return f"{PREFIX}{topic}[{partition}]@{offset}".encode()


def _fitting(headers: Headers, room: int) -> Headers:
    kept = []
    for header in headers:
        size = _header_bytes(header)
        if size <= room:
            kept.append(header)
            room -= size
    return tuple(kept)


def _header_bytes(header: tuple[str, bytes]) -> int:
    """Name and value, with at most five bytes for the length of each."""
    return len(header[0].encode(errors="replace")) + len(header[1]) + 10

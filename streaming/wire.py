"""Records as bytes and back: msgpack or JSON, told apart by the `content-type` header; without one, JSON.

Decoding is bounded before anything is built: bytes, lengths, nesting; and total: whatever the bytes are, it returns a
record or raises `RecordError`. It does not know topics or offsets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

import msgpack

from streaming.errors import RecordError
from streaming.plain_records import PlainRecord, plain_from_json, plain_from_msgpack
from streaming.records import EndOfDomain, TaskRecord, from_mapping, parse_json

Headers = tuple[tuple[str, bytes], ...]
"""Header names and values in order, as Kafka carries them; a name may stand more than once, the last one counts."""

ContentType = Literal["application/msgpack", "application/json"]

CONTENT_TYPE = "content-type"
MAX_RECORD_BYTES = 1_000_000
"""Just below Kafka's own default limit of a message with its headers (1,048,588 bytes)."""

_BATCH_BYTES, _RECORD_BYTES = 61, 21
"""Kafka's frame around a batch, and at most what it adds to each record of it."""

# msgpack announces lengths before the data: without these, five bytes could ask for gigabytes.
_MAX_MAP = 4_096
_MAX_ARRAY = 4_096

_LONGEST_KEPT = 256
_JSON_NAMES = frozenset({"application/json", "text/json"})
_MSGPACK_NAMES = frozenset({"application/msgpack", "application/x-msgpack", "application/vnd.msgpack"})


def encode(
    record: TaskRecord | EndOfDomain, content_type: ContentType = "application/msgpack"
) -> tuple[bytes, Headers]:
    """The bytes of a record and the headers to send with them."""
    plain = record.to_mapping()
    if content_type == "application/msgpack":
        value = msgpack.packb(plain, use_bin_type=True)
    else:
        value = json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return value, ((CONTENT_TYPE, content_type.encode()),)


def decode(
    value: bytes | None, headers: Sequence[tuple[str, bytes | None]], *, max_bytes: int = MAX_RECORD_BYTES
) -> TaskRecord | EndOfDomain:
    """The record in these bytes. Raises RecordError, and nothing else, for whatever can't be read.

    The media type is read leniently: any case, quoted or not, and its parameters say nothing, both formats being UTF-8.
    """
    if value is None:
        raise RecordError("undecodable", "the record has no value (a tombstone); send a record or nothing")
    if len(value) > max_bytes:
        raise RecordError("too-large", f"{len(value)} bytes, expected at most {max_bytes}; split the example")
    media_type = _media_type(headers)
    if media_type in _JSON_NAMES:
        return from_mapping(parse_json(value))
    if media_type in _MSGPACK_NAMES:
        return from_mapping(_parse_msgpack(value))
    raise RecordError(
        "unknown-content-type", f"content-type {media_type[:80]!r}; expected application/json or application/msgpack"
    )


def plain_reader(headers: Sequence[tuple[str, bytes | None]]) -> Callable[[bytes], PlainRecord | None] | None:
    """What reads common records under these headers, with an id and a domain, in a fraction of `decode`'s time: it
    returns what `decode` would, or None where that has to be asked. None where it always has to be.

    It knows no bound of their bytes.
    """
    media_type = _media_type(headers)
    if media_type in _JSON_NAMES:
        return plain_from_json
    return plain_from_msgpack if media_type in _MSGPACK_NAMES else None


def entry_bytes(value: bytes | None, headers: Headers = (), key: bytes | None = None) -> int:
    """The bytes that an entry takes in Kafka's log, alone in its batch: what brokers and clients hold against their
    limits. An upper bound, by less than the 21 bytes of its offset, time and length."""
    parts = _sized(len(key or b"")) + _sized(len(value or b"")) + _varint(len(headers))
    named = sum(_sized(len(name.encode(errors="replace"))) + _sized(len(data)) for name, data in headers)
    return _BATCH_BYTES + _RECORD_BYTES + parts + named


def _sized(length: int) -> int:
    return _varint(length) + length


def _varint(number: int) -> int:
    """The bytes of a number in Kafka's zigzag encoding, seven bits each."""
    return max(1, ((2 * number).bit_length() + 6) // 7)


def _media_type(headers: Sequence[tuple[str, bytes | None]]) -> str:
    for name, raw in reversed(headers):
        if name == CONTENT_TYPE or name.lower() == CONTENT_TYPE:
            # What is long is none, and not kept.
            return _media_type_in(raw or b"") if len(raw or b"") <= _LONGEST_KEPT else _read_media_type(raw or b"")
    return "application/json"


def _read_media_type(raw: bytes) -> str:
    text = raw.decode("ascii", errors="replace").strip().strip('"')
    return text.partition(";")[0].strip().strip('"').lower().encode(errors="replace").decode()


_media_type_in = lru_cache(256)(_read_media_type)


def _parse_msgpack(value: bytes) -> object:
    size = len(value)
    try:
        return msgpack.unpackb(
            value,
            raw=False,
            strict_map_key=True,
            max_str_len=size,
            max_bin_len=size,
            max_array_len=min(size, _MAX_ARRAY),
            max_map_len=min(size, _MAX_MAP),
            max_ext_len=0,
        )
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise RecordError("undecodable", f"not msgpack within limits: {what}") from None

"""What a sink takes: the limits of an entry, and records made into entries that keep to them.

Both kinds of stream refuse by the same rules, so what one takes the other does. It does not know where entries go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import uuid4

from streaming.errors import EntryRefused, TooLarge
from streaming.records import EndOfDomain, TaskRecord
from streaming.wire import Headers, encode, entry_bytes

MAX_ENTRY_BYTES = 1_048_576
"""An entry with key and headers. Kafka's clients send no larger ones unless they are told to."""


class Entry(NamedTuple):
    """A record as bytes, for the partition of its key; a marker is for every one."""

    value: bytes
    headers: Headers
    key: bytes
    is_marker: bool


@dataclass(frozen=True, slots=True)
class EntryLimits:
    """The largest entry, with key and headers, and the largest value of a record: the readers' limit. In bytes."""

    entry_bytes: int = MAX_ENTRY_BYTES
    value_bytes: int | None = None

    def check(self, value: bytes | None, headers: Headers, key: bytes | None) -> None:
        """Raise TooLarge for an entry beyond its limit, as `wire.entry_bytes` counts, and EntryRefused for one that no
        log takes: with neither key nor value, or with a header whose name is no Unicode text."""
        if value is None and key is None:
            raise EntryRefused("expected a value or a key, got neither (a tombstone of nothing); leave it out")
        try:
            for name, _ in headers:
                name.encode()
        except UnicodeEncodeError:
            raise EntryRefused("expected header names of Unicode text, got a lone surrogate; rename it") from None
        size = entry_bytes(value, headers, key)
        if size > self.entry_bytes:
            raise TooLarge(
                f"{size} bytes with key and headers, expected at most {self.entry_bytes}; send less in one entry"
            )

    def encode(self, record: TaskRecord | EndOfDomain) -> Entry:
        """The record as an entry. Raises TooLarge, naming it, where it is beyond a limit."""
        value, headers = encode(record)
        # A compacted topic takes nothing without a key, and keeps of one key the last alone: no marker is another's.
        is_marker = isinstance(record, EndOfDomain)
        key = record.id.encode() if isinstance(record, TaskRecord) else b"end-of-domain:" + uuid4().hex.encode()
        try:
            self.check(value, headers, key)
            if self.value_bytes is not None and len(value) > self.value_bytes:
                raise TooLarge(f"{len(value)} bytes, expected at most {self.value_bytes}; split the example")
        except TooLarge as error:
            raise TooLarge(f"record {_name(record)}: {error}") from None
        return Entry(value, headers, key, is_marker)

    def encode_all(self, records: Sequence[TaskRecord | EndOfDomain]) -> list[Entry]:
        """The records as entries. Raises TooLarge where one of them is beyond a limit, with its place in the list."""
        entries = []
        for place, record in enumerate(records):
            try:
                entries.append(self.encode(record))
            except TooLarge as error:
                raise TooLarge(f"{error} (number {place + 1} of {len(records)})") from None
        return entries


def _name(record: TaskRecord | EndOfDomain) -> str:
    return repr(record.id) if isinstance(record, TaskRecord) else f"(end of domain {record.domain!r})"

"""The common record, read from its bytes in one pass: no dict in between, no model.

What is returned is exactly what `wire.decode` reads from the same bytes; None means that this is no common record, and
`wire.decode` has to say what it is, or what is wrong with it. So this knows no errors, and whatever is rare (a marker,
a row of another layout, a record without an id or a domain, nested `meta`, a byte order mark) is left to that.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal

import msgspec

from streaming.records import MAX_MESSAGES, Split, is_domain, is_instant

_MAX_META = 4_096
"""Entries of `meta`, as msgpack's reader counts them."""

_Plain = str | bool | Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None


class PlainMessage(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """One turn of a conversation, as `records.Message`."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str


class PlainRecord(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """A labelled example with an id, as `records.TaskRecord`; exactly one of `prompt` and `messages` is set."""

    id: str
    domain: str
    completion: str
    prompt: str | None = None
    messages: list[PlainMessage] | None = None
    split: Split | None = None
    created_at: str | None = None
    meta: dict[str, _Plain] | None = None

    def messages_or_prompt(self) -> list[dict[str, str]]:
        """The conversation to complete; a bare prompt is one user message."""
        if self.messages is not None:
            return [{"role": message.role, "content": message.content} for message in self.messages]
        return [{"role": "user", "content": self.prompt or ""}]


_from_json = msgspec.json.Decoder(PlainRecord).decode
_from_msgpack = msgspec.msgpack.Decoder(PlainRecord).decode
_known_domain = lru_cache(4_096)(is_domain)


def plain_from_json(value: bytes) -> PlainRecord | None:
    """The common record in these bytes of JSON; None where it is none."""
    try:
        return _common(_from_json(value))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def plain_from_msgpack(value: bytes) -> PlainRecord | None:
    """The common record in these bytes of msgpack; None where it is none."""
    try:
        return _common(_from_msgpack(value))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _common(record: PlainRecord) -> PlainRecord | None:
    prompt, messages, meta = record.prompt, record.messages, record.meta
    if prompt is not None:
        if messages is not None or not prompt or prompt.isspace():
            return None
    elif not messages or len(messages) > MAX_MESSAGES:
        return None
    if not (0 < len(record.id) <= 200 and record.id.isprintable() and _known_domain(record.domain)):
        return None
    if not record.completion or record.completion.isspace():
        return None
    if record.created_at is not None and not is_instant(record.created_at):
        return None
    return record if meta is None or len(meta) <= _MAX_META else None

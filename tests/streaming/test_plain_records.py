"""Whatever the bytes, the short way reads what the long way reads, or leaves it to that."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.errors import RecordError
from streaming.plain_records import PlainRecord
from streaming.records import TaskRecord
from streaming.wire import Headers, decode, plain_reader

JSON: Headers = (("content-type", b"application/json"),)
MSGPACK: Headers = (("content-type", b"application/msgpack"),)
COMMON: dict[str, Any] = {"id": "r1", "domain": "bank", "prompt": "a question", "completion": "an answer"}

TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", " ", "\t\n", "\u00a0", "bank", "auto", "base", "Bank", "a" * 64, "grüß", "\x00", "x\x7f", "\ufeffa"]
    ),
)
SCALARS = st.one_of(
    TEXTS, st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=True), st.binary(max_size=3)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "developer", "tool", "owner"]), "content": VALUES},
        optional={"name": TEXTS},
    ),
    max_size=3,
)
FIELDS = {
    "id": VALUES,
    "domain": VALUES,
    "prompt": VALUES,
    "completion": VALUES,
    "messages": st.one_of(VALUES, MESSAGES),
    "split": st.one_of(st.sampled_from(["train", "test"]), VALUES),
    "created_at": st.one_of(st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-01", "2026-13-01T00:00:00Z"]), VALUES),
    "meta": VALUES,
    "kind": st.sampled_from(["end_of_domain", None, "x"]),
    "task": TEXTS,
    "more": VALUES,
}
CHANGES = st.lists(
    st.sampled_from(sorted(FIELDS)).flatmap(lambda name: st.tuples(st.just(name), FIELDS[name])), max_size=3
)


def read_plain(value: bytes, headers: Headers) -> PlainRecord | None:
    read = plain_reader(headers)
    return None if read is None else read(value)


def check_same(value: bytes, headers: Headers) -> None:
    plain = read_plain(value, headers)
    if plain is None:
        return
    record = decode(value, headers)
    assert isinstance(record, TaskRecord)
    assert (plain.id, plain.domain, plain.completion, plain.prompt, plain.split) == (
        record.id,
        record.domain,
        record.completion,
        record.prompt,
        record.split,
    )
    assert plain.messages_or_prompt() == record.messages_or_prompt()


def changed(changes: list[tuple[str, Any]], dropped: set[str]) -> dict[str, Any]:
    return {name: value for name, value in {**COMMON, **dict(changes)}.items() if name not in dropped}


@settings(max_examples=400, deadline=None)
@given(CHANGES, st.sets(st.sampled_from(sorted(COMMON)), max_size=1), st.booleans())
def test_json_is_read_alike(changes: list[tuple[str, Any]], dropped: set[str], ascii_only: bool) -> None:
    try:
        value = json.dumps(changed(changes, dropped), ensure_ascii=ascii_only).encode(errors="surrogatepass")
    except TypeError:
        return  # Bytes, which JSON has not.
    check_same(value, JSON)
    check_same(value, ())


@settings(max_examples=400, deadline=None)
@given(CHANGES, st.sets(st.sampled_from(sorted(COMMON)), max_size=1), st.booleans())
def test_msgpack_is_read_alike(changes: list[tuple[str, Any]], dropped: set[str], binary_keys: bool) -> None:
    plain: dict[Any, Any] = changed(changes, dropped)
    if binary_keys:
        plain = {name.encode(): value for name, value in plain.items()}
    try:
        value = msgpack.packb(plain)
    except OverflowError:
        return  # An integer that msgpack has not.
    check_same(value, MSGPACK)


@settings(max_examples=600, deadline=None)
@given(st.sampled_from([JSON, MSGPACK]), st.integers(0, 200), st.binary(max_size=4), st.integers(0, 4))
def test_damaged_bytes_are_read_alike(headers: Headers, at: int, put: bytes, taken: int) -> None:
    plain = {**COMMON, "meta": {"source": "é", "n": 1}, "split": "train", "created_at": "2026-01-01T00:00:00Z"}
    value = json.dumps(plain).encode() if headers is JSON else msgpack.packb(plain)
    at %= len(value)
    check_same(value[:at] + put + value[at + taken :], headers)


@pytest.mark.parametrize(
    "value",
    [
        b'{"id":"a","id":null,"domain":"bank","prompt":"q","completion":"c"}',
        b'{"id":"a","id":"b","domain":"bank","prompt":"q","prompt":"r","completion":"c"}',
        b'{"id":"a","domain":"bank","prompt":"q","completion":"\\ud800"}',
        b'{"id":"a","domain":"bank","prompt":"\\ud83d\\ude00","completion":"c"}',
        b'{"id":"a","domain":"bank","prompt":"\xed\xa0\x80","completion":"c"}',
        b'{"id":"a","domain":"bank","prompt":"q\x01","completion":"c"}',
        b'{"id":"a","domain":"bank","prompt":"q","completion":"c"} ',
        b'{"id":"a","domain":"bank","prompt":"q","completion":"c"} x',
        b'{"id":"a","domain":"bank","prompt":"q","completion":"c","meta":{"n":1e999}}',
        b'{"id":"a","domain":"bank","prompt":"q","completion":"c","meta":{"n":18446744073709551616}}',
        b'\xef\xbb\xbf{"id":"a","domain":"bank","prompt":"q","completion":"c"}',
    ],
)
def test_what_readers_of_json_disagree_about_is_read_alike(value: bytes) -> None:
    check_same(value, JSON)


def test_as_many_entries_as_msgpack_s_reader_takes() -> None:
    for entries in (4_096, 4_097):
        value = msgpack.packb({**COMMON, "meta": {str(n): n for n in range(entries)}})
        check_same(value, MSGPACK)
    with pytest.raises(RecordError):
        decode(value, MSGPACK)


@pytest.mark.parametrize("headers", [(), JSON, MSGPACK, (("Content-Type", b'"application/json; charset=utf-8"'),)])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"split": None},
        {"split": "test", "meta": {"source": "web", "n": 3, "ok": True, "none": None}},
        {"created_at": "2026-01-01T00:00:00+02:00"},
    ],
)
def test_common_records_take_the_short_way(headers: Headers, more: dict[str, Any]) -> None:
    plain = {**COMMON, **more}
    value = msgpack.packb(plain) if headers is MSGPACK else json.dumps(plain).encode()
    assert read_plain(value, headers) is not None
    check_same(value, headers)
    talk = {name: value for name, value in plain.items() if name != "prompt"}
    talk["messages"] = [{"role": "system", "content": ""}, {"role": "user", "content": "a question"}]
    value = msgpack.packb(talk) if headers is MSGPACK else json.dumps(talk).encode()
    assert read_plain(value, headers) is not None
    check_same(value, headers)


def test_what_is_of_another_type_is_left_to_the_long_way() -> None:
    assert plain_reader((("content-type", b"text/csv"),)) is None
    value = json.dumps(COMMON).encode()
    assert read_plain(value, ()) is not None, "without a type it is JSON"
    assert read_plain(value, MSGPACK) is None

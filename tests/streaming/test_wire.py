"""The wire format: round trips, limits, and that arbitrary bytes never raise anything but a RecordError."""

from __future__ import annotations

import json
import math
import pickle
from datetime import timedelta, timezone
from typing import Any, get_args

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streaming.errors import Reason, RecordError
from streaming.records import EndOfDomain, Message, TaskRecord
from streaming.wire import ContentType, Headers, decode, encode

JSON: Headers = (("content-type", b"application/json"),)
MSGPACK: Headers = (("content-type", b"application/msgpack"),)
CONTENT_TYPES = get_args(ContentType)

# The machine may be busy with other tests: how long an example takes says nothing here.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# RFC 3339 has whole minutes of offset.
zones = st.integers(-24 * 60 + 1, 24 * 60 - 1).map(lambda minutes: timezone(timedelta(minutes=minutes)))
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
said = text.filter(lambda value: bool(value.strip()))
slug = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True).filter(lambda name: name not in ("auto", "base"))
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    scalars | text, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=5
)
metas = st.dictionaries(text, plain, max_size=3)


@st.composite
def records(draw: st.DrawFn) -> TaskRecord:
    fields: dict[str, Any] = {
        "domain": draw(st.none() | slug),
        "completion": draw(said),
        "split": draw(st.sampled_from([None, "train", "test"])),
        "created_at": draw(st.none() | st.datetimes(timezones=zones)),
    }
    if draw(st.booleans()):
        fields["prompt"] = draw(said)
    else:
        roles = st.sampled_from(["system", "developer", "user", "assistant", "tool"])
        turns = st.builds(lambda role, content: Message(role=role, content=content), roles, text)
        fields["messages"] = tuple(draw(st.lists(turns, min_size=1, max_size=4)))
    try:
        return TaskRecord(**fields, meta=draw(metas))
    except ValueError:
        return TaskRecord(**fields)  # A meta nested too deeply.


@patient
@given(records(), st.sampled_from(CONTENT_TYPES))
def test_records_round_trip(record: TaskRecord, content_type: ContentType) -> None:
    value, headers = encode(record, content_type)
    assert decode(value, headers) == record


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_the_marker_round_trips(content_type: ContentType) -> None:
    marker = EndOfDomain(domain="bank")
    assert decode(*encode(marker, content_type)) == marker


def test_the_marker_on_the_wire_is_as_documented() -> None:
    assert json.loads(encode(EndOfDomain(domain="bank"), "application/json")[0]) == {
        "kind": "end_of_domain",
        "domain": "bank",
    }


def test_plain_json_needs_no_header() -> None:
    decoded = decode(b' {"prompt": "x", "completion": "y"} ', ())
    assert isinstance(decoded, TaskRecord) and decoded.prompt == "x" and decoded.id


@pytest.mark.parametrize(
    "name",
    [
        b"application/json; charset=utf-8",
        b"Application/JSON",
        b" application/json ",
        b'"application/json"',
        b'"application/json; charset=utf-8"',
        b'"application/json" ; charset="utf-8"',
    ],
)
def test_content_types_are_read_leniently(name: bytes) -> None:
    assert decode(b'{"prompt": "x", "completion": "y"}', (("Content-Type", name),))


@pytest.mark.parametrize("carried", [(), JSON])
def test_a_byte_order_mark_before_json_is_passed_over(carried: Headers) -> None:
    plain = b'{"id": "r1", "prompt": "x", "completion": "y"}'
    assert decode(b"\xef\xbb\xbf" + plain, carried) == decode(plain, carried)


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_nulls_and_rows_are_read_in_both_formats(content_type: ContentType) -> None:
    row = {"task": "bank", "input": "x", "output": "y", "meta": None, "id": None, "split": None}
    packed = msgpack.packb(row) if content_type == "application/msgpack" else json.dumps(row).encode()
    expected = TaskRecord(domain="bank", prompt="x", completion="y")
    assert decode(packed, (("content-type", content_type.encode()),)) == expected


def test_the_last_content_type_counts() -> None:
    value, headers = encode(TaskRecord(prompt="x", completion="y"))
    assert decode(value, (*JSON, *headers))


@pytest.mark.parametrize("name", [b"text/plain", b"", b"\xff\xfe", None])
def test_unknown_content_types(name: bytes | None) -> None:
    with pytest.raises(RecordError) as caught:
        decode(b"{}", (("content-type", name),))
    assert caught.value.reason == "unknown-content-type"


def test_a_tombstone_is_undecodable() -> None:
    assert refused(None, ()).reason == "undecodable"


def test_the_size_limit_is_exact() -> None:
    value, headers = encode(TaskRecord(prompt="x", completion="y"))
    assert decode(value, headers, max_bytes=len(value))
    with pytest.raises(RecordError) as caught:
        decode(value, headers, max_bytes=len(value) - 1)
    assert caught.value.reason == "too-large"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"{",
        b"{} {}",
        b'{"completion": NaN}',
        b'{"completion": Infinity}',
        b'{"completion": "\\ud800"}',
        b"\xef\xbb\xbf",
        b'\xef\xbb\xbf\xef\xbb\xbf{"prompt": "x", "completion": "y"}',
        b'{"\xed\xa0\xbd\xed\xb8\x80": 1}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 10_000,
    ],
)
def test_bad_json(value: bytes) -> None:
    assert refused(value, JSON).reason == "undecodable"
    assert refused(value, ()).reason == "undecodable"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xc1",
        b"\xdf\xff\xff\xff\xff",  # a map of 2^32 - 1 entries, announced and not sent
        b"\xdd\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\xd6\xff\x00\x00\x00\x00",  # a timestamp extension
        b"\xc7\x05\x07hello",
        b"\xa1\xff",  # a string that is not UTF-8
        b"\x80\x80",
        msgpack.packb([0] * 5_000),
    ],
)
def test_bad_msgpack(value: bytes) -> None:
    assert refused(value, MSGPACK).reason == "undecodable"


def test_numbers_that_overflow_to_infinity_are_refused() -> None:
    assert refused(b'{"prompt": "x", "completion": "y", "meta": {"n": 1e999}}', JSON).reason in (
        "bad-record",
        "undecodable",
    )
    packed = msgpack.packb({"prompt": "x", "completion": "y", "meta": {"n": math.nan}})
    assert refused(packed, MSGPACK).reason == "bad-record"


def test_keys_of_bytes_are_no_fields() -> None:
    packed = msgpack.packb({b"id": "r1", "prompt": "x", "completion": "y"})
    assert refused(packed, MSGPACK).reason == "bad-record"


def test_json_and_msgpack_are_not_guessed() -> None:
    record = TaskRecord(prompt="x", completion="y")
    assert refused(encode(record, "application/json")[0], MSGPACK).reason in ("undecodable", "bad-record")
    assert refused(encode(record)[0], JSON).reason == "undecodable"


headers = st.sampled_from([(), JSON, MSGPACK]) | st.lists(
    st.tuples(st.sampled_from(["content-type", "Content-Type", "x"]), st.binary(max_size=20)), max_size=2
).map(tuple)
wild = st.recursive(
    scalars | st.text(max_size=20) | st.binary(max_size=20) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["id", "domain", "prompt", "messages", "completion", "split", "created_at", "meta", "kind"])
            | st.text(max_size=5),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


@settings(patient, max_examples=500)
@given(st.binary(max_size=300), headers)
def test_arbitrary_bytes_raise_only_record_errors(value: bytes, carried: Headers) -> None:
    total(value, carried)


@settings(patient, max_examples=250)
@given(wild)
def test_arbitrary_values_raise_only_record_errors(value: object) -> None:
    total(msgpack.packb(value, unicode_errors="surrogatepass"), MSGPACK)
    total(json.dumps(value, default=repr).encode(errors="surrogatepass"), JSON)


@patient
@given(records(), st.sampled_from(CONTENT_TYPES), st.data())
def test_damaged_records_raise_only_record_errors(
    record: TaskRecord, content_type: ContentType, data: st.DataObject
) -> None:
    value, carried = encode(record, content_type)
    place = data.draw(st.integers(0, len(value) - 1))
    damage = data.draw(st.binary(max_size=3))
    total(value[:place] + damage + value[place + 1 :], carried)
    total(value[:place], carried)


def test_errors_survive_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(RecordError("bad-domain", "no slug")))
    assert (error.reason, str(error)) == ("bad-domain", "no slug")


def refused(value: bytes | None, carried: Headers) -> RecordError:
    with pytest.raises(RecordError) as caught:
        decode(value, carried)
    return caught.value


def total(value: bytes, carried: Headers) -> None:
    """Decoding gives a record that can be sent on, or a RecordError with a known reason and one encodable line."""
    try:
        decoded = decode(value, carried, max_bytes=200_000)
    except RecordError as error:
        assert error.reason in get_args(Reason)
        assert error.message and "\n" not in error.message and len(error.message) < 500
        error.message.encode()
    else:
        for content_type in CONTENT_TYPES:
            assert decode(*encode(decoded, content_type)) == decoded

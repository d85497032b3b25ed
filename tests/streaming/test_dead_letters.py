"""Dead letters keep the original bytes and the reason, are listed once, and can be sent again."""

from __future__ import annotations

from pathlib import Path

import pytest

from streaming.dead_letters import MAX_LETTER_BYTES, DeadLetters
from streaming.errors import RecordError
from streaming.records import TaskRecord
from streaming.source import Envelope
from streaming.wire import Headers, decode, encode
from tests.streaming.streams import Stream, read


def envelope(
    offset: int = 5,
    value: bytes | None = b"{broken",
    key: bytes | None = b"r1",
    headers: Headers = (("content-type", b"application/json"),),
    topic: str = "questions",
) -> Envelope:
    return Envelope(topic, 2, offset, key, value, headers, 1_700_000_000_000)


def reason_of(unreadable: Envelope) -> RecordError:
    with pytest.raises(RecordError) as caught:
        decode(unreadable.value, unreadable.headers)
    return caught.value


def test_a_letter_keeps_everything(stream: Stream) -> None:
    letters = stream.dead_letters(stream.new_topic())
    unreadable = envelope()
    letters.put(unreadable, reason_of(unreadable))
    (letter,) = letters.list()
    assert (letter.topic, letter.partition, letter.offset) == ("questions", 2, 5)
    assert (letter.key, letter.value, letter.headers) == (unreadable.key, unreadable.value, unreadable.headers)
    assert letter.reason == "undecodable" and "not JSON" in letter.detail
    assert str(letter).startswith("questions[2]@5: undecodable: ")


def test_the_entry_itself_carries_the_documented_headers(stream: Stream) -> None:
    location = stream.new_topic()
    letters = stream.dead_letters(location)
    letters.put(envelope(), RecordError("bad-domain", "no slug"))
    (entry,) = read(stream.source(location.dead_letters), 1)
    assert dict(entry.headers) == {
        "content-type": b"application/json",
        "x-anabranch-reason": b"bad-domain",
        "x-anabranch-detail": b"no slug",
        "x-anabranch-topic": b"questions",
        "x-anabranch-partition": b"2",
        "x-anabranch-offset": b"5",
    }


def test_a_letter_put_twice_is_listed_once(stream: Stream) -> None:
    letters = stream.dead_letters(stream.new_topic())
    error = RecordError("bad-record", "no prompt")
    letters.put_all([(envelope(offset), error) for offset in (1, 2, 3)])
    letters.put_all([(envelope(offset), error) for offset in (2, 3, 4)])
    assert [letter.offset for letter in letters.list()] == [1, 2, 3, 4]


def test_an_empty_list(stream: Stream) -> None:
    assert stream.dead_letters(stream.new_topic()).list() == []


@pytest.mark.parametrize("value", [None, b"", b"\x00\xff"])
@pytest.mark.parametrize("key", [None, b"", b"\xff"])
def test_odd_keys_and_values(letters: DeadLetters, value: bytes | None, key: bytes | None) -> None:
    letters.put(envelope(value=value, key=key), RecordError("undecodable", "odd"))
    (letter,) = letters.list()
    assert (letter.value, letter.key) == (value, key or None)


def test_a_sender_cannot_forge_an_origin(letters: DeadLetters) -> None:
    forged = (("x-anabranch-offset", b"77"), ("X-Anabranch-Replayed", b"1"), ("x-mine", b"kept"))
    letters.put(envelope(headers=forged), RecordError("bad-record", "forged"))
    (letter,) = letters.list()
    assert letter.offset == 5 and letter.headers == (("x-mine", b"kept"),)


def test_long_details_are_cut_at_a_character(letters: DeadLetters) -> None:
    letters.put(envelope(), RecordError("bad-record", "ü" * 2_000))
    (letter,) = letters.list()
    assert letter.detail == "ü" * 250


def test_too_large_values_are_cut_and_not_replayed(letters: DeadLetters, stream_file: Path) -> None:
    value = b"x" * (MAX_LETTER_BYTES + 100)
    letters.put(envelope(1, value), RecordError("too-large", "too large"))
    letters.put(envelope(2), RecordError("bad-record", "small"))
    first, second = letters.list()
    assert first.original_bytes == len(value) and first.value == value[:MAX_LETTER_BYTES]
    assert second.original_bytes is None
    target = Stream("embedded", stream_file, None)
    location = target.new_topic()
    with_sink = target.sink(location)
    assert letters.replay(with_sink) == 1
    assert [letter.offset for letter in letters.list()] == [1]
    target.close()


def test_what_others_wrote_into_the_topic_is_no_letter(stream: Stream) -> None:
    location = stream.new_topic()
    letters = stream.dead_letters(location)
    foreign = stream.sink(location.dead_letters)
    foreign.append_raw(b"hello", (), b"k")
    foreign.append_raw(b"hello", (("x-anabranch-topic", b"a"), ("x-anabranch-partition", b"one")), b"k")
    foreign.flush()
    letters.put(envelope(), RecordError("bad-record", "x"))
    assert len(letters.list()) == 1


def test_replay_sends_the_originals_once(stream: Stream) -> None:
    location = stream.new_topic(2)
    letters = stream.dead_letters(location)
    value, headers = encode(TaskRecord(id="r9", domain="bank", prompt="x", completion="y"))
    letters.put(envelope(1, value, b"r9", headers), RecordError("bad-record", "a fault since mended"))
    letters.put(envelope(2, b"raw", None, ()), RecordError("undecodable", "raw"))
    sink = stream.sink(location)
    assert letters.replay(sink) == 2
    assert letters.list() == []
    assert letters.replay(sink) == 0
    found = {each.key: each for each in read(stream.source(location), 2)}
    assert decode(found[b"r9"].value, found[b"r9"].headers).id == "r9"
    assert (found[None].value, found[None].headers) == (b"raw", ())


def test_a_letter_that_fails_again_comes_back(stream: Stream) -> None:
    location = stream.new_topic()
    letters = stream.dead_letters(location)
    letters.put(envelope(1), RecordError("bad-record", "first"))
    letters.replay(stream.sink(location))
    letters.put(envelope(9), RecordError("bad-record", "again"))
    assert [letter.offset for letter in letters.list()] == [9]


def test_letters_outlive_their_writer(stream: Stream) -> None:
    location = stream.new_topic()
    first = stream.dead_letters(location)
    first.put(envelope(), RecordError("bad-record", "x"))
    first.close()
    first.close()
    assert len(stream.dead_letters(location).list()) == 1


@pytest.fixture
def stream_file(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def letters(stream_file: Path):
    """Dead letters in an embedded log: for what does not depend on the kind of stream."""
    embedded = Stream("embedded", stream_file, None)
    yield embedded.dead_letters(embedded.new_topic())
    embedded.close()

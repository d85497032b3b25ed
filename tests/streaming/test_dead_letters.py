"""Dead letters keep the original bytes and the reason, are listed once, and can be sent again: each for itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streaming.dead_letters import DeadLetters, Replay
from streaming.entries import EntryLimits
from streaming.errors import BrokerUnavailable, EntryRefused, RecordError
from streaming.location import ensure_topic, open_source
from streaming.records import TaskRecord
from streaming.source import Envelope, RecordSink, from_beginning
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


OVERSIZED = {
    "a huge value": {"value": b"x" * 1_200_000},
    "a value and a header that together are too large": {"value": b"x" * 850_000, "headers": (("h", b"y" * 198_420),)},
    "a huge key": {"key": b"k" * 1_200_000},
    "a key and a value at their limit": {"key": b"k" * 524_288, "value": b"x" * 524_288},
    "a hundred thousand headers": {"headers": tuple((f"h{n}", b"0123456789") for n in range(100_000))},
    "a header's name": {"value": b"x" * 1_000_000, "headers": (("n" * 100_000, b""),)},
    "everything": {"key": b"k" * 999_999, "value": b"x" * 999_999, "headers": (("n" * 999_999, b"y" * 999_999),)},
}


@pytest.mark.parametrize("parts", OVERSIZED.values(), ids=OVERSIZED)
def test_what_is_too_large_is_cut_until_it_fits(stream: Stream, parts: dict[str, Any]) -> None:
    location = stream.new_topic()
    letters = stream.dead_letters(location)
    wide = envelope(1, **parts)
    assert (
        letters.put_all([(wide, RecordError("undecodable", "large")), (envelope(2), RecordError("bad-record", "s"))])
        == 0
    )
    first, second = letters.list()
    assert (first.offset, first.reason) == (1, "undecodable") and not first.is_whole and second.is_whole
    assert wide.value is not None and wide.value.startswith(first.value or b"")
    assert wide.key is not None and wide.key.startswith(first.key or b"")
    assert set(first.headers) <= set(wide.headers)
    replay = letters.replay(stream.sink(location))
    assert replay.replayed == 1
    assert [(each.letter.offset, "cut" in each.why) for each in replay.unsent] == [(1, True)]
    assert [letter.offset for letter in letters.list()] == [1]


def test_headers_say_what_was_cut(letters: DeadLetters) -> None:
    many = tuple(("name", b"v" * 100) for _ in range(10_000))
    letters.put(envelope(key=b"k" * 100_000, value=b"x" * 900_000, headers=many), RecordError("undecodable", "x"))
    (letter,) = letters.list()
    assert (letter.original_bytes, letter.original_key_bytes) == (900_000, 100_000)
    assert letter.original_headers is not None and letter.original_headers.startswith("10000 ")
    assert letter.value and letter.key and 0 < len(letter.headers) < 10_000


def test_ten_thousand_small_headers_that_fit_are_kept(stream: Stream) -> None:
    many = tuple((f"h{n}", b"v") for n in range(10_000))
    letters = stream.dead_letters(stream.new_topic())
    letters.put(envelope(headers=many), RecordError("undecodable", "x"))
    (letter,) = letters.list()
    assert letter.is_whole and letter.headers == many


def test_a_record_just_within_the_limit_is_kept_whole(stream: Stream) -> None:
    letters = stream.dead_letters(stream.new_topic())
    letters.put(envelope(value=b"x" * 1_048_000), RecordError("undecodable", "x"))
    (letter,) = letters.list()
    assert letter.is_whole and len(letter.value or b"") == 1_048_000


def test_a_key_that_looks_like_a_stand_in_is_kept(letters: DeadLetters) -> None:
    letters.put(envelope(key=b"x-anabranch-mine"), RecordError("undecodable", "x"))
    assert letters.list()[0].key == b"x-anabranch-mine"


class Refusing:
    """A sink whose log refuses some entries for good: at once, or, as a broker does, only when flushed."""

    def __init__(self, sink: RecordSink, refuses: bytes, when: str) -> None:
        self._sink, self._refuses, self._when, self._flawed = sink, refuses, when, False
        self.limits = sink.limits
        self.outage = False

    def append_raw(self, value: bytes | None, headers: Headers = (), key: bytes | None = None) -> None:
        if value == self._refuses:
            if self._when == "append":
                raise EntryRefused("policy")
            self._flawed = True
            return
        self._sink.append_raw(value, headers, key)

    def flush(self) -> None:
        if self.outage:
            raise BrokerUnavailable("no answer")
        self._sink.flush()
        if self._flawed:
            self._flawed = False
            raise EntryRefused("policy")

    def close(self) -> None:
        self._sink.close()


@pytest.mark.parametrize("when", ["append", "flush"])
def test_a_letter_that_cannot_be_written_is_counted_and_the_others_are_kept(
    stream_file: Path, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    kind = Stream("embedded", stream_file, None)
    location = kind.new_topic()
    beside = location.dead_letters
    ensure_topic(beside, 1)
    sink = Refusing(kind.sink(beside), b"impossible", when)
    letters = DeadLetters(sink, lambda: open_source(beside, group=None, start_at=from_beginning))  # type: ignore[arg-type]
    error = RecordError("undecodable", "x")
    three = [(envelope(1), error), (envelope(2, b"impossible"), error), (envelope(3), error)]
    assert letters.put_all(three) == 1 and letters.lost == 1
    assert [letter.offset for letter in letters.list()] == [1, 3]
    assert "questions[2]@2" in caplog.text
    assert not letters.put(envelope(4, b"impossible"), error) and letters.lost == 2
    sink.outage = True
    with pytest.raises(BrokerUnavailable):
        letters.put_all(three)
    assert letters.lost == 2
    kind.close()


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
    assert letters.replay(sink) == Replay(2, ())
    assert letters.list() == []
    assert letters.replay(sink) == Replay(0, ())
    found = {each.key: each for each in read(stream.source(location), 2)}
    assert decode(found[b"r9"].value, found[b"r9"].headers).id == "r9"
    assert (found[None].value, found[None].headers) == (b"raw", ())


def test_a_letter_that_cannot_be_sent_is_reported_and_the_others_go_once(stream: Stream) -> None:
    """A tombstone without a key: there is nothing that could be sent."""
    location = stream.new_topic()
    letters = stream.dead_letters(location)
    error = RecordError("undecodable", "x")
    tombstone = envelope(2, None, None)
    letters.put_all([(envelope(1, b"a"), error), (tombstone, error), (envelope(3, b"c"), error)])
    sink = stream.sink(location)
    for expected in (2, 0):
        replay = letters.replay(sink)
        assert replay.replayed == expected
        (unsent,) = replay.unsent
        assert unsent.letter.origin == ("questions", 2, 2) and "neither" in unsent.why
        assert str(unsent).startswith("questions[2]@2 not replayed: ") and "\n" not in str(unsent)
    assert [letter.offset for letter in letters.list()] == [2]
    sink.append_raw(b"end", (), b"k")
    sink.flush()
    assert [each.value for each in read(stream.source(location), 3)] == [b"a", b"c", b"end"]


def test_a_letter_too_large_for_the_target_is_reported(letters: DeadLetters, stream_file: Path) -> None:
    letters.put_all([(envelope(n, b"x" * size), RecordError("undecodable", "x")) for n, size in ((1, 9), (2, 9_000))])
    target = Stream("embedded", stream_file, None)
    sink = target.sink(target.new_topic())
    sink._limits = EntryLimits(1_000)  # type: ignore[attr-defined]
    replay = letters.replay(sink)
    assert replay.replayed == 1 and "at most 1000" in replay.unsent[0].why
    target.close()


@pytest.mark.parametrize("when", ["append", "flush"])
def test_a_letter_that_the_log_refuses_is_reported(letters: DeadLetters, stream_file: Path, when: str) -> None:
    letters.put_all([(envelope(n, b"v%d" % n), RecordError("undecodable", "x")) for n in range(5)])
    target = Stream("embedded", stream_file, None)
    location = target.new_topic()
    sink = Refusing(target.sink(location), b"v2", when)
    for expected in (4, 0):
        replay = letters.replay(sink)  # type: ignore[arg-type]
        assert replay.replayed == expected
        assert [(each.letter.offset, each.why) for each in replay.unsent] == [(2, "policy")]
    found = {each.value for each in read(target.source(location), 4)}
    assert found == {b"v0", b"v1", b"v3", b"v4"}
    target.close()


def test_an_outage_midway_does_not_send_again_what_was_marked(letters: DeadLetters, stream_file: Path) -> None:
    count = 250
    letters.put_all([(envelope(n, b"%d" % n), RecordError("undecodable", "x")) for n in range(count)])
    target = Stream("embedded", stream_file, None)
    location = target.new_topic()
    inner = target.sink(location)
    sink = Refusing(inner, b"", "append")
    flushed = 0

    def third_time_away() -> None:
        nonlocal flushed
        flushed += 1
        if flushed == 3:
            raise BrokerUnavailable("no answer")
        inner.flush()

    sink.flush = third_time_away  # type: ignore[method-assign]
    with pytest.raises(BrokerUnavailable):
        letters.replay(sink)  # type: ignore[arg-type]
    assert [letter.offset for letter in letters.list()] == list(range(200, count))
    replay = letters.replay(sink)  # type: ignore[arg-type]
    assert replay == Replay(50, ())
    sent = [each.value for each in read(target.source(location), count)]
    assert sent[:200] == [b"%d" % n for n in range(200)]
    target.close()


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


def test_chosen_letters_are_replayed_as_they_were_or_mended(stream: Stream) -> None:
    location = stream.new_topic()
    letters, sink = stream.dead_letters(location), stream.sink(location)
    for offset in range(4):
        letters.put(envelope(offset), RecordError("undecodable", "not JSON"))
    mended = '{"domain": "a", "prompt": "ä", "completion": "b"}'
    done = letters.replay(sink, {("questions", 2, 1): mended, ("questions", 2, 2): None, ("questions", 2, 9): None})
    assert done == Replay(2, ())
    assert [letter.offset for letter in letters.list()] == [0, 3]
    first, second = read(stream.source(location), 2)
    record = decode(first.value, first.headers)
    assert isinstance(record, TaskRecord) and (record.domain, record.prompt) == ("a", "ä")
    assert (second.value, second.headers, second.key) == (envelope().value, envelope().headers, envelope().key)


def test_one_that_was_cut_can_be_mended(letters: DeadLetters, stream: Stream) -> None:
    target = stream.new_topic()
    letters.put(envelope(value=b"x" * 5_000_000), RecordError("too-large", "5 MB"))
    assert letters.replay(stream.sink(target)).replayed == 0
    assert letters.replay(stream.sink(target), {("questions", 2, 5): "{}"}) == Replay(1, ())
    assert letters.list() == []


def test_none_chosen_is_none_replayed(letters: DeadLetters, stream: Stream) -> None:
    letters.put(envelope(), RecordError("undecodable", "not JSON"))
    assert letters.replay(stream.sink(stream.new_topic()), {}) == Replay(0, ())
    assert len(letters.list()) == 1

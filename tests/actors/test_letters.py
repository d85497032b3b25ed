"""The front door's dead letters: as they lie in the stream, one replay at a time, away without a path."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.letters import LetterDesk
from serving.errors import ControlUnavailable
from serving.past_bodies import LetterChoice, ReplayResult
from streaming.dead_letters import DeadLetters
from streaming.errors import BrokerUnavailable, RecordError
from streaming.location import StreamLocation, ensure_topic, open_dead_letters, open_sink, open_source
from streaming.source import Envelope, from_beginning

GOOD = '{"domain": "a", "prompt": "p", "completion": "c"}'


@pytest.fixture
def location(tmp_path: Path) -> StreamLocation:
    return StreamLocation.parse(f"embedded:{tmp_path / 'stream.sqlite'}")


@pytest.fixture
def letters(location: StreamLocation) -> Iterator[DeadLetters]:
    ensure_topic(location, 1)
    found = open_dead_letters(location)
    yield found
    found.close()


@pytest.fixture
def desk(location: StreamLocation, letters: DeadLetters) -> LetterDesk:
    return LetterDesk(lambda: open_dead_letters(location), lambda: open_sink(location))


def put(letters: DeadLetters, offset: int, value: bytes | None) -> None:
    letters.put(Envelope("t", 0, offset, None, value, (), 1), RecordError("undecodable", "not JSON"))


def sent(location: StreamLocation) -> list[bytes | None]:
    source = open_source(location, group=None, start_at=from_beginning)
    try:
        return [each.value for each in source.poll(1.0, 100)]
    finally:
        source.close()


def test_each_is_told_whole_bounded_and_as_text(desk: LetterDesk, letters: DeadLetters) -> None:
    put(letters, 0, b"{broken \xff")
    put(letters, 1, b"x" * 100_000)
    put(letters, 2, None)
    broken, large, empty = asyncio.run(desk.list())
    assert (broken.topic, broken.partition, broken.offset, broken.text) == ("t", 0, 0, "{broken \ufffd")
    assert (broken.reason, broken.detail, broken.bytes, broken.whole) == ("undecodable", "not JSON", 9, True)
    assert large.text is not None and (len(large.text), large.bytes) == (64 << 10, 100_000)
    assert (empty.text, empty.bytes) == (None, 0)


def test_a_mended_one_is_in_the_stream_and_not_listed(
    desk: LetterDesk, letters: DeadLetters, location: StreamLocation
) -> None:
    for offset in range(3):
        put(letters, offset, b"{broken")
    done = asyncio.run(desk.replay([LetterChoice(topic="t", partition=0, offset=1, text=GOOD)]))
    assert (done.replayed, done.kept) == (1, ())
    assert [each.offset for each in asyncio.run(desk.list())] == [0, 2]
    assert sent(location) == [GOOD.encode()]
    assert (asyncio.run(desk.replay(None))).replayed == 2
    assert asyncio.run(desk.list()) == ()


def test_one_that_stays_is_said_with_its_reason(desk: LetterDesk, letters: DeadLetters) -> None:
    put(letters, 0, b"y" * 5_000_000)
    done = asyncio.run(desk.replay(None))
    assert done.replayed == 0 and "t[0]@0 not replayed: it was cut" in done.kept[0]


def test_two_replays_at_once_send_each_letter_once(
    desk: LetterDesk, letters: DeadLetters, location: StreamLocation
) -> None:
    for offset in range(5):
        put(letters, offset, GOOD.encode())

    async def twice() -> list[ReplayResult]:
        return list(await asyncio.gather(desk.replay(None), desk.replay(None)))

    both = asyncio.run(twice())
    assert sorted(each.replayed for each in both) == [0, 5]
    assert len(sent(location)) == 5


def test_a_stream_that_is_away_is_said_without_where_it_lies() -> None:
    def away() -> DeadLetters:
        raise BrokerUnavailable("10.0.0.7:9092 does not answer")

    desk = LetterDesk(away, lambda: open_sink(StreamLocation.parse("embedded:/nowhere/x")))
    for asked in (desk.list(), desk.replay(None)):
        with pytest.raises(ControlUnavailable) as caught:
            asyncio.run(asked)
        assert "10.0.0.7" not in str(caught.value)

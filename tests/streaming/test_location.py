"""A location is read from text or refused in one clear line; callers never branch on its kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from streaming.embedded import EmbeddedSink, EmbeddedSource
from streaming.errors import StreamError
from streaming.location import StreamLocation, ensure_topic, open_sink, open_source


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("embedded", StreamLocation("embedded", "questions", path=Path("home/stream.sqlite"))),
        ("embedded:a b/c.sqlite", StreamLocation("embedded", "questions", path=Path("a b/c.sqlite"))),
        ("kafka://localhost:9092/t.1", StreamLocation("kafka", "t.1", bootstrap="localhost:9092")),
        ("kafka://localhost:9092", StreamLocation("kafka", "questions", bootstrap="localhost:9092")),
        ("kafka://a:1,b-c.d:2/t", StreamLocation("kafka", "t", bootstrap="a:1,b-c.d:2")),
        ("kafka://[::1]:9092/t", StreamLocation("kafka", "t", bootstrap="[::1]:9092")),
    ],
)
def test_text_forms(text: str, expected: StreamLocation) -> None:
    assert StreamLocation.parse(text, topic="questions", path=Path("home/stream.sqlite")) == expected


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "embedded:",
        "kafka:",
        "kafka://",
        "kafka:///t",
        "kafka://host/t",
        "kafka://host:0/t",
        "kafka://host:99999/t",
        "kafka://host:port/t",
        "kafka://host:9092/",
        "kafka://host:9092/a/b",
        "kafka://host:9092/a b",
        "kafka://host:9092/..",
        "kafka://host:9092,/t",
        "kafka://host:9092/" + "t" * 231,
        "redis://host:1/t",
        "localhost:9092",
    ],
)
def test_bad_text(bad: str) -> None:
    with pytest.raises(StreamError) as caught:
        StreamLocation.parse(bad, path=Path("x"))
    assert "\n" not in str(caught.value)


def test_credentials_are_refused_and_not_repeated() -> None:
    with pytest.raises(StreamError, match="credentials") as caught:
        StreamLocation.parse("kafka://ann:hunter2@host:9092/t")
    assert "hunter2" not in str(caught.value)


def test_an_embedded_stream_needs_a_file() -> None:
    with pytest.raises(StreamError, match="needs a file"):
        StreamLocation.parse("embedded")


def test_an_unknown_kind() -> None:
    with pytest.raises(StreamError, match="'redis'"):
        StreamLocation("redis", "t")  # type: ignore[arg-type]


def test_what_the_other_kind_needs_is_not_looked_at() -> None:
    assert StreamLocation("embedded", path=Path("x"), bootstrap="not looked at").kind == "embedded"


def test_dead_letters_lie_beside() -> None:
    location = StreamLocation.parse("kafka://h:1/t")
    assert location.dead_letters == StreamLocation.parse("kafka://h:1/t.dead-letters")
    assert str(location) == "kafka://h:1/t"


def test_opening_an_embedded_stream(tmp_path: Path) -> None:
    location = StreamLocation.parse(f"embedded:{tmp_path}/deep/down/s.sqlite")
    assert ensure_topic(location, 2) == 2
    sink, source = open_sink(location), open_source(location, group="g")
    assert isinstance(sink, EmbeddedSink) and isinstance(source, EmbeddedSource)
    sink.close()
    source.close()

"""A kind of stream under test, and how the tests read from one."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from streaming.dead_letters import DeadLetters
from streaming.kafka import KafkaOptions
from streaming.location import StreamLocation, ensure_topic, open_dead_letters, open_sink, open_source
from streaming.source import Envelope, RecordSink, RecordSource, StartAt, from_committed

_numbers = itertools.count()


class Stream:
    """One kind of stream: new topics, and openers whose results are closed when the test ends, failed or not."""

    def __init__(self, kind: str, folder: Path, bootstrap: str | None, client: str = "kafka-python") -> None:
        self.kind = kind
        # Tansu lets a joining member wait for about half a session; Apache Kafka allows no session below six seconds.
        session_ms = 3_000 if kind == "tansu" else 6_000
        self.options = KafkaOptions(bootstrap or "unused:1", session_timeout_ms=session_ms, client=client)
        self._number = next(_numbers)
        self._folder = folder
        self._bootstrap = bootstrap
        self._open: list[RecordSource | RecordSink | DeadLetters] = []

    @property
    def is_kafka(self) -> bool:
        return self._bootstrap is not None

    @property
    def a_while_s(self) -> float:
        """After this many seconds without a record none comes: a broker takes its time, a file has it or not."""
        return 1.0 if self.is_kafka else 0.1

    def location(self, topic: str) -> StreamLocation:
        if self._bootstrap is not None:
            return StreamLocation("kafka", topic, bootstrap=self._bootstrap)
        return StreamLocation("embedded", topic, path=self._folder / "stream.sqlite")

    def new_topic(self, partitions: int = 1) -> StreamLocation:
        location = self.location(f"topic-{next(_numbers)}")
        assert ensure_topic(location, partitions) == partitions
        return location

    def kafka_options(self, location: StreamLocation) -> KafkaOptions:
        """The options for a client of one's own."""
        return replace(self.options, bootstrap=location.bootstrap or "")

    def source(
        self, location: StreamLocation, group: str | None = "readers", start_at: StartAt = from_committed
    ) -> RecordSource:
        # Groups outlive a test at a broker that the session shares: each stream has its own.
        named = None if group is None else f"{group}-{self._number}"
        source = open_source(location, group=named, start_at=start_at, options=self.options)
        self._open.append(source)
        return source

    def sink(self, location: StreamLocation) -> RecordSink:
        sink = open_sink(location, options=self.options)
        self._open.append(sink)
        return sink

    def dead_letters(self, location: StreamLocation) -> DeadLetters:
        letters = open_dead_letters(location, options=self.options)
        self._open.append(letters)
        return letters

    def close(self) -> None:
        for each in reversed(self._open):
            each.close()


def read(source: RecordSource, count: int, *, max_records: int = 500, timeout_s: float = 30.0) -> list[Envelope]:
    """Poll until there are `count` envelopes; fail loudly otherwise."""
    found: list[Envelope] = []
    deadline = time.monotonic() + timeout_s
    while len(found) < count:
        if time.monotonic() > deadline:
            pytest.fail(f"expected {count} records within {timeout_s} s, got {len(found)}")
        found += source.poll(0.2, min(max_records, count - len(found)))
    return found


def shared_out(sources: Sequence[RecordSource]) -> bool:
    """Whether the sources hold all partitions between them, and each has a share of its own."""
    shares = [source.assignment() for source in sources]
    return all(shares) and sum(map(len, shares)) == len(frozenset().union(*shares)) == len(sources[0].partitions())


def poll_together(sources: Sequence[RecordSource], done: Callable[[list[Envelope]], bool]) -> list[Envelope]:
    """Poll each source in a thread of its own, as members in different processes do, until `done` with what came."""
    found: list[Envelope] = []
    errors: list[BaseException] = []
    stop = threading.Event()

    def member(source: RecordSource) -> None:
        try:
            while not stop.is_set():
                found.extend(source.poll(0.1, 50))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=member, args=(source,), daemon=True) for source in sources]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    try:
        while not errors and not done(list(found)) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    if errors:
        raise errors[0]
    assert done(found), f"not within a minute: {[sorted(each.assignment()) for each in sources]}, {len(found)} records"
    return found


def settle(*sources: RecordSource) -> None:
    """Poll until each of the sources has its share; records polled are dropped."""
    poll_together(sources, lambda _found: shared_out(sources))

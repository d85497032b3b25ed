"""The benchmark of ingest, small: every record is polled, counted and submitted, by each client and in both ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import ingest
from streaming.broker import kafka_home
from streaming.kafka_options import CLIENTS


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.skipif(kafka_home() is None, reason="no Apache Kafka: set KAFKA_HOME to a folder with libs/*.jar")
def test_all_works_come_to_their_end(tmp_path: Path) -> None:
    found = ingest.measure(tmp_path, 4_000, 1)
    for kind in ("application/json", "application/msgpack"):
        rates = found[kind]["records_a_cpu_second"]
        assert set(rates) == {
            "bare kafka-python",
            *(f"{way}, {client}" for way in ("exactly once", "at least once") for client in CLIENTS),
        }
        assert all(rate > 0 for rate in rates.values())
        assert found[kind]["of_the_bare_consumer"]["bare kafka-python"]["median"] == 1.0
    json.dumps(found)


def test_its_records_are_the_demo_s_each_with_an_id_of_its_own() -> None:
    records = list(ingest._records(6_000))
    assert len({record.id for record in records}) == 6_000
    assert len({record.domain for record in records}) == 9

"""A Kafka of each test's own, to be attacked with the rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from streaming.broker import ApacheKafkaBroker, kafka_home


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[ApacheKafkaBroker]:
    home = kafka_home()
    if home is None:
        pytest.skip("no Apache Kafka: set KAFKA_HOME to a folder with libs/*.jar")
    with ApacheKafkaBroker(home, tmp_path / "broker") as running:
        yield running

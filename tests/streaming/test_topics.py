"""Making a topic, by a broker that is not ready yet."""

from __future__ import annotations

from typing import Any

import pytest
from kafka.errors import InvalidReplicationFactorError, KafkaError, RequestTimedOutError, TopicAlreadyExistsError

from streaming import kafka_client


class Broker:
    """Answers each wish with the next of these, None for done."""

    def __init__(self, *answers: type[KafkaError] | None) -> None:
        self.answers, self.wishes = list(answers), 0

    def create_topics(self, _wanted: Any) -> None:
        self.wishes += 1
        answer = self.answers.pop(0)
        if answer is not None:
            raise answer


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    return slept


def create(broker: Any) -> None:
    kafka_client._create(broker, "topic", 2)


@pytest.mark.parametrize("not_yet", [InvalidReplicationFactorError, RequestTimedOutError])
@pytest.mark.parametrize("then", [None, TopicAlreadyExistsError])
def test_it_is_tried_again_while_brokers_are_registering(
    not_yet: type[KafkaError], then: type[KafkaError] | None, pauses: list[float]
) -> None:
    broker = Broker(not_yet, not_yet, then)
    create(broker)
    assert broker.wishes == 3 and pauses == [1.0, 2.0]


def test_what_stays_so_is_an_error_after_a_while(pauses: list[float]) -> None:
    with pytest.raises(InvalidReplicationFactorError):
        create(Broker(*[InvalidReplicationFactorError] * 4))
    assert sum(pauses) < 10


def test_any_other_refusal_is_told_at_once(pauses: list[float]) -> None:
    with pytest.raises(KafkaError):
        create(Broker(KafkaError))
    assert pauses == []

"""The coordinator: from a stream to versions in service, once each, from wherever it was interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from actors.backlog import DomainBacklog
from actors.closing import ClosingRule, end_at_markers
from actors.observation import OpenDomain
from learning.contract import Evaluation, TrainingJob, TrainingResult
from streaming.records import EndOfDomain, TaskRecord
from tests.actors.house import House, partition, records_of, training

Build = Callable[..., House]
ALPHA, BETA = EndOfDomain(domain="alpha"), EndOfDomain(domain="beta")


def ids(records: list[TaskRecord]) -> tuple[str, ...]:
    return tuple(sorted(record.id for record in records))


def quiet(seconds: float) -> ClosingRule:
    return ClosingRule(count=None, quiet_seconds=seconds, settle_seconds=60.0)


# -- one domain -------------------------------------------------------------------------------------------------------


def test_from_the_stream_to_the_replica(build: Build) -> None:
    house = build()
    records = records_of("alpha", 32)
    house.send([*records, ALPHA])
    house.learn("alpha")
    ((domain, version, trained, held_out, initial),) = house.trainer.asked
    assert (domain, version, initial) == ("alpha", 1, None)
    assert trained == ids(training(records))
    assert held_out == ids([record for record in records if record.split == "test"])
    facts = house.registry.adapter(house.current.routes["alpha"].adapter).facts
    assert (facts.status, facts.train_examples, facts.held_out_examples) == ("accepted", 24, 8)
    assert facts.figures["candidate_loss"] < facts.figures["base_loss"]
    (shelf,) = house.replicas.shelves
    assert (shelf.number, set(shelf.adapters)) == (house.current.number, {"alpha"})
    np.testing.assert_allclose(
        shelf.weights.scores(house.features(records)),  # type: ignore[union-attr]
        house.expected(training(records)).scores(house.features(records)),
        rtol=1e-9,
        atol=1e-10,
    )
    assert house.waiting("alpha") == 0
    assert not list((house.home / "work").glob("*/*"))
    state = house.state("alpha")
    assert state is not None
    assert (state.state, state.examples, state.router_rows) == ("published", 32, 24)


def test_nothing_closes_without_a_reason(build: Build) -> None:
    house = build()
    house.send(records_of("alpha", 32))
    house.drain()
    for _ in range(5):
        house.tick()
    assert house.trainer.asked == []
    assert house.is_in("alpha", "open")


def test_domains_are_learned_apart_and_routed_together(build: Build) -> None:
    house = build()
    alpha, beta = records_of("alpha", 24, answer="red"), records_of("beta", 28, answer="blue")
    house.send([record for pair in zip(alpha, beta[:24], strict=True) for record in pair])
    house.send([*beta[24:], ALPHA, BETA])
    house.settle(lambda: house.version("alpha") == house.version("beta") == 1)
    assert house.trained("alpha") == [ids(training(alpha))]
    assert house.trained("beta") == [ids(training(beta))]
    weights = house.replicas.shelves[0].weights
    assert weights is not None and weights.domains == ("alpha", "beta")
    house.check_exact(training([*alpha, *beta]))


def test_a_domain_that_is_not_published_is_not_routed_to(build: Build) -> None:
    house = build()
    house.send([*records_of("alpha", 24), *records_of("beta", 24), ALPHA])
    house.learn("alpha")
    assert house.router.counts() == {"alpha": 18, "beta": 18}
    weights = house.replicas.shelves[0].weights
    assert weights is not None and weights.domains == ("alpha",)
    assert house.waiting("beta") == 24, "what belongs to a domain that is not published stays"


# -- closing ----------------------------------------------------------------------------------------------------------

PARTITIONS = frozenset({partition(0), partition(1)})
EVERYWHERE = {partition(0): 8, partition(1): 3}
ONE = {partition(0): 8}


@pytest.mark.parametrize(
    ("rule", "ledger", "quiet_seconds", "marked", "enough"),
    [
        (ClosingRule(None, None, 5), OpenDomain(9, 0, 9, 9, EVERYWHERE), 0, True, False),
        (ClosingRule(None, None, 5), OpenDomain(9, 0, 9, 9, ONE), 3, False, False),
        (ClosingRule(None, None, 5), OpenDomain(9, 0, 9, 9, ONE), 5, True, False),
        (ClosingRule(None, None, 5), OpenDomain(markers=EVERYWHERE), 0, True, False),
        (ClosingRule(10, None, 5), OpenDomain(9, 0, 9, 9), 100, False, False),
        (ClosingRule(10, None, 5), OpenDomain(9, 1, 10, 9), 0, False, True),
        (ClosingRule(10, None, 5), OpenDomain(20, 0, 3, 3), 100, False, False),
        (ClosingRule(None, 8, 5), OpenDomain(1, 0, 1, 1), 7, False, False),
        (ClosingRule(None, 8, 5), OpenDomain(1, 0, 1, 1), 8, False, True),
        (ClosingRule(None, 8, 5), OpenDomain(9, 0, 0, 0), 100, False, False),
        (ClosingRule(None, None, 5), OpenDomain(9, 0, 9, 9), 100, False, False),
    ],
)
def test_the_closing_rule(
    rule: ClosingRule, ledger: OpenDomain, quiet_seconds: float, marked: bool, enough: bool
) -> None:
    backlog = DomainBacklog(ledger, 0, quiet_seconds)
    assert (rule.is_marked(backlog, PARTITIONS), rule.is_enough(backlog)) == (marked, enough)


def test_a_domain_ends_behind_its_markers_and_where_there_are_none_behind_what_was_counted() -> None:
    backlog = DomainBacklog(OpenDomain(9, 0, 9, 9, {partition(0): 4, partition(1): 9}))
    observed = {partition(0): 20, partition(1): 10, partition(2): 7}
    assert end_at_markers(backlog, observed) == {partition(0): 5, partition(1): 10, partition(2): 7}


def test_a_marker_counts_once_it_stands_in_every_partition(build: Build) -> None:
    house = build()
    records = records_of("alpha", 32)
    house.send([*records, ALPHA])
    ingest = house.ingests[0]
    # The second partition is held up: its rows and its marker are not there yet.
    ingest._source.pause([partition(1)])
    for _ in range(10):
        house.poll()
        house.observe()
        house.tick()
    assert house.trainer.asked == []
    ingest._source.resume([partition(1)])
    house.learn("alpha")
    assert house.trained("alpha") == [ids(training(records))]


def test_a_marker_in_some_partitions_counts_once_the_domain_is_quiet(build: Build) -> None:
    house = build(closing=ClosingRule(count=None, quiet_seconds=None, settle_seconds=0.3))
    records = records_of("alpha", 32)
    house.send([*records, ALPHA])
    ingest = house.ingests[0]
    ingest._source.pause([partition(1)])
    house.settle(lambda: house.version("alpha") == 1)
    assert len(house.trained("alpha")[0]) < len(training(records))


def test_closing_by_count(build: Build) -> None:
    house = build(closing=ClosingRule(count=20, quiet_seconds=None, settle_seconds=60))
    house.send(records_of("alpha", 19))
    house.drain()
    house.tick()
    assert house.trainer.asked == []
    house.send(records_of("alpha", 1, start=19))
    house.learn("alpha")
    assert len(house.trained("alpha")[0]) == 15


def test_closing_by_quiet_time(build: Build) -> None:
    house = build(closing=quiet(0.5))
    house.send(records_of("alpha", 24))
    house.drain()
    started = time.monotonic()
    house.tick()
    assert house.trainer.asked == [] or time.monotonic() - started > 0.4
    house.learn("alpha")


def test_markers_sent_again_change_nothing(build: Build) -> None:
    house = build()
    records = records_of("alpha", 24)
    house.send([*records, ALPHA])
    house.learn("alpha")
    manifest = house.current
    house.send([ALPHA, *records, ALPHA, ALPHA])
    house.drain()
    for _ in range(4):
        house.tick()
    assert (house.current, len(house.trainer.asked)) == (manifest, 1)
    assert house.waiting("alpha") == 0
    assert not house.markers("alpha"), "a stale marker would close the domain's next version at once"
    # The next version's first examples do not find a marker waiting for them.
    house.send(records_of("alpha", 4, start=24))
    house.drain()
    house.tick()
    assert len(house.trainer.asked) == 1


def test_a_marker_for_a_domain_nobody_knows(build: Build) -> None:
    house = build()
    house.send([*records_of("alpha", 8), BETA])
    house.drain()
    house.tick()
    assert house.trainer.asked == []
    assert not house.markers("beta")


def test_held_out_examples_alone_are_not_trained_on(build: Build) -> None:
    house = build(closing=quiet(0.0))
    house.send(records_of("alpha", 12, split="test"))
    house.drain()
    for _ in range(3):
        house.tick()
    assert house.trainer.asked == []
    house.send(records_of("alpha", 12, start=12, split="train"))
    house.drain()
    house.learn("alpha")
    ((*_, trained, held_out, _),) = house.trainer.asked
    assert (len(trained), len(held_out)) == (12, 12)


# -- versions ---------------------------------------------------------------------------------------------------------


def test_the_second_version_continues_the_first_and_is_measured_against_it(build: Build) -> None:
    house = build()
    first, second = records_of("alpha", 24), records_of("alpha", 40, start=24)
    house.send([*first, ALPHA])
    house.learn("alpha")
    one = house.registry.adapter(house.current.routes["alpha"].adapter)
    house.send([*second, ALPHA])
    house.learn("alpha", 2)
    _, version, trained, _, initial = house.trainer.asked[1]
    assert (version, initial) == (2, one.path)
    assert trained == ids(training(second)), "nothing is replayed"
    two = house.registry.adapter(house.current.routes["alpha"].adapter)
    assert two.facts.figures["candidate_loss"] < two.facts.figures["incumbent_loss"]
    house.check_exact(training([*first, *second]))


class WorseLearner:
    """Trains as the real one does, and reports that the result is worse than what there was."""

    name = "worse"

    def __init__(self, inner: Any, domain: str) -> None:
        self._inner, self._domain = inner, domain

    def train(self, job: TrainingJob, on_progress: Any = None) -> TrainingResult:
        result: TrainingResult = self._inner.train(job, on_progress)
        if job.domain != self._domain:
            return result
        made = result.adapters[0]
        worse = replace(made, candidate=replace(made.candidate, loss=made.base.loss + 1, exact_match=0.0))
        return replace(result, adapters=(worse,))


def test_a_rejected_version_is_kept_with_its_figures_and_its_rows_wait(build: Build) -> None:
    house = build()
    house.employ(WorseLearner(house.parts.learner, "alpha"))
    first = records_of("alpha", 24)
    house.send([*first, ALPHA, *records_of("beta", 24), BETA])
    house.settle(lambda: house.version("beta") == 1 and house.is_in("alpha", "rejected"))
    assert house.version("alpha") is None
    (kept,) = house.registry.adapters("alpha")
    assert (kept.facts.status, kept.version) == ("rejected", 1)
    assert "does not beat" in kept.facts.reason
    assert house.waiting("alpha") == 24
    # The same again would give the same again: neither time nor a repeated marker is a reason to try.
    house.send([ALPHA])
    house.drain()
    for _ in range(3):
        house.tick()
    assert len(house.trained("alpha")) == 1
    # New examples are.
    house.employ(house.parts.learner)
    more = records_of("alpha", 8, start=24)
    house.send([*more, ALPHA])
    house.learn("alpha", 2)
    assert house.trained("alpha")[1] == ids(training([*first, *more])), "what was rejected is learned now"


def test_a_worse_second_version_leaves_the_first_in_service(build: Build) -> None:
    house = build()
    house.send([*records_of("alpha", 24), ALPHA])
    house.learn("alpha")
    before = house.served("alpha")

    class Incumbent(WorseLearner):
        def train(self, job: TrainingJob, on_progress: Any = None) -> TrainingResult:
            result: TrainingResult = self._inner.train(job, on_progress)
            made = result.adapters[0]
            worse = Evaluation(made.incumbent.loss + 0.1, 0.0, made.candidate.examples)  # type: ignore[union-attr]
            return replace(result, adapters=(replace(made, candidate=worse),))

    house.employ(Incumbent(house.parts.learner, "alpha"))
    house.send([*records_of("alpha", 24, start=24), ALPHA])
    house.settle(lambda: house.is_in("alpha", "rejected"))
    assert house.served("alpha") == before
    assert [a.facts.status for a in house.registry.adapters("alpha")] == ["accepted", "rejected"]
    assert "incumbent" in house.registry.adapters("alpha")[1].facts.reason


def test_without_held_out_examples_there_is_nothing_to_judge_by(build: Build) -> None:
    house = build()
    house.send([*records_of("alpha", 12, split="train"), ALPHA])
    house.settle(lambda: house.is_in("alpha", "rejected"))
    assert house.registry.current() is None


def test_rows_that_come_while_a_version_is_learned_wait_for_the_next(build: Build) -> None:
    house = build()
    first, second = records_of("alpha", 24), records_of("alpha", 24, start=24)

    def meanwhile(_domain: str) -> None:
        if len(house.trainer.asked) == 1:
            house.send(second)
            house.drain()

    house.trainer.before = meanwhile
    house.send([*first, ALPHA])
    house.settle(lambda: house.version("alpha") == 1)
    assert house.trained("alpha") == [ids(training(first))]
    house.settle(lambda: house.waiting("alpha") == 24)
    house.send([ALPHA])
    house.learn("alpha", 2)
    assert house.trained("alpha")[1] == ids(training(second))


def _wait(until: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not until():
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(0.01)

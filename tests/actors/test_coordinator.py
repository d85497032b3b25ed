"""The coordinator: from a stream to versions in service, once each, from wherever it was interrupted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.closing import ClosingRule
from actors.errors import PublicationFailed, UnknownDomain
from actors.learner import LearnerWorker
from actors.spool import DomainBacklog
from learning.contract import Evaluation, TrainingJob, TrainingResult
from learning.errors import LearningError
from learning.gate import Gate
from learning.rls import RouterWeights
from streaming.records import EndOfDomain, TaskRecord
from tests.actors.house import Crash, House, Shelf, limits, partition, records_of, training

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
    assert (state["state"], state["examples"], state["router_rows"]) == ("published", 32, 24)


def test_nothing_closes_without_a_reason(build: Build) -> None:
    house = build()
    house.send(records_of("alpha", 32))
    house.drain()
    for _ in range(5):
        house.tick()
    assert house.trainer.asked == []
    assert house.state("alpha")["state"] == "open"


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

ONE = frozenset({partition(0)})
PARTITIONS = ONE | {partition(1)}


@pytest.mark.parametrize(
    ("rule", "backlog", "closes"),
    [
        (ClosingRule(None, None, 5), DomainBacklog(train=9, fresh=9, markers=PARTITIONS, last_arrival=100), True),
        (ClosingRule(None, None, 5), DomainBacklog(train=9, fresh=9, markers=ONE, last_arrival=97), False),
        (ClosingRule(None, None, 5), DomainBacklog(train=9, fresh=9, markers=ONE, last_arrival=95), True),
        (ClosingRule(10, None, 5), DomainBacklog(train=9, fresh=9, last_arrival=0), False),
        (ClosingRule(10, None, 5), DomainBacklog(train=9, held_out=1, fresh=10, last_arrival=100), True),
        (ClosingRule(10, None, 5), DomainBacklog(train=20, fresh=3, last_arrival=0), False),
        (ClosingRule(None, 8, 5), DomainBacklog(train=1, fresh=1, last_arrival=93), False),
        (ClosingRule(None, 8, 5), DomainBacklog(train=1, fresh=1, last_arrival=92), True),
        (ClosingRule(None, 8, 5), DomainBacklog(train=9, fresh=0, last_arrival=0), False),
        (ClosingRule(None, None, 5), DomainBacklog(train=9, fresh=9, last_arrival=0), False),
    ],
)
def test_the_closing_rule(rule: ClosingRule, backlog: DomainBacklog, closes: bool) -> None:
    assert rule.closes(backlog, PARTITIONS, now=100.0) == closes


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
    assert not house.ingests[0]._spool.has_markers(), "a stale marker would close the domain's next version at once"
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
    assert not house.ingests[0]._spool.has_markers()


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
        return replace(result, candidate=replace(result.candidate, loss=result.base.loss + 1, exact_match=0.0))


def test_a_rejected_version_is_kept_with_its_figures_and_its_rows_wait(build: Build) -> None:
    house = build()
    house.trainer.worker = LearnerWorker(WorseLearner(house.parts.learner, "alpha"), house.home / "work")
    first = records_of("alpha", 24)
    house.send([*first, ALPHA, *records_of("beta", 24), BETA])
    house.settle(lambda: house.version("beta") == 1 and house.state("alpha")["state"] == "rejected")
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
    house.trainer.worker = LearnerWorker(house.parts.learner, house.home / "work")
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
            worse = Evaluation(result.incumbent.loss + 0.1, 0.0, result.candidate.examples)  # type: ignore[union-attr]
            return replace(result, candidate=worse)

    house.trainer.worker = LearnerWorker(Incumbent(house.parts.learner, "alpha"), house.home / "work")
    house.send([*records_of("alpha", 24, start=24), ALPHA])
    house.settle(lambda: house.state("alpha")["state"] == "rejected")
    assert house.served("alpha") == before
    assert [a.facts.status for a in house.registry.adapters("alpha")] == ["accepted", "rejected"]
    assert "incumbent" in house.registry.adapters("alpha")[1].facts.reason


def test_without_held_out_examples_there_is_nothing_to_judge_by(build: Build) -> None:
    house = build()
    house.send([*records_of("alpha", 12, split="train"), ALPHA])
    house.settle(lambda: house.state("alpha")["state"] == "rejected")
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
    assert house.waiting("alpha") == 24
    house.send([ALPHA])
    house.learn("alpha", 2)
    assert house.trained("alpha")[1] == ids(training(second))


# -- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_versions(build: Build) -> House:
    """Alpha in its second version, beta in its first."""
    house = build()
    house.send([*records_of("alpha", 24), ALPHA, *records_of("beta", 24), BETA])
    house.settle(lambda: house.version("alpha") == house.version("beta") == 1)
    house.send([*records_of("alpha", 24, start=24), ALPHA])
    house.learn("alpha", 2)
    return house


def test_rollback_and_unpin(two_versions: House) -> None:
    house = two_versions
    one, two = (adapter.name for adapter in house.registry.adapters("alpha"))
    manifest = house.coordinator.rollback("alpha")
    assert (manifest.routes["alpha"].adapter, manifest.routes["alpha"].pinned) == (one, True)
    assert house.replicas.shelves[0].number == manifest.number
    with pytest.raises(UnknownDomain, match="before v1"):
        house.coordinator.rollback("alpha")
    # A pinned version stays, whatever is learned; the rows that were learned from are done with all the same.
    house.send([*records_of("alpha", 24, start=48), ALPHA])
    house.settle(lambda: len(house.registry.adapters("alpha")) == 3 and not house.waiting("alpha"))
    assert house.served("alpha") == one
    assert house.trainer.asked[-1][4] == house.registry.adapter(one).path
    house.coordinator.unpin("alpha")
    house.send([*records_of("alpha", 24, start=72), ALPHA])
    house.learn("alpha", 4)
    assert not house.current.routes["alpha"].pinned
    assert house.coordinator.rollback("alpha", two).routes["alpha"].adapter == two


def test_pinned_rows_survive_a_crash_after_they_were_released(two_versions: House) -> None:
    house = two_versions
    house.coordinator.rollback("alpha")
    house.send([*records_of("alpha", 24, start=48), ALPHA])
    house.settle(lambda: len(house.registry.adapters("alpha")) == 3 and not house.waiting("alpha"))
    house.crash()
    house.drain()
    house.check_exact(training([*records_of("alpha", 72), *records_of("beta", 24)]))


def test_pin_names_a_version(two_versions: House) -> None:
    house = two_versions
    one, two = (adapter.name for adapter in house.registry.adapters("alpha"))
    assert house.coordinator.pin("alpha").routes["alpha"].adapter == two
    manifest = house.coordinator.pin("alpha", one)
    assert (manifest.routes["alpha"].adapter, manifest.routes["alpha"].pinned) == (one, True)
    assert manifest.routes["beta"] == house.registry.manifest(manifest.number - 1).routes["beta"]


def test_commands_that_name_what_is_not_there(two_versions: House) -> None:
    before, coordinator = two_versions.current, two_versions.coordinator
    for command, arguments in [
        (coordinator.rollback, ("nobody",)),
        (coordinator.rollback, ("alpha", "alpha@v9-00000000")),
        (coordinator.rollback, ("beta",)),
        (coordinator.pin, ("nobody",)),
        (coordinator.pin, ("alpha", two_versions.served("beta"))),
        (coordinator.unpin, ("nobody",)),
        (coordinator.remove, ("nobody",)),
    ]:
        with pytest.raises(UnknownDomain):
            command(*arguments)  # type: ignore[arg-type]
    assert two_versions.current == before


def test_removal(two_versions: House) -> None:
    house = two_versions
    house.send(records_of("alpha", 12, start=48))
    house.drain()
    manifest = house.coordinator.remove("alpha")
    assert (set(manifest.routes), manifest.examples) == ({"beta"}, {"beta": 18})
    assert set(house.replicas.shelves[0].adapters) == {"beta"}
    assert house.waiting("alpha") == 0
    house.check_exact(training(records_of("beta", 24)))
    house.tick()
    assert "alpha" not in [each["domain"] for each in house.coordinator.domains()]
    house.crash()
    house.drain()
    house.check_exact(training(records_of("beta", 24)))
    # It may come back, with the very same examples, as a new version from the base.
    house.send([*records_of("alpha", 24), ALPHA])
    house.learn("alpha", 3)
    assert house.trainer.asked[-1][4] is None
    house.check_exact(training([*records_of("alpha", 24), *records_of("beta", 24)]))


def test_removal_while_the_domain_is_learned(build: Build) -> None:
    house = build()
    house.trainer.before = lambda _domain: house.coordinator.remove("alpha")
    house.send([*records_of("alpha", 24), ALPHA])
    house.settle(lambda: bool(house.registry.adapters("alpha")))
    assert house.current.routes == {}
    assert (house.waiting("alpha"), house.router.counts()) == (0, {})
    # New examples of the same name are a new domain; what was learned before is not served for it.
    house.trainer.before = lambda _domain: None
    house.send(records_of("alpha", 24, start=100))
    house.drain()
    house.tick()
    assert house.version("alpha") is None
    house.send([ALPHA])
    house.learn("alpha", 2)


def test_removal_between_polling_and_observing(build: Build) -> None:
    """Examples that come while a domain is removed are either gone from everywhere or there everywhere."""
    house = build(partitions=1)
    first, second = records_of("alpha", 24), records_of("alpha", 24, start=24)
    house.send([*first, ALPHA])
    house.learn("alpha")
    house.send(second[:12])
    house.drain()
    forget = house.ingests[0].forget
    calls: list[object] = []

    def then_more_comes(domain: str, watermarks: Any = None) -> int:
        gone = forget(domain, watermarks)
        calls.append(watermarks)
        house.send(second[12:18] if len(calls) == 1 else second[18:])
        house.drain()
        return gone

    house.ingests[0].forget = then_more_comes  # type: ignore[method-assign]
    house.coordinator.remove("alpha")
    assert len(calls) == 2
    house.check_exact(training(second[18:]))
    assert house.waiting("alpha") == 6
    house.send([ALPHA])
    house.learn("alpha", 2)
    assert house.trained("alpha")[-1] == ids(training(second[18:]))


# -- failures ---------------------------------------------------------------------------------------------------------


def test_a_version_nobody_can_load_is_taken_back(build: Build) -> None:
    house = build()
    house.send([*records_of("beta", 24), BETA])
    house.learn("beta")
    house.replicas.shelves[0].refuses = {"alpha"}
    house.send([*records_of("alpha", 24), ALPHA])
    house.settle(lambda: house.state("alpha")["state"] == "failed")
    assert "no replica" in house.state("alpha")["detail"]
    assert set(house.current.routes) == {"beta"}
    assert house.replicas.shelves[0].number == house.current.number, "the manifest in force is one that can be served"
    assert house.waiting("alpha") == 24, "not published, not released"
    # Two attempts, and it is left alone.
    house.settle(lambda: house.coordinator._stages["alpha"].attempts == 2)
    number = house.current.number
    for _ in range(3):
        house.tick()
    assert house.current.number == number
    assert len(house.trained("alpha")) == 1, "what fails is loading, not learning"
    # The replicas are repaired and the system is started again.
    house.crash()
    house.learn("alpha")
    assert len(house.trained("alpha")) == 1
    assert set(house.replicas.shelves[0].adapters) == {"alpha", "beta"}


def test_a_second_version_nobody_can_load_leaves_the_first(build: Build) -> None:
    house = build()
    house.send([*records_of("alpha", 24), ALPHA])
    house.learn("alpha")
    one = house.served("alpha")
    house.replicas.shelves[0].refuses = {"alpha"}
    publish = house.replicas.publish

    def only_the_first_loads(number: int) -> Any:
        served = house.registry.manifest(number).routes["alpha"].adapter
        house.replicas.shelves[0].refuses = set() if served == one else {served}
        return publish(number)

    house.replicas.publish = only_the_first_loads  # type: ignore[method-assign]
    house.send([*records_of("alpha", 24, start=24), ALPHA])
    house.settle(lambda: house.state("alpha")["state"] == "failed")
    assert house.served("alpha") == one
    assert house.replicas.shelves[0].number == house.current.number
    with pytest.raises(PublicationFailed):
        house.coordinator.rollback("alpha", house.registry.adapters("alpha")[1].name)
    assert house.served("alpha") == one
    assert not house.current.routes["alpha"].pinned, "the failed command's pin is taken back with it"


def test_the_manifest_nobody_took_is_taken_back_also_after_a_crash(build: Build) -> None:
    house = build()
    house.send([*records_of("beta", 24), BETA])
    house.learn("beta")

    def dies(_number: int) -> Any:
        raise Crash

    house.replicas.publish = dies  # type: ignore[method-assign]
    house.send([*records_of("alpha", 24), ALPHA])
    with pytest.raises(Crash):
        house.settle(lambda: False)
    house.crash()
    assert house.version("alpha") == 1, "it was in force when the coordinator died"
    house.replicas.shelves[0].refuses = {"alpha"}
    house.settle(lambda: house.version("alpha") is None)
    assert set(house.current.routes) == {"beta"}
    assert house.waiting("alpha") == 24


def test_a_learner_that_raises_is_asked_again_and_others_go_on(build: Build) -> None:
    house = build()
    house.trainer.fails = [RuntimeError("the worker died")]
    house.send([*records_of("alpha", 24), ALPHA, *records_of("beta", 24), BETA])
    house.settle(lambda: house.version("beta") == 1)
    failed = house.state("alpha")
    assert (failed["state"], "the worker died" in failed["detail"]) == ("failed", True)
    assert house.waiting("alpha") == 24
    house.learn("alpha")
    assert len(house.trained("alpha")) == 2
    assert house.trained("alpha")[0] == house.trained("alpha")[1]


def test_a_learner_that_is_down_for_long_is_asked_until_it_is_back(build: Build) -> None:
    house = build(attempts=1)
    house.trainer.fails = [RuntimeError("the worker died") for _ in range(3)]
    house.send([*records_of("alpha", 24), ALPHA])
    for expected in (1, 2, 3):
        house.settle(lambda expected=expected: len(house.trained("alpha")) == expected)  # type: ignore[misc]
        stage = house.coordinator._stages["alpha"]
        assert 0 < stage.retry_at - time.monotonic() <= 60, "it waits longer and longer, and never for ever"
        stage.retry_at = 0.0
    house.learn("alpha")


def test_what_the_learner_refuses_is_left_alone_until_there_are_new_examples(build: Build) -> None:
    house = build(attempts=1)
    house.trainer.fails = [LearningError("no example fits")]
    first, more = records_of("alpha", 24), records_of("alpha", 8, start=24)
    house.send([*first, ALPHA])
    house.settle(lambda: house.state("alpha")["state"] == "failed")
    for _ in range(3):
        house.tick()
    assert len(house.trained("alpha")) == 1
    house.send([*more, ALPHA])
    house.learn("alpha")
    assert house.trained("alpha")[1] == ids(training([*first, *more]))


def test_a_failed_domain_does_not_keep_a_full_spool_closed(build: Build) -> None:
    house = build(attempts=1, options=limits(spool_limit=80, poll_records=10))
    house.trainer.fails = [LearningError("no example fits")]
    house.send([*records_of("alpha", 40), ALPHA])
    house.settle(lambda: house.state("alpha")["state"] == "failed")
    house.send(records_of("beta", 60))
    house.settle(lambda: house.version("beta") is not None and house.is_drained())
    house.check_exact(training([*records_of("alpha", 40), *records_of("beta", 60)]))


def test_a_spool_full_of_what_was_rejected_says_so(build: Build) -> None:
    house = build(gate=Gate(min_gain=100.0), options=limits(spool_limit=30, poll_records=10))
    house.send(records_of("alpha", 60))
    house.settle(lambda: bool(house.coordinator.status()["trouble"]))
    assert "full" in house.coordinator.status()["trouble"]
    house.coordinator.remove("alpha")
    house.settle(house.is_drained)


def test_an_ingest_worker_that_does_not_answer_is_trouble_that_passes(build: Build) -> None:
    house = build()
    report = house.ingests[0].report
    broken = [True]

    def fails() -> Any:
        if broken:
            raise ConnectionError("worker 0 is being restarted")
        return report()

    house.ingests[0].report = fails  # type: ignore[method-assign]
    house.coordinator.start(0.01)
    _wait(lambda: "worker 0" in str(house.coordinator.status()["trouble"]))
    broken.clear()
    _wait(lambda: house.coordinator.status()["trouble"] is None)


def test_the_whole_runs_by_itself(build: Build) -> None:
    house = build(workers=2, closing=quiet(1.0))
    records = [*records_of("alpha", 40), *records_of("beta", 40)]
    for ingest in house.ingests:
        ingest.start()
    house.coordinator.start(0.02)
    house.send(records)
    _wait(lambda: house.version("alpha") == house.version("beta") == 1, 40)
    _wait(lambda: not house.waiting("alpha") and not house.waiting("beta"))
    house.check_exact(training(records))
    assert house.coordinator.status()["trouble"] is None
    for ingest in house.ingests:
        ingest.stop()
    house.ingests.clear()


# -- a crash at every boundary ----------------------------------------------------------------------------------------


def _die_in(house: House, point: str) -> None:
    """Let the next arrival at `point` be the end of the process."""
    part, method, when = point.split(".")
    target: Any = {
        "ingest": house.ingests[-1],
        "learner": house.trainer.worker,
        "registry": house.registry,
        "router": house.router.inner,
        "directory": house.replicas,
    }[part]
    inner = getattr(target, method)

    def dies(*args: Any, **kwargs: Any) -> Any:
        if when == "after":
            inner(*args, **kwargs)
        raise Crash

    setattr(target, method, dies)


BOUNDARIES = [
    ("ingest.seal.before", 0),
    ("ingest.seal.after", 0),
    ("ingest.examples.before", 0),
    ("learner.train.before", 1),
    ("learner.train.after", 1),
    ("registry.add_adapter.before", 1),
    ("registry.add_adapter.after", 1),
    ("router.publish.before", 1),
    ("router._commit.before", 1),
    ("router._commit.after", 1),
    ("router.publish.after", 1),
    ("directory.publish.before", 1),
    ("directory.publish.after", 1),
    ("ingest.release.before", 1),
    ("ingest.release.after", 1),
    ("registry.prune.before", 1),
]


@pytest.mark.parametrize(("point", "asked"), BOUNDARIES, ids=[point for point, _ in BOUNDARIES])
def test_a_crash_at_a_boundary_ends_in_the_same_state(build: Build, point: str, asked: int) -> None:
    house = build(workers=2)
    first, second = records_of("beta", 20), records_of("alpha", 24)
    house.send([*first, BETA])
    house.learn("beta")
    asked_before = len(house.trainer.asked)
    _die_in(house, point)
    house.send([*second, ALPHA])
    with pytest.raises(Crash):
        house.settle(lambda: False)
    assert len(house.trained("alpha")) == asked
    kept = [adapter.name for adapter in house.registry.adapters("alpha")]
    house.crash()
    house.learn("alpha")
    assert [adapter.name for adapter in house.registry.adapters("alpha")][: len(kept)] == kept
    (adapter,) = house.registry.adapters("alpha")
    again = 0 if kept else 1
    assert len(house.trained("alpha")) == asked + again, "what is in the registry is not trained again"
    assert set(house.trained("alpha")) == {ids(training(second))}
    assert len(house.trainer.asked) - asked_before == asked + again, "and nothing else is"
    assert house.served("alpha") == adapter.name
    assert set(house.replicas.shelves[0].adapters) == {"alpha", "beta"}
    assert house.waiting("alpha") == house.waiting("beta") == 0
    house.drain()
    house.check_exact(training([*first, *second]))
    # And once more from what is on disk.
    house.crash()
    for _ in range(2):
        house.tick()
    house.drain()
    house.check_exact(training([*first, *second]))
    assert set(house.current.routes) == {"alpha", "beta"}


def test_a_crash_between_a_rejection_and_its_opening(build: Build) -> None:
    house = build(gate=Gate(min_gain=100.0))
    _die_in(house, "ingest.reopen.before")
    house.send([*records_of("alpha", 24), ALPHA])
    with pytest.raises(Crash):
        house.settle(lambda: False)
    house.crash()
    house.settle(lambda: house.state("alpha")["state"] == "rejected")
    assert len(house.trained("alpha")) == 1
    assert house.state("alpha")["waiting"]["train"] == 18 or house.waiting("alpha") == 24


def test_the_router_restarts_while_a_domain_is_learned(build: Build) -> None:
    """Its rows are sealed already; publication waits until the router knows them again."""
    house = build()
    records = records_of("alpha", 24)
    house.trainer.before = lambda _domain: house.start_router()
    house.send([*records, ALPHA])
    house.settle(lambda: bool(house.registry.adapters("alpha")))
    assert (house.registry.current(), house.router.counts()) == (None, {})
    for ingest in house.ingests:
        ingest._asked_at = 0.0
    house.learn("alpha")
    house.check_exact(training(records))
    assert len(house.trainer.asked) == 1


# -- the learner worker -----------------------------------------------------------------------------------------------


class SlowLearner:
    """Counts how many trainings run at once."""

    name = "slow"

    def __init__(self) -> None:
        self.running = self.most = 0
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def train(self, job: TrainingJob, on_progress: Any = None) -> TrainingResult:
        self.running += 1
        self.most = max(self.most, self.running)
        (job.output / "mine").write_text(job.domain)
        self.entered.set()
        self.go_on.wait(10)
        assert (job.output / "mine").read_text() == job.domain
        self.running -= 1
        evaluation = Evaluation(1.0, 0.0, 1)
        return TrainingResult("adapter", job.output, 1, 1, 1.0, 0.0, 1.0, evaluation, evaluation, None)


def test_one_training_at_a_time(tmp_path: Path) -> None:
    """A coordinator that was restarted asks while its predecessor's training still runs."""
    learner = SlowLearner()
    worker = LearnerWorker(learner, tmp_path)
    results: list[TrainingResult] = []
    threads = [
        threading.Thread(target=lambda: results.append(worker.train("alpha", 1, [], [], None, 0))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    assert learner.entered.wait(10)
    time.sleep(0.1)
    learner.go_on.set()
    for thread in threads:
        thread.join(10)
    assert (len(results), learner.most) == (2, 1)


def test_replicas_that_are_added_later_stand_on_the_manifest_in_force(two_versions: House) -> None:
    house = two_versions
    late = Shelf(house.registry)
    house.replicas.shelves.append(late)
    house.coordinator.pin("beta")
    assert late.number == house.current.number
    assert isinstance(late.weights, RouterWeights)


def _wait(until: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not until():
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(0.01)

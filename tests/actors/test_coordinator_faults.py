"""The coordinator among failures: learners that raise, replicas that refuse, crashes at every boundary."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.closing import ClosingRule
from actors.errors import PublicationFailed
from actors.learner import LearnerWorker
from actors.observation import Seal
from actors.training import Trained, TrainingOrder
from learning.contract import TrainingJob, TrainingResult
from learning.errors import LearningError
from learning.gate import Gate
from learning.rls import RouterWeights
from streaming.records import EndOfDomain, TaskRecord
from tests.actors.house import EXAMS, Crash, House, Shelf, limits, records_of, training
from tests.actors.standins import result_of

Build = Callable[..., House]
ALPHA, BETA = EndOfDomain(domain="alpha"), EndOfDomain(domain="beta")


def ids(records: list[TaskRecord]) -> tuple[str, ...]:
    return tuple(sorted(record.id for record in records))


def quiet(seconds: float) -> ClosingRule:
    return ClosingRule(count=None, quiet_seconds=seconds, settle_seconds=60.0)


# -- failures ---------------------------------------------------------------------------------------------------------


def test_a_version_nobody_can_load_is_taken_back(build: Build) -> None:
    house = build()
    house.send([*records_of("beta", 24), BETA])
    house.learn("beta")
    house.replicas.shelves[0].refuses = {"alpha"}
    house.send([*records_of("alpha", 24), ALPHA])
    house.settle(lambda: house.is_in("alpha", "failed"))
    assert "no replica" in house.state("alpha").detail  # type: ignore[union-attr]
    assert set(house.current.routes) == {"beta"}
    assert house.replicas.shelves[0].number == house.current.number, "the manifest in force is one that can be served"
    assert set(house.current.withdrawn) == {"alpha"}
    # It is tried again later, and left alone until then.
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

    def only_the_first_loads(number: int, one_by_one: bool = False) -> Any:
        served = house.registry.manifest(number).routes["alpha"].adapter
        house.replicas.shelves[0].refuses = set() if served == one else {served}
        return publish(number)

    house.replicas.publish = only_the_first_loads  # type: ignore[method-assign]
    house.send([*records_of("alpha", 24, start=24), ALPHA])
    house.settle(lambda: house.is_in("alpha", "failed"))
    assert house.served("alpha") == one
    assert house.replicas.shelves[0].number == house.current.number
    with pytest.raises(PublicationFailed):
        house.coordinator.rollback("alpha", house.registry.adapters("alpha")[1].name)
    assert house.served("alpha") == one
    assert not house.current.routes["alpha"].pinned, "the failed command's pin is taken back with it"


def test_a_manifest_that_was_committed_when_the_coordinator_died_is_in_force(build: Build) -> None:
    house = build()
    house.send([*records_of("beta", 24), BETA])
    house.learn("beta")
    publish = house.replicas.publish

    def dies(_number: int, one_by_one: bool = False) -> Any:
        raise Crash

    house.replicas.publish = dies  # type: ignore[method-assign]
    house.send([*records_of("alpha", 24), ALPHA])
    with pytest.raises(Crash):
        house.settle(lambda: False)
    assert set(house.replicas.shelves[0].adapters) == {"beta"}
    house.replicas.publish = publish  # type: ignore[method-assign]
    house.start_coordinator()
    house.learn("alpha")
    assert set(house.replicas.shelves[0].adapters) == {"alpha", "beta"}
    assert len(house.trained("alpha")) == 1


def test_a_learner_that_raises_is_asked_again_and_others_go_on(build: Build) -> None:
    house = build()
    house.trainer.fails = [RuntimeError("the worker died")]
    house.send([*records_of("alpha", 24), ALPHA, *records_of("beta", 24), BETA])
    house.settle(lambda: house.version("beta") == 1)
    failed = house.state("alpha")
    assert failed is not None
    assert (failed.state, "the worker died" in failed.detail) == ("failed", True)
    assert house.waiting("alpha") == 24
    house.learn("alpha")
    assert len(house.trained("alpha")) == 2
    assert house.trained("alpha")[0] == house.trained("alpha")[1]


def test_a_learner_that_is_down_for_long_is_asked_until_it_is_back(build: Build) -> None:
    house = build()
    house.trainer.fails = [RuntimeError("the worker died") for _ in range(3)]
    house.send([*records_of("alpha", 24), ALPHA])
    for expected in (1, 2, 3):
        house.settle(lambda expected=expected: len(house.trained("alpha")) == expected)  # type: ignore[misc]
        stage = house.coordinator._stages["alpha"]
        assert 0 < stage.retry_at - time.monotonic() <= 60, "it waits longer and longer, and never for ever"
        stage.retry_at = 0.0
    house.learn("alpha")


def test_a_publication_that_fails_for_a_while_is_tried_until_it_works(build: Build) -> None:
    """What was learned is not learned again, and nothing is given up."""
    house = build()
    publish = house.replicas.publish
    errors = [ConnectionError("the directory is away"), PublicationFailed("no replica could"), OSError("disk full")] * 3

    def fails(number: int, one_by_one: bool = False) -> Any:
        # What puts the old manifest back in force goes through.
        if errors and "alpha" in house.registry.manifest(number).routes:
            raise errors.pop(0)
        return publish(number)

    house.replicas.publish = fails  # type: ignore[method-assign]
    house.send([*records_of("alpha", 24), ALPHA])
    for left in range(len(errors) - 1, -1, -1):
        house.settle(lambda left=left: len(errors) <= left)  # type: ignore[misc]
        house.wait(700.0)
    house.settle(lambda: "alpha" in house.replicas.shelves[0].adapters)
    house.learn("alpha")
    assert len(house.trainer.asked) == 1


def test_nothing_new_comes_into_force_while_the_directory_is_away(two_versions: House) -> None:
    house = two_versions
    before = house.current
    replicas, in_force = house.replicas.replicas, house.replicas.in_force

    def away() -> Any:
        raise ConnectionError("the directory is away")

    house.replicas.replicas = house.replicas.in_force = away  # type: ignore[method-assign]
    house.send([*records_of("beta", 24, start=24), BETA])
    house.settle(lambda: house.is_in("beta", "failed"))
    for command in (
        lambda: house.coordinator.rollback("alpha"),
        lambda: house.coordinator.pin("alpha"),
        lambda: house.coordinator.remove("alpha"),
    ):
        with pytest.raises(ConnectionError):
            command()
    assert house.current == before
    assert (house.waiting("beta"), house.router.counts()["alpha"]) == (24, 36)
    house.replicas.replicas, house.replicas.in_force = replicas, in_force  # type: ignore[method-assign]
    house.coordinator._stages["beta"].retry_at = 0.0
    house.learn("beta", 2)
    assert house.coordinator.rollback("alpha").number == house.current.number


def test_what_the_learner_refuses_is_left_alone_until_there_are_new_examples(build: Build) -> None:
    house = build()
    house.trainer.fails = [LearningError("no example fits")]
    first, more = records_of("alpha", 24), records_of("alpha", 8, start=24)
    house.send([*first, ALPHA])
    house.settle(lambda: house.is_in("alpha", "failed"))
    for _ in range(3):
        house.tick()
    assert len(house.trained("alpha")) == 1
    house.send([*more, ALPHA])
    house.learn("alpha")
    assert house.trained("alpha")[1] == ids(training([*first, *more]))


def test_a_failed_domain_does_not_keep_a_full_spool_closed(build: Build) -> None:
    house = build(options=limits(spool_limit=80, poll_records=10))
    house.trainer.fails = [LearningError("no example fits")]
    house.send([*records_of("alpha", 40), ALPHA])
    house.settle(lambda: house.is_in("alpha", "failed"))
    house.send(records_of("beta", 60))
    house.settle(lambda: house.version("beta") is not None and house.is_drained())
    house.check_exact(training([*records_of("alpha", 40), *records_of("beta", 60)]))


def test_a_spool_full_of_what_was_rejected_makes_room_and_says_what_is_lost(build: Build) -> None:
    house = build(gate=Gate(min_gain=100.0), options=limits(spool_limit=30, poll_records=10))
    records = records_of("alpha", 60)

    def lost() -> int:
        state = house.state("alpha")
        return sum(stretch.rows for stretch in state.lost) if state else 0

    house.send(records)
    house.settle(lambda: house.is_drained() and lost() >= 30)
    assert house.status().trouble is None
    assert "examples in stream" in dict(house.status().troubles())["alpha lost"]
    # Sent again they are taken like any that were lost; none is counted twice, and none is forgotten.
    house.send(records)
    house.settle(lambda: house.is_drained() and house.waiting("alpha") == 60 - lost())
    house.check_exact(training(records))


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
    _wait(lambda: "worker 0" in str(dict(house.status().troubles())))
    broken.clear()
    _wait(lambda: not list(house.status().troubles()))


def test_the_whole_runs_by_itself(build: Build) -> None:
    house = build(workers=2, closing=quiet(0.5))
    records = [*records_of("alpha", 40), *records_of("beta", 40)]
    for ingest in house.ingests:
        ingest.start()
    house.coordinator.start(0.02)
    house.send(records)
    _wait(lambda: house.version("alpha") == house.version("beta") == 1, 40)
    _wait(lambda: not house.waiting("alpha") and not house.waiting("beta"))
    house.check_exact(training(records))
    assert house.status().trouble is None
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
    ("router.seal.before", 0),
    ("router.seal.after", 0),
    ("ingest.examples.before", 0),
    ("learner.train.before", 1),
    ("learner.train.after", 1),
    ("registry.add_adapter.before", 1),
    ("registry.add_adapter.after", 1),
    ("router.publish.before", 1),
    ("router._commit.before", 0),
    ("router._commit.after", 0),
    ("router.publish.after", 1),
    ("directory.publish.before", 1),
    ("directory.publish.after", 1),
    ("registry.prune.before", None),
]


@pytest.mark.parametrize(("point", "asked"), BOUNDARIES, ids=[point for point, _ in BOUNDARIES])
def test_a_crash_at_a_boundary_ends_in_the_same_state(build: Build, point: str, asked: int | None) -> None:
    house = build(workers=2)
    first, second = records_of("beta", 20), records_of("alpha", 24)
    house.send([*first, BETA])
    house.learn("beta")
    asked_before = len(house.trainer.asked)
    _die_in(house, point)
    house.send([*second, ALPHA])
    with pytest.raises(Crash):
        house.settle(lambda: False)
    # Files are deleted beside everything else, sooner or later.
    assert asked in (None, len(house.trained("alpha")))
    asked = len(house.trained("alpha"))
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
    _die_in(house, "router.reopen.before")
    house.send([*records_of("alpha", 24), ALPHA])
    with pytest.raises(Crash):
        house.settle(lambda: False)
    house.crash()
    house.settle(lambda: house.is_in("alpha", "rejected"))
    assert len(house.trained("alpha")) == 1
    assert house.waiting("alpha") == 24


def test_the_router_restarts_while_a_domain_is_learned(build: Build) -> None:
    """Its rows were sealed durably: the router knows them again."""
    house = build()
    records = records_of("alpha", 24)
    house.trainer.before = lambda _domain: house.start_router()
    house.send([*records, ALPHA])
    house.learn("alpha")
    house.drain()
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
        return result_of(job, 1.0)


def test_one_training_at_a_time(tmp_path: Path) -> None:
    """A coordinator that was restarted asks while its predecessor's training still runs."""
    learner = SlowLearner()
    worker, order = LearnerWorker(learner, tmp_path, [], EXAMS), TrainingOrder("alpha", Seal(1, {}, 0, 0), (), 0)
    results: list[Trained] = []
    threads = [threading.Thread(target=lambda: results.append(worker.train(order))) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert learner.entered.wait(10)
    time.sleep(0.1)
    learner.go_on.set()
    for thread in threads:
        thread.join(10)
    assert (len(results), learner.most) == (2, 1)


@pytest.mark.parametrize("fails", [0, 1])
def test_a_learner_is_free_once_its_result_is_taken_and_nothing_of_it_stays(
    build: Build, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    """Its next training empties the folder that the result lies in."""
    house = build()
    add, left, found = house.registry.add_adapter, [fails], list[tuple[bool, bool]]()

    def add_adapter(domain: str, version: int, folder: Path, *rest: Any) -> Any:
        found.append((folder.is_dir(), not house.coordinator._learners.is_all_idle()))
        if left[0]:
            left[0] -= 1
            raise OSError("no space left on device")
        return add(domain, version, folder, *rest)

    monkeypatch.setattr(house.registry, "add_adapter", add_adapter)
    house.send([*records_of("alpha", 24), ALPHA])
    house.settle(lambda: len(found) == 1)
    assert found == [(True, True)] and house.coordinator._learners.is_all_idle()
    places = house.home / "work", house.home / "registry" / "trained"
    assert [list(place.iterdir()) for place in places] == [[], []]
    house.learn("alpha")
    assert [list(place.iterdir()) for place in places] == [[], []]


def test_nothing_is_trained_on_a_part_of_its_examples(build: Build) -> None:
    house = build(workers=2)
    records = records_of("alpha", 40)
    examples, short = house.ingests[1].examples, [True]

    def some(domain: str, until: Any) -> Any:
        train, held_out = examples(domain, until)
        return (train[1:], held_out) if short else (train, held_out)

    house.ingests[1].examples = some  # type: ignore[method-assign]
    house.send([*records, ALPHA])
    house.trainer.worker._learner = Refuses()  # type: ignore[assignment]
    house.settle(lambda: house.is_in("alpha", "failed"))
    assert "expected the 30 examples and 10 held-out ones sealed for it, got 29 and 10" in str(house.state("alpha"))
    assert house.registry.adapters() == [] and house.waiting("alpha") == 40
    short.clear()
    house.employ(house.parts.learner)
    house.coordinator._stages["alpha"].retry_at = 0.0
    house.learn("alpha")
    assert house.trained("alpha") == [ids(training(records))]


class Refuses:
    """A learner that must not be reached."""

    name = "refuses"

    def train(self, job: TrainingJob, on_progress: Any = None) -> TrainingResult:
        raise AssertionError(f"trains on {len(job.train)} examples")


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

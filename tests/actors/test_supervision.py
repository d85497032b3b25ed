"""The coordinator and whoever supervises the actors: who is up, which learners are wanted; and peers that hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from actors.coordinator import Coordinator, CoordinatorOptions
from registry.manifest import BaseRevision
from serving.api import ActorState, ActorStatus
from tests.actors.clock import skew
from tests.actors.scene import MemoryLearner, Scene

LEARNERS = ("learner-0", "learner-1", "learner-2")


class Held:
    """Holds whoever calls it until `go_on` is set, and then does what it stands for."""

    def __init__(self, act: Callable[..., Any]) -> None:
        self._act, self.go_on, self.calls = act, threading.Event(), 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        assert self.go_on.wait(60)
        return self._act(*args, **kwargs)


class Yard(Scene):
    """A scene with three learners."""

    options: CoordinatorOptions

    def start(self) -> None:
        super().start()
        self.learners = {name: MemoryLearner() for name in LEARNERS}
        before = self.coordinator
        self.options = replace(before._options, fewest_learners=1)
        ingests = {f"ingest-{index}": spool for index, spool in enumerate(self.spools)}
        parts: Any = (self.registry, BaseRevision(model="test"), ingests, self.router, self.learners, self.replicas)
        self.coordinator = Coordinator(*parts, self.options)
        before.stop()

    def trained(self) -> dict[str, list[str]]:
        return {name: [order.domain for order in learner.orders] for name, learner in self.learners.items()}


@pytest.fixture
def yard() -> Iterator[Yard]:
    made = Yard()
    made.held = []  # type: ignore[attr-defined]
    yield made
    for held in made.held:  # type: ignore[attr-defined]
        held.go_on.set()
    for job in made.coordinator.work():
        job.result(20)
    made.coordinator.stop()


def hold(yard: Yard, owner: Any, name: str) -> Held:
    held = Held(getattr(owner, name))
    setattr(owner, name, held)
    yard.held.append(held)  # type: ignore[attr-defined]
    return held


def said(*names: str, state: ActorState = "lost", **fields: Any) -> list[ActorStatus]:
    """Everybody up, but for those named."""
    everybody = ("router", "directory", "ingest-0", "ingest-1", *LEARNERS)
    return [
        ActorStatus(name=n, state=state if n in names else "up", **(fields if n in names else {})) for n in everybody
    ]


def wait(until: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not until():
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(0.005)


def seconds_of(act: Callable[[], object]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


# -- learners ---------------------------------------------------------------------------------------------------------


def test_one_learner_is_wanted_for_each_closed_domain(yard: Yard) -> None:
    trainings = [hold(yard, learner, "train") for learner in yard.learners.values()]
    assert yard.coordinator.supervise(said()) == {"learner-0"}
    for domain in ("alpha", "beta"):
        yard.send(domain, 8)
        yard.mark(domain)
    yard.coordinator.tick()
    assert yard.coordinator.supervise(said()) == {"learner-0", "learner-1"}
    wait(lambda: sum(training.calls for training in trainings) == 2)
    for training in trainings:
        training.go_on.set()
    yard.tick()
    skew.skip(61)
    assert yard.coordinator.supervise(said()) == {"learner-0"}
    assert yard.version("alpha") == yard.version("beta") == 1


def test_a_domain_waits_for_a_learner_that_is_up_and_says_so(yard: Yard) -> None:
    wanted = yard.coordinator.supervise(said(*LEARNERS))
    yard.send("alpha", 8)
    yard.mark("alpha")
    yard.coordinator.tick()
    time.sleep(0.05)
    assert wanted == {"learner-0"} and yard.trained() == {name: [] for name in LEARNERS}
    (alpha,) = yard.coordinator.status().domains
    assert alpha.state == "closed"
    # It is found on whichever comes first.
    yard.coordinator.supervise(said("learner-0", "learner-1"))
    yard.tick()
    assert yard.trained()["learner-2"] == ["alpha"] and yard.version("alpha") == 1


def test_a_learner_lost_in_training_has_its_domain_trained_by_another(yard: Yard) -> None:
    yard.learners["learner-0"].fails = [ConnectionError("learner-0 does not answer")]
    yard.coordinator.supervise(said())
    yard.send("alpha", 8)
    yard.mark("alpha")
    yard.tick()
    yard.coordinator.supervise(said("learner-0"))
    skew.skip(5)
    yard.coordinator.tick()
    yard.coordinator.supervise(said("learner-0"))
    yard.tick(2)
    assert yard.trained() == {"learner-0": ["alpha"], "learner-1": ["alpha"], "learner-2": []}
    assert yard.version("alpha") == 1


def test_a_coordinator_that_stops_ends_those_who_wait_for_a_learner(yard: Yard) -> None:
    yard.coordinator.supervise(said(*LEARNERS))
    yard.send("alpha", 8)
    yard.mark("alpha")
    yard.coordinator.tick()
    yard.coordinator.stop()
    for job in yard.coordinator.work():
        job.result(20)
    assert yard.trained() == {name: [] for name in LEARNERS}


def test_a_publication_that_fails_again_and_again_is_made_once_it_can_be(yard: Yard) -> None:
    yard.send("alpha", 8)
    yard.mark("alpha")
    yard.replicas.away = True
    for _ in range(8):
        yard.tick()
        skew.skip(61.0)
    assert yard.version("alpha") is None and "the directory is away" in yard.coordinator.status().domains[0].detail
    yard.replicas.away = False
    yard.tick()
    assert yard.version("alpha") == 1 and yard.trained()["learner-0"] == ["alpha"]
    assert yard.coordinator.status().domains[0].state == "published" and not yard.router.ledger.entries["alpha"].seal


# -- what is told -----------------------------------------------------------------------------------------------------


def test_the_status_tells_who_is_being_recovered(yard: Yard) -> None:
    assert yard.coordinator.status().actors == () and yard.coordinator.status().recovering() is None
    yard.coordinator.supervise(said("learner-1", "ingest-0", progress_seconds=12.4, restarts=2, trouble="node lost"))
    status = yard.coordinator.status()
    words = "lost 12 s ago, being started again: node lost"
    assert status.recovering() == f"being recovered: ingest-0 ({words}), learner-1 ({words})"
    assert dict(status.troubles()) == {"ingest-0": words, "learner-1": words}
    yard.coordinator.supervise(said("router", state="starting"))
    assert yard.coordinator.status().recovering() == "being recovered: router (being started)"
    yard.coordinator.supervise(said())
    assert list(yard.coordinator.status().troubles()) == []


def test_what_an_actor_that_is_up_fails_for_is_told_once(yard: Yard) -> None:
    yard.coordinator.tick()
    yard.coordinator.supervise(said("ingest-0", "router", state="up", trouble="the disk is full"))
    assert dict(yard.coordinator.status().troubles()) == {"router": "the disk is full"}


def test_a_supervisor_that_falls_silent_is_told(yard: Yard) -> None:
    yard.coordinator.supervise(said())
    skew.skip(45)
    assert "nobody has said for 45 s which actors are up" in str(yard.coordinator.status().trouble)


def test_the_coordinator_says_how_it_goes(yard: Yard) -> None:
    assert yard.coordinator.vitals().progress_seconds is None
    yard.coordinator.start(0.01)
    wait(lambda: yard.coordinator._loop is not None and yard.coordinator.vitals().progress_seconds is not None)
    assert yard.coordinator.vitals().trouble is None


class Away:
    """Can't be asked anything."""

    def __getattr__(self, name: str) -> Any:
        raise ConnectionError("away")


def test_a_coordinator_is_made_and_ticks_while_everybody_is_away(yard: Yard) -> None:
    parts: Any = (
        yard.registry,
        BaseRevision(model="test"),
        {"ingest-0": Away()},
        Away(),
        {"learner-0": Away()},
        Away(),
    )
    coordinator = Coordinator(*parts, yard.options)
    try:
        coordinator.start(0.01)
        wait(lambda: coordinator._stalled and coordinator._spools.silent)
        assert coordinator.vitals().trouble is None
        troubles = dict(coordinator.status().troubles())
        assert "the router does not answer" in troubles["coordinator"] and "directory" in troubles["coordinator"]
        assert troubles["ingest-0 report"] == "ConnectionError: away"
        # The registry as well: that is the loop's own trouble, and passes.
        registry, coordinator._router = coordinator._registry, yard.router
        coordinator._registry = Away()  # type: ignore[assignment]
        wait(lambda: coordinator.vitals().trouble == "coordinate: ConnectionError: away")
        coordinator._registry, coordinator._router = registry, Away()  # type: ignore[assignment]
        wait(lambda: coordinator.vitals().trouble is None)
    finally:
        coordinator.stop()


# -- peers that hang --------------------------------------------------------------------------------------------------


def test_a_worker_that_hangs_keeps_no_domain_from_closing_nor_from_being_removed(yard: Yard) -> None:
    hung = hold(yard, yard.spools[1], "report")
    yard.coordinator._peers._deadline_s = 0.3
    yard.send("alpha", 8)
    yard.mark("alpha")
    assert seconds_of(yard.coordinator.tick) > 0.25
    assert seconds_of(lambda: [yard.coordinator.tick() for _ in range(20)]) < 5
    yard.tick()
    assert yard.version("alpha") == 1
    yard.coordinator.remove("alpha")
    assert yard.router.examples() == {} and hung.calls == 1
    troubles = dict(yard.coordinator.status().troubles())
    assert set(troubles) == {"ingest-1 report"} and troubles["ingest-1 report"].startswith("no answer for")
    hung.go_on.set()
    wait(lambda: yard.coordinator.tick() or "ingest-1" in yard.coordinator._spools.reports)


def test_nothing_is_given_up_by_a_survey_that_came_late(yard: Yard) -> None:
    """It is about the stretches of then."""
    yard.coordinator._peers._deadline_s = 0.3
    hung = hold(yard, yard.spools[1], "survey")
    yard.coordinator.tick()
    assert hung.calls == 1
    found, silent = yard.coordinator._spools.survey({})
    assert "no answer for" in silent[0] and "ingest-1" not in found
    hung.go_on.set()
    wait(lambda: yard.coordinator._peers._asked["ingest-1 survey"]._ended is not None)
    found, silent = yard.coordinator._spools.survey({})
    assert silent == ["ingest-1 may hold them and does not answer: its answer came too late"]
    found, silent = yard.coordinator._spools.survey({})
    wait(lambda: "ingest-1" in yard.coordinator._spools.survey({})[0])


@pytest.mark.parametrize("who", ["router", "directory"])
def test_a_status_waits_for_one_that_hangs_once_and_tells_the_rest(yard: Yard, who: str) -> None:
    yard.learn("alpha")
    before = yard.coordinator.status()
    owner, name = {"router": (yard.router, "counts"), "directory": (yard.replicas, "replicas")}[who]
    yard.coordinator._asked._deadline_s = 0.3
    hung = hold(yard, owner, name)
    assert seconds_of(yard.coordinator.status) < 5
    threads = [threading.Thread(target=yard.coordinator.status) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert seconds_of(lambda: [thread.join(20) for thread in threads]) < 5
    status = yard.coordinator.status()
    assert "does not answer: no answer for" in str(status.trouble) and hung.calls == 1
    assert [(d.domain, d.version) for d in status.domains] == [(d.domain, d.version) for d in before.domains]
    assert status.domains[0].examples == before.domains[0].examples > 0
    hung.go_on.set()
    wait(lambda: yard.coordinator.status().trouble is None)


def test_a_learner_that_hangs_delays_no_status(yard: Yard) -> None:
    training = hold(yard, yard.learners["learner-0"], "train")
    asked = hold(yard, yard.learners["learner-0"], "progress")
    yard.coordinator._asked._deadline_s = 0.3
    yard.send("alpha", 8)
    yard.mark("alpha")
    yard.coordinator.tick()
    wait(lambda: training.calls)
    assert seconds_of(lambda: [yard.coordinator.status() for _ in range(20)]) < 5
    (alpha,) = yard.coordinator.status().domains
    assert alpha.state == "learning" and alpha.progress is None and asked.calls == 1
    assert "the learner of alpha does not answer" in str(yard.coordinator.status().trouble)

"""The supervisor: whoever Ray gives up is made anew, whoever is stuck is ended, learners come and go with the work."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import pytest

from actors import supervision
from actors.errors import ActorError
from actors.making import HostVitals
from actors.supervision import GivenUp, Supervisor
from actors.vitals import Vitals
from serving.api import ActorStatus

ALWAYS, LEARNERS = ("router", "coordinator"), ("learner-0", "learner-1", "learner-2")


class Hosts:
    """Processes that live, die and hang as they are told, and a coordinator that wants what it is told."""

    def __init__(self) -> None:
        self.made: dict[str, int] = {}
        self.log: list[tuple[str, str]] = []
        self.hanging: set[str] = set()
        self.restarting: set[str] = set()
        self.dead: set[str] = set()
        self.unmade: set[str] = set()
        self.advice: Any = frozenset()
        self.told: tuple[ActorStatus, ...] = ()

    def make(self, name: str) -> None:
        self.log.append(("make", name))
        self.made[name] = self.made.get(name, 0) + 1
        self.dead.discard(name)

    def end(self, name: str) -> None:
        self.log.append(("end", name))
        self.hanging.discard(name)
        self.made[name] += 1

    def dismiss(self, name: str) -> None:
        self.log.append(("dismiss", name))
        self.made.pop(name)

    def ask(self, name: str) -> Future[HostVitals]:
        answer: Future[HostVitals] = Future()
        if name in self.dead:
            answer.set_exception(GivenUp("its process ended for good"))
        elif name in self.restarting:
            answer.set_exception(ActorError("its process does not answer"))
        elif name not in self.hanging:
            is_made = name not in self.unmade
            vitals = Vitals(1.0, None, None if is_made else "can't be made: broker away")
            answer.set_result(HostVitals(str(self.made[name]), "here", is_made, 0 if is_made else 3, vitals))
        return answer

    def advise(self, actors: Sequence[ActorStatus]) -> Future[frozenset[str]]:
        self.told = tuple(actors)
        advice: Future[frozenset[str]] = Future()
        if isinstance(self.advice, Exception):
            advice.set_exception(self.advice)
        elif self.advice is not None:
            advice.set_result(self.advice)
        return advice


@pytest.fixture
def hosts() -> Hosts:
    return Hosts()


def supervisor_of(hosts: Hosts, fewest: int = 0) -> Supervisor:
    return Supervisor(hosts, ALWAYS, LEARNERS, fewest)


def states(supervisor: Supervisor) -> dict[str, str]:
    return {each.name: each.state for each in supervisor.statuses()}


def look(supervisor: Supervisor, times: int = 1) -> None:
    for _ in range(times):
        supervisor.look(0.01)


def test_all_are_made_and_the_fewest_learners(hosts: Hosts) -> None:
    supervisor = supervisor_of(hosts, 2)
    hosts.advice = frozenset(LEARNERS[:2])
    assert states(supervisor) == dict.fromkeys((*ALWAYS, *LEARNERS[:2]), "starting")
    look(supervisor)
    assert set(states(supervisor).values()) == {"up"} and supervisor.awaited() == []


@pytest.mark.parametrize("name", ["router", "coordinator", "learner-0"])
def test_who_is_given_up_is_made_anew_and_counted(hosts: Hosts, name: str) -> None:
    supervisor = supervisor_of(hosts, 1)
    hosts.advice = frozenset({"learner-0"})
    look(supervisor)
    hosts.dead.add(name)
    look(supervisor)
    assert hosts.log.count(("make", name)) == 2 and states(supervisor)[name] == "lost"
    look(supervisor)
    (status,) = (each for each in supervisor.statuses() if each.name == name)
    assert (status.state, status.restarts, status.trouble) == ("up", 1, None)


def test_who_can_not_be_started_is_tried_again_after_pauses_and_keeps_nobody_else(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    supervisor = supervisor_of(hosts)
    look(supervisor)
    monkeypatch.setattr(hosts, "make", lambda name: hosts.log.append(("make", name)))
    hosts.dead.add("router")
    tries = []
    for _ in range(300):
        before = hosts.log.count(("make", "router"))
        look(supervisor)
        if hosts.log.count(("make", "router")) > before:
            tries.append(now[0])
        now[0] += 1.0
    gaps = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert gaps == sorted(gaps) and gaps[0] <= 2 and gaps[-1] <= 61 and len(tries) >= 7
    assert states(supervisor) == {"router": "lost", "coordinator": "up"}


def test_who_is_restarting_is_left_to_ray_and_said(hosts: Hosts) -> None:
    supervisor = supervisor_of(hosts)
    look(supervisor)
    hosts.restarting.add("router")
    look(supervisor, 5)
    (router, _) = supervisor.statuses()
    assert router.state == "lost" and "does not answer" in str(router.trouble)
    assert ("end", "router") not in hosts.log and hosts.log.count(("make", "router")) == 1
    hosts.restarting.clear()
    hosts.made["router"] += 1  # Ray's work.
    look(supervisor)
    assert supervisor.statuses()[0].restarts == 1


def test_who_answers_nothing_any_more_is_ended_to_be_started_again(hosts: Hosts) -> None:
    supervisor = supervisor_of(hosts)
    look(supervisor)
    hosts.hanging.add("router")
    look(supervisor, supervision._SILENT_LOOKS)
    assert hosts.log[-1] == ("end", "router")
    assert "was ended" in str(supervisor.statuses()[0].trouble)
    look(supervisor, 2)
    assert supervisor.statuses()[0].state == "up" and supervisor.statuses()[0].restarts == 1


def test_who_has_no_node_yet_waits_for_one(hosts: Hosts) -> None:
    hosts.hanging.add("router")
    supervisor = supervisor_of(hosts)
    look(supervisor, 3 * supervision._SILENT_LOOKS)
    assert ("end", "router") not in hosts.log
    assert supervisor.statuses()[0].state == "starting" and "node" in str(supervisor.statuses()[0].trouble)


def test_who_can_not_be_made_says_why_and_counts_as_starting(hosts: Hosts) -> None:
    hosts.unmade.add("router")
    supervisor = supervisor_of(hosts)
    look(supervisor)
    assert supervisor.failing() == "router can't be made: broker away"
    assert supervisor.awaited() == ["router"]
    hosts.unmade.clear()
    look(supervisor)
    assert supervisor.failing() is None and supervisor.awaited() == []


def test_learners_come_and_go_with_the_work(hosts: Hosts) -> None:
    supervisor = supervisor_of(hosts)
    courses = deque([frozenset(LEARNERS), frozenset({"learner-1"}), frozenset(), frozenset({"learner-2", "router-9"})])
    for wanted in courses:
        hosts.advice = wanted
        look(supervisor, 2)
        assert set(states(supervisor)) == {*ALWAYS, *(wanted & set(LEARNERS))}
    assert ("dismiss", "router") not in hosts.log and "router-9" not in hosts.made


@pytest.mark.parametrize("advice", [ActorError("away"), None])
def test_without_a_word_of_the_coordinator_all_learners_stay(hosts: Hosts, advice: Any) -> None:
    supervisor = supervisor_of(hosts)
    hosts.advice = frozenset(LEARNERS)
    look(supervisor, 2)
    hosts.advice = advice
    look(supervisor, 5)
    assert set(states(supervisor)) == {*ALWAYS, *LEARNERS}
    hosts.dead.add("learner-1")
    look(supervisor, 2)
    assert states(supervisor)["learner-1"] == "up"


def test_the_coordinator_is_told_how_all_are(hosts: Hosts) -> None:
    supervisor = supervisor_of(hosts)
    look(supervisor)
    hosts.restarting.add("router")
    look(supervisor, 2)
    assert {each.name: each.state for each in hosts.told} == {"router": "lost", "coordinator": "up"}

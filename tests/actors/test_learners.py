"""The pool of learners: each is had by one at a time, only where it is up and wanted, and there are as many as work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from actors.learners import Learners, Stopped
from serving.api import ActorState, ActorStatus
from tests.actors.clock import skew

NAMES = [f"learner-{index}" for index in range(4)]


@pytest.fixture
def pool() -> Iterator[Learners]:
    made = Learners({name: name for name in NAMES}, fewest=1)  # type: ignore[misc]
    yield made
    made.stop()


def said(**states: ActorState) -> list[ActorStatus]:
    """All learners up but for these, and others' names beside."""
    states = {"router": "up", **dict.fromkeys(NAMES, "up"), **{k.replace("_", "-"): v for k, v in states.items()}}  # type: ignore[dict-item, misc]
    return [ActorStatus(name=name, state=state) for name, state in states.items()]


class Taker:
    """Takes a learner in a thread of its own, and gives it back when told."""

    def __init__(self, pool: Learners) -> None:
        self.has: Any = None
        self.stopped = False
        self._gives = threading.Event()
        self._thread = threading.Thread(target=self._take, args=(pool,), daemon=True)
        self._thread.start()

    def _take(self, pool: Learners) -> None:
        try:
            with pool.taken() as learner:
                self.has = learner
                self._gives.wait(30)
        except Stopped:
            self.stopped = True

    def give(self) -> None:
        self._gives.set()
        self._thread.join(10)


def wait(until: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not until():
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(0.002)


def test_before_any_word_all_are_up_and_each_is_had_by_one(pool: Learners) -> None:
    with ExitStack() as stack:
        assert [stack.enter_context(pool.taken()) for _ in NAMES] == NAMES
        waiting = Taker(pool)
        time.sleep(0.05)
        assert waiting.has is None and not pool.is_all_idle()
    wait(lambda: waiting.has in NAMES)
    waiting.give()
    assert pool.is_all_idle()


@pytest.mark.parametrize("state", ["lost", "starting"])
def test_nobody_is_handed_to_one_that_is_not_up(pool: Learners, state: ActorState) -> None:
    pool.supervise(said(learner_0=state, learner_1=state, learner_2=state, learner_3=state), 1)
    taker = Taker(pool)
    time.sleep(0.05)
    assert taker.has is None
    pool.supervise(said(learner_0=state, learner_2=state, learner_3=state), 1)
    wait(lambda: taker.has == "learner-1")
    taker.give()


def test_as_many_are_wanted_as_there_is_work_and_never_fewer_than_the_fewest(pool: Learners) -> None:
    assert pool.supervise(said(), 0) == {"learner-0"}
    assert pool.supervise(said(), 3) == {"learner-0", "learner-1", "learner-2"}
    assert pool.supervise(said(), 9) == set(NAMES)


def test_one_that_is_not_wanted_is_handed_to_nobody_until_it_is(pool: Learners) -> None:
    """It may be ended at any moment."""
    pool.supervise(said(), 0)
    with pool.taken() as first:
        taker = Taker(pool)
        time.sleep(0.05)
        assert first == "learner-0" and taker.has is None
        assert pool.supervise(said(), 2) == {"learner-0", "learner-1"}
        wait(lambda: taker.has == "learner-1")
        taker.give()


def test_one_that_trains_is_wanted_and_one_that_is_idle_for_a_minute_is_not(pool: Learners) -> None:
    pool.supervise(said(), 2)
    with pool.taken(), pool.taken():
        skew.skip(3600)
        assert pool.supervise(said(), 0) == {"learner-0", "learner-1"}
    skew.skip(50)
    assert pool.supervise(said(), 0) == {"learner-0", "learner-1"}
    skew.skip(20)
    assert pool.supervise(said(), 0) == {"learner-0"}


def test_those_that_are_up_come_first(pool: Learners) -> None:
    assert pool.supervise(said(learner_1="lost"), 2) == {"learner-0", "learner-2"}


def test_a_supervisor_that_falls_silent_is_said_and_one_that_never_spoke_is_not(pool: Learners) -> None:
    skew.skip(3600)
    assert pool.trouble() is None
    pool.supervise(said(), 0)
    assert pool.trouble() is None
    skew.skip(31)
    assert "for 31 s" in str(pool.trouble())
    pool.supervise(said(), 0)
    assert pool.trouble() is None


def test_stopping_lets_those_go_that_wait(pool: Learners) -> None:
    pool.supervise(said(**dict.fromkeys(("learner_0", "learner_1", "learner_2", "learner_3"), "lost")), 1)  # type: ignore[arg-type]
    takers = [Taker(pool) for _ in range(3)]
    pool.stop()
    wait(lambda: all(taker.stopped for taker in takers))


def test_a_learner_whose_training_fails_is_free_again(pool: Learners) -> None:
    with pytest.raises(ValueError, match="no"), pool.taken():
        raise ValueError("no")
    assert pool.is_all_idle()

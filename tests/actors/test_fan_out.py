"""Peers are asked at once; one that hangs delays the others by the deadline once, and then not at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from actors.errors import Unanswered
from actors.fan_out import FanOut


class Peer:
    """Answers with how often it was asked; hangs while told to."""

    def __init__(self) -> None:
        self.asked, self.goes_on = 0, threading.Event()
        self.goes_on.set()
        self.fails: list[BaseException] = []

    def question(self) -> int:
        self.asked += 1
        number = self.asked
        assert self.goes_on.wait(30)
        if self.fails:
            raise self.fails.pop(0)
        return number


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.goes_on.set()


def within(seconds: float, act: Callable[[], object]) -> bool:
    began = time.monotonic()
    act()
    return time.monotonic() - began < seconds


def unanswered(fan_out: FanOut, peer: Peer) -> None:
    with pytest.raises(Unanswered, match="no answer for"):
        fan_out.ask("hung", peer.question).answer()


def test_all_are_asked_at_once() -> None:
    fan_out, barrier = FanOut(20.0), threading.Barrier(5)
    asked = [fan_out.ask(f"peer-{n}", lambda n=n: (barrier.wait(20), n)[1]) for n in range(5)]  # type: ignore[misc]
    assert [each.answer() for each in asked] == [0, 1, 2, 3, 4]


def test_one_that_hangs_is_waited_for_once_and_asked_once(peer: Peer) -> None:
    fan_out = FanOut(0.3)
    peer.goes_on.clear()
    assert not within(0.25, lambda: unanswered(fan_out, peer))
    for _ in range(5):
        assert within(0.25, lambda: unanswered(fan_out, peer))
        assert fan_out.ask("other", lambda: "well").answer() == "well"
    assert peer.asked == 1


def test_a_late_answer_counts_when_it_comes_and_the_peer_is_asked_again_after(peer: Peer) -> None:
    fan_out = FanOut(0.2)
    peer.goes_on.clear()
    unanswered(fan_out, peer)
    late = fan_out.ask("hung", peer.question)
    peer.goes_on.set()
    while late._ended is None:
        time.sleep(0.001)
    assert fan_out.ask("hung", peer.question).answer() == 1
    # It was slow, so nobody waits for it before it has been in time again.
    again = fan_out.ask("hung", peer.question)
    while again._ended is None:
        time.sleep(0.001)
    assert fan_out.ask("hung", peer.question).answer() == 2
    assert fan_out.ask("hung", peer.question).answer() == 3


def test_an_answer_that_nobody_took_in_time_is_not_given_any_more(peer: Peer) -> None:
    fan_out = FanOut(0.05)
    first = fan_out.ask("peer", peer.question)
    while first._ended is None:
        time.sleep(0.001)
    time.sleep(0.1)
    assert fan_out.ask("peer", peer.question).answer() == 2


def test_two_that_ask_at_once_share_one_question(peer: Peer) -> None:
    fan_out = FanOut(10.0)
    peer.goes_on.clear()
    asked = [fan_out.ask("peer", peer.question) for _ in range(2)]
    peer.goes_on.set()
    assert [each.answer() for each in asked] == [1, 1] and peer.asked == 1


def test_peers_that_are_asked_no_more_are_forgotten() -> None:
    fan_out = FanOut(10.0)
    for number in range(50):
        assert fan_out.ask(f"learner of {number}", lambda: 1).answer() == 1
    assert len(fan_out._asked) == 1


@pytest.mark.parametrize("error", [ValueError("no"), TimeoutError("the peer's own"), SystemExit(1)])
def test_what_a_peer_raises_comes_out_and_it_is_asked_again(peer: Peer, error: BaseException) -> None:
    fan_out = FanOut(10.0)
    peer.fails = [error]
    with pytest.raises(type(error)):
        fan_out.ask("peer", peer.question).answer()
    assert fan_out.ask("peer", peer.question).answer() == 2


def test_where_no_thread_is_to_be_had_the_peer_is_asked_again(peer: Peer) -> None:
    def refuse(work: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    fan_out = FanOut(10.0, refuse)
    with pytest.raises(RuntimeError):
        fan_out.ask("peer", peer.question).answer()
    fan_out.spawn = lambda work: work()
    assert fan_out.ask("peer", peer.question).answer() == 1

"""Turns in the engine: everybody's comes, nobody's place is given twice, and hot adapters lose little by it."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.turns import Ticket, Turns

PATIENCE = 0.5


def enter(turns: Turns, now: float) -> list[Ticket]:
    return list(turns.enter(now))


def arrive(turns: Turns, now: float, *adapters: str | None) -> list[Ticket]:
    tickets = [Ticket(adapter, 1, now) for adapter in adapters]
    for ticket in tickets:
        turns.arrive(ticket)
    return tickets


def test_a_slot_is_shared_by_its_adapters_requests_and_the_base_needs_none() -> None:
    turns = Turns(adapters=1, rows=8, patience=PATIENCE)
    cats, cats2, dogs, base = arrive(turns, 0.0, "cats", "cats", "dogs", None)
    assert enter(turns, 0.0) == [cats, cats2, base]
    assert turns.upcoming() == ["dogs"] and turns.waiting == 1
    turns.leave(cats)
    assert enter(turns, 0.1) == []
    turns.leave(cats2)
    assert enter(turns, 0.2) == [dogs] and turns.waiting == 0


def test_a_turn_ends_for_who_has_waited_long_enough_and_not_before() -> None:
    turns = Turns(adapters=1, rows=8, patience=PATIENCE)
    (first,) = arrive(turns, 0.0, "cats")
    enter(turns, 0.0)
    (dogs,) = arrive(turns, 0.1, "dogs")
    assert enter(turns, 0.1) == [] and turns.next_change(0.1) == 0.1 + PATIENCE
    (second,) = arrive(turns, 0.2, "cats")
    assert enter(turns, 0.2) == [second]
    assert enter(turns, 0.6) == [] and turns.next_change(0.6) == math.inf
    (third,) = arrive(turns, 0.7, "cats")
    turns.leave(first)
    assert enter(turns, 0.7) == []
    turns.leave(second)
    assert enter(turns, 0.8) == [dogs]
    turns.leave(dogs)
    assert enter(turns, 0.9) == [third]


def test_half_of_the_slots_go_on() -> None:
    turns = Turns(adapters=4, rows=99, patience=PATIENCE)
    arrive(turns, 0.0, *"abcd")
    enter(turns, 0.0)
    arrive(turns, 0.1, *"efgh")
    enter(turns, 1.0)
    late = arrive(turns, 1.0, *"abcd")
    assert len(enter(turns, 1.0)) == 2, "two of the four take more requests"
    assert turns.waiting == 4 + len(late) - 2


def test_one_row_too_many_waits_and_a_large_request_is_not_put_off_for_ever() -> None:
    turns = Turns(adapters=2, rows=2, patience=PATIENCE)
    small, large, last = Ticket("a", 1, 0.0), Ticket("a", 5, 0.1), Ticket("a", 1, 0.2)
    for ticket in (small, large, last):
        turns.arrive(ticket)
    assert enter(turns, 0.3) == [small, large]
    turns.leave(small)
    assert enter(turns, 0.4) == []
    turns.leave(large)
    assert enter(turns, 0.5) == [last]


def test_who_leaves_the_line_is_nobody_s_to_wait_for() -> None:
    turns = Turns(adapters=1, rows=8, patience=PATIENCE)
    arrive(turns, 0.0, "cats")
    enter(turns, 0.0)
    (dogs,) = arrive(turns, 0.1, "dogs")
    turns.leave(dogs)
    assert turns.upcoming() == [] and turns.next_change(0.2) == math.inf
    (more,) = arrive(turns, 9.0, "cats")
    assert enter(turns, 9.0) == [more]


Steps = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.sampled_from(["a", "b", "c", "d", None]), st.integers(1, 4)),
        st.tuples(st.just("leave"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("wait"), st.floats(0.0, 1.0), st.just(0)),
    ),
    max_size=60,
)


@given(steps=Steps, adapters=st.integers(1, 3), rows=st.integers(1, 6))
def test_whatever_happens_slots_are_kept_and_everybody_gets_in(
    steps: Sequence[tuple[str, object, int]], adapters: int, rows: int
) -> None:
    turns, now = Turns(adapters, rows, PATIENCE), 0.0
    inside: list[Ticket] = []
    outside: list[Ticket] = []

    def look() -> None:
        for ticket in turns.enter(now):
            outside.remove(ticket)
            inside.append(ticket)
            others = sum(each.rows for each in inside) - ticket.rows
            assert others < rows, "one entered though the rows were taken"
        assert len({each.adapter for each in inside} - {None}) <= adapters
        at = turns.next_change(now)
        assert at > now, "it would have been due"

    for step, what, size in steps:
        if step == "arrive":
            outside.append(Ticket(what if isinstance(what, str) else None, size, now))
            turns.arrive(outside[-1])
        elif step == "leave" and (everybody := inside + outside):
            ticket = everybody[int(str(what)) % len(everybody)]
            turns.leave(ticket)
            (inside if ticket in inside else outside).remove(ticket)
        elif step == "wait":
            now += float(str(what))
        look()
    for _ in range(len(inside) + len(outside) + 1):
        while inside:
            turns.leave(inside.pop())
        now += PATIENCE
        look()
    assert not outside and turns.waiting == 0


class Engine:
    """vLLM's own scheduling: first come, first served, passing over whose adapter has no slot; and what a step takes.

    Seconds of a step by rows are those of a small model on two cores, as measured; only their ratios matter here.
    """

    def __init__(self, adapters: int, rows: int) -> None:
        self._adapters, self._rows = adapters, rows
        self._waiting: deque[tuple[str, Callable[[float], None], list[int]]] = deque()
        self._running: list[tuple[str, Callable[[float], None], list[int]]] = []
        self.tokens = 0

    def add(self, adapter: str, tokens: int, done: Callable[[float], None]) -> None:
        self._waiting.append((adapter, done, [tokens]))

    def step(self, now: float) -> float:
        passed_over: list[tuple[str, Callable[[float], None], list[int]]] = []
        while self._waiting and len(self._running) < self._rows:
            request = self._waiting.popleft()
            slots = {each[0] for each in self._running}
            taken = request[0] in slots or len(slots) < self._adapters
            (self._running if taken else passed_over).append(request)
        self._waiting.extendleft(reversed(passed_over))
        if not self._running:
            return now + 0.001
        now += 0.0058 + 0.0005 * len(self._running)
        self.tokens += len(self._running)
        for request in self._running:
            request[2][0] -= 1
        over = [request for request in self._running if not request[2][0]]
        self._running = [request for request in self._running if request[2][0]]
        for _, done, _ in over:
            done(now)
        return now


class Load:
    """Clients that ask again as soon as they are answered, `weights` saying for what."""

    def __init__(self, weights: Sequence[float], clients: int, gated: bool) -> None:
        self._weights, self._random = weights, random.Random(0)
        self._engine = Engine(4, 32)
        self._turns = Turns(4, 32, PATIENCE) if gated else None
        self._asks: dict[Ticket, Callable[[], None]] = {}
        self.waited: dict[int, list[float]] = {}
        self.open: dict[int, float] = {}
        self._ids = itertools.count()
        for _ in range(clients):
            self._ask(0.0)

    def _ask(self, now: float) -> None:
        domain = self._random.choices(range(len(self._weights)), self._weights)[0]
        tokens, ticket, which = self._random.randint(8, 24), Ticket(str(domain), 1, now), next(self._ids)
        self.open[which] = now

        def done(at: float) -> None:
            if self._turns is not None:
                self._turns.leave(ticket)
            self.waited.setdefault(domain, []).append(at - self.open.pop(which))
            self._ask(at)

        if self._turns is None:
            self._engine.add(str(domain), tokens, done)
            return
        self._asks[ticket] = lambda: self._engine.add(str(domain), tokens, done)
        self._turns.arrive(ticket)

    def run(self, seconds: float) -> float:
        """Tokens a second."""
        now = 0.0
        while now < seconds:
            for ticket in self._turns.enter(now) if self._turns is not None else ():
                self._asks.pop(ticket)()
            now = self._engine.step(now)
        return self._engine.tokens / now

    def p99(self, domains: range) -> float:
        waited = sorted(each for domain in domains for each in self.waited.get(domain, ()))
        return waited[int(0.99 * len(waited))]


ZIPF = [1 / rank for rank in range(1, 201)]
TWO_HOT = [0.45, 0.45, *[0.1 / 198] * 198]


@pytest.mark.parametrize("weights", [ZIPF, TWO_HOT], ids=["zipf", "two hot"])
def test_rare_domains_wait_about_as_long_as_popular_ones(weights: list[float]) -> None:
    load = Load(weights, clients=96, gated=True)
    load.run(40.0)
    assert load.p99(range(100, 200)) <= 3 * load.p99(range(2))
    assert max(40.0 - since for since in load.open.values()) < 10.0, "somebody is not answered"


def test_an_engine_alone_leaves_them_waiting() -> None:
    load = Load(TWO_HOT, clients=96, gated=False)
    load.run(40.0)
    assert load.p99(range(100, 200)) > 5 * load.p99(range(2))


def test_turns_cost_a_zipf_load_next_to_no_tokens() -> None:
    alone, gated = (Load(ZIPF, clients=96, gated=each).run(40.0) for each in (False, True))
    assert gated >= 0.98 * alone


def test_domains_are_asked_for_as_the_weights_say() -> None:
    load = Load(TWO_HOT, clients=96, gated=True)
    load.run(20.0)
    counts = Counter({domain: len(waited) for domain, waited in load.waited.items()})
    assert sum(counts[domain] for domain in range(2)) > 0.7 * counts.total()

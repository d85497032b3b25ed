"""The meter against a plain list of what was admitted, for any times, threads and clocks."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.meter import WINDOW_SECONDS, Excess, Meter, Quota

DAY = 86_400.0


class Clock:
    """Set by hand."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def requests(limit: int) -> Quota:
    return Quota(limit, None)


def tokens(limit: int) -> Quota:
    return Quota(None, limit)


steps = st.lists(st.tuples(st.floats(0.0, 45.0), st.sampled_from("ab")), max_size=60)


@given(limit=st.integers(1, 5), steps=steps)
def test_exactly_as_many_as_the_quota_says_are_admitted_in_any_minute(
    limit: int, steps: list[tuple[float, str]]
) -> None:
    clock, admitted = Clock(), {"a": [], "b": []}
    meter = Meter(clock, Clock())
    for pause, key in steps:
        clock.now += pause
        excess = meter.take(key, requests(limit))
        within = [at for at in admitted[key] if at > clock.now - WINDOW_SECONDS]
        assert (excess is None) == (len(within) < limit)
        if excess is None:
            admitted[key].append(clock.now)
        else:
            # Exactly then, and not before, it is let in again.
            assert excess.of == "requests" and 0 < excess.retry_after <= WINDOW_SECONDS
            free_at = clock.now + excess.retry_after
            assert sum(at > free_at - WINDOW_SECONDS + 1e-6 for at in within) < limit
            assert sum(at > free_at - WINDOW_SECONDS - 1e-6 for at in within) == limit


@given(limit=st.integers(1, 50), spent=st.lists(st.integers(0, 20), max_size=20))
def test_nothing_is_begun_once_the_day_s_tokens_are_used(limit: int, spent: list[int]) -> None:
    meter, total = Meter(Clock(), Clock(3 * DAY + 3600)), 0
    for each in spent:
        excess = meter.take("k", tokens(limit))
        assert (excess is None) == (total < limit)
        if excess is None:
            meter.spend("k", each)
            total += each
        else:
            assert excess == Excess("tokens", limit, DAY - 3600)
    assert meter.used("k") == total


def test_a_refused_request_costs_nothing() -> None:
    clock = Clock()
    meter, both = Meter(clock, Clock()), Quota(2, 10)
    assert meter.take("k", both) is None
    meter.spend("k", 10)
    for _ in range(5):
        excess = meter.take("k", both)
        assert excess is not None and excess.of == "tokens"
    assert meter.take("k", requests(2)) is None
    for _ in range(5):
        assert meter.take("k", requests(2)) is not None
    clock.now = WINDOW_SECONDS
    assert meter.take("k", requests(2)) is None and meter.take("k", requests(2)) is None


def test_threads_get_exactly_the_quota() -> None:
    meter = Meter()

    def ask(_: int) -> bool:
        got = meter.take("k", Quota(700, None)) is None
        meter.spend("k", 3)
        return got

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(ask, range(5_000))) == 700
    assert meter.used("k") == 15_000


async def test_tasks_get_exactly_the_quota() -> None:
    meter = Meter()

    async def ask() -> bool:
        await asyncio.sleep(0)
        return meter.take("k", requests(70)) is None

    assert sum(await asyncio.gather(*(ask() for _ in range(500)))) == 70


@pytest.mark.parametrize("back", [1.0, 3_600.0, DAY, 400 * DAY])
def test_a_clock_that_goes_back_gives_nothing_twice_and_blocks_nobody_for_long(back: float) -> None:
    wall = Clock(1_000 * DAY + 100.0)
    meter = Meter(Clock(), wall)
    meter.spend("k", 10)
    # It was wrong, and is put right: what is counted there was counted at the time.
    wall.now += back
    meter.take("k", tokens(10))
    meter.spend("k", 10)
    wall.now -= back
    assert meter.take("k", tokens(10)) is not None
    wall.now += DAY
    assert meter.take("k", tokens(11)) is None


def test_a_monotonic_clock_that_goes_back_opens_nothing() -> None:
    clock = Clock(1_000.0)
    meter = Meter(clock, Clock())
    assert meter.take("k", requests(1)) is None
    clock.now = 0.0
    assert meter.take("k", requests(1)) == Excess("requests", 1, WINDOW_SECONDS)
    clock.now = 1_000.0 + WINDOW_SECONDS
    assert meter.take("k", requests(1)) is None


def test_the_next_day_begins_with_nothing_used() -> None:
    wall = Clock(10 * DAY - 1)
    meter = Meter(Clock(), wall)
    meter.spend("k", 10)
    assert meter.take("k", tokens(10)) == Excess("tokens", 10, 1.0)
    wall.now += 1
    assert meter.take("k", tokens(10)) is None and meter.used("k") == 0


def test_what_others_admitted_counts_for_as_long_as_it_would_have() -> None:
    clock = Clock(500.0)
    meter = Meter(clock, Clock())
    meter.admitted("k", [59.0, 10.0, 61.0])
    assert meter.take("k", requests(2)) == Excess("requests", 2, 1.0)
    clock.now += 1.0
    assert meter.take("k", requests(2)) is None
    assert meter.ages() == {"k": [11.0, 0.0]}


def test_days_are_kept_and_taken_up() -> None:
    wall = Clock(5 * DAY)
    meter = Meter(Clock(), wall)
    meter.spend("k", 4)
    wall.now += DAY
    meter.spend("k", 7)
    other = Meter(Clock(), wall)
    other.restore(meter.days())
    other.restore({6: {"k": 2}})
    assert other.used("k") == 7 and other.days() == {5: {"k": 4}, 6: {"k": 7}}
    for _ in range(10):
        wall.now += DAY
        other.spend("k", 1)
    assert len(other.days()) == 3

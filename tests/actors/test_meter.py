"""One meter for several replicas: exact among them, and no outage where it is away or begins anew."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from actors.errors import Unreachable
from actors.meter import QuotaMeter
from registry.registry import Registry
from registry.storage import Storage
from serving import quotas
from serving.meter import Meter, Quota
from serving.quotas import Quotas, Ruling


class Line:
    """The way to the meter: it may be cut, and may lose answers."""

    def __init__(self, meter: QuotaMeter) -> None:
        self.meter = meter
        self.is_cut = self.loses_answers = False
        self.asked = 0

    async def take(self, key: str, quota: Quota) -> Ruling:
        self.asked += 1
        return await self._over(lambda: self.meter.take(key, quota))

    async def report(
        self, replica: str, number: int, tokens: Mapping[str, int], ages: Mapping[str, Sequence[float]]
    ) -> None:
        return await self._over(lambda: self.meter.report(replica, number, tokens, ages))

    async def _over(self, call: Callable[[], Awaitable[Any]]) -> Any:
        await asyncio.sleep(0)
        if self.is_cut:
            raise Unreachable("meter is not running")
        answer = await call()
        if self.loses_answers:
            raise Unreachable("meter has not answered")
        return answer


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "_PAUSE_S", 0.02)

    async def here(work: Callable[..., Any], *args: Any) -> Any:
        return work(*args)

    # Threads have another time than this loop.
    monkeypatch.setattr(asyncio, "to_thread", here)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Registry(tmp_path / "registry").storage


@pytest.fixture
def line(storage: Storage) -> Line:
    return Line(QuotaMeter(storage, save_seconds=0.01))


def replicas(line: Line, count: int) -> list[Quotas]:
    return [Quotas(f"replica-{place}", line) for place in range(count)]


async def admitted(some: Sequence[Quotas], quota: Quota, each: int) -> int:
    """How many of `each` requests of every replica, all at once, get in."""
    got = await asyncio.gather(*(one.take("k", quota) for one in some for _ in range(each)))
    return sum(excess is None for excess in got)


async def test_replicas_together_get_exactly_the_quota(line: Line) -> None:
    some = replicas(line, 5)
    assert await admitted(some, Quota(123, None), 60) == 123
    assert line.asked == 300
    assert await admitted(some, Quota(124, None), 3) == 1


async def test_tokens_are_those_of_all_replicas(line: Line) -> None:
    some = replicas(line, 4)
    quota = Quota(None, 100)
    for place, one in enumerate(some):
        assert await one.take("k", quota) is None
        for _ in range(25):
            one.spend("k", 1)
        await one.reported()
        assert line.meter._meter.used("k") == 25 * (place + 1)
    assert all([(await one.take("k", quota)) is not None for one in some])
    assert all([(await one.take("other", quota)) is None for one in some])


async def test_an_answer_that_is_lost_counts_once(line: Line) -> None:
    (one,) = replicas(line, 1)
    await one.take("k", Quota(None, 100))
    line.loses_answers = True
    one.spend("k", 10)
    await asyncio.sleep(0.1)
    line.loses_answers = False
    one.spend("k", 5)
    await one.reported()
    assert line.meter._meter.used("k") == 15


async def test_while_it_is_away_each_replica_counts_by_itself_and_says_so(line: Line) -> None:
    some = replicas(line, 2)
    quota = Quota(10, 1_000)
    assert await admitted(some, quota, 2) == 4
    line.is_cut = True
    # What it has let in itself counts for each.
    assert await admitted(some, quota, 20) == 16
    assert all("by itself" in str(one.trouble) for one in some)
    some[0].spend("k", 7)
    line.is_cut = False
    for one in some:
        await one.reported()
    assert line.meter._meter.used("k") == 7 and len(line.meter._meter.ages()["k"]) == 20
    assert await admitted(some, quota, 2) == 0
    assert all(one.trouble is None for one in some)


async def test_one_that_is_away_for_long_costs_no_memory(line: Line) -> None:
    (one,) = replicas(line, 1)
    line.is_cut = True
    for _ in range(20):
        assert await one.take("k", Quota(1_000, None)) is None
        await asyncio.sleep(30)
    assert len(one._unreported.times["k"]) + len(one._under_way.times["k"]) <= 4


async def test_one_that_is_away_is_not_waited_for_by_every_request(line: Line) -> None:
    async def silent(*_: object) -> Ruling:
        line.asked += 1
        await asyncio.Event().wait()
        raise AssertionError

    line.take = silent  # type: ignore[method-assign]
    (one,) = replicas(line, 1)
    began = asyncio.get_running_loop().time()
    assert await one.take("k", Quota(1_000, None)) is None
    for _ in range(100):
        assert await one.take("k", Quota(1_000, None)) is None
    assert asyncio.get_running_loop().time() - began < 10 and line.asked < 10


async def test_tokens_of_a_day_outlive_the_meter(line: Line, storage: Storage) -> None:
    (one,) = replicas(line, 1)
    quota = Quota(None, 100)
    assert await one.take("k", quota) is None
    one.spend("k", 100)
    await one.reported()
    await _until(lambda: QuotaMeter(storage)._meter.used("k") == 100)
    line.meter = QuotaMeter(storage)
    (other,) = replicas(line, 1)
    assert await other.take("k", quota) is not None


async def test_one_that_begins_anew_is_told_of_the_last_minute(line: Line, storage: Storage) -> None:
    some = replicas(line, 3)
    quota = Quota(30, None)
    assert await admitted(some, quota, 8) == 24
    line.meter = QuotaMeter(storage)
    assert await admitted(some, quota, 1) == 3
    for one in some:
        await one.reported()
    # Those that made each replica see that it is another are among what it told.
    assert await admitted(some, quota, 20) <= 6
    for one in some:
        await one.reported()
    assert await admitted(some, quota, 20) == 0


async def test_a_meter_that_was_cut_off_takes_nothing_back(storage: Storage) -> None:
    old, new = QuotaMeter(storage, save_seconds=0.01), QuotaMeter(storage, save_seconds=0.01)
    await new.report("a", 1, {"k": 50}, {})
    await _until(lambda: QuotaMeter(storage)._meter.used("k") == 50)
    await old.report("a", 1, {"k": 20, "l": 3}, {})
    await _until(lambda: QuotaMeter(storage)._meter.used("l") == 3)
    assert QuotaMeter(storage)._meter.used("k") == 50


async def test_what_can_t_be_written_is_written_later(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    meter, fails = QuotaMeter(storage, save_seconds=0.01), [True] * 3
    replace = storage.replace

    def flaky(*args: Any) -> None:
        if fails:
            fails.pop()
            raise OSError(28, "No space left on device")
        replace(*args)

    monkeypatch.setattr(storage, "replace", flaky)
    await meter.report("a", 1, {"k": 5}, {})
    await _until(lambda: QuotaMeter(storage)._meter.used("k") == 5)


async def test_a_damaged_count_stops_nobody(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "registry" / "usage.json").write_text("{}")
    meter = QuotaMeter(storage, save_seconds=0.01)
    assert (await meter.take("k", Quota(None, 5))).excess is None
    await meter.report("a", 1, {"k": 5}, {})
    await _until(lambda: QuotaMeter(storage)._meter.used("k") == 5)


async def test_without_a_meter_of_all_a_replica_decides_alone() -> None:
    alone = Quotas("replica", None, Meter())
    assert await admitted([alone], Quota(3, None), 10) == 3
    alone.spend("k", 9)
    assert await alone.take("k", Quota(None, 9)) is not None and alone.trouble is None


async def _until(done: Callable[[], bool]) -> None:
    for _ in range(500):
        if done():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it does not come to be")

"""A replica's life: it obeys, never serves what it could not prepare, and serves on when it is cut off."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from actors.directive import Directive, Standing
from actors.directory import ReplicaDirectory
from actors.errors import PublicationFailed
from actors.replica import Replica
from serving.errors import NotPrepared, PrepareFailed

SILENCE = 0.8


class Service:
    """What a replica needs of the service around its engine."""

    def __init__(self, number: int = 0) -> None:
        self.manifest: Any = SimpleNamespace(number=number) if number else None
        self.fenced: str | None = "starting"
        self.trouble: str | None = None
        self.in_force = number
        """What the registry says, for those who can't hear the directory."""
        self.refuses: dict[int, Exception] = {}
        self.prepare_seconds = 0.0
        self.prepared: set[int] = set()
        self.on_another_base: set[int] = set()
        """Manifests that are served as soon as they are prepared."""
        self.breaks_at: int | None = None
        self.used: tuple[str, ...] = ("a@v1-00000000",)
        self.stopped = False

    @property
    def serves(self) -> int:
        return self.manifest.number if self.manifest else 0

    async def prepare(self, number: int) -> None:
        await asyncio.sleep(self.prepare_seconds)
        if number == self.breaks_at:
            self.fence("neither base")
            raise PrepareFailed(f"manifest {number}", "neither base", "replace it")
        if number in self.on_another_base:
            self.manifest = SimpleNamespace(number=number)
        if number in self.refuses:
            raise self.refuses[number]
        self.prepared.add(number)

    async def commit(self, number: int) -> None:
        if number not in self.prepared:
            raise NotPrepared(f"manifest {number}")
        self.manifest = SimpleNamespace(number=number)

    async def catch_up(self) -> None:
        if self.in_force > self.serves:
            await self.prepare(self.in_force)
            await self.commit(self.in_force)

    def fence(self, reason: str) -> None:
        self.fenced = reason

    def unfence(self) -> None:
        self.fenced = None

    async def stop(self) -> None:
        self.stopped = True


class Line:
    """The way to the directory, which can be cut: calls then fail at once, or never return."""

    def __init__(self, directory: ReplicaDirectory) -> None:
        self.directory = directory
        self.cut = False
        self.silent = False
        self.standings: list[Standing] = []

    async def next_directive(self, replica: str, standing: Standing, wait_seconds: float) -> Directive:
        if self.cut:
            raise ConnectionError("no route to the directory")
        if self.silent:
            await asyncio.Event().wait()
        self.standings.append(standing)
        return await self.directory.next_directive(replica, standing, wait_seconds)

    async def leave(self, replica: str) -> None:
        if self.cut:
            raise ConnectionError("no route to the directory")
        await self.directory.leave(replica)


class Stand:
    """One replica with its service and its line."""

    def __init__(self, directory: ReplicaDirectory, name: str, number: int = 0) -> None:
        self.service, self.line = Service(number), Line(directory)
        self.replica = Replica(name, self.service, self.line, f"{name}:8100", silence_seconds=SILENCE)  # type: ignore[arg-type]


@pytest.fixture
def directory() -> ReplicaDirectory:
    return ReplicaDirectory(lambda: 0, silence_seconds=SILENCE, prepare_timeout_seconds=3.0)


Start = Callable[..., Any]


@pytest_asyncio.fixture
async def start(directory: ReplicaDirectory) -> AsyncIterator[Start]:
    stands: list[Stand] = []

    async def _start(name: str, number: int = 0, *, join: bool = True) -> Stand:
        stands.append(Stand(directory, name, number))
        if join:
            await stands[-1].replica.join(5)
        return stands[-1]

    yield _start
    for stand in stands:
        stand.line.cut = False
        await stand.replica.leave()


async def until(holds: Callable[[], bool], timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "did not come about"
        await asyncio.sleep(0.01)


async def test_publication_to_two_replicas(directory: ReplicaDirectory, start: Start) -> None:
    one, two = await start("one"), await start("two")
    assert (one.service.fenced, two.service.fenced) == (None, None)
    started = time.monotonic()
    report = await directory.publish(1)
    assert time.monotonic() - started < 0.5, "nobody waits for a heartbeat"
    assert (report.replicas, one.service.serves, two.service.serves) == (2, 1, 1)


async def test_it_is_ready_only_once_it_stands_on_the_manifest_in_force(
    directory: ReplicaDirectory, start: Start
) -> None:
    await directory.publish(3)
    late = await start("late", 1, join=False)
    late.service.prepare_seconds = 0.3
    joining = asyncio.create_task(late.replica.join(5))
    await asyncio.sleep(0.1)
    assert (joining.done(), late.service.fenced) == (False, "starting")
    await joining
    assert (late.service.serves, late.service.fenced) == (3, None)


async def test_joining_what_it_can_not_serve_raises(directory: ReplicaDirectory, start: Start) -> None:
    await directory.publish(3)
    late = await start("late", join=False)
    late.service.refuses[3] = PrepareFailed("alpha@v1", "rank 64", "raise max_lora_rank")
    with pytest.raises(PublicationFailed, match="rank 64"):
        await late.replica.join(5)
    assert late.service.fenced is not None


async def test_joining_without_a_directory_times_out(start: Start) -> None:
    lonely = await start("lonely", join=False)
    lonely.line.cut = True
    with pytest.raises(TimeoutError):
        await lonely.replica.join(0.3)
    lonely.line.cut = False
    await asyncio.sleep(0.5)
    assert lonely.line.standings == [], "nobody waits for it any more"


@pytest.mark.parametrize(
    "error",
    [PrepareFailed("alpha@v1", "digest differs", "restore it"), OSError("disk gone"), KeyError("x")],
    ids=["refused", "no disk", "a mistake"],
)
async def test_who_can_not_prepare_is_fenced_and_keeps_what_it_serves_until_then(
    directory: ReplicaDirectory, start: Start, error: Exception
) -> None:
    good, bad = await start("good"), await start("bad")
    await directory.publish(1)
    bad.service.refuses[2] = error
    report = await directory.publish(2)
    assert set(report.fenced) == {"bad"}
    await until(lambda: bad.replica.fatal is not None)
    assert str(error) in str(bad.replica.fatal)
    assert (good.service.serves, good.service.fenced) == (2, None)
    assert bad.service.serves == 1 and bad.service.fenced is not None


async def test_when_all_fail_nobody_changes_and_everybody_serves_on(directory: ReplicaDirectory, start: Start) -> None:
    stands = [await start("one"), await start("two")]
    await directory.publish(1)
    for stand in stands:
        stand.service.refuses[2] = PrepareFailed("alpha@v1", "broken", "train again")
    with pytest.raises(PublicationFailed):
        await directory.publish(2)
    await asyncio.sleep(0.3)
    assert [(s.service.serves, s.service.fenced, s.replica.fatal) for s in stands] == [(1, None, None)] * 2
    assert (await directory.publish(3)).replicas == 2


async def test_a_long_preparation_is_no_silence(directory: ReplicaDirectory, start: Start) -> None:
    slow, quick = await start("slow"), await start("quick")
    slow.service.prepare_seconds = 2 * SILENCE
    publication = asyncio.create_task(directory.publish(1))
    await asyncio.sleep(1.5 * SILENCE)
    assert (publication.done(), slow.service.fenced, quick.service.serves) == (False, None, 0)
    assert Standing(preparing=1, address="slow:8100", used=slow.service.used) in slow.line.standings
    report = await publication
    assert (report.replicas, report.fenced) == (2, {})
    assert (slow.service.serves, quick.service.serves) == (1, 1)


async def test_a_preparation_that_takes_too_long_is_fenced_while_it_runs(start: Start) -> None:
    directory = ReplicaDirectory(lambda: 0, silence_seconds=SILENCE, prepare_timeout_seconds=0.5)
    stand = Stand(directory, "slow")
    other = Stand(directory, "quick")
    await asyncio.gather(stand.replica.join(5), other.replica.join(5))
    stand.service.prepare_seconds = 30
    report = await directory.publish(1)
    assert set(report.fenced) == {"slow"}
    await until(lambda: stand.replica.fatal is not None)
    assert stand.service.fenced is not None
    for each in (stand, other):
        await each.replica.leave()
    assert stand.service.prepared == set(), "leaving ends what it was doing"


async def test_a_commit_that_fails_is_the_end_of_a_replica(directory: ReplicaDirectory, start: Start) -> None:
    good, bad = await start("good"), await start("bad")

    async def broken(number: int) -> None:
        raise RuntimeError("the engine is gone")

    bad.service.commit = broken
    publication = asyncio.create_task(directory.publish(1))
    await until(lambda: bad.replica.fatal is not None)
    assert "the engine is gone" in str(bad.replica.fatal)
    assert bad.service.fenced is not None, "it must not go on serving what all others have left"
    report = await publication
    assert (good.service.serves, report.replicas) == (1, 1)


@pytest.mark.parametrize("how", ["cut", "silent"])
async def test_a_directory_that_is_away_stops_no_request(directory: ReplicaDirectory, start: Start, how: str) -> None:
    stands = [await start("one"), await start("two")]
    await directory.publish(1)
    for stand in stands:
        stand.service.in_force = 1
        setattr(stand.line, how, True)
    await until(lambda: all(stand.service.trouble for stand in stands))
    await asyncio.sleep(SILENCE)
    for stand in stands:
        assert (stand.service.fenced, stand.replica.fatal, stand.service.serves) == (None, None, 1)
        assert "directory" in str(stand.service.trouble) and "manifest 1" in str(stand.service.trouble)
        setattr(stand.line, how, False)
    await until(lambda: all(stand.service.trouble is None for stand in stands))
    assert (await directory.publish(2)).replicas == 2
    assert [stand.service.serves for stand in stands] == [2, 2]


async def test_a_short_interruption_is_no_trouble(directory: ReplicaDirectory, start: Start) -> None:
    stand = await start("one")
    stand.line.cut = True
    await asyncio.sleep(0.3 * SILENCE)
    assert (stand.service.fenced, stand.service.trouble) == (None, None)


@pytest.mark.parametrize("how", ["cut", "silent"])
async def test_cut_off_alone_it_follows_the_registry(directory: ReplicaDirectory, start: Start, how: str) -> None:
    lost, good = await start("lost"), await start("good")
    await directory.publish(1)
    setattr(lost.line, how, True)
    lost.service.in_force = 2
    report = await directory.publish(2)
    assert (report.replicas, good.service.serves) == (1, 2), "the lost one is forgotten, not waited for"
    await until(lambda: lost.service.serves == 2)
    assert (lost.service.fenced, lost.replica.fatal) == (None, None)
    setattr(lost.line, how, False)
    await until(lambda: lost.service.trouble is None)
    assert (await directory.publish(3)).replicas == 2
    assert lost.service.serves == 3


async def test_cut_off_and_unable_to_follow_it_serves_on_and_says_so(directory: ReplicaDirectory, start: Start) -> None:
    lost = await start("lost")
    await directory.publish(1)
    lost.line.cut, lost.service.in_force = True, 2
    lost.service.refuses[2] = PrepareFailed("alpha@v2", "no such folder", "mount it")
    await until(lambda: "no such folder" in str(lost.service.trouble))
    assert (lost.service.fenced, lost.replica.fatal, lost.service.serves) == (None, None, 1)
    # It is mended, and then the directory is there again: both lead it on.
    lost.service.refuses.clear()
    await until(lambda: lost.service.serves == 2)
    lost.line.cut = False
    await until(lambda: lost.service.trouble is None)


async def test_a_commit_that_comes_while_it_catches_up_beyond_it_is_not_its_end(start: Start) -> None:
    """It had prepared 5 when it was cut off, and is on its way to 7 when the directory is back with the old word."""
    stand = await start("a", 4)
    replica, service, arrived = stand.replica, stand.service, asyncio.Event()

    async def catch_up() -> None:
        service.prepared = {7}
        service.manifest = SimpleNamespace(number=7)
        await arrived.wait()

    service.catch_up = catch_up
    replica._standing = Standing(serves=4, prepared=5)
    replica._go_alone("no route")
    await asyncio.sleep(0)
    await replica._obey(Directive("commit", 5))
    arrived.set()
    await until(lambda: replica._standing == Standing(serves=7))
    assert (replica.fatal, service.fenced) == (None, None)


async def test_cut_off_without_ever_having_joined_it_takes_no_request(start: Start) -> None:
    lonely = await start("lonely", join=False)
    lonely.line.cut = True
    joining = asyncio.create_task(lonely.replica.join(2 * SILENCE))
    with pytest.raises(TimeoutError):
        await joining
    assert lonely.service.fenced == "starting"


async def test_a_restarted_directory_is_found_again(directory: ReplicaDirectory, start: Start) -> None:
    stand = await start("one")
    await directory.publish(1)
    stand.line.cut = True
    await asyncio.sleep(0.1)
    stand.line.directory = ReplicaDirectory(lambda: 2, silence_seconds=SILENCE, prepare_timeout_seconds=3.0)
    stand.line.cut = False
    await until(lambda: stand.service.serves == 2)
    assert stand.service.fenced is None


async def test_leaving(directory: ReplicaDirectory, start: Start) -> None:
    stand = await start("one")
    await stand.replica.leave()
    assert stand.service.stopped
    assert await directory.replicas() == {}
    other = await start("other")
    other.line.cut = True
    with pytest.raises(ConnectionError):
        await other.replica.leave()
    assert other.service.stopped, "the engine goes down whether the directory hears of it or not"


async def test_cut_off_and_broken_by_the_registry_s_manifest_it_is_not_opened_again(
    directory: ReplicaDirectory, start: Start
) -> None:
    """It could take neither base, and the directory comes back without a word of the manifest that did it."""
    lost, good = await start("lost"), await start("good")
    await directory.publish(1)
    lost.service.breaks_at = lost.service.in_force = 2
    lost.line.cut = True
    await until(lambda: lost.replica.fatal is not None)
    lost.line.cut = False
    await asyncio.sleep(0.2)
    assert "neither base" in str(lost.replica.fatal) and lost.service.fenced is not None
    assert (good.service.serves, good.service.fenced) == (1, None)


async def test_another_base_is_served_as_soon_as_it_is_prepared(directory: ReplicaDirectory, start: Start) -> None:
    one, two = await start("one"), await start("two")
    for stand in (one, two):
        stand.service.on_another_base = {1}
    report = await directory.publish(1, one_by_one=True)
    assert (report.replicas, one.service.serves, two.service.serves) == (2, 1, 1)
    assert not any(standing.prepared for stand in (one, two) for standing in stand.line.standings)


async def test_one_that_can_take_neither_base_is_to_be_replaced(directory: ReplicaDirectory, start: Start) -> None:
    one, two = await start("one"), await start("two")
    one.service.breaks_at, two.service.on_another_base = 1, {1}
    await directory.publish(1, one_by_one=True)
    assert "neither base" in str(one.replica.fatal) and two.service.serves == 1
    assert one.service.fenced is not None


async def test_it_says_where_it_listens_wherever_it_stands(directory: ReplicaDirectory, start: Start) -> None:
    stand = await start("one")
    await directory.publish(1)
    assert {standing.address for standing in stand.line.standings} == {"one:8100"}
    assert await directory.addresses() == ["one:8100"]

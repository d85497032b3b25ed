"""Two-phase publication: all replicas or those that can, never a mixture, and nobody is waited for in vain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from actors.directive import Directive, Standing
from actors.directory import ReplicaDirectory
from actors.errors import PublicationFailed


class Member:
    """A replica's side of the conversation, played by the book; what it can't or won't do is set from outside."""

    def __init__(self, name: str, directory: ReplicaDirectory, serves: int = 0) -> None:
        self.name, self.directory = name, directory
        self.standing = Standing(serves=serves)
        self.refuses: set[int] = set()
        self.hangs = False
        self.fenced: str | None = None
        self.log: list[tuple[str, int]] = []
        self._task = asyncio.create_task(self._live())

    @property
    def serves(self) -> int:
        return self.standing.serves

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _live(self) -> None:
        while self.fenced is None:
            directive = await self.directory.next_directive(self.name, self.standing, 0.05)
            self.obey(directive)
            while self.hangs:
                await asyncio.sleep(0.01)

    def obey(self, directive: Directive) -> None:
        if directive.action != "stay":
            self.log.append((directive.action, directive.number))
        match directive.action:
            case "prepare" if directive.number in self.refuses:
                self.standing = Standing(self.serves, failed=directive.number, failure=f"{self.name} can't")
            case "prepare":
                self.standing = Standing(self.serves, prepared=directive.number)
            case "commit":
                assert self.standing.prepared == directive.number, "ordered to commit what was not prepared"
                self.standing = Standing(directive.number)
            case "fence":
                self.fenced = directive.reason


Join = Callable[..., Member]


@pytest.fixture
def directory() -> ReplicaDirectory:
    return ReplicaDirectory(lambda: 0, silence_seconds=0.6, prepare_timeout_seconds=2.0)


@pytest_asyncio.fixture
async def join(directory: ReplicaDirectory) -> AsyncIterator[Join]:
    """Lets members join; they leave with the test."""
    members: list[Member] = []

    def _join(name: str, serves: int = 0, at: ReplicaDirectory | None = None) -> Member:
        members.append(Member(name, at or directory, serves))
        return members[-1]

    yield _join
    for member in members:
        await member.stop()


async def until(holds: Callable[[], bool], timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "did not come about"
        await asyncio.sleep(0.01)


async def known(directory: ReplicaDirectory, count: int) -> None:
    deadline = time.monotonic() + 5
    while len(await directory.replicas()) != count:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_all_prepare_then_all_commit(directory: ReplicaDirectory, join: Join) -> None:
    members = [join(name) for name in "abc"]
    await known(directory, 3)
    committed_before_all_prepared: list[str] = []
    for member in members:
        obey = member.obey

        def watch(directive: Directive, obey: Callable[[Directive], None] = obey, name: str = member.name) -> None:
            if directive.action == "commit" and not all(m.standing.prepared == 1 or m.serves == 1 for m in members):
                committed_before_all_prepared.append(name)
            obey(directive)

        member.obey = watch  # type: ignore[method-assign]
    report = await directory.publish(1)
    assert (report.number, report.replicas, report.fenced) == (1, 3, {})
    assert [member.serves for member in members] == [1, 1, 1]
    assert committed_before_all_prepared == []
    assert all(member.log == [("prepare", 1), ("commit", 1)] for member in members)
    assert {r.manifest for r in (await directory.replicas()).values()} == {1}


async def test_nobody_commits_while_one_still_prepares(directory: ReplicaDirectory, join: Join) -> None:
    quick, slow = join("quick"), join("slow")
    await known(directory, 2)
    obey = slow.obey

    def slowly(directive: Directive) -> None:
        obey(directive)
        if directive.action == "prepare":
            slow.standing = Standing(0, preparing=directive.number)

    slow.obey = slowly  # type: ignore[method-assign]
    publication = asyncio.create_task(directory.publish(1))
    await until(lambda: quick.standing.prepared == 1 and slow.standing.preparing == 1)
    await asyncio.sleep(0.9)  # longer than a silence: preparing is no silence
    assert (quick.serves, slow.serves, publication.done()) == (0, 0, False)
    slow.standing = Standing(0, prepared=1)
    report = await publication
    assert (report.replicas, quick.serves, slow.serves) == (2, 1, 1)


async def test_who_can_not_prepare_is_fenced_and_the_others_go_on(directory: ReplicaDirectory, join: Join) -> None:
    good, bad = join("good"), join("bad")
    bad.refuses = {1}
    await known(directory, 2)
    report = await directory.publish(1)
    assert report.replicas == 1
    assert set(report.fenced) == {"bad"} and "can't" in report.fenced["bad"]
    await until(lambda: bad.fenced is not None)
    assert (good.serves, good.fenced, bad.serves) == (1, None, 0)
    assert "manifest 1" in str(bad.fenced)
    # It is not waited for any more, and forgotten once it is gone.
    started = time.monotonic()
    await directory.publish(2)
    assert time.monotonic() - started < 1.0
    await asyncio.sleep(0.7)
    assert set(await directory.replicas()) == {"good"}


async def test_when_none_can_prepare_nobody_changes(directory: ReplicaDirectory, join: Join) -> None:
    members = [join("a"), join("b")]
    await known(directory, 2)
    await directory.publish(1)
    for member in members:
        member.refuses = {2}
    with pytest.raises(PublicationFailed, match="can't"):
        await directory.publish(2)
    await asyncio.sleep(0.2)
    assert [(m.serves, m.fenced) for m in members] == [(1, None), (1, None)]
    # What was before is announced under a new number, and that they take.
    report = await directory.publish(3)
    assert (report.replicas, [m.serves for m in members]) == (2, [3, 3])


async def test_who_does_not_answer_in_time_is_fenced(join: Join) -> None:
    directory = ReplicaDirectory(lambda: 0, silence_seconds=10.0, prepare_timeout_seconds=0.4)
    good, hung = join("good", at=directory), join("hung", at=directory)
    await known(directory, 2)
    hung.hangs = True
    await asyncio.sleep(0.1)
    report = await directory.publish(1)
    assert (report.replicas, set(report.fenced), good.serves) == (1, {"hung"}, 1)
    assert "no answer in time" in report.fenced["hung"]
    hung.hangs = False
    await until(lambda: hung.fenced is not None)
    assert hung.serves == 0


async def test_a_silent_replica_is_dropped_after_its_time(directory: ReplicaDirectory, join: Join) -> None:
    good, gone = join("good"), join("gone")
    await known(directory, 2)
    await gone.stop()
    started = time.monotonic()
    report = await directory.publish(1)
    assert 0.1 < time.monotonic() - started < 1.8, "the silence is waited for, not the whole preparation time"
    assert (report.replicas, report.fenced, good.serves) == (1, {}, 1)
    assert set(await directory.replicas()) == {"good"}


async def test_a_silent_replica_that_comes_back_is_led_to_the_manifest_in_force(
    directory: ReplicaDirectory, join: Join
) -> None:
    good, lost = join("good"), join("lost")
    await known(directory, 2)
    lost.hangs = True
    await asyncio.sleep(0.1)
    await directory.publish(1)
    assert (good.serves, lost.serves) == (1, 0)
    lost.hangs = False
    await until(lambda: lost.serves == 1)
    assert lost.fenced is None


async def test_a_late_joiner_is_led_to_the_manifest_in_force(directory: ReplicaDirectory, join: Join) -> None:
    join("early")
    await known(directory, 1)
    await directory.publish(1)
    await directory.publish(2)
    late = join("late", serves=1)
    await until(lambda: late.serves == 2)
    assert late.log == [("prepare", 2), ("commit", 2)]


async def test_a_late_joiner_that_can_not_prepare_is_fenced(directory: ReplicaDirectory, join: Join) -> None:
    await directory.publish(1)
    late = join("late")
    late.refuses = {1}
    await until(lambda: late.fenced is not None)
    assert late.serves == 0


@pytest.mark.parametrize("told_by", ["this directory", "the one before"])
async def test_a_late_joiner_that_never_comes_to_be_prepared_is_fenced(told_by: str) -> None:
    """It says again and again that it prepares; nobody waits for it, and it is not left so."""
    directory = ReplicaDirectory(lambda: 3, silence_seconds=5.0, prepare_timeout_seconds=0.2)
    if told_by == "this directory":
        assert (await directory.next_directive("slow", Standing(serves=1), 0.0)).action == "prepare"
    hangs, seen = Standing(serves=1, preparing=3), list[str]()
    began = time.monotonic()
    while (not seen or seen[-1] == "stay") and time.monotonic() - began < 5:
        directive = await directory.next_directive("slow", hangs, 0.02)
        seen.append(directive.action)
    assert seen[0] == "stay" and seen[-1] == "fence" and "manifest 3" in directive.reason
    assert time.monotonic() - began > 0.3, "it has longer than in a publication"
    assert (await directory.next_directive("well", Standing(serves=1), 0.0)).action == "prepare"


async def test_who_joins_during_a_publication_is_part_of_it(directory: ReplicaDirectory, join: Join) -> None:
    first = join("first")
    await known(directory, 1)
    first.obey = lambda directive: setattr(first, "standing", Standing(0, preparing=1))  # type: ignore[method-assign]
    publication = asyncio.create_task(directory.publish(1))
    await until(lambda: first.standing.preparing == 1)
    second = join("second")
    await until(lambda: second.standing.prepared == 1)
    assert second.serves == 0
    del first.obey
    first.standing = Standing(0, prepared=1)
    report = await publication
    assert (report.replicas, first.serves, second.serves) == (2, 1, 1)


async def test_leaving_during_a_publication_ends_the_waiting(directory: ReplicaDirectory, join: Join) -> None:
    good, leaver = join("good"), join("leaver")
    await known(directory, 2)
    leaver.hangs = True
    await asyncio.sleep(0.1)
    publication = asyncio.create_task(directory.publish(1))
    await until(lambda: good.standing.prepared == 1)
    await directory.leave("leaver")
    report = await asyncio.wait_for(publication, 0.4)
    assert (report.replicas, report.fenced, good.serves) == (1, {}, 1)


async def test_publishing_without_replicas(directory: ReplicaDirectory, join: Join) -> None:
    report = await directory.publish(4)
    assert (report.number, report.replicas) == (4, 0)
    first = join("first")
    await until(lambda: first.serves == 4)


async def test_publications_wait_for_each_other_and_old_numbers_change_nothing(
    directory: ReplicaDirectory, join: Join
) -> None:
    members = [join("a"), join("b")]
    await known(directory, 2)
    await asyncio.gather(*(directory.publish(number) for number in (1, 2, 3)))
    assert [member.serves for member in members] == [3, 3]
    assert (await directory.publish(2)).number == 3
    late = join("late", serves=1)
    await until(lambda: late.serves == 3)
    assert [member.serves for member in members] == [3, 3]


async def test_a_restarted_directory_learns_who_there_is_and_leads_on(join: Join) -> None:
    first = ReplicaDirectory(lambda: 0, silence_seconds=0.6, prepare_timeout_seconds=2.0)
    members = [join("a", at=first), join("b", at=first)]
    await known(first, 2)
    await first.publish(1)
    # Manifest 2 came into force, and the directory died before it had told anybody.
    second = ReplicaDirectory(lambda: 2, silence_seconds=0.6, prepare_timeout_seconds=2.0)
    for member in members:
        member.directory = second
    await until(lambda: [m.serves for m in members] == [2, 2])
    assert set(await second.replicas()) == {"a", "b"}
    assert [m.log[-2:] for m in members] == [[("prepare", 2), ("commit", 2)]] * 2
    report = await second.publish(3)
    assert (report.replicas, [m.serves for m in members]) == (2, [3, 3])


async def test_the_question_is_answered_at_once_when_there_is_something_to_do(directory: ReplicaDirectory) -> None:
    asked = asyncio.create_task(directory.next_directive("a", Standing(), 5.0))
    await asyncio.sleep(0.05)
    publication = asyncio.create_task(directory.publish(1))
    assert await asyncio.wait_for(asked, 1.0) == Directive("prepare", 1)
    assert await directory.next_directive("a", Standing(prepared=1), 5.0) == Directive("commit", 1)
    assert (await directory.next_directive("a", Standing(serves=1), 0.0)).action == "stay"
    assert (await publication).replicas == 1


async def test_who_could_not_prepare_is_asked_again_by_the_next_publication(
    directory: ReplicaDirectory, join: Join
) -> None:
    """Whoever leads replicas on does so for as long as it takes, under the same number."""
    members = [join("a"), join("b")]
    await known(directory, 2)
    await directory.publish(1)
    for member in members:
        member.refuses = {2}
    for _ in range(2):
        with pytest.raises(PublicationFailed, match="can't"):
            await directory.publish(2)
        assert await directory.in_force() == 1
    assert all(member.log.count(("prepare", 2)) == 2 for member in members)
    for member in members:
        member.refuses = set()
    assert (await directory.publish(2)).replicas == 2
    assert [(m.serves, m.fenced) for m in members] == [(2, None), (2, None)]
    assert await directory.in_force() == 2


async def test_a_restarted_directory_does_not_fence_everybody_for_what_nobody_can_take(join: Join) -> None:
    """It takes as committed what the registry says; that no replica can take it only a publication to all finds."""
    first = ReplicaDirectory(lambda: 0, silence_seconds=0.6, prepare_timeout_seconds=2.0)
    members = [join("a", at=first), join("b", at=first)]
    await known(first, 2)
    await first.publish(1)
    second = ReplicaDirectory(lambda: 2, silence_seconds=0.6, prepare_timeout_seconds=2.0)
    for member in members:
        member.refuses, member.directory = {2}, second
    await until(lambda: all(m.standing.failed == 2 for m in members))
    await asyncio.sleep(0.3)
    assert [(m.serves, m.fenced) for m in members] == [(1, None), (1, None)]
    with pytest.raises(PublicationFailed):
        await second.publish(2)
    assert (await second.publish(3)).replicas == 2
    assert [m.serves for m in members] == [3, 3]


async def test_once_somebody_serves_it_who_can_not_is_fenced(join: Join) -> None:
    directory = ReplicaDirectory(lambda: 2, silence_seconds=0.6, prepare_timeout_seconds=2.0)
    bad = join("bad", serves=1, at=directory)
    bad.refuses = {2}
    await until(lambda: bad.standing.failed == 2)
    assert bad.fenced is None
    join("good", serves=1, at=directory)
    await until(lambda: bad.fenced is not None)


async def test_how_long_a_replica_lags(directory: ReplicaDirectory, join: Join) -> None:
    good, hung = join("good"), join("hung")
    await known(directory, 2)
    assert {r.lag_seconds for r in (await directory.replicas()).values()} == {0.0}
    obey = hung.obey
    hung.obey = lambda directive: setattr(hung, "standing", Standing(0, preparing=1))  # type: ignore[method-assign]
    publication = asyncio.create_task(directory.publish(1))
    await until(lambda: good.standing.prepared == 1 and hung.standing.preparing == 1)
    await asyncio.sleep(1.0)
    lags = {name: replica.lag_seconds for name, replica in (await directory.replicas()).items()}
    assert lags["hung"] >= 1.0, "what is being published is in force already"
    hung.obey = obey  # type: ignore[method-assign]
    hung.standing = Standing(0, prepared=1)
    await publication
    assert (good.serves, hung.serves) == (1, 1)
    assert {r.lag_seconds for r in (await directory.replicas()).values()} == {0.0}
    late = join("late")
    late.hangs = True
    await asyncio.sleep(0.3)
    lags = {name: replica.lag_seconds for name, replica in (await directory.replicas()).items()}
    assert lags["late"] > 0 and lags["good"] == 0
    late.hangs = False


async def test_one_by_one_each_has_its_turn_while_the_others_serve(directory: ReplicaDirectory, join: Join) -> None:
    """What a replica prepares by serving it: the base itself changes."""
    members = [join(name) for name in "abc"]
    await known(directory, 3)
    at_it: set[str] = set()
    most: list[int] = []

    def takes_its_time(member: Member) -> Callable[[Directive], None]:
        async def change(number: int) -> None:
            await asyncio.sleep(0.1)
            at_it.discard(member.name)
            member.standing = Standing(number)

        def obey(directive: Directive) -> None:
            assert directive.action in ("stay", "prepare")
            if directive.action == "prepare":
                at_it.add(member.name)
                most.append(len(at_it))
                member.standing = Standing(member.serves, preparing=directive.number)
                changing.append(asyncio.create_task(change(directive.number)))

        return obey

    changing: list[asyncio.Task[None]] = []
    for member in members:
        member.obey = takes_its_time(member)  # type: ignore[method-assign]
    report = await directory.publish(1, one_by_one=True)
    assert (report.replicas, report.fenced) == (3, {}) and most == [1, 1, 1]
    assert [member.serves for member in members] == [1, 1, 1]


async def test_one_by_one_the_first_that_can_not_keeps_nobody_from_trying(
    directory: ReplicaDirectory, join: Join
) -> None:
    a, b = join("a"), join("b")
    await known(directory, 2)
    a.refuses = b.refuses = {1}
    with pytest.raises(PublicationFailed, match="a can't"):
        await directory.publish(1, one_by_one=True)
    assert (a.serves, b.serves, a.fenced, b.fenced) == (0, 0, None, None)
    b.refuses = set()
    report = await directory.publish(2, one_by_one=True)
    assert report.replicas == 2


async def test_one_by_one_a_replica_that_dies_in_its_turn_gives_it_up(directory: ReplicaDirectory, join: Join) -> None:
    a, b = join("a"), join("b")
    await known(directory, 2)
    told = asyncio.Event()

    def dies(directive: Directive) -> None:
        if directive.action == "prepare":
            told.set()
            a.hangs = True

    a.obey = dies  # type: ignore[method-assign]
    b.hangs = True
    publishing = asyncio.create_task(directory.publish(1, one_by_one=True))
    await told.wait()
    b.hangs = False
    report = await publishing
    assert (report.replicas, b.serves) == (1, 1)


@pytest.mark.parametrize("again", [False, True])
async def test_one_by_one_a_replica_that_hangs_in_its_turn_gives_it_up(join: Join, again: bool) -> None:
    """It says that it is at it for as long as it is asked, also when what could not be published is tried again."""
    directory = ReplicaDirectory(lambda: 0, silence_seconds=5.0, prepare_timeout_seconds=0.6)
    hung, good = join("hung", at=directory), join("good", at=directory)
    await known(directory, 2)

    def hangs(directive: Directive) -> None:
        if directive.action == "fence":
            hung.fenced = directive.reason
        elif directive.action == "prepare":
            hung.standing = Standing(0, preparing=directive.number)

    hung.obey = hangs  # type: ignore[method-assign]
    good.refuses = {1} if again else set()
    good.hangs = True
    await asyncio.sleep(0.1)
    publishing = asyncio.create_task(directory.publish(1, one_by_one=True))
    await until(lambda: hung.standing.preparing == 1)
    good.hangs = False
    if again:
        with pytest.raises(PublicationFailed, match="good can't"):
            await publishing
        good.refuses = set()
        publishing = asyncio.create_task(directory.publish(1, one_by_one=True))
    report = await publishing
    assert (report.replicas, set(report.fenced), good.serves) == (1, {"hung"}, 1)
    assert "no answer in time" in report.fenced["hung"]


async def test_it_tells_where_the_live_replicas_listen() -> None:
    directory = ReplicaDirectory(lambda: 0, silence_seconds=0.3)
    await directory.next_directive("a", Standing(address="10.0.0.1:8100"), 0.0)
    await directory.next_directive("b", Standing(preparing=1, address="10.0.0.2:8100"), 0.0)
    await directory.next_directive("c", Standing(), 0.0)
    assert sorted(await directory.addresses()) == ["10.0.0.1:8100", "10.0.0.2:8100"]
    await directory.leave("a")
    assert await directory.addresses() == ["10.0.0.2:8100"]
    await asyncio.sleep(0.4)
    assert await directory.addresses() == []


async def test_it_tells_what_replicas_have_used_lately_or_the_last_of_them() -> None:
    directory = ReplicaDirectory(lambda: 1)
    for name, used in {"one": ("a", "b", "c"), "two": ("b", "d"), "new": ()}.items():
        await directory.next_directive(name, Standing(1, used=used), 0.0)
    assert await directory.used() == ["a", "b", "d", "c"]
    await asyncio.gather(directory.leave("one"), directory.leave("two"))
    assert await directory.used() == ["b", "d"]

"""A house whose every process may die at any boundary, over a stream that anything may happen to.

Each actor reaches the others through a `Link`, so that a death can be laid between any two of them; the actors
themselves, registry and spools are the real ones. What happens is said by steps (`courses` draws them), and what must
hold in the end by `judgement`.
"""

from __future__ import annotations

import shutil
import sys
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.errors import ActorError, SpoolAhead
from actors.exam import ExamLimits
from actors.handover import Handover
from actors.ingest import Ingest
from actors.learner import LearnerWorker
from actors.observation import example_digest
from actors.router import Router
from actors.spool import Spool
from actors.takeover import left_behind
from learning.contract import TrainingJob
from learning.errors import LearningError
from registry.errors import RegistryError
from registry.registry import Registry
from streaming.errors import StreamError
from streaming.records import EndOfDomain, TaskRecord
from streaming.source import TopicPartition
from tests.actors.deaths import DRIVER, Death, Deaths, Link, MortalOs, Own, Unreachable
from tests.actors.house import (
    BASE,
    ClosingRule,
    Coordinator,
    CoordinatorOptions,
    House,
    HouseParts,
    OneAtATime,
    limits,
)
from tests.actors.memory_log import MemoryStream
from tests.actors.shelves import Replicas, Shelf
from tests.actors.standins import HashFeatures, PlainTemplate, RecordingLearner
from tests.actors.witness import Books, Settled, Witness

DOMAINS = ("alpha", "beta", "gamma")
PARTITIONS = 3
ORDINARY = (ActorError, RegistryError, StreamError, LearningError, Unreachable, OSError)
"""What a step may end with: it is said to whoever asked, and the course goes on."""


class Wrong(BaseException):
    """The system has done what it must never do. No handler of the product may catch it."""


class Deferred:
    """An executor whose jobs run when a course says so."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = deque()

    def submit(self, job: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, job, args))
        return future

    def run_one(self) -> None:
        future, job, args = self.waiting.popleft()
        try:
            future.set_result(job(*args))
        except BaseException as error:
            future.set_exception(error)
            raise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.waiting.clear()


def _at_once(work: Callable[[], None]) -> None:
    """One thing after another: a course is to go the same way each time."""
    work()


class World(House):
    """Three partitions, three domains, one learner, one replica, and as many ingest workers as a course wants."""

    exams = ExamLimits(4, 1 << 16)

    def __init__(self, home: Path, *, workers: int = 2, spool_limit: int = 10_000) -> None:
        self.deaths, self.books, self.recorder = Deaths(), Books(), RecordingLearner()
        self.zombies: list[Witness] = []
        self.down: set[str] = set()
        """Processes that died and could not be started again yet."""
        self.during_training: list[Callable[[], None]] = []
        self.errors: list[str] = []
        self.at: dict[tuple[TopicPartition, int], TaskRecord] = {}
        self.backups = 0
        self._serving: dict[int, Any] = {}
        stream = MemoryStream(PARTITIONS)
        stream.log.deal(workers)
        super().__init__(
            home,
            HouseParts(PlainTemplate(), HashFeatures(), self.recorder),  # type: ignore[arg-type]
            partitions=PARTITIONS,
            workers=workers,
            options=limits(poll_records=7, block_rows=4, spool_limit=spool_limit),
            closing=ClosingRule(count=None, quiet_seconds=None, settle_seconds=60.0),
            stream=stream,
        )

    # -- wiring -------------------------------------------------------------------------------------------------------

    def start_router(self) -> None:
        registry = Registry(self.home / "registry", writer=True)
        router = Router(registry, BASE, self.router_options)
        witness = Witness(router, registry, self.books, self.stream.ends, self.recorder.behind)
        if hasattr(self, "router"):
            self.router.inner = witness
        else:
            self.router = OneAtATime(witness)

    def start_replicas(self) -> None:
        refuses = self.replicas.shelves[0].refuses if hasattr(self, "replicas") else set()
        shelf = Shelf(self.registry)
        shelf.refuses = refuses
        self.replicas = MoodyReplicas([shelf])

    def employ(self, learner: Any) -> None:
        ingests = [self._link("learner", f"ingest-{index}") for index in range(len(self.ingests))]
        self.trainer.worker = LearnerWorker(
            Meanwhile(self, learner),
            self.home / "work",
            ingests,  # type: ignore[arg-type]
            self.exams,
            handover=Handover(self.registry.storage),
        )

    def start_coordinator(self) -> None:
        self.coordinator = Coordinator(
            self.registry,
            BASE,
            {f"ingest-{index}": self._link("coordinator", f"ingest-{index}") for index in range(len(self.ingests))},
            self._link("coordinator", "router"),  # type: ignore[arg-type]
            {"learner-0": self._link("coordinator", "learner")},  # type: ignore[dict-item]
            self._link("coordinator", "directory"),  # type: ignore[arg-type]
            self.coordinator_options(),
        )
        for pool in (self.coordinator._learning, self.coordinator._publishing, self.coordinator._keeping):
            pool.shutdown()
        self.coordinator._peers.spawn = _at_once
        learning, publishing, keeping = self.pools = [Deferred() for _ in range(3)]
        self.coordinator._learning = learning  # type: ignore[assignment]
        self.coordinator._publishing = publishing  # type: ignore[assignment]
        self.coordinator._keeping = keeping  # type: ignore[assignment]

    def coordinator_options(self) -> CoordinatorOptions:
        return replace(super().coordinator_options(), keep_snapshots=2, keep_manifests=3, keep_versions=2)

    def _ingest(self, index: int, member: int | None = None) -> Ingest:
        name = f"ingest-{index}"
        return Ingest(
            lambda start_at: self.stream.open(start_at, index, self.workers),
            self.letters,
            Own(self.deaths, name, Spool(self.spool_path(index))),  # type: ignore[arg-type]
            self.parts.extractor,
            self.parts.template,
            Link(self.deaths, name, "router", lambda: self._serving.get(index) or self._filling("router"), self.revive),  # type: ignore[arg-type]
            self.options,
            left_behind(self.spool_path(index), self.workers),
        )

    def _link(self, caller: str, callee: str) -> Link:
        return Link(self.deaths, caller, callee, lambda: self._filling(callee), self.revive)

    def _filling(self, place: str) -> Any:
        self._try_to_start(place)
        if place.startswith("ingest-"):
            index = int(place.removeprefix("ingest-"))
            if index >= len(self.ingests):
                raise Unreachable(f"{place} is no more")
            return self.ingests[index]
        places = {"router": self.router, "coordinator": self.coordinator}
        return {**places, "directory": self.replicas, "learner": self.trainer.worker}[place]

    def revive(self, who: str) -> None:
        """Start a dead process anew, from what is on the disk; where it can't start, whoever needs it tries again."""
        self.down.add(who)
        with suppress(Unreachable):
            self._try_to_start(who)

    def _try_to_start(self, who: str) -> None:
        if who not in self.down:
            return
        try:
            self._start(who)
        except Death as death:
            if death.who != who:
                raise
            self._try_to_start(who)
        except ORDINARY as error:
            raise Unreachable(f"the {who} does not start: {error}") from error
        self.down.discard(who)

    def _start(self, who: str) -> None:
        if who == "router":
            self.start_router()
        elif who == "coordinator":
            self.start_coordinator()
        elif who == "learner":
            self.employ(self.parts.learner)
        elif who.startswith("ingest-"):
            index = int(who.removeprefix("ingest-"))
            if index < len(self.ingests):
                self.restart_ingest(index)

    # -- moving -------------------------------------------------------------------------------------------------------

    def within(self, who: str, act: Callable[[], Any]) -> Any:
        """Have a process do something; where it dies by it, it is started again. What it says is kept."""
        outer = list(self.deaths.stack)
        self.deaths.stack += [DRIVER, who]
        try:
            self._try_to_start(who)
            return act()
        except Death as death:
            if death.who != who or who in outer:
                raise
            self.revive(who)
        except SpoolAhead as error:
            self.errors.append(f"{who}: {error}")
            self.delete_spool(int(who.removeprefix("ingest-")))
        except ORDINARY as error:
            self.errors.append(f"{who}: {type(error).__name__}: {error}")
        finally:
            self.deaths.stack[:] = outer
        return 0

    def poll_one(self, index: int) -> int:
        index %= len(self.ingests)
        return int(self.within(f"ingest-{index}", lambda: self.ingests[index].poll_once(0.0)))

    def observe_one(self, index: int) -> int:
        index %= len(self.ingests)
        return int(self.within(f"ingest-{index}", lambda: self.ingests[index].observe_once()))

    def tick_once(self) -> None:
        self.within("coordinator", lambda: self.coordinator.tick())

    def run_job(self, choice: int = 0) -> bool:
        """Have one of the coordinator's executors do what it has next."""
        busy = [pool for pool in self.pools if pool.waiting]
        if not busy:
            return False
        self.within("coordinator", busy[choice % len(busy)].run_one)
        return True

    def command(self, name: str, *args: Any) -> Any:
        return self.within("coordinator", lambda: getattr(self.coordinator, name)(*args))

    def put(self, record: TaskRecord, number: int | None = None) -> None:
        for entry in self.stream.log.append(record, number):
            if record.domain is not None:
                self.at[(entry.topic_partition, entry.offset)] = record

    def mark(self, domain: str, number: int | None = None) -> None:
        self.stream.log.append(EndOfDomain(domain=domain), number)

    def deal(self, shift: int) -> None:
        self.stream.log.deal(len(self.ingests), shift)

    def employ_workers(self, count: int) -> None:
        self.stream.log.deal(count)
        super().employ_workers(count)

    def zombify(self) -> None:
        """The router is thought dead and another one started; the old one lives on."""
        self.zombies = [self.router.inner]
        self.start_router()

    def zombie_acts(self, act: Callable[[Witness], Any]) -> None:
        """Whatever an old router tries, nothing of it comes into force."""
        for zombie in self.zombies:
            before = self.registry.head()
            try:
                act(zombie)
            except ORDINARY as error:
                self.errors.append(f"zombie: {type(error).__name__}: {error}")
            if self.registry.head() != before:
                raise Wrong("a router that was replaced has committed something")

    def serve_by_zombie(self, index: int) -> None:
        """A worker whose questions go to the old router for once."""
        if self.zombies:
            self._serving = {index % len(self.ingests): self.zombies[0]}
            try:
                self.poll_one(index)
                self.observe_one(index)
            finally:
                self._serving = {}

    def restart_all(self) -> None:
        self._stop_all()
        self.up()

    def back_up_once(self) -> None:
        self.backups += 1
        self.back_up(self.home / f"backup-{self.backups}")

    def restore_last(self, *, keeps_spools: bool) -> None:
        if not self.backups:
            return
        self._stop_all()
        shutil.rmtree(self.home / "registry")
        shutil.copytree(self.home / f"backup-{self.backups}", self.home / "registry")
        if not keeps_spools:
            shutil.rmtree(self.home / "spool")
        self.up()

    def settled(self, domain: str) -> dict[bytes, str]:
        """The examples settled along the line of commits in force since the domain was last removed, and by what."""
        found: dict[bytes, str] = {}
        for version in self.versions(domain):
            for example in (*version.train, *version.held_out):
                digest = example_digest(domain, example.id)
                if digest in found:
                    raise Wrong(f"{version.adapter} settles {example.id}, as {found[digest]} did before")
                found[digest] = version.adapter
        return found

    def versions(self, domain: str) -> list[Settled]:
        """The versions settled along the line of commits in force since the domain was last removed."""
        found: list[Settled] = []
        for commit in self.books.line(self.router.inner.router._digest):
            if commit.change is not None and domain in commit.change.removes:
                found = []
            if commit.settled is not None and commit.settled.domain == domain:
                found.append(commit.settled)
        return found

    def damage_and_go_back(self, what: str) -> None:
        """A bit turns over in what is in force, while everything is down: nothing starts on it, and a person goes back.

        Where there is nothing to go back to, the file is restored.
        """
        head = self.registry.head()
        if head.snapshot == 0:
            return
        self._stop_all()
        folder = self.home / "registry"
        path = folder / "head.json" if what == "head" else next(folder.glob(f"snapshots/*{head.snapshot_digest}*"))
        whole = path.read_bytes()
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        try:
            self.up()
        except RegistryError as error:
            self.errors.append(f"start: {type(error).__name__}: {error}")
        else:
            raise Wrong(f"it starts on a damaged {path.name}")
        try:
            Registry(folder).go_back()
        except RegistryError:
            path.write_bytes(whole)
        self.up()

    def _stop_all(self) -> None:
        self.deaths.calm()
        self.zombies, self.down = [], set()
        self._die()

    def pinned(self) -> list[str]:
        """The domains that are held at a version."""
        current = self.registry.current()
        return [domain for domain, route in current.routes.items() if route.pinned] if current else []

    def let_the_past_go(self) -> None:
        """As many commits, and prunings, as it takes until nothing of before is kept."""
        current = self.registry.current()
        for domain in list(current.routes)[:1] if current else []:
            for command in ("pin", "unpin") * 3:
                self.command(command, domain)
                self._round()
        self.wait(700.0)
        self._round()

    # -- coming to rest -----------------------------------------------------------------------------------------------

    def rest(self, rounds: int = 40) -> None:
        """Let everybody work until nothing changes any more. Raises `Wrong` where that does not come about."""
        last: Any = None
        still = 0
        for _ in range(rounds):
            self._round()
            now = self._state()
            still = still + 1 if now == last else 0
            if still == 3:
                return
            last = now
            self.wait(700.0)
        raise Wrong(f"it does not come to rest: {last}")

    def _round(self) -> None:
        for index in range(len(self.ingests)):
            for step in (self.poll_one, self.observe_one):
                for _ in range(200):
                    if not step(index):
                        break
                else:
                    raise Wrong(f"{step.__name__} of worker {index} never ends")
        for _ in range(3):
            self.tick_once()
            while self.run_job():
                pass

    def _state(self) -> Any:
        head = self.registry.head()
        return (
            sorted(self.router.inner.observed().items()),
            head and (head.snapshot_digest, head.manifest),
            [shelf.number for shelf in self.replicas.shelves],
            sum(len(pool.waiting) for pool in self.pools),
            sorted((domain, str(each)) for domain, each in self.router.inner.open().items()),
            [sorted(ingest.report().rows.items()) for ingest in self.ingests],
        )


class Meanwhile:
    """The learner, with what else happens while it trains."""

    name = "recording"

    def __init__(self, world: World, inner: RecordingLearner) -> None:
        self._world, self._inner = world, inner

    def train(self, job: TrainingJob, on_progress: Any = None) -> Any:
        self._world_allows(job)
        happenings, self._world.during_training = self._world.during_training, []
        for happen in happenings:
            happen()
        return self._inner.train(job, on_progress)

    def _world_allows(self, job: TrainingJob) -> None:
        """Nothing may be trained on that the ledger does not count as open."""
        witness = self._world.router.inner
        counted = witness.counted.get(job.domain, {})
        settled = self._world.settled(job.domain)
        asked = {example.id for incumbent in job.incumbents for example in incumbent.exam}
        if repeated := sorted(asked & {example.id for example in job.train}):
            raise Wrong(f"{job.domain} v{job.version} trains on {repeated}, which an exam asks")
        for held_out, examples in ((False, job.train), (True, job.held_out)):
            for example in examples:
                row = counted.get(example_digest(job.domain, example.id))
                if row is None:
                    raise Wrong(f"{job.domain} v{job.version} trains on {example.id}, which is not counted")
                if row.digest in settled:
                    raise Wrong(f"{job.domain} v{job.version} trains on {example.id}, which is settled")
                record = self._world.at[(row.partition, row.offset)]
                if (example.prompt, example.completion, held_out) != (record.prompt, record.completion, row.held_out):
                    raise Wrong(f"{job.domain} v{job.version} trains on another row than was counted of {example.id}")


class MoodyReplicas(Replicas):
    """Replicas whose directory is away for the next few calls."""

    def __init__(self, shelves: Sequence[Shelf]) -> None:
        super().__init__(shelves)
        self.away = 0

    def in_force(self) -> int:
        self._answer()
        return super().in_force()

    def publish(self, number: int, one_by_one: bool = False) -> Any:
        self._answer()
        return super().publish(number)

    def replicas(self) -> Any:
        self._answer()
        return super().replicas()

    def _answer(self) -> None:
        if self.away > 0:
            self.away -= 1
            raise Unreachable("the directory is away")


def mortal_modules(deaths: Deaths) -> list[tuple[Any, MortalOs]]:
    """Every module of the registry that writes, and what to put in the place of its `os`."""
    names = [name for name in sys.modules if name.startswith("registry.") and hasattr(sys.modules[name], "os")]
    return [(sys.modules[name], MortalOs(deaths)) for name in names]

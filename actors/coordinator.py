"""The coordinator: decides when a domain is complete, has it learned and judged, and what was accepted published.

    open --close--> sealed vN --learn--> candidate --gate--> accepted --publish--> in service, rows settled
                                                     \\-> rejected --reopen--> open

Nothing of this is kept here: the stage of every domain follows from ledger and registry. A domain that is sealed under
vN without an adapter vN is trained; with an accepted one it is published, which settles its rows in the same commit;
with a rejected one it is opened again. A version that no replica could load is tried again, as the manifest names it.
So a coordinator killed anywhere goes on where it was, and nothing is learned twice. What it does keep in memory is who
works on what now, and figures for the status. No training text comes through here: a learner fetches its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from actors.backlog import DomainBacklog, backlogs_of
from actors.candidates import Candidates, Method
from actors.change import Change
from actors.closing import ClosingRule, end_at_markers
from actors.commands import Commands
from actors.errors import NoLongerSealed, OutOfDate, UnknownDomain, in_words
from actors.fan_out import FanOut
from actors.learners import Learners
from actors.loop import Loop
from actors.losses import Losses
from actors.observation import OpenDomain, Seal, Watermarks
from actors.offers import LEARNER as IMPORTED
from actors.offers import OfferedAdapters
from actors.overview import Overview
from actors.ports import LearnerPort, ManifestPort, ReplicasPort, SpoolPort
from actors.publisher import Publisher
from actors.room import steps_for
from actors.spools import Spools
from actors.stage import Stage
from actors.unfinished import Unfinished
from actors.upkeep import Keep, Upkeep
from actors.vitals import Vitals, vitals_of
from learning.adapter_check import AdapterCheck
from learning.errors import LearningError
from learning.gate import Gate
from registry.adapters import Adapter
from registry.manifest import BaseRevision, Manifest
from registry.registry import Registry
from serving.api import ActorStatus, CommandResult, DomainStatus, SystemStatus

_STATUS_PATIENCE_S = 3.0
"""For how long a status waits for who does not answer: whoever asks for it has little more patience."""


@dataclass(frozen=True)
class CoordinatorOptions:
    """Snapshots, manifests, and versions of each domain that are kept, and how there come to be new ones."""

    closing: ClosingRule
    gate: Gate
    method: Method
    keep_snapshots: int
    keep_manifests: int
    keep_versions: int
    fewest_learners: int = 0
    """Of the learners, those that are wanted also where there is nothing to learn."""
    idle_seconds: float = 60.0
    """Seconds for which a learner beyond these is kept after it was last needed."""


class Coordinator:
    """Drives every domain through its stages; `tick` moves all of them one step and may be called at any time.

    `ingests` are all ingest workers by name, `learners` all learners that there may be, as the status names them.
    """

    def __init__(
        self,
        registry: Registry,
        base: BaseRevision,
        ingests: Mapping[str, SpoolPort],
        router: ManifestPort,
        learners: Mapping[str, LearnerPort],
        directory: ReplicasPort,
        options: CoordinatorOptions,
        unfinished: Unfinished | None = None,
        check: AdapterCheck | None = None,
    ) -> None:
        self._registry, self._base, self._router, self._directory = registry, base, router, directory
        self._peers, self._asked = FanOut(), FanOut(_STATUS_PATIENCE_S)
        self._spools, self._options = Spools(ingests, self._peers), options
        self._losses = Losses(self._spools, router)
        self.publisher = Publisher(registry, router, directory)
        self._commands = Commands(registry, router, self._spools, self.publisher)
        self._offers = OfferedAdapters(registry, router, self.publisher, self._commands, check)
        self._candidates = Candidates(
            registry, base, router, self.publisher, self._commands, self._offers, options.gate, options.method
        )
        keep = Keep(options.keep_snapshots, options.keep_manifests, options.keep_versions)
        self._upkeep = Upkeep(registry, router, directory, self.publisher, keep, unfinished)
        self._learners = Learners(learners, options.fewest_learners, options.idle_seconds)
        # Twice as many threads as learners: while one publishes what its learner has made, another has the learner.
        self._learning = ThreadPoolExecutor(2 * max(len(learners), 1), thread_name_prefix="learn")
        # What needs no learner waits for none.
        self._publishing = ThreadPoolExecutor(1, thread_name_prefix="publish")
        self._keeping = ThreadPoolExecutor(1, thread_name_prefix="keep")
        self._jobs: dict[str, Future[None]] = {}
        self._keeper: Future[None] | None = None
        self._stages: dict[str, Stage] = {}
        self._turns: dict[str, int] = {}
        """When work on each domain was last begun, by a count of all such beginnings."""
        self._started = time.monotonic()
        self._loop: Loop | None = None
        self._wished: set[str] = set()
        """Domains that a person wants learned now."""
        self._stalled: tuple[str, ...] = ()
        self._seen: Overview | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self, interval_s: float = 0.25) -> None:
        """Tick in a thread of its own until `stop`."""
        self._loop = Loop("coordinate", self.tick, rest_s=interval_s)
        self._loop.start()

    def stop(self) -> None:
        """Stop ticking; a training under way is left to its learner and repeated after a restart."""
        if self._loop is not None:
            self._loop.stop(timeout_s=10.0)
        self._learners.stop()
        for pool in (self._learning, self._publishing, self._keeping):
            pool.shutdown(wait=False, cancel_futures=True)

    def vitals(self) -> Vitals:
        """Say since when this coordinator is up, and whether it ticks."""
        return vitals_of(self._started, [self._loop] if self._loop is not None else [])

    def supervise(self, actors: Sequence[ActorStatus]) -> frozenset[str]:
        """Take the word of whoever supervises all actors on how they are, which is to come every few seconds; returns
        the names of the learners that are wanted now, one for each domain that is learned or waits for it."""
        stages = dict(self._stages)
        work = sum(stages[d].state in ("closed", "learning") for d in list(self._jobs) if d in stages)
        return self._learners.supervise(actors, work)

    def work(self) -> list[Future[None]]:
        """Return what is under way, to be waited for."""
        return [*self._jobs.values(), *([self._keeper] if self._keeper else [])]

    # -- one step -----------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Look at everything once and start what is due; nobody who does not answer keeps the others waiting."""
        self._jobs = {domain: job for domain, job in self._jobs.items() if not job.done()}
        if self._keeper is None or self._keeper.done():
            self._keeper = self._keeping.submit(partial(self._upkeep.go_over, is_idle=not self._jobs))
        self._spools.ask()
        try:
            observed, ledger = self._router.observed(), self._router.open()
        except Exception as error:
            self._stalled = (f"the router does not answer: {in_words(error)}",)
            return
        backlogs = backlogs_of(ledger, self._spools, observed)
        waiting = self._losses.look(observed, lambda: self._unlearned(ledger))
        current = self._registry.current()
        withdrawn = dict(current.withdrawn) if current else {}
        for domain in sorted({*backlogs, *withdrawn}, key=lambda domain: (self._turns.get(domain, 0), domain)):
            backlog = backlogs.get(domain, DomainBacklog())
            if not self._is_taken(domain):
                self._try(domain, partial(self._move, domain, backlog, observed, withdrawn.get(domain)))
        self._stalled = (*waiting, *self._make_room(backlogs, observed))

    def _is_taken(self, domain: str) -> bool:
        """Tell whether nothing can be begun on a domain now, as work on it is under way or, in one lane, on another."""
        return bool(self._jobs) if self._options.method.one_lane else domain in self._jobs

    def _unlearned(self, ledger: Mapping[str, OpenDomain]) -> frozenset[str]:
        """Return the domains whose sealed version is neither learned nor being learned."""
        sealed = {domain: each.seal for domain, each in ledger.items() if domain not in self._jobs}
        return frozenset(d for d, seal in sealed.items() if seal and not self._registry.has_version(d, seal.version))

    def _try(self, domain: str, step: Callable[[], None]) -> None:
        """Take a step; what it fails for is the domain's own trouble."""
        try:
            step()
        except Exception as error:
            self._stages.setdefault(domain, Stage()).fail(error)

    def _move(self, domain: str, backlog: DomainBacklog, observed: Watermarks, withdrawn: str | None) -> None:
        """Start what is due for a domain, if anything is."""
        closing, ledger = self._options.closing, backlog.ledger
        marked = closing.is_marked(backlog, self._spools.partitions())
        complete = ledger.closable > 0 if marked else ledger.train > 0 and closing.is_enough(backlog)
        end = end_at_markers(backlog, observed) if marked else observed
        stage = self._stage(domain, ledger)
        if domain in self._wished and ledger.train:
            self._wished.discard(domain)
            complete, end = True, observed
            stage.end()
        if marked and not complete and ledger.seal is None and (stage.is_over() or stage.awaits_examples):
            # Sent again, or for a domain without anything new to train on: it must not close what comes next.
            self._router.drop_markers(domain, ledger.markers)
        if not stage.is_due(ledger.fresh if complete else 0):
            return
        if ledger.seal is not None:
            if complete and stage.awaits_examples:
                # What the learner refused may be learned with more examples.
                self._router.reopen(domain, ledger.seal.version)
                self._seal_and_learn(domain, end)
            else:
                self._submit(domain, ledger.seal)
        elif complete:
            self._seal_and_learn(domain, end)
        elif withdrawn is not None and not self._is_pinned(domain):
            self._start(domain, self._publishing, lambda stage: self._publish_again(domain, withdrawn, stage))
        if stage.state == "failed" and domain not in self._jobs:
            # What failed is not there any more, or is not wanted now.
            self._stages.pop(domain, None)
        if (marked or closing.is_enough(backlog)) and ledger.held_out and not ledger.train:
            self._stages.setdefault(
                domain, Stage()
            ).detail = f"complete, but all of its {ledger.held_out} examples are held out: send some to train on"

    def _stage(self, domain: str, ledger: OpenDomain) -> Stage:
        """Return the domain's stage; what was rejected before this coordinator began rests as after one rejection."""
        tried = ledger.train + ledger.held_out - ledger.fresh
        if domain in self._stages or ledger.seal is not None or tried == 0:
            return self._stages.get(domain, Stage())
        stage = self._stages[domain] = Stage(rows=tried)
        stage.reject("its last version was rejected")
        return stage

    def _is_pinned(self, domain: str) -> bool:
        current = self._registry.current()
        route = current.routes.get(domain) if current else None
        return route is not None and route.pinned

    def _make_room(self, backlogs: Mapping[str, DomainBacklog], observed: Watermarks) -> list[str]:
        """Make room where a domain keeps others from a spool, as `room` says; returns what is to be said of workers
        on which none can be made."""
        stalled = []
        for name, report in self._spools.reports.items():
            here = {partition: observed[partition] for partition in report.reaches.keys() & observed.keys()}
            steps, is_stuck = steps_for(report, backlogs, self._stages, self._jobs)
            for step in steps:
                seal = backlogs[step.domain].ledger.seal
                if step.what == "give up":
                    # Only there: of other partitions the spools may have room.
                    self._try(step.domain, partial(self._router.give_up, step.domain, here))
                elif step.what == "reopen" and seal is not None:
                    self._try(step.domain, partial(self._router.reopen, step.domain, seal.version))
                elif step.what == "close" and not self._is_taken(step.domain):
                    # Else the lane will be free again.
                    self._try(step.domain, partial(self._seal_and_learn, step.domain, observed))
            if is_stuck:
                stalled.append(
                    f"the spool of {name} is full and no domain in it can be closed: remove one whose training failed, "
                    "or raise ingest.spool_limit"
                )
        return stalled

    # -- one domain ---------------------------------------------------------------------------------------------------

    def _seal_and_learn(self, domain: str, until: Watermarks) -> None:
        """Fix in the ledger what the next version is trained on, and start to make it."""
        with self.publisher.numbering:
            try:
                seal = self._router.seal(domain, self._commands.next_version(domain), until)
            except UnknownDomain:
                # Removed since the ledger was looked at.
                return
        self._submit(domain, seal)

    def _submit(self, domain: str, seal: Seal) -> None:
        is_learned = self._adapter(domain, seal.version) is not None
        pool = self._publishing if is_learned else self._learning
        self._start(domain, pool, lambda stage: self._advance(domain, seal, stage), seal.train + seal.held_out)

    def _start(self, domain: str, pool: ThreadPoolExecutor, work: Callable[[Stage], None], rows: int = 0) -> None:
        """Have a pool work on a domain; `rows` are those that a version of it is made of."""
        stage = self._stages[domain] = self._stages.get(domain, Stage()).begun(rows)
        self._turns[domain] = max(self._turns.values(), default=0) + 1

        def work_or_note() -> None:
            try:
                work(stage)
            except Exception as error:
                stage.fail(error)

        self._jobs[domain] = pool.submit(work_or_note)

    def _adapter(self, domain: str, version: int) -> Adapter | None:
        return self._registry.numbered(domain, version)

    def _advance(self, domain: str, seal: Seal, stage: Stage) -> None:
        """Take a sealed version as far as it goes, from wherever it is."""
        try:
            adapter = self._adapter(domain, seal.version)
            if adapter is None:
                seal = self._still(domain, seal)
                adapter = self._learn(domain, seal, stage)
            if adapter.facts.train_examples != seal.train:
                # Somebody went back to before examples of it were lost.
                self._router.reopen(domain, seal.version)
                stage.succeed("rejected", f"{adapter.name} was made of other examples than are sealed for it")
                return
            if adapter.facts.status == "rejected":
                self._offers.done(adapter)
                self._router.reopen(domain, seal.version)
                stage.reject(adapter.facts.reason)
                return
            try:
                what = "learned" if adapter.facts.learner != IMPORTED else "added"
                self._publish(adapter, f"{adapter.name} {what}", stage)
                self._offers.done(adapter)
            except OutOfDate as error:
                self._renumber(domain, seal)
                stage.succeed("closed", f"{in_words(error)}; it is trained again")
        except NoLongerSealed as error:
            # The domain was removed meanwhile: nothing is learned of it, and what was learned goes.
            stage.succeed("open", in_words(error))

    def _renumber(self, domain: str, seal: Seal) -> Seal:
        """Seal the same rows for the domain's next version; raises `NoLongerSealed` where they are not sealed now."""
        with self.publisher.numbering:
            again = self._router.renumber(domain, seal.version, self._commands.next_version(domain))
        if again is None:
            raise NoLongerSealed(f"{domain} v{seal.version} is not learned: its examples are not sealed for it")
        return again

    def _still(self, domain: str, seal: Seal) -> Seal:
        """Return the seal as the ledger has it by now; raises `NoLongerSealed` where it has none of this version."""
        found = self._router.open().get(domain)
        if found is None or found.seal is None or found.seal.version != seal.version:
            raise NoLongerSealed(
                f"{domain} v{seal.version} is not learned: its examples are not sealed for it any more"
            )
        # A version that came with another domain's since is older than this one will be.
        is_passed = self._registry.newest_version(domain) > seal.version
        return self._renumber(domain, found.seal) if is_passed else found.seal

    def _learn(self, domain: str, seal: Seal, stage: Stage) -> Adapter:
        order = self._candidates.order(domain, seal)
        with self._learners.taken() as learner:
            stage.state, stage.learner = "learning", learner
            started = time.monotonic()
            try:
                trained = learner.train(order)
                stage.timings["learning_seconds"] = time.monotonic() - started
                # Before anybody else has the learner: the next training empties its folder.
                return self._candidates.take_in(order, trained)
            except LearningError as error:
                if order.offered:
                    self._offers.refuse(domain, in_words(error))
                raise
            finally:
                # Where the domain was removed meanwhile, its files were deleted before these came.
                self._upkeep.prune_again()
                stage.learner = None

    def _publish(self, adapter: Adapter, reason: str, stage: Stage) -> None:
        stage.state = "publishing"
        started = time.monotonic()
        change = Change(reason, puts={adapter.domain: adapter.name})
        manifest = self.publisher.publish(lambda: change)
        stage.timings["publication_seconds"] = time.monotonic() - started
        for domain, route in manifest.routes.items():
            # The same training may have made newer ones of other domains.
            if (known := self._stages.get(domain)) is not None and known.state == "published":
                known.detail = route.adapter
        waits = manifest.withdrawn.get(adapter.domain) == adapter.name
        stage.succeed("published", f"{adapter.name} waits for the end of the pin" if waits else adapter.name)

    def _publish_again(self, domain: str, name: str, stage: Stage) -> None:
        self._publish(self._registry.adapter(name), f"{name} tried again", stage)

    # -- commands -----------------------------------------------------------------------------------------------------

    def remove(self, domain: str) -> Manifest:
        """Take a domain out of service and out of all that was learned; see `Commands.remove`."""
        try:
            manifest = self._commands.remove(domain)
        except UnknownDomain:
            # It may have been offered an adapter, and nothing else.
            current = self._registry.current()
            if not self._offers.forget(domain) or current is None:
                raise
            return current
        self._offers.forget(domain)
        self._stages.pop(domain, None)
        self._wished.discard(domain)
        return manifest

    def add_adapter(self, domain: str, name: str, note: str = "") -> CommandResult:
        """Take an adapter made elsewhere as the candidate of a domain's next version; see `OfferedAdapters.take`."""
        reason = self._offers.take(domain, name, note)
        current = self._registry.current()
        return CommandResult(domain=domain, manifest=current.number if current else 0, reason=reason)

    def rollback(self, domain: str, version: str | None = None) -> Manifest:
        """Put an earlier version back in service and pin it; without `version`, the accepted one before the present."""
        return self._commands.rollback(domain, version)

    def pin(self, domain: str, version: str | None = None) -> Manifest:
        """Keep the version in service, or the one named, whatever is learned later."""
        return self._commands.pin(domain, version)

    def unpin(self, domain: str) -> Manifest:
        """Let newer versions replace the one in service, at once what was learned under a pin; see `Commands.unpin`."""
        return self._commands.unpin(domain)

    def learn(self, domain: str) -> CommandResult:
        """Have what waits of a domain learned next, complete or not, whatever it rests or pauses for.

        Raises `UnknownDomain` where there is nothing to train on.
        """
        waiting = self._router.open().get(domain)
        if waiting is None or waiting.train == 0:
            raise UnknownDomain(f"domain {domain!r} has no example to train on that is not settled")
        self._wished.add(domain)
        current = self._registry.current()
        reason = f"{domain} is learned next, of {waiting.train} examples and {waiting.held_out} that are held out"
        return CommandResult(domain=domain, manifest=current.number if current else 0, reason=reason)

    # -- status -------------------------------------------------------------------------------------------------------

    def domains(self) -> tuple[DomainStatus, ...]:
        """Describe every domain that is served, learned or waiting."""
        return self._overview().domains()

    def status(self) -> SystemStatus:
        """Describe the whole: manifest, domains, ingest, replicas, and anything that is failing."""
        ticking = self._loop.trouble if self._loop is not None else None
        said = (ticking, *self._stalled, self.publisher.trouble(), self._upkeep.trouble, self._learners.trouble())
        overview = self._overview([trouble for trouble in said if trouble])
        return overview.system(self._base, self._learners.actors)

    def _overview(self, troubles: Sequence[str] = ()) -> Overview:
        stages, peers = dict(self._stages), (self._registry, self._router, self._directory, self._spools)
        self._seen = Overview(*peers, stages, self._asked, troubles, self._seen)
        return self._seen

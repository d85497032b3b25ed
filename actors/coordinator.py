"""The coordinator: decides when a domain is complete, has it learned, judged, published, and its examples released.

    open --close--> sealed vN --learn--> candidate --gate--> accepted --publish--> in service --release--> (rows gone)
                                                     \\-> rejected --reopen--> open

Nothing of this is kept here: the stage of every domain follows from what is durable. Rows sealed under vN without an
adapter vN are trained; with an accepted one, published (which changes nothing where it is in service already) and
released; with a rejected one, opened again. So a coordinator killed anywhere goes on where it was, and nothing is
learned twice. What it does keep in memory is who works on what now, and figures for the status. No training text comes
through here: a learner fetches its own.
"""

from __future__ import annotations

import queue
import shutil
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from actors.backlog import DomainBacklog
from actors.change import Change
from actors.closing import ClosingRule
from actors.errors import UnknownDomain, in_words
from actors.facts import facts_of
from actors.observation import Watermarks
from actors.overview import Overview
from actors.ports import LearnerPort, ManifestPort, ReplicasPort, SpoolPort
from actors.publisher import Publisher
from actors.spools import Spools
from actors.stage import Stage
from actors.training import TrainingOrder
from learning.gate import Gate
from registry.adapters import Adapter
from registry.errors import RegistryError
from registry.manifest import BaseRevision, Manifest
from registry.registry import Registry
from serving.api import DomainStatus, SystemStatus


@dataclass(frozen=True)
class CoordinatorOptions:
    """`seed` of every training; snapshots and manifests kept."""

    closing: ClosingRule
    gate: Gate
    learner_name: str
    seed: int
    keep_snapshots: int
    keep_manifests: int


class Coordinator:
    """Drives every domain through its stages; `tick` moves all of them one step and may be called at any time.

    `ingests` are all ingest workers by name, as the status names them.
    """

    def __init__(
        self,
        registry: Registry,
        base: BaseRevision,
        ingests: Mapping[str, SpoolPort],
        router: ManifestPort,
        learners: Sequence[LearnerPort],
        directory: ReplicasPort,
        options: CoordinatorOptions,
    ) -> None:
        self._registry, self._base, self._router, self._directory = registry, base, router, directory
        self._spools, self._options = Spools(ingests), options
        self._publisher = Publisher(registry, router, directory)
        self._idle: queue.SimpleQueue[LearnerPort] = queue.SimpleQueue()
        for learner in learners:
            self._idle.put(learner)
        self._pool = ThreadPoolExecutor(max(len(learners), 1), thread_name_prefix="learn")
        self._jobs: dict[str, Future[None]] = {}
        self._stages: dict[str, Stage] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._trouble: str | None = None
        self._stalled: tuple[str, ...] = ()

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self, interval_s: float = 0.25) -> None:
        """Tick in a thread of its own until `stop`."""
        self._thread = threading.Thread(target=self._run, args=(interval_s,), name="coordinate", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop ticking; a training under way is left to its learner and repeated after a restart."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, interval_s: float) -> None:
        while not self._stop.is_set():
            try:
                self.tick()
                self._trouble = None
            except Exception as error:
                self._trouble = in_words(error)
                self._stop.wait(1.0)
            self._stop.wait(interval_s)

    # -- one step -----------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Look at every domain once and start what is due."""
        self._spools.ask()
        self._jobs = {domain: job for domain, job in self._jobs.items() if not job.done()}
        if self._spools.silent:
            # Every step from here on is taken in all spools or not at all.
            self._stalled = tuple(
                f"{name} does not answer, so no domain can be closed: {why}"
                for name, why in self._spools.silent.items()
            )
            return
        backlogs, partitions = self._spools.backlog(), self._spools.partitions()
        closed = {domain for domain, backlog in backlogs.items() if self._options.closing.closes(backlog, partitions)}
        due = {d: backlogs[d] for d in sorted(backlogs) if self._is_due(d, d in closed and backlogs[d].fresh > 0)}
        for domain, backlog in due.items():
            if backlog.sealed:
                self._submit(domain, min(backlog.sealed))
            elif domain in closed:
                if backlog.train and backlog.fresh:
                    self._submit(domain, self._next_version(domain))
                elif backlog.markers:
                    # Sent again, or for a domain without anything new to train on.
                    self._spools.drop_markers(domain)
                if backlog.held_out and not backlog.train:
                    self._stages.setdefault(
                        domain, Stage()
                    ).detail = (
                        f"complete, but all of its {backlog.held_out} examples are held out: send some to train on"
                    )
        self._stalled = tuple(self._make_room(due))

    def _is_due(self, domain: str, has_more: bool) -> bool:
        return domain not in self._jobs and self._stages.get(domain, Stage()).is_due(has_more)

    def _make_room(self, due: Mapping[str, DomainBacklog]) -> list[str]:
        """Close, on each full worker, the domain that fills it most: it would wait for ever for one that never ends.

        Returns what is to be said of the workers where none can be closed.
        """
        closable = {domain for domain, backlog in due.items() if backlog.train and backlog.fresh}
        stalled = []
        for name, report in self._spools.reports.items():
            if not report.full or _any_of(self._jobs, report.backlog):
                continue
            fresh = {d: backlog.fresh for d, backlog in report.backlog.items() if d in closable and backlog.fresh}
            if fresh:
                largest = max(fresh, key=lambda domain: fresh[domain])
                self._submit(largest, self._next_version(largest))
            else:
                stalled.append(
                    f"the spool of {name} is full and no domain in it can be closed: remove one whose versions were "
                    "rejected or failed, or raise ingest.spool_limit"
                )
        return stalled

    def _next_version(self, domain: str) -> int:
        return self._registry.newest_version(domain) + 1

    def _submit(self, domain: str, version: int) -> None:
        stage = Stage("closed", failures=self._stages.get(domain, Stage()).failures)
        self._stages[domain] = stage
        self._jobs[domain] = self._pool.submit(self._advance_or_note, domain, version, stage)

    def _advance_or_note(self, domain: str, version: int, stage: Stage) -> None:
        try:
            self._advance(domain, version, stage)
        except Exception as error:
            stage.fail(error)

    def _advance(self, domain: str, version: int, stage: Stage) -> None:
        """Take a sealed version as far as it goes, from wherever it is."""
        adapter = next((a for a in self._registry.adapters(domain) if a.version == version), None)
        if adapter is None:
            rows = self._spools.seal(domain, version, self._router.watermarks())
            adapter = self._learn(domain, version, rows, stage)
        if adapter.facts.status == "rejected":
            stage.state, stage.detail, stage.failures = "rejected", adapter.facts.reason, 0
            self._spools.reopen(domain, version)
            return
        with self._publisher.writing:
            rows, sealed = self._spools.sealed(domain, version)
            if not rows:
                # The domain was removed while it was learned: what was learned is not to be served.
                stage.state, stage.detail = "open", f"{adapter.name} was not published: the domain was removed"
                return
            self._publish(adapter, sealed, stage)
        self._spools.release(domain, version, sealed)
        stage.state, stage.detail, stage.failures = "published", adapter.name, 0
        try:
            self._registry.prune(self._options.keep_snapshots, self._options.keep_manifests)
        except (RegistryError, OSError) as error:
            # No fault of the domain, which is in service; the next publication tries again.
            stage.detail = f"{adapter.name}; what is no longer needed could not be removed: {in_words(error)}"

    def _learn(self, domain: str, version: int, rows: int, stage: Stage) -> Adapter:
        current = self._registry.current()
        route = current.routes.get(domain) if current else None
        incumbent = self._registry.adapter(route.adapter).path if route else None
        order = TrainingOrder(domain, version, rows, incumbent, self._options.seed)
        learner = self._idle.get()
        stage.state, stage.learner = "learning", learner
        started = time.monotonic()
        try:
            trained = learner.train(order)
        finally:
            stage.learner = None
            self._idle.put(learner)
        stage.timings["learning_seconds"] = time.monotonic() - started
        verdict = self._options.gate.decide(trained.result)
        facts = facts_of(order, trained, verdict, base_digest=self._base.digest, learner=self._options.learner_name)
        adapter = self._registry.add_adapter(domain, version, trained.result.folder, facts)
        shutil.rmtree(trained.result.folder, ignore_errors=True)
        return adapter

    def _publish(self, adapter: Adapter, required: Watermarks, stage: Stage) -> None:
        stage.state = "publishing"
        started = time.monotonic()
        change = Change(reason=f"{adapter.name} learned", domain=adapter.domain, adapter=adapter.name)
        self._publisher.publish(change, required)
        stage.timings["publication_seconds"] = time.monotonic() - started

    # -- commands -----------------------------------------------------------------------------------------------------

    def remove(self, domain: str) -> Manifest:
        """Take a domain out of service and out of the router's sums, and delete what waits of it.

        Examples that arrive later begin the domain anew.
        """
        self._spools.check()
        known = {*self._router.examples(), *self._spools.backlog()}
        if domain not in known:
            raise UnknownDomain(f"domain {domain!r} is not known; known: {sorted(known) or 'none'}")
        with self._publisher.writing:
            self._publisher.check_directory()
            self._spools.forget(domain)
            manifest = self._router.publish(Change(reason=f"{domain} removed", removes=frozenset({domain})), {})
            # What was counted in between has just left the sums; what is counted from now on stays there.
            self._spools.forget(domain, self._router.published_watermarks())
            self._directory.publish(manifest.number)
        self._stages.pop(domain, None)
        return manifest

    def rollback(self, domain: str, version: str | None = None) -> Manifest:
        """Put an earlier version back in service and pin it; without `version`, the accepted one before the present."""
        return self._publisher.rollback(domain, version)

    def pin(self, domain: str, version: str | None = None) -> Manifest:
        """Keep the version in service, or the one named, whatever is learned later."""
        return self._publisher.pin(domain, version)

    def unpin(self, domain: str) -> Manifest:
        """Let the next accepted version of the domain replace the one in service."""
        return self._publisher.unpin(domain)

    # -- status -------------------------------------------------------------------------------------------------------

    def domains(self) -> tuple[DomainStatus, ...]:
        """Describe every domain that is served, learned or waiting."""
        return self._domains(Overview(self._registry))

    def status(self) -> SystemStatus:
        """Describe the whole: manifest, domains, ingest, replicas, and anything that is failing."""
        overview = Overview(self._registry, [trouble for trouble in (self._trouble, *self._stalled) if trouble])
        return overview.system(self._base, self._domains(overview), self._spools, self._directory)

    def _domains(self, overview: Overview) -> tuple[DomainStatus, ...]:
        return overview.domains(self._router, self._spools, dict(self._stages))


def _any_of(some: Collection[str], others: Collection[str]) -> bool:
    return any(each in others for each in some)

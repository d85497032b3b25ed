"""The coordinator: decides when a domain is complete, has it learned, judged, published, and its examples released.

    open --close--> sealed vN --learn--> candidate --gate--> accepted --publish--> in service --release--> (rows gone)
                                                     \\-> rejected --reopen--> open

Nothing of this is kept here: the stage of every domain follows from what is durable. Rows sealed under vN without an
adapter vN are trained; with an accepted one, published (which changes nothing where it is in service already) and
released; with a rejected one, opened again. So a coordinator killed anywhere goes on where it was, and nothing is
learned twice. What it does keep in memory is who works on what now, and figures for the status.
"""

from __future__ import annotations

import queue
import shutil
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from actors.change import Change
from actors.closing import ClosingRule, merge_backlogs
from actors.errors import NotCaughtUp, PublicationFailed, UnknownDomain
from actors.observation import Watermarks
from actors.overview import Stage, describe_domain, describe_ingest
from actors.ports import DirectoryPort, IngestPort, LearnerPort, RouterPort
from actors.report import IngestReport
from actors.spool import DomainBacklog
from learning.contract import Example, TrainingResult
from learning.errors import LearningError
from learning.gate import Gate, Verdict
from registry.adapters import Adapter, AdapterFacts
from registry.manifest import BaseRevision, Manifest
from registry.registry import Registry
from streaming.source import TopicPartition


@dataclass(frozen=True)
class CoordinatorOptions:
    """`seed` of every training; attempts before what the learner or all replicas refuse is left alone; snapshots and
    manifests kept."""

    closing: ClosingRule
    gate: Gate
    learner_name: str
    seed: int
    keep_snapshots: int
    keep_manifests: int
    attempts: int = 3


class Coordinator:
    """Drives every domain through its stages; `tick` moves all of them one step and may be called at any time."""

    def __init__(
        self,
        registry: Registry,
        base: BaseRevision,
        ingests: Sequence[IngestPort],
        router: RouterPort,
        learners: Sequence[LearnerPort],
        directory: DirectoryPort,
        options: CoordinatorOptions,
    ) -> None:
        self._registry, self._base, self._router, self._directory = registry, base, router, directory
        self._ingests, self._options = tuple(ingests), options
        self._idle: queue.SimpleQueue[LearnerPort] = queue.SimpleQueue()
        for learner in learners:
            self._idle.put(learner)
        self._pool = ThreadPoolExecutor(max(len(learners), 1), thread_name_prefix="learn")
        self._jobs: dict[str, Future[None]] = {}
        self._stages: dict[str, Stage] = {}
        self._reports: tuple[IngestReport, ...] = ()
        self._writing = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._trouble: str | None = None
        self._stalled: str | None = None

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
                self._trouble = f"{type(error).__name__}: {error}"
                self._stop.wait(1.0)
            self._stop.wait(interval_s)

    # -- one step -----------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Look at every domain once and start what is due."""
        self._reports = tuple(ingest.report() for ingest in self._ingests)
        partitions = frozenset(p for report in self._reports for p in report.partitions)
        backlogs = merge_backlogs(self._reports)
        for domain in [d for d, job in self._jobs.items() if job.done()]:
            del self._jobs[domain]
        now = time.time()
        closed = {d for d, backlog in backlogs.items() if self._options.closing.closes(backlog, partitions, now)}
        due = {d: backlogs[d] for d in sorted(backlogs) if self._is_due(d, d in closed and backlogs[d].fresh > 0)}
        for domain, backlog in due.items():
            if backlog.sealed:
                self._submit(domain, min(backlog.sealed))
            elif domain in closed:
                if backlog.train and backlog.fresh:
                    self._submit(domain, self._next_version(domain))
                elif backlog.markers:
                    # Sent again, or for a domain without anything new to train on.
                    for ingest in self._ingests:
                        ingest.drop_markers(domain)
        self._stalled = None
        if any(report.full for report in self._reports) and not self._jobs:
            self._make_room(due)

    def _is_due(self, domain: str, has_more: bool) -> bool:
        stage = self._stages.get(domain, Stage())
        if domain in self._jobs:
            return False
        return stage.retry_at <= time.monotonic() or (stage.awaits_examples and has_more)

    def _make_room(self, due: Mapping[str, DomainBacklog]) -> None:
        """Close the largest domain as it is: a full spool would wait for ever for one that never ends."""
        fresh = {domain: backlog.fresh for domain, backlog in due.items() if backlog.train and backlog.fresh}
        if fresh:
            largest = max(fresh, key=lambda domain: fresh[domain])
            self._submit(largest, self._next_version(largest))
        else:
            self._stalled = (
                "the spools are full and no domain can be closed: remove one whose versions were rejected or failed, "
                "or raise ingest.spool_limit"
            )

    def _next_version(self, domain: str) -> int:
        return max((adapter.version for adapter in self._registry.adapters(domain)), default=0) + 1

    def _submit(self, domain: str, version: int) -> None:
        stage = Stage("closed", version, attempts=self._stages.get(domain, Stage()).attempts)
        self._stages[domain] = stage
        self._jobs[domain] = self._pool.submit(self._advance_or_note, domain, version, stage)

    def _advance_or_note(self, domain: str, version: int, stage: Stage) -> None:
        try:
            self._advance(domain, version, stage)
        except NotCaughtUp as error:
            stage.detail, stage.retry_at = str(error), time.monotonic() + 0.5
        except Exception as error:
            stage.attempts += 1
            stage.state, stage.detail = "failed", f"{type(error).__name__}: {error}"
            # A learner or a replica that is down comes back, however long it takes; what was refused stays refused.
            refused = isinstance(error, (LearningError, PublicationFailed))
            if refused and stage.attempts >= self._options.attempts:
                stage.retry_at, stage.awaits_examples = float("inf"), isinstance(error, LearningError)
            else:
                stage.retry_at = time.monotonic() + min(2.0**stage.attempts, 60.0)

    def _advance(self, domain: str, version: int, stage: Stage) -> None:
        """Take a sealed version as far as it goes, from wherever it is."""
        adapter = self._trained(domain, version)
        if adapter is None:
            self._seal(domain, version)
            adapter = self._learn(domain, version, stage)
        if adapter.facts.status == "rejected":
            stage.state, stage.detail = "rejected", adapter.facts.reason
            for ingest in self._ingests:
                ingest.reopen(domain, version)
            return
        with self._writing:
            rows, sealed = self._sealed(domain, version)
            if not rows:
                # The domain was removed while it was learned: what was learned is not to be served.
                stage.state, stage.detail = "open", f"{adapter.name} was not published: the domain was removed"
                return
            self._publish_adapter(adapter, sealed, stage)
        for ingest in self._ingests:
            ingest.release(domain, version, sealed)
        stage.state, stage.detail, stage.attempts = "published", adapter.name, 0
        self._registry.prune(self._options.keep_snapshots, self._options.keep_manifests)

    def _seal(self, domain: str, version: int) -> None:
        """Seal in all spools up to the same watermarks: where two hold copies of a row, both seal theirs.

        Until the adapter exists a seal may be repeated and take in more; one that was cut short is completed, once the
        router stands where it stood then.
        """
        _, sealed = self._sealed(domain, version)
        watermarks = self._router.watermarks()
        behind = [f"{each}" for each, end in sealed.items() if watermarks.get(each, 0) < end]
        if behind:
            raise NotCaughtUp(f"the router is behind what was sealed as {domain} v{version} in {behind}")
        for ingest in self._ingests:
            ingest.seal(domain, version, watermarks)

    def _sealed(self, domain: str, version: int) -> tuple[int, Watermarks]:
        """Return the number of rows sealed under a version, and up to where."""
        seals = [ingest.sealed(domain, version) for ingest in self._ingests]
        return sum(seal.rows for seal in seals), highest(seal.watermarks for seal in seals)

    def _trained(self, domain: str, version: int) -> Adapter | None:
        return next((a for a in self._registry.adapters(domain) if a.version == version), None)

    def _learn(self, domain: str, version: int, stage: Stage) -> Adapter:
        train, held_out = self._examples(domain, version)
        current = self._registry.current()
        route = current.routes.get(domain) if current else None
        incumbent = self._registry.adapter(route.adapter).path if route else None
        learner = self._idle.get()
        stage.state, stage.learner = "learning", learner
        started = time.monotonic()
        try:
            result = learner.train(domain, version, train, held_out, incumbent, self._options.seed)
        finally:
            stage.learner = None
            self._idle.put(learner)
        stage.timings["learning_seconds"] = time.monotonic() - started
        verdict = self._options.gate.decide(result)
        facts = self._facts(domain, version, len(train), result, verdict)
        adapter = self._registry.add_adapter(domain, version, result.folder, facts)
        shutil.rmtree(result.folder, ignore_errors=True)
        return adapter

    def _facts(
        self, domain: str, version: int, train_examples: int, result: TrainingResult, verdict: Verdict
    ) -> AdapterFacts:
        figures = {
            "steps": float(result.steps),
            "epochs": result.epochs,
            "seconds": result.seconds,
            "train_loss": result.train_loss,
        }
        for name, evaluation in (
            ("candidate", result.candidate),
            ("base", result.base),
            ("incumbent", result.incumbent),
        ):
            if evaluation is not None:
                figures[f"{name}_loss"] = evaluation.loss
                figures[f"{name}_exact_match"] = evaluation.exact_match
        return AdapterFacts(
            domain=domain,
            version=version,
            status="accepted" if verdict.accepted else "rejected",
            reason=verdict.reason,
            rank=result.rank,
            base_digest=self._base.digest,
            learner=self._options.learner_name,
            train_examples=train_examples,
            held_out_examples=result.candidate.examples,
            figures=figures,
            created_at=datetime.now(UTC),
        )

    def _examples(self, domain: str, version: int) -> tuple[list[Example], list[Example]]:
        """Return a version's examples, one for each id, ordered by id: the same set gives the same training."""
        train: dict[str, Example] = {}
        held_out: dict[str, Example] = {}
        for ingest in self._ingests:
            some_train, some_held_out = ingest.examples(domain, version)
            train.update({example.id: example for example in some_train})
            held_out.update({example.id: example for example in some_held_out})
        return [train[i] for i in sorted(train)], [held_out[i] for i in sorted(held_out)]

    def _publish_adapter(self, adapter: Adapter, required: Watermarks, stage: Stage) -> None:
        stage.state = "publishing"
        started = time.monotonic()
        self._publish(Change(reason=f"{adapter.name} learned", domain=adapter.domain, adapter=adapter.name), required)
        stage.timings["publication_seconds"] = time.monotonic() - started

    def _publish(self, change: Change, required: Watermarks) -> Manifest:
        with self._writing:
            manifest = self._router.publish(change, required)
            try:
                self._directory.publish(manifest.number)
            except PublicationFailed:
                self._put_back(manifest, change)
                raise
            return manifest

    def _put_back(self, manifest: Manifest, change: Change) -> None:
        """Put the domain's route before the one nobody can serve in force again, under a new number."""
        failed = manifest.routes.get(change.domain or "")
        if failed is None or change.domain is None:
            return
        earlier = (m.routes.get(change.domain) for m in reversed(self._registry.manifests()))
        before = next((route for route in earlier if route != failed), None)
        reason = f"{failed.adapter} could not be loaded"
        if before is None:
            back = Change(reason=reason, withdraws=frozenset({change.domain}))
        else:
            back = Change(
                reason=reason, domain=change.domain, adapter=before.adapter, pinned=before.pinned, override=True
            )
        self._directory.publish(self._router.publish(back, {}).number)

    # -- commands -----------------------------------------------------------------------------------------------------

    def remove(self, domain: str) -> Manifest:
        """Take a domain out of service and out of the router's sums, and delete what waits of it.

        Examples that arrive later begin the domain anew.
        """
        known = domain in self._router.counts() or domain in merge_backlogs(self._reports)
        if not known:
            raise UnknownDomain(f"domain {domain!r} is not known; known: {sorted(self._router.counts()) or 'none'}")
        with self._writing:
            for ingest in self._ingests:
                ingest.forget(domain)
            manifest = self._router.publish(Change(reason=f"{domain} removed", removes=frozenset({domain})), {})
            # What was counted in between has just left the sums; what is counted from now on stays there.
            watermarks = self._router.published_watermarks()
            for ingest in self._ingests:
                ingest.forget(domain, watermarks)
            self._directory.publish(manifest.number)
        self._stages.pop(domain, None)
        return manifest

    def rollback(self, domain: str, version: str | None = None) -> Manifest:
        """Put an earlier version back in service and pin it; without `version`, the accepted one before the present."""
        name = version or self._version_before(domain)
        self._accepted(domain, name)
        return self._publish(
            Change(reason=f"rolled back to {name}", domain=domain, adapter=name, pinned=True, override=True), {}
        )

    def pin(self, domain: str, version: str | None = None) -> Manifest:
        """Keep the version in service, or the one named, whatever is learned later."""
        if version is not None:
            self._accepted(domain, version)
        change = Change(reason=f"{domain} pinned", domain=domain, adapter=version, pinned=True, override=True)
        return self._publish(change, {})

    def unpin(self, domain: str) -> Manifest:
        """Let the next accepted version of the domain replace the one in service."""
        return self._publish(Change(reason=f"{domain} unpinned", domain=domain, pinned=False), {})

    def _version_before(self, domain: str) -> str:
        current = self._registry.current()
        route = current.routes.get(domain) if current else None
        if route is None:
            raise UnknownDomain(f"domain {domain!r} is not published; nothing to roll back")
        earlier = [
            adapter
            for adapter in self._registry.adapters(domain)
            if adapter.version < route.version and adapter.facts.status == "accepted"
        ]
        if not earlier:
            raise UnknownDomain(f"domain {domain!r} has no accepted version before v{route.version}")
        return max(earlier, key=lambda adapter: adapter.version).name

    def _accepted(self, domain: str, name: str) -> None:
        names = [a.name for a in self._registry.adapters(domain) if a.facts.status == "accepted"]
        if name not in names:
            raise UnknownDomain(f"domain {domain!r} has no accepted version {name!r}; it has: {names or 'none'}")

    # -- status -------------------------------------------------------------------------------------------------------

    def domains(self) -> list[dict[str, Any]]:
        """Describe every domain that is served, learned or waiting."""
        current = self._registry.current()
        routes = current.routes if current else {}
        backlogs = merge_backlogs(self._reports)
        counts, examples = self._router.counts(), self._router.examples()
        return [
            describe_domain(
                name,
                routes.get(name),
                self._stages.get(name, Stage()),
                backlogs.get(name, DomainBacklog()),
                counts.get(name, 0),
                examples.get(name, 0),
                self._registry,
            )
            for name in sorted(set(routes) | set(backlogs) | set(examples))
        ]

    def status(self) -> dict[str, Any]:
        """Describe the whole: manifest, domains, ingest, replicas, and anything that is failing."""
        current = self._registry.current()
        return {
            "manifest": current.number if current else 0,
            "base": self._base.model_dump(mode="json"),
            "domains": self.domains(),
            "ingest": [describe_ingest(report) for report in self._reports],
            "replicas": self._directory.replicas(),
            "trouble": self._trouble or self._stalled,
        }


def highest(watermarks: Iterable[Watermarks]) -> dict[TopicPartition, int]:
    """Return the highest watermark of each partition."""
    merged: dict[TopicPartition, int] = {}
    for some in watermarks:
        for partition, offset in some.items():
            merged[partition] = max(offset, merged.get(partition, 0))
    return merged

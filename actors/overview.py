"""The state of the whole in words and figures, for the status page and the command line. It decides nothing.

A status is most needed while something is down: whoever can't be asked is named as trouble, the rest is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from actors.backlog import DomainBacklog
from actors.errors import in_words
from actors.ports import ManifestPort, ReplicasPort
from actors.spools import Spools
from actors.stage import Stage
from registry.adapters import Adapter
from registry.manifest import BaseRevision, Route
from registry.registry import Registry
from serving.api import DomainStatus, ReplicaStatus, SystemStatus, TrainingProgress, VersionStatus, Waiting

T = TypeVar("T")


class Overview:
    """One look at everything, at one manifest; `troubles` grows by whoever could not be asked meanwhile."""

    def __init__(self, registry: Registry, troubles: Sequence[str] = ()) -> None:
        self.troubles = list(troubles)
        self._registry, self._current = registry, registry.current()

    def domains(self, router: ManifestPort, spools: Spools, stages: Mapping[str, Stage]) -> tuple[DomainStatus, ...]:
        """Describe every domain that is served, learned or waiting; the adapters' folder is listed once."""
        routes = self._current.routes if self._current else {}
        backlogs = spools.backlog()
        nothing: dict[str, int] = {}
        counts = self._ask("the router", router.counts, nothing)
        examples = self._ask("the router", router.examples, nothing)
        versions: dict[str, list[Adapter]] = {}
        adapters, damaged = self._registry.survey()
        self.troubles += map(in_words, damaged.values())
        for adapter in adapters:
            versions.setdefault(adapter.domain, []).append(adapter)
        return tuple(
            self._domain(
                name,
                routes.get(name),
                stages.get(name, Stage()),
                backlogs.get(name, DomainBacklog()),
                versions.get(name, []),
                rows=counts.get(name, 0),
                examples=examples.get(name, 0),
            )
            for name in sorted({*routes, *backlogs, *examples})
        )

    def system(
        self,
        base: BaseRevision,
        domains: tuple[DomainStatus, ...],
        spools: Spools,
        directory: ReplicasPort,
    ) -> SystemStatus:
        """Describe the whole: manifest, domains, ingest, replicas, and anything that is failing."""
        none: dict[str, ReplicaStatus] = {}
        replicas = self._ask("the replica directory", directory.replicas, none)
        return SystemStatus(
            manifest=self._current.number if self._current else 0,
            base=base,
            domains=domains,
            ingest=spools.status(),
            replicas=replicas,
            trouble="; ".join(dict.fromkeys(self.troubles)) or None,
        )

    def _domain(
        self,
        name: str,
        route: Route | None,
        stage: Stage,
        backlog: DomainBacklog,
        versions: Sequence[Adapter],
        *,
        rows: int,
        examples: int,
    ) -> DomainStatus:
        learner = stage.learner
        progress = self._ask(f"the learner of {name}", learner.progress, None) if learner is not None else None
        settled = stage.state in ("open", "published")
        return DomainStatus(
            domain=name,
            state=("published" if route else "open") if settled else stage.state,
            detail=stage.in_words(),
            version=route.adapter if route else None,
            pinned=bool(route and route.pinned),
            examples=examples,
            router_rows=rows,
            waiting=Waiting(train=backlog.train, held_out=backlog.held_out, sealed=tuple(sorted(backlog.sealed))),
            progress=TrainingProgress(step=progress.step, steps=progress.steps, loss=progress.loss)
            if progress
            else None,
            timings=dict(stage.timings),
            versions=tuple(
                VersionStatus(
                    name=adapter.name,
                    status=adapter.facts.status,
                    reason=adapter.facts.reason,
                    examples=adapter.facts.train_examples,
                    figures=dict(adapter.facts.figures),
                )
                for adapter in versions
            ),
        )

    def _ask(self, whom: str, question: Callable[[], T], otherwise: T) -> T:
        try:
            return question()
        except Exception as error:
            self.troubles.append(f"{whom} does not answer: {in_words(error)}")
            return otherwise

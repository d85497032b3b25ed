"""The state of the whole in words and figures, for the status page and the command line. It decides nothing.

A status is most needed while something is down: whoever can't be asked is named as trouble, the rest is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from actors.errors import in_words
from actors.observation import Loss, OpenDomain
from actors.ports import ManifestPort, ReplicasPort
from actors.spools import Spools
from actors.stage import Stage
from registry.adapters import Adapter
from registry.manifest import BaseRevision, Route, column
from registry.registry import Registry
from serving.api import (
    ActorStatus,
    DomainStatus,
    ReplicaStatus,
    SegmentStatus,
    Stretch,
    SystemStatus,
    TrainingProgress,
    VersionStatus,
    Waiting,
)

T = TypeVar("T")


@dataclass(frozen=True)
class _Counts:
    """What the router says of all domains."""

    rows: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, int] = field(default_factory=dict)
    open: Mapping[str, OpenDomain] = field(default_factory=dict)
    unread: Sequence[Loss] = ()
    segments: Mapping[str, int] = field(default_factory=dict)
    prequential: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    trouble: str | None = None


class Overview:
    """One look at everything, at one manifest; `troubles` grows by whoever could not be asked meanwhile."""

    def __init__(self, registry: Registry, router: ManifestPort, spools: Spools, troubles: Sequence[str] = ()) -> None:
        self.troubles = list(troubles)
        self._registry, self._spools, self._current = registry, spools, registry.current()
        self._counts = self._ask(
            "the router",
            lambda: _Counts(
                router.counts(),
                router.examples(),
                router.open(),
                router.unread(),
                router.segment_counts(),
                router.prequential(),
                router.trouble(),
            ),
            _Counts(),
        )
        if self._counts.trouble is not None:
            self.troubles.append(self._counts.trouble)

    def domains(self, stages: Mapping[str, Stage]) -> tuple[DomainStatus, ...]:
        """Describe every domain that is served, learned or waiting; the adapters' folder is listed once."""
        routes = self._current.routes if self._current else {}
        withdrawn = self._current.withdrawn if self._current else {}
        versions: dict[str, list[Adapter]] = {}
        adapters, damaged = self._registry.survey()
        self.troubles += map(in_words, damaged.values())
        for adapter in adapters:
            versions.setdefault(adapter.domain, []).append(adapter)
        known = {*routes, *withdrawn, *self._counts.open, *self._counts.examples, *self._spools.unobserved()}
        return tuple(
            self._domain(name, routes.get(name), stages.get(name, Stage()), versions.get(name, []))
            for name in sorted(known)
        )

    def system(
        self,
        base: BaseRevision,
        stages: Mapping[str, Stage],
        directory: ReplicasPort,
        actors: Sequence[ActorStatus] = (),
    ) -> SystemStatus:
        """Describe the whole: manifest, domains, ingest, replicas, actors, and anything that is failing."""
        none: dict[str, ReplicaStatus] = {}
        domains = self.domains(stages)
        replicas = self._ask("the replica directory", directory.replicas, none)
        return SystemStatus(
            manifest=self._current.number if self._current else 0,
            base=base,
            domains=domains,
            ingest=self._spools.status(),
            replicas=replicas,
            actors=tuple(actors),
            unread=tuple(map(_stretch, self._counts.unread)),
            trouble="; ".join(dict.fromkeys(self.troubles)) or None,
        )

    def _domain(self, name: str, route: Route | None, stage: Stage, versions: Sequence[Adapter]) -> DomainStatus:
        learner = stage.learner
        progress = self._ask(f"the learner of {name}", learner.progress, None) if learner is not None else None
        settled = stage.state in ("open", "published")
        waiting = self._counts.open.get(name, OpenDomain())
        accuracy, rows = self._counts.prequential.get(name, (None, 0))
        return DomainStatus(
            domain=name,
            state=("published" if route else "open") if settled else stage.state,
            detail=stage.in_words(),
            version=route.adapter if route else None,
            pinned=bool(route and route.pinned),
            examples=self._counts.examples.get(name, 0),
            router_rows=self._counts.rows.get(name, 0),
            waiting=Waiting(
                train=waiting.train,
                held_out=waiting.held_out,
                sealed=(waiting.seal.version,) if waiting.seal else (),
            ),
            withdrawn=self._current.withdrawn.get(name) if self._current else None,
            lost=tuple(map(_stretch, waiting.lost)),
            progress=TrainingProgress(step=progress.step, steps=progress.steps, loss=progress.loss)
            if progress
            else None,
            timings=dict(stage.timings),
            segments=self._segments(name, route, versions),
            prequential=accuracy,
            prequential_rows=rows,
            versions=tuple(map(_version, versions)),
        )

    def _segments(self, name: str, route: Route | None, versions: Sequence[Adapter]) -> tuple[SegmentStatus, ...]:
        facts = {adapter.name: adapter.facts for adapter in versions}
        return tuple(
            SegmentStatus(
                segment=segment,
                version=placed.adapter,
                router_rows=self._counts.segments.get(column(name, segment), 0),
                examples=facts[placed.adapter].exam_rows if placed.adapter in facts else 0,
                figures=dict(facts[placed.adapter].figures) if placed.adapter in facts else {},
            )
            for segment, placed in (route.segments if route else {}).items()
        )

    def _ask(self, whom: str, question: Callable[[], T], otherwise: T) -> T:
        try:
            return question()
        except Exception as error:
            self.troubles.append(f"{whom} does not answer: {in_words(error)}")
            return otherwise


def _version(adapter: Adapter) -> VersionStatus:
    facts = adapter.facts
    return VersionStatus(
        name=adapter.name,
        status=facts.status,
        reason=facts.reason,
        segment=facts.segment,
        beside=facts.beside,
        examples=facts.train_examples,
        figures=dict(facts.figures),
    )


def _stretch(loss: Loss) -> Stretch:
    return Stretch(partition=str(loss.partition), first=loss.first, last=loss.last, rows=loss.rows)

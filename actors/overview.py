"""The state of the whole in words and figures, for the status page and the command line. It decides nothing.

A status is most needed while something is down: whoever can't be asked is named as trouble, the rest is answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from actors.errors import in_words
from actors.fan_out import Asked, FanOut
from actors.observation import Loss, OpenDomain
from actors.ports import LearnerPort, ManifestPort, ReplicasPort
from actors.routed_share import Share
from actors.spools import Spools
from actors.stage import Stage
from learning.contract import Progress
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
    prequential: Mapping[str, Share] = field(default_factory=dict)
    trouble: str | None = None


class Overview:
    """One look at everything, at one manifest; `troubles` grows by whoever could not be asked meanwhile.

    All peers are asked at once, when it is made: the router, the directory, and the learner of each domain that is
    being learned. What a router that does not answer had counted `before` is told again.
    """

    def __init__(
        self,
        registry: Registry,
        router: ManifestPort,
        directory: ReplicasPort,
        spools: Spools,
        stages: Mapping[str, Stage],
        peers: FanOut,
        troubles: Sequence[str] = (),
        before: Overview | None = None,
    ) -> None:
        self.troubles = list(troubles)
        self._registry, self._spools, self._stages = registry, spools, stages
        self._current = registry.current()
        learners = {domain: learner for domain, stage in stages.items() if (learner := stage.learner) is not None}
        counts = peers.ask("router", partial(_counted, router))
        replicas = peers.ask("directory", lambda: directory.replicas())
        progress = {
            domain: peers.ask(f"learner of {domain}", partial(_progress, learner))
            for domain, learner in learners.items()
        }
        self._current = registry.current()
        none: dict[str, ReplicaStatus] = {}
        known = replace(before._counts, trouble=None) if before is not None else _Counts()
        self._counts: _Counts = self._answer("the router", counts, known)
        self._replicas = self._answer("the replica directory", replicas, none)
        self._progress = {
            domain: self._answer(f"the learner of {domain}", each, None) for domain, each in progress.items()
        }
        if self._counts.trouble is not None:
            self.troubles.append(self._counts.trouble)

    def domains(self) -> tuple[DomainStatus, ...]:
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
            self._domain(name, routes.get(name), self._stages.get(name, Stage()), versions.get(name, []))
            for name in sorted(known)
        )

    def system(self, base: BaseRevision, actors: Sequence[ActorStatus] = ()) -> SystemStatus:
        """Describe the whole: manifest, domains, ingest, replicas, actors, and anything that is failing."""
        domains = self.domains()
        return SystemStatus(
            manifest=self._current.number if self._current else 0,
            base=base,
            domains=domains,
            ingest=self._spools.status(),
            replicas=self._replicas,
            actors=tuple(actors),
            unread=tuple(map(_stretch, self._counts.unread)),
            trouble="; ".join(dict.fromkeys(self.troubles)) or None,
        )

    def _domain(self, name: str, route: Route | None, stage: Stage, versions: Sequence[Adapter]) -> DomainStatus:
        progress = self._progress.get(name)
        settled = stage.state in ("open", "published")
        waiting = self._counts.open.get(name, OpenDomain())
        share = self._counts.prequential.get(name)
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
            progress=_told(progress) if progress else None,
            timings=dict(stage.timings),
            segments=self._segments(name, route, versions),
            prequential=share.accuracy if share else None,
            prequential_rows=share.rows if share else 0,
            routed_to=share.routed_to() if share else {},
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

    def _answer(self, whom: str, asked: Asked[T], otherwise: T) -> T:
        try:
            return asked.answer()
        except Exception as error:
            self.troubles.append(f"{whom} does not answer: {in_words(error)}")
            return otherwise


def _progress(learner: LearnerPort) -> Progress | None:
    return learner.progress()


def _counted(router: ManifestPort) -> _Counts:
    return _Counts(
        router.counts(),
        router.examples(),
        router.open(),
        router.unread(),
        router.segment_counts(),
        router.prequential(),
        router.trouble(),
    )


def _told(progress: Progress) -> TrainingProgress:
    return TrainingProgress(
        step=progress.step,
        steps=progress.steps,
        loss=progress.loss,
        resumed_from=progress.resumed_from,
        curve=progress.curve,
    )


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

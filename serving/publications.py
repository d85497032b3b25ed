"""What was published when, and what each manifest answers how well, read from the registry; beside the requests.

As far as the registry keeps its manifests. Knows no HTTP but its own paths, and decides nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from threading import Lock
from typing import TypeVar

from fastapi import APIRouter, Depends, Request, Response
from starlette.exceptions import HTTPException

from registry.adapters import Adapter, AdapterFacts
from registry.errors import RegistryError, UnknownAdapter
from registry.manifest import Manifest, Route
from registry.registry import Registry
from serving.caller import check_domain
from serving.errors import ControlUnavailable
from serving.past_bodies import ExamExample, ExamList, PublicationList, PublicationRecord, PublishedChange
from serving.paths import answering, sent
from serving.request_body import limit
from serving.service import RoutedService

T = TypeVar("T")

_MOST = 1_000
_KEPT_S = 10.0
_LOG = logging.getLogger(__name__)


def publication_router(service: RoutedService) -> APIRouter:
    """The paths that look back."""
    router = APIRouter(prefix="/v1")
    known: dict[int, tuple[float, PublicationList]] = {}
    looking = Lock()

    def history(most: int) -> PublicationList:
        registry = service.registry
        current = registry.current()
        number = current.number if current else 0
        # One look is kept, and who asks meanwhile waits for it; not for long, as what can't be read now may be mended.
        with looking:
            looked, found = known.get(number, (-math.inf, None))
            if found is None or time.monotonic() - looked > _KEPT_S:
                found = publications(registry)
                known.clear()
                known[number] = (time.monotonic(), found)
        return found.model_copy(update={"publications": found.publications[:most]})

    @router.get("/publications", responses=answering(PublicationList))
    async def published(request: Request) -> Response:
        """The newest publications, `limit` (20) of them, up to 1000, as far as their manifests are kept."""
        most = limit(request, 20, _MOST)
        return sent(await _read(lambda: history(most)))

    async def checked(domain: str) -> None:
        check_domain(domain)

    @router.get("/domains/{domain}/exam", responses=answering(ExamList), dependencies=[Depends(checked)])
    async def exam(domain: str, request: Request) -> Response:
        """Some of what a domain's version was judged on, `limit` (20) examples, up to 1000; of `version`, or of the one
        in service."""
        most, version = limit(request, 20, _MOST), request.query_params.get("version")
        return sent(await _read(lambda: _exam(service.registry, domain, version, most)))

    return router


def publications(registry: Registry) -> PublicationList:
    """All that are kept, newest first. Raises RegistryError where the one in force can't be read."""
    chain = registry.chain()
    facts: dict[str, AdapterFacts | None] = {}

    def facts_of(name: str) -> AdapterFacts | None:
        if name not in facts:
            try:
                facts[name] = registry.adapter(name).facts
            except (RegistryError, OSError):
                facts[name] = None  # Pruned, or damaged: its status says so.
        return facts[name]

    told: list[PublicationRecord] = []
    manifests = {manifest.number: manifest for manifest in (*chain.below, *chain.manifests)}
    for _, manifest in sorted(manifests.items()):
        # What it changed is told by its own parent alone: the one before it by number may be another's.
        before = manifests.get(manifest.parent) if manifest.parent is not None else None
        told.append(_publication(manifest, before, facts_of))
    for number, error in chain.damaged.items():
        _LOG.warning("manifest %s can't be read: %s", number, error)
    damaged = tuple(sorted(chain.damaged))
    return PublicationList(publications=tuple(reversed(told)), damaged=damaged)


def _publication(
    manifest: Manifest, before: Manifest | None, facts_of: Callable[[str], AdapterFacts | None]
) -> PublicationRecord:
    scores = {domain: _exact(route, facts_of) for domain, route in manifest.routes.items()}
    return PublicationRecord(
        manifest=manifest.number,
        at=manifest.created_at.timestamp(),
        reason=manifest.reason,
        domains=len(manifest.routes),
        # Where its parent is damaged, or not kept any more, nobody knows what it changed.
        changes=() if before is None and manifest.parent is not None else tuple(_changes(manifest, before, facts_of)),
        exact={domain: score for domain, score in scores.items() if score is not None},
    )


def _changes(
    manifest: Manifest, before: Manifest | None, facts_of: Callable[[str], AdapterFacts | None]
) -> Iterator[PublishedChange]:
    earlier: Mapping[str, Route] = before.routes if before is not None else {}
    for domain in sorted({*earlier, *manifest.routes}):
        old, new = earlier.get(domain), manifest.routes.get(domain)
        if old == new:
            continue
        kind = _kind(old, new)
        # A version that was served or held back before has been trained long ago.
        is_new = kind in ("added", "updated") and not (before and new and before.withdrawn.get(domain) == new.adapter)
        facts = facts_of(new.adapter) if new is not None and is_new else None
        yield PublishedChange(
            domain=domain,
            kind=kind,
            before=old.adapter if old else None,
            after=new.adapter if new else None,
            training_seconds=facts.figures.get("seconds") if facts else None,
            publication_seconds=(manifest.created_at - facts.created_at).total_seconds() if facts else None,
        )
    if before is not None and before.base.weights != manifest.base.weights:
        yield PublishedChange(domain="base", kind="base", before=before.base.delta or None, after=manifest.base.delta)


def _kind(old: Route | None, new: Route | None) -> str:
    if old is None:
        return "added"
    if new is None:
        return "removed"
    if old.names == new.names:
        return "pinned" if new.pinned else "unpinned"
    return "rolled back" if new.version < old.version else "updated"


def _exact(route: Route, facts_of: Callable[[str], AdapterFacts | None]) -> float | None:
    """Share of a domain's exams that is answered exactly, over its segments; None where no figure is kept."""
    right, rows = 0.0, 0
    for placed in route.segments.values():
        facts = facts_of(placed.adapter)
        share = None if facts is None else facts.figures.get("candidate_exact_match")
        if facts is None or share is None or share != share:
            return None
        weight = max(1, facts.held_out_examples)
        right, rows = right + share * weight, rows + weight
    return right / rows


def _exam(registry: Registry, domain: str, version: str | None, most: int) -> ExamList:
    adapter = _asked(registry, domain, version)
    lines = [line for line in adapter.exam().splitlines() if line.strip()]
    found = [json.loads(line) for line in lines[:most]]
    return ExamList(
        domain=domain,
        version=adapter.name,
        rows=len(lines),
        examples=tuple(ExamExample(prompt=each["prompt"], completion=each["completion"]) for each in found),
    )


def _asked(registry: Registry, domain: str, version: str | None) -> Adapter:
    if version is None:
        current = registry.current()
        route = current.routes.get(domain) if current else None
        if route is None:
            raise HTTPException(404, f"no version of domain {domain!r:.80} is in service")
        version = route.adapter
    try:
        adapter = registry.adapter(version)
    except UnknownAdapter as error:
        raise HTTPException(404, f"no version {version!r:.120} of domain {domain!r:.80} is kept") from error
    if adapter.domain != domain:
        raise HTTPException(404, f"{version!r:.120} is no version of domain {domain!r:.80}")
    return adapter


async def _read(read: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(read)
    except (RegistryError, OSError) as error:
        _LOG.warning("the past can't be read: %s", error)
        raise ControlUnavailable(
            "this can't be read of the registry now; its status or `registry` tells why"
        ) from error

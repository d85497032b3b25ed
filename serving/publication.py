"""Two-phase publication on one replica.

    prepare(n): load what is new, check digests and ranks, build the scorer, probe   -> prepared
    commit(n):  swap one reference; requests that started before keep their lease
    sweep:      unload each version that neither the current nor a prepared manifest names and no lease holds

What is new is loaded and probed before it is in force; whether it stays in the engine is up to `serving.residency`. A
replica that starts loads of what was in force before as much as there is room for, first what others have used lately,
and what of that can't be had does not keep it from serving the rest.

Weights of two bases don't lie beside each other: a manifest on another change of the base comes into force in its
prepare. Everything that can be is looked at first; then requests wait at the door, those in flight finish on the base
they began on, the engine takes the other weights, what is new is loaded and probed. Where that fails the weights from
before are put back, and it was as any other failed prepare.

    who             waits for                      unblocked by
    prepare         the preparing lock             the prepare or sweep before it
                    of a base: requests in flight  their end, or `drain_seconds`; then it has failed
    commit          nothing                        -
    a request       a changing base                its end, however it ends
    sweep           the preparing lock             the last release, commit or failed prepare

What counts against a version is what was read of it (`serving.reading`) and what the engine said of it; an engine that
is too busy to answer a probe, or that dies under it, has proved nothing.

Knows the engine port; nothing of HTTP or of other replicas.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from learning.errors import LearningError
from learning.parity import disagreement
from registry.errors import RegistryError
from registry.manifest import Placed, column
from serving.admission import Admission
from serving.engine import Engine, LoadedAdapter
from serving.errors import EngineFailed, NotPrepared, PrepareFailed, Unavailable
from serving.leases import Leases
from serving.mixtures import Composite, Composites
from serving.options import EngineKnobs
from serving.reading import ManifestReader, read
from serving.residency import Residency
from serving.scorer import Scorer
from serving.selection import Choice
from serving.served import NOTHING_PUBLISHED, ServedDomain, ServedManifest

if TYPE_CHECKING:
    from learning.features import FeatureExtractor
    from registry.manifest import BaseRevision, Manifest
    from registry.registry import Registry
    from serving.mixtures import Source

# Seconds that the probes of a manifest wait for the engine; far below the time that a replica has to prepare.
_PROBE_PATIENCE = 20.0
DRAIN_SECONDS = 30.0
"""How long a change of the base waits for the requests in flight."""
# Seconds that a request waits longer than that for the change itself: the weights are read from storage.
_CHANGE_PATIENCE = 60.0
_LOOK_AGAIN = 0.02
_REMEDY = "restore the folder or roll the domain back"

_LOG = logging.getLogger(__name__)


class Publication:
    """The manifests one replica stands on and is about to stand on.

    `base` is what the engine was started with: manifests and adapters of another digest are refused, one that names
    none included. Those of a change of it wait up to `drain_seconds` for requests in flight.
    `hot` are versions that others have used lately: of what was in force before they are loaded before others.
    `extractor_for(manifest)` gives the feature extractor that the manifest's router was trained with; it is asked in a
    thread, for each manifest.
    """

    def __init__(
        self,
        engine: Engine,
        registry: Registry,
        extractor_for: Callable[[Manifest], FeatureExtractor],
        knobs: EngineKnobs,
        base: BaseRevision,
        drain_seconds: float = DRAIN_SECONDS,
        hot: Sequence[str] = (),
    ) -> None:
        self.current: ServedManifest = NOTHING_PUBLISHED
        self.leases = Leases(self._sweep_soon)
        self.admission = Admission(drain_seconds + _CHANGE_PATIENCE)
        """What requests pass before they take a lease."""
        self.broken: str | None = None
        """Why the engine can answer nothing any more, or None."""
        self.residency = Residency(engine, self._folder, knobs.max_cpu_loras + 1)
        """Which of what is served lies in the engine."""
        self._engine = engine
        self._reader = ManifestReader(registry, extractor_for, knobs.max_lora_rank, base)
        self._composites = Composites(self._read, knobs.max_lora_rank, knobs.max_cpu_loras)
        self._base = base
        """What the engine runs."""
        self._drain_seconds = drain_seconds
        self._rank = {name: at for at, name in enumerate(hot)}
        self._prepared: dict[int, ServedManifest] = {}
        self._preparing = asyncio.Lock()
        self._sweeping: asyncio.Task[None] | None = None

    @property
    def prepared(self) -> tuple[int, ...]:
        return tuple(sorted(self._prepared))

    @property
    def versions(self) -> tuple[str, ...]:
        """Full names of the versions that may be asked for, alone or in a mixture."""
        return tuple(name for name in self.residency.known if not isinstance(self.residency.source(name), Composite))

    def composed(self, choice: Choice) -> Choice:
        """The choice with the composite of its mixture, if it is one. Asked under a lease of its manifest, which is to
        hold the composite before anything is awaited."""
        if (mixture := choice.mixture) is None:
            return choice
        sources = [self.residency.source(adapter.name) for adapter, _ in mixture.parts]
        adapter = self.residency.know(mixture.domain, self._composites.of(mixture, sources))
        self._sweep_soon()
        return replace(choice, adapter=adapter)

    async def close(self) -> None:
        """End what is under way, and remove what was made."""
        await self.residency.close()
        self._composites.close()

    async def prepare(self, number: int) -> None:
        """Make `commit(number)` possible; one on another change of the base is served from then on. Idempotent.

        Raises PrepareFailed; then everything is as it was, unless `broken` says otherwise.
        """
        async with self._preparing:
            if number == self.current.number or number in self._prepared:
                return
            if number < self.current.number:
                raise PrepareFailed(
                    f"manifest {number}",
                    f"this replica already stands on manifest {self.current.number}",
                    "publish an older version as a new manifest instead",
                )
            try:
                await self._prepare(f"manifest {number}", number)
            except asyncio.CancelledError:
                self._sweep_soon()
                raise
            except Exception as error:
                await self._unload_unwanted()
                if isinstance(error, PrepareFailed):
                    raise
                raise PrepareFailed(
                    f"manifest {number}", f"{type(error).__name__}: {error}", "see the cause; nothing was changed"
                ) from error

    async def commit(self, number: int) -> None:
        """Serve `number` from the next request on. Idempotent. Raises NotPrepared."""
        if number == self.current.number:
            return
        served = self._prepared.get(number)
        if served is None:
            raise NotPrepared(
                f"manifest {number} is not prepared on this replica (current {self.current.number}, prepared "
                f"{list(self.prepared) or 'none'}); prepare it first"
            )
        self.current = served
        self._prepared = {later: prepared for later, prepared in self._prepared.items() if later > number}
        self._sweep_soon()

    async def settle(self) -> None:
        """Return once nothing is left to unload."""
        while self._sweeping is not None and not self._sweeping.done():
            await asyncio.shield(self._sweeping)

    async def _prepare(self, where: str, number: int) -> None:
        remedy = "restore the registry's folder"
        manifest = await read(where, "check the registry's folder", partial(self._reader.manifest, number))
        scorer = await read(where, remedy, partial(self._reader.scorer, manifest))
        if manifest.base.weights == self._base.weights:
            self._prepared[number] = await self._build(manifest, scorer)
            return
        await read(where, remedy, partial(self._reader.check, manifest))
        delta = await read(where, remedy, partial(self._reader.change, manifest.base))
        self.admission.close(f"{where} changes the base of this replica")
        try:
            await self._drain(where)
            self.current = await self._on_changed_base(manifest, scorer, delta)
        finally:
            self.admission.open()
        self._prepared = {}
        self._sweep_soon()

    async def _build(self, manifest: Manifest, scorer: Scorer | None) -> ServedManifest:
        """Load and probe what is new in a manifest on the base that the engine runs."""
        by_domain: dict[str, ServedDomain] = {}
        placed_by_name: dict[str, Placed] = {}
        known = self._wanted()
        for domain, route in sorted(manifest.routes.items()):
            by_column: dict[str, LoadedAdapter] = {}
            for segment, placed in route.segments.items():
                by_column[column(domain, segment)] = self.residency.know(domain, placed)
                placed_by_name[placed.adapter] = placed
            newest = by_column[column(domain, route.segment)]
            by_domain[domain] = ServedDomain(newest, MappingProxyType(by_column))
        served = ServedManifest(manifest.number, manifest, scorer, MappingProxyType(by_domain))
        new = {name: adapter for name, adapter in served.by_name.items() if name not in known}
        before = await self._served_before(manifest) if new else set()
        deadline = asyncio.get_running_loop().time() + _PROBE_PATIENCE
        unseen = [adapter for name, adapter in new.items() if name not in before]
        for adapter in unseen:
            await self._take(adapter, placed_by_name[adapter.name], deadline)
        others = [adapter for name, adapter in new.items() if name in before]
        await self._fill_with(sorted(others, key=lambda adapter: self._rank.get(adapter.name, len(self._rank))))
        return served

    async def _served_before(self, manifest: Manifest) -> set[str]:
        """What was in force before the manifest: other replicas have found it sound, and this one has only to catch
        up."""
        if manifest.parent is None or manifest.parent == self.current.number:
            return set()
        try:
            parent = await asyncio.to_thread(self._reader.manifest, manifest.parent)
        except (RegistryError, PrepareFailed, OSError):
            return set()
        return {placed.adapter for route in parent.routes.values() for placed in route.segments.values()}

    async def _fill_with(self, adapters: Sequence[LoadedAdapter]) -> None:
        """Load as many as there is room for; the others come when they are asked for. What is wrong with one is told to
        whoever asks for it, and keeps nobody from being served."""
        room = self.residency.capacity - 1 - len(self.residency.resident)
        # The hottest last, as it is to be put out last.
        for adapter in reversed(adapters[: max(0, room)]):
            try:
                await self.residency.use(adapter)
            except (PrepareFailed, EngineFailed) as error:
                _LOG.error("%s is in force and can't be loaded", adapter.name, exc_info=error)
            else:
                self.residency.leave(adapter)

    async def _drain(self, where: str) -> None:
        deadline = time.monotonic() + self._drain_seconds
        while left := len(self.leases):
            if time.monotonic() > deadline:
                raise PrepareFailed(
                    where,
                    f"it changes the base, and {left} requests are in flight for {self._drain_seconds:g} s",
                    "they are not cut off, it is tried again; raise serving.drain_seconds where answers take longer",
                )
            await asyncio.sleep(_LOOK_AGAIN)

    async def _on_changed_base(self, manifest: Manifest, scorer: Scorer | None, delta: Path | None) -> ServedManifest:
        where, before = f"manifest {manifest.number}", self._base
        try:
            await self._engine.change_base(delta)
            self._base = manifest.base
            served = await self._build(manifest, scorer)
            await self._engine.probe(None)
        except BaseException as error:
            try:
                self._base = before
                await self._engine.change_base(await asyncio.to_thread(self._reader.change, before))
            except Exception as worse:
                self.broken = f"{where} could not be taken ({error}), nor could the base before ({worse})"
            if isinstance(error, EngineFailed | Unavailable):
                raise self._failed(where, f"the base can't be changed: {error}", "train it again") from error
            raise
        return served

    async def _folder(self, source: Source) -> Path | None:
        """The adapter's folder, checked here and now; once, as whoever asks for it waits."""
        try:
            return await asyncio.to_thread(self._read, source)
        except (RegistryError, LearningError, OSError) as error:
            raise PrepareFailed(source.adapter, str(error), _REMEDY) from error

    async def _patiently(self, source: Source) -> Path | None:
        """The same, and again where storage is away for a moment."""
        return await read(source.adapter, _REMEDY, partial(self._read, source))

    def _read(self, source: Source) -> Path | None:
        return self._composites.folder(source) if isinstance(source, Composite) else self._reader.adapter(source)

    async def _take(self, adapter: LoadedAdapter, placed: Placed, deadline: float) -> None:
        """Load and probe an adapter; it may have to make room for others before it is asked for."""
        try:
            try:
                await self.residency.use(adapter, self._patiently)
            except EngineFailed:
                # The engine reads the folder by itself, and it may have been away since.
                await self.residency.use(adapter, self._patiently)
        except (EngineFailed, Unavailable) as error:
            misfit = "the adapter does not fit the base model or the engine; train it again"
            raise self._failed(adapter.name, str(error), misfit) from error
        try:
            await self._probe(adapter, placed, deadline)
        finally:
            self.residency.leave(adapter)

    async def _probe(self, adapter: LoadedAdapter, placed: Placed, deadline: float) -> None:
        """Raise PrepareFailed if the adapter is at fault, or the engine is dead or does not answer in time."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._engine.probe(adapter)
                wrong = await self._disagreement(adapter, placed) if adapter.rank else None
        except TimeoutError as error:
            busy = f"its probe had no answer within {_PROBE_PATIENCE:g} s"
            raise PrepareFailed(adapter.name, busy, "the engine is too busy; it is tried again") from error
        except (EngineFailed, Unavailable) as error:
            raise self._failed(adapter.name, f"its probe failed: {error}", "train the adapter again") from error
        if wrong is not None:
            raise PrepareFailed(adapter.name, wrong, "look at how the engine reads it, or train it again")

    async def _disagreement(self, adapter: LoadedAdapter, placed: Placed) -> str | None:
        """Why the engine does not serve what was learned, by the examples that the adapter came with."""
        rows = await read(adapter.name, _REMEDY, partial(self._reader.parity, placed))
        if not rows:
            return None
        served, bare = await self._engine.losses(adapter, rows), await self._engine.losses(None, rows)
        return disagreement([row.loss for row in rows], served, bare, self._engine.dtype)

    def _failed(self, who: str, what: str, remedy: str) -> PrepareFailed:
        """The failure as the adapter's fault, unless the engine is down."""
        if self._engine.failure is not None:
            remedy = "nothing is known against the adapter; the replica must be replaced"
            return PrepareFailed(who, f"the engine went down: {self._engine.failure}", remedy)
        return PrepareFailed(who, what, remedy)

    def _sweep_soon(self) -> None:
        """Start a sweep unless nothing is to be unloaded or one is under way, which looks again when it ends."""
        if self._unwanted() and (self._sweeping is None or self._sweeping.done()):
            self._sweeping = asyncio.get_running_loop().create_task(self._sweep())

    async def _sweep(self) -> None:
        async with self._preparing:
            await self._unload_unwanted()

    async def _unload_unwanted(self) -> None:
        await self.residency.forget(self._wanted)
        self._composites.keep(self.residency.known)

    def _unwanted(self) -> set[str]:
        return {*self.residency.known} - self._wanted()

    def _wanted(self) -> set[str]:
        wanted = self.leases.held().union(self.current.by_name, *(m.by_name for m in self._prepared.values()))
        return wanted | self._composites.within(wanted)

"""Two-phase publication on one replica.

    prepare(n): load what is new beside what is in use, check digests and ranks, build the scorer, probe  -> prepared
    commit(n):  swap one reference; requests that started before keep their lease
    sweep:      unload each version that neither the current nor a prepared manifest names and no lease holds

Weights of two bases don't lie beside each other: a manifest on another change of the base comes into force in its
prepare. Everything that can be is looked at first; then requests wait at the door, those in flight finish on the base
they began on, the engine takes the other weights, what is new is loaded and probed. Where that fails the weights from
before are put back, and it was as any other failed prepare.

    who             waits for                      unblocked by
    prepare         the loading lock               the prepare or sweep before it
                    of a base: requests in flight  their end, or `drain_seconds`; then it has failed
    commit          nothing                        -
    a request       a changing base                its end, however it ends
    sweep           the loading lock               the last release, commit or failed prepare

What counts against a version is what was read of it (`serving.reading`) and what the engine said of it; an engine that
is too busy to answer a probe, or that dies under it, has proved nothing.

Knows the engine port; nothing of HTTP or of other replicas.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from registry.manifest import column
from serving.admission import Admission
from serving.engine import Engine, LoadedAdapter
from serving.errors import EngineFailed, NotPrepared, PrepareFailed, Unavailable
from serving.leases import Leases
from serving.reading import ManifestReader, read
from serving.scorer import Scorer
from serving.served import NOTHING_PUBLISHED, ServedDomain, ServedManifest

if TYPE_CHECKING:
    from learning.features import FeatureExtractor
    from registry.manifest import BaseRevision, Manifest, Placed
    from registry.registry import Registry

# Seconds that a probe waits for a slot in the batch; far below the time that a replica has to prepare.
_PROBE_PATIENCE = 10.0
DRAIN_SECONDS = 30.0
"""How long a change of the base waits for the requests in flight."""
# Seconds that a request waits longer than that for the change itself: the weights are read from storage.
_CHANGE_PATIENCE = 60.0
_LOOK_AGAIN = 0.02


class Publication:
    """The manifests one replica stands on and is about to stand on.

    `base` is what the engine was started with: manifests and adapters of another digest are refused, one that names
    none included. Those of a change of it wait up to `drain_seconds` for requests in flight.
    `extractor_for(manifest)` gives the feature extractor that the manifest's router was trained with; it is asked in a
    thread, for each manifest.
    """

    def __init__(
        self,
        engine: Engine,
        registry: Registry,
        extractor_for: Callable[[Manifest], FeatureExtractor],
        max_lora_rank: int,
        base: BaseRevision,
        drain_seconds: float = DRAIN_SECONDS,
    ) -> None:
        self.current: ServedManifest = NOTHING_PUBLISHED
        self.leases = Leases(self._sweep_soon)
        self.admission = Admission(drain_seconds + _CHANGE_PATIENCE)
        """What requests pass before they take a lease."""
        self.broken: str | None = None
        """Why the engine can answer nothing any more, or None."""
        self.unload_failure: str | None = None
        self._engine = engine
        self._reader = ManifestReader(registry, extractor_for, max_lora_rank, base)
        self._base = base
        """What the engine runs."""
        self._drain_seconds = drain_seconds
        self._prepared: dict[int, ServedManifest] = {}
        self._loaded: dict[str, LoadedAdapter] = {}
        self._numbers = itertools.count(1)
        self._loading = asyncio.Lock()
        self._sweeping: asyncio.Task[None] | None = None

    @property
    def loaded(self) -> tuple[str, ...]:
        """Full names of the versions that the engine holds for this replica."""
        return tuple(sorted(self._loaded))

    @property
    def prepared(self) -> tuple[int, ...]:
        return tuple(sorted(self._prepared))

    async def prepare(self, number: int) -> None:
        """Make `commit(number)` possible; one on another change of the base is served from then on. Idempotent.

        Raises PrepareFailed; then everything is as it was, unless `broken` says otherwise.
        """
        async with self._loading:
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
        new: list[LoadedAdapter] = []
        for domain, route in sorted(manifest.routes.items()):
            by_column: dict[str, LoadedAdapter] = {}
            for segment, placed in route.segments.items():
                adapter = self._loaded.get(placed.adapter)
                if adapter is None:
                    adapter = await self._load(domain, placed)
                    new.append(adapter)
                by_column[column(domain, segment)] = adapter
            newest = by_column[column(domain, route.segment)]
            by_domain[domain] = ServedDomain(newest, MappingProxyType(by_column))
        await asyncio.gather(*(self._probe(adapter) for adapter in new))
        return ServedManifest(manifest.number, manifest, scorer, MappingProxyType(by_domain))

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
                raise _failed(where, f"the base can't be changed: {error}", "train it again", error) from error
            raise
        return served

    async def _load(self, domain: str, placed: Placed) -> LoadedAdapter:
        remedy = "restore the folder or roll the domain back"
        folder, rank = await read(placed.adapter, remedy, partial(self._reader.adapter, placed))
        adapter = LoadedAdapter(placed.adapter, next(self._numbers), domain, folder, rank)
        # Noted before it is loaded: a cancellation in between must not leave it behind in the engine.
        self._loaded[adapter.name] = adapter
        try:
            try:
                await self._engine.load(adapter)
            except EngineFailed:
                # The engine reads the folder by itself, and it may have been away since.
                await read(placed.adapter, remedy, partial(self._reader.adapter, placed))
                await self._engine.load(adapter)
        except (EngineFailed, Unavailable) as error:
            del self._loaded[adapter.name]
            misfit = "the adapter does not fit the base model or the engine; train it again"
            raise _failed(adapter.name, str(error), misfit, error) from error
        return adapter

    async def _probe(self, adapter: LoadedAdapter) -> None:
        """Raise PrepareFailed if the adapter is at fault, or the engine is dead.

        The engine batches at most as many adapters as it has slots, so a steady load on others may keep a probe
        waiting without end. Its bytes are those that the gate has judged, so it goes into service unprobed then: a
        replica that is busy is sound, and must not be taken out for it.
        """
        try:
            async with asyncio.timeout(_PROBE_PATIENCE):
                await self._engine.probe(adapter)
        except TimeoutError:
            return
        except (EngineFailed, Unavailable) as error:
            raise _failed(adapter.name, f"its probe failed: {error}", "train the adapter again", error) from error

    def _sweep_soon(self) -> None:
        """Start a sweep unless nothing is to be unloaded or one is under way, which looks again when it ends."""
        if self._unwanted() and (self._sweeping is None or self._sweeping.done()):
            self._sweeping = asyncio.get_running_loop().create_task(self._sweep())

    async def _sweep(self) -> None:
        async with self._loading:
            await self._unload_unwanted()

    async def _unload_unwanted(self) -> None:
        while unwanted := self._unwanted():
            adapter = self._loaded[unwanted[0]]
            try:
                await self._engine.unload(adapter)
            except EngineFailed as error:
                # It stays among the loaded ones: health() tells of it, and the next sweep tries again.
                self.unload_failure = f"{adapter.name}: {error}"
                return
            self.unload_failure = None
            del self._loaded[adapter.name]

    def _unwanted(self) -> list[str]:
        wanted = self.leases.held().union(self.current.by_name, *(m.by_name for m in self._prepared.values()))
        return [name for name in self._loaded if name not in wanted]


def _failed(who: str, what: str, remedy: str, error: EngineFailed | Unavailable) -> PrepareFailed:
    """The failure as the adapter's fault, unless the engine is down."""
    if isinstance(error, Unavailable):
        remedy = "nothing is known against the adapter; the replica must be replaced"
        return PrepareFailed(who, f"the engine went down: {error}", remedy)
    return PrepareFailed(who, what, remedy)

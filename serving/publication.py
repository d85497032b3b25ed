"""Two-phase publication on one replica.

    prepare(n): load what is new beside what is in use, check digests and ranks, build the scorer, probe  -> prepared
    commit(n):  swap one reference; requests that started before keep their lease
    sweep:      unload each version that neither the current nor a prepared manifest names and no lease holds

    who             waits for                      unblocked by
    prepare         the loading lock               the prepare or sweep before it
    commit          nothing                        -
    a request       nothing of this                -
    sweep           the loading lock               the last release, commit, abort or failed prepare

Knows the engine port and the registry; nothing of HTTP or of other replicas.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from learning.errors import LearningError
from learning.rls import RouterWeights
from registry.errors import RegistryError
from serving.engine import Engine, LoadedAdapter
from serving.errors import EngineFailed, NotPrepared, PrepareFailed
from serving.leases import Leases
from serving.scorer import Scorer
from serving.served import NOTHING_PUBLISHED, ServedManifest

if TYPE_CHECKING:
    from learning.features import FeatureExtractor
    from registry.manifest import Manifest, Route
    from registry.registry import Registry


class Publication:
    """The manifests one replica stands on and is about to stand on.

    `extractor_for(manifest)` gives the feature extractor that the manifest's router was trained with; it is asked in a
    thread, and again only when the features change.
    """

    def __init__(
        self,
        engine: Engine,
        registry: Registry,
        extractor_for: Callable[[Manifest], FeatureExtractor],
        max_lora_rank: int,
    ) -> None:
        self.current: ServedManifest = NOTHING_PUBLISHED
        self.leases = Leases(self._sweep_soon)
        self.unload_failure: str | None = None
        self._engine = engine
        self._registry = registry
        self._extractor_for = extractor_for
        self._extractor: tuple[str | None, FeatureExtractor] | None = None
        self._max_lora_rank = max_lora_rank
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
        """Make `commit(number)` possible. Idempotent. Raises PrepareFailed; then everything is as it was."""
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
                self._prepared[number] = await self._build(number)
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

    async def abort(self, number: int) -> None:
        """Forget a prepared manifest. No error if it is not prepared; the current one stays."""
        async with self._loading:
            if self._prepared.pop(number, None) is not None:
                await self._unload_unwanted()

    async def settle(self) -> None:
        """Return once nothing is left to unload."""
        while self._sweeping is not None and not self._sweeping.done():
            await asyncio.shield(self._sweeping)

    async def _build(self, number: int) -> ServedManifest:
        manifest = await asyncio.to_thread(self._manifest, number)
        by_domain: dict[str, LoadedAdapter] = {}
        new: list[LoadedAdapter] = []
        for domain, route in sorted(manifest.routes.items()):
            adapter = self._loaded.get(route.adapter)
            if adapter is None:
                adapter = await self._load(domain, route)
                new.append(adapter)
            by_domain[domain] = adapter
        scorer = await asyncio.to_thread(self._scorer, manifest)
        await asyncio.gather(*(self._probe(adapter) for adapter in new))
        return ServedManifest(number, manifest, scorer, MappingProxyType(by_domain))

    def _manifest(self, number: int) -> Manifest:
        try:
            return self._registry.manifest(number)
        except RegistryError as error:
            raise PrepareFailed(
                f"manifest {number}", str(error), "check that this replica sees the registry's folder"
            ) from error

    async def _load(self, domain: str, route: Route) -> LoadedAdapter:
        folder, rank = await asyncio.to_thread(self._checked, route)
        adapter = LoadedAdapter(route.adapter, next(self._numbers), domain, folder, rank)
        # Noted before it is loaded: a cancellation in between must not leave it behind in the engine.
        self._loaded[adapter.name] = adapter
        try:
            await self._engine.load(adapter)
        except EngineFailed as error:
            del self._loaded[adapter.name]
            raise PrepareFailed(
                adapter.name, str(error), "the adapter does not fit the base model or the engine; train it again"
            ) from error
        return adapter

    def _checked(self, route: Route) -> tuple[Path, int]:
        """The adapter's folder and rank, after its bytes and configuration have been checked."""
        try:
            adapter = self._registry.adapter(route.adapter)
            adapter.verify()
        except RegistryError as error:
            raise PrepareFailed(route.adapter, str(error), "restore the folder or roll the domain back") from error
        if adapter.digest != route.digest:
            raise PrepareFailed(
                route.adapter,
                f"its folder has digest {adapter.digest}, the manifest names {route.digest}",
                "the registry's folder was changed by hand; roll the domain back",
            )
        rank = _rank(Path(adapter.path) / "adapter_config.json", route.adapter)
        if rank > self._max_lora_rank:
            raise PrepareFailed(
                route.adapter,
                f"its rank is {rank}, the engine was started for at most {self._max_lora_rank}",
                "raise serving.max_lora_rank and restart, or train with a lower rank",
            )
        return Path(adapter.path), rank

    def _scorer(self, manifest: Manifest) -> Scorer | None:
        """The manifest's scorer, masked to the domains that have an adapter."""
        if manifest.router is None or not manifest.routes:
            return None
        where = f"manifest {manifest.number}"
        try:
            weights = RouterWeights.from_bytes(self._registry.weights(manifest))
            published = [domain for domain in weights.domains if domain in manifest.routes]
            if not published:
                return None
            extractor = self._features(manifest)
        except (RegistryError, LearningError) as error:
            raise PrepareFailed(where, f"its router can't be read: {error}", "publish again") from error
        if not extractor.fingerprint == weights.fingerprint == manifest.router.fingerprint:
            raise PrepareFailed(
                where,
                f"router fingerprint {weights.fingerprint} (manifest {manifest.router.fingerprint}), "
                f"but this replica's features have {extractor.fingerprint}",
                "start the replica with the base, template and feature settings that the router was trained with",
            )
        return Scorer(extractor, weights.restrict(published), manifest.router.abstain_below)

    def _features(self, manifest: Manifest) -> FeatureExtractor:
        if self._extractor is None or self._extractor[0] != manifest.features_digest:
            self._extractor = (manifest.features_digest, self._extractor_for(manifest))
        return self._extractor[1]

    async def _probe(self, adapter: LoadedAdapter) -> None:
        try:
            await self._engine.probe(adapter)
        except EngineFailed as error:
            raise PrepareFailed(adapter.name, f"its probe failed: {error}", "train the adapter again") from error

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


def _rank(config_path: Path, name: str) -> int:
    """The largest rank that a PEFT configuration gives any module."""
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        pattern = config.get("rank_pattern") or {}
        return max(int(rank) for rank in (config["r"], *pattern.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PrepareFailed(
            name, f"its adapter_config.json can't be read: {error!r}", "it is no PEFT folder; train it again"
        ) from error

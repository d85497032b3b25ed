"""What a replica reads of the registry for a manifest, checked: it knows no engine, and changes nothing.

What counts against a version is what was read of it. Storage that is away for a moment is read again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from learning.errors import LearningError
from learning.served_router import ServedRouter
from registry.errors import DigestMismatch, RegistryError
from registry.manifest import BaseRevision, column
from serving.errors import PrepareFailed
from serving.scorer import Scorer

if TYPE_CHECKING:
    from learning.features import FeatureExtractor
    from registry.adapters import Parity
    from registry.manifest import Manifest, Placed
    from registry.registry import Registry

T = TypeVar("T")

# Seconds before each further try of a read that failed.
_PAUSES = (0.2, 1.0, 3.0)


class ManifestReader:
    """Reads for one replica, whose engine was started with `base`. Every method blocks, and raises PrepareFailed,
    RegistryError or OSError; `read` calls it in a thread, with patience.

    `extractor_for(manifest)` gives the feature extractor that the manifest's router was trained with.
    """

    def __init__(
        self,
        registry: Registry,
        extractor_for: Callable[[Manifest], FeatureExtractor],
        max_lora_rank: int,
        base: BaseRevision,
    ) -> None:
        self._registry = registry
        self._extractor_for = extractor_for
        self._max_lora_rank = max_lora_rank
        self._base = base

    def manifest(self, number: int) -> Manifest:
        """The manifest, which must be of this base or a change of it."""
        manifest = self._registry.manifest(number)
        if manifest.base.digest != self._base.digest:
            raise PrepareFailed(
                f"manifest {number}",
                f"it is for the base {_named(manifest.base)}, this replica's engine runs {_named(self._base)}",
                "start the replica with the manifest's base, or take another home for another base",
            )
        return manifest

    def change(self, base: BaseRevision) -> Path | None:
        """The folder of a change of the base after its bytes were checked; None for the base as it is."""
        if not base.delta:
            return None
        return self._registry.bases.fetch(base.delta)

    def check(self, manifest: Manifest) -> None:
        """Look at all adapters of a manifest before anything is changed for it."""
        for route in manifest.routes.values():
            for placed in route.segments.values():
                self.adapter(placed)

    def adapter(self, placed: Placed) -> Path | None:
        """An adapter's folder, after its bytes and configuration have been checked; None where the base answers for the
        version."""
        adapter = self._registry.adapter(placed.adapter)
        folder = adapter.fetch()
        if adapter.digest != placed.digest:
            raise PrepareFailed(
                placed.adapter,
                f"its folder has digest {adapter.digest}, the manifest names {placed.digest}",
                "the registry's folder was changed by hand; roll the domain back",
            )
        if adapter.facts.base_digest != self._base.digest:
            raise PrepareFailed(
                placed.adapter,
                f"it was trained on the base {adapter.facts.base_digest or 'without a digest'}, "
                f"this replica's engine runs {_named(self._base)}",
                "train the domain again on this base",
            )
        if adapter.facts.rank == 0:
            return None
        rank = _rank(folder / "adapter_config.json", placed.adapter)
        if rank > self._max_lora_rank:
            raise PrepareFailed(
                placed.adapter,
                f"its rank is {rank}, the engine was started for at most {self._max_lora_rank}",
                "raise serving.max_lora_rank and restart, or train with a lower rank",
            )
        return folder

    def parity(self, placed: Placed) -> Sequence[Parity]:
        """The examples by which it shows whether an engine serves the adapter as it was learned."""
        return self._registry.adapter(placed.adapter).facts.parity

    def scorer(self, manifest: Manifest) -> Scorer | None:
        """The manifest's scorer, masked to the columns that have an adapter."""
        if manifest.router is None or not manifest.routes:
            return None
        where = f"manifest {manifest.number}"
        try:
            router = ServedRouter.from_bytes(self._registry.weights(manifest))
            served = {column(domain, s) for domain, route in manifest.routes.items() for s in route.segments}
            published = [name for name in router.domains if name in served]
            if not published:
                return None
            extractor = self._extractor_for(manifest)
        except LearningError as error:
            raise PrepareFailed(where, f"its router can't be read: {error}", "publish again") from error
        if not extractor.fingerprint == router.weights.fingerprint == manifest.router.fingerprint:
            raise PrepareFailed(
                where,
                f"router fingerprint {router.weights.fingerprint} (manifest {manifest.router.fingerprint}), "
                f"but this replica's features have {extractor.fingerprint}",
                "start the replica with the base, template and feature settings that the router was trained with",
            )
        return Scorer(extractor, router.restrict(published))


async def read(who: str, remedy: str, read: Callable[[], T]) -> T:
    """The result of `read`, run in a thread, and again after a pause where storage did not give what it holds.

    Raises PrepareFailed about `who` after the last try; at once for content that is not what was written.
    """
    pauses = iter(_PAUSES)
    while True:
        try:
            return await asyncio.to_thread(read)
        except (RegistryError, OSError) as error:
            pause = None if isinstance(error, DigestMismatch) else next(pauses, None)
            if pause is None:
                raise PrepareFailed(who, str(error), remedy) from error
        await asyncio.sleep(pause)


def _named(base: BaseRevision) -> str:
    changed = f", changed by {base.delta}" if base.delta else ""
    return f"{base.model} ({base.digest or 'without a digest'}{changed})"


def _rank(config_path: Path, name: str) -> int:
    """The largest rank that a PEFT configuration gives any module."""
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        pattern = config.get("rank_pattern") or {}
        return max(int(rank) for rank in (config["r"], *pattern.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PrepareFailed(
            name, f"its adapter_config.json can't be read: {error!r}", "it is no PEFT folder; train it again"
        ) from error

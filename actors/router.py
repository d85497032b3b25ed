"""The router: the single writer of the sums, the watermarks and the published manifests.

State is one value: the ridge sums, the watermark of each partition, and the digests of the examples counted. It is
written whole into the snapshot of each publication and read back from there, so what a snapshot says was applied was
applied exactly once. Between snapshots nothing is lost either: the spools keep every row beyond the last watermark.

This module knows no transport; `observe` and `publish` must be called by one thread at a time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from actors.change import Change, next_routes
from actors.errors import NotCaughtUp, OtherHome
from actors.observation import Observation, Receipt, Watermarks
from actors.ports import ManifestPort, SumsPort
from learning.rls import ClassWeighting, StreamingRidge
from registry.manifest import BaseRevision, Manifest, Route, RouterRef
from registry.registry import Registry
from streaming.source import TopicPartition

_STANDARDISATION = "standardisation.safetensors"
_DIGESTS = "digests."


class Router:
    """The central router over one registry, whose writer it is.

    `ridge` is the penalty lambda (paper: 100); `abstain_below` the score under which a prompt goes to the base model.
    Raises `OtherHome` where the registry's sums belong to another base model.
    """

    def __init__(
        self,
        registry: Registry,
        base: BaseRevision,
        *,
        ridge: float,
        class_weighting: ClassWeighting,
        abstain_below: float,
    ) -> None:
        self._registry, self._base = registry, base
        self._ridge_penalty, self._class_weighting, self._abstain_below = ridge, class_weighting, abstain_below
        self._sums: StreamingRidge | None = None
        self._watermarks: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, int] = {}
        """The watermarks of the snapshot in force: what a restart would go back to."""
        self._known: dict[str, set[bytes]] = {}
        self._restore()

    # -- observing ----------------------------------------------------------------------------------------------------

    def watermarks(self) -> Watermarks:
        """Return the next offset to be applied of each partition; one that is absent stands at 0."""
        return dict(self._watermarks)

    def published_watermarks(self) -> Watermarks:
        """Return the watermarks as of the manifest in force."""
        return dict(self._committed)

    def examples(self) -> dict[str, int]:
        """Return the number of distinct examples known of each domain, held-out ones included."""
        return {domain: len(known) for domain, known in sorted(self._known.items())}

    def counts(self) -> dict[str, int]:
        """Return the number of rows in the sums of each domain."""
        return dict(self._sums.counts) if self._sums else {}

    def observe(self, observation: Observation) -> Receipt:
        """Apply an observation once; refuse it when a span does not start at the watermark or an example is known.

        Raises `learning.errors.FingerprintMismatch` when the rows come from another feature map.
        """
        for partition, (start, _) in observation.spans.items():
            if self._watermarks.get(partition, 0) != start:
                return Receipt(False, self.watermarks())
        duplicates = frozenset(
            digest
            for domain, digests in observation.digests.items()
            for digest in self._known.get(domain, set()).intersection(digests)
        )
        if duplicates:
            return Receipt(False, self.watermarks(), duplicates)
        if observation.statistics is not None:
            self._sums_for(observation).absorb(observation.statistics)
        for domain, digests in observation.digests.items():
            self._known.setdefault(domain, set()).update(digests)
        self._watermarks.update({partition: end for partition, (_, end) in observation.spans.items()})
        return Receipt(True, self.watermarks())

    def _sums_for(self, observation: Observation) -> StreamingRidge:
        statistics = observation.statistics
        if self._sums is None and statistics is not None:
            self._sums = StreamingRidge(
                statistics.feature_dim,
                self._ridge_penalty,
                class_weighting=self._class_weighting,
                fingerprint=statistics.fingerprint,
            )
        if self._sums is None:
            raise ValueError("an observation without statistics has no sums")
        return self._sums

    # -- the feature map's standardisation ----------------------------------------------------------------------------

    def standardisation(self) -> bytes | None:
        """Return the frozen standardisation, or None while nobody has fitted one."""
        return self._registry.frozen(_STANDARDISATION)

    def freeze_standardisation(self, content: bytes) -> bytes:
        """Freeze a standardisation for good; the first one wins and is returned."""
        return self._registry.freeze(_STANDARDISATION, content)

    # -- publishing ---------------------------------------------------------------------------------------------------

    def publish(self, change: Change, required: Watermarks) -> Manifest:
        """Solve, write the snapshot, and return the new manifest; it is in force once this returns.

        `required` are the watermarks the change rests on. Raises `NotCaughtUp` when the sums do not cover them yet.
        A change that leaves everything as it is returns the manifest in force, unless its snapshot lies behind
        `required`: whoever asks will then delete what only a new snapshot remembers.
        """
        behind = {
            f"{p.topic}[{p.partition}]": (end, self._watermarks.get(p, 0))
            for p, end in required.items()
            if self._watermarks.get(p, 0) < end
        }
        if behind:
            raise NotCaughtUp(f"the router is behind the examples to be published (needed, reached): {behind}")
        current = self._registry.current()
        routes = next_routes(current.routes if current else {}, change, self._registry)
        unknown = sorted(set(routes) - set(self.counts()))
        if unknown:
            raise NotCaughtUp(f"the router has no examples of {unknown}: feed them before their adapters are published")
        removed = set(self._known) & change.removes
        covered = all(self._committed.get(partition, 0) >= end for partition, end in required.items())
        if current is not None and routes == current.routes and not removed and covered:
            return current
        for domain in removed:
            self._known.pop(domain)
            if self._sums is not None and domain in self._sums.domains:
                self._sums.remove(domain)
        return self._commit(current, routes, change.reason)

    def _commit(self, current: Manifest | None, routes: Mapping[str, Route], reason: str) -> Manifest:
        weights: bytes | None = None
        router: RouterRef | None = None
        if routes and self._sums is not None:
            weights = self._sums.weights().restrict(sorted(routes)).to_bytes()
            router = RouterRef(fingerprint=self._sums.fingerprint, abstain_below=self._abstain_below)
        manifest = Manifest(
            number=current.number + 1 if current else 1,
            parent=current.number if current else None,
            created_at=datetime.now(UTC),
            base=self._base,
            routes=dict(routes),
            router=router,
            examples=self.counts(),
            reason=reason,
        )
        tensors, metadata = self._sums.to_tensors() if self._sums else ({}, {})
        tensors = dict(tensors)
        for domain, known in self._known.items():
            tensors[_DIGESTS + domain] = np.frombuffer(b"".join(sorted(known)), dtype=np.uint8).reshape(-1, 16)
        watermarks = [[*partition, offset] for partition, offset in sorted(self._watermarks.items())]
        metadata = {**metadata, "watermarks": json.dumps(watermarks)}
        committed = self._registry.commit(manifest, weights, tensors, metadata)
        self._committed = dict(self._watermarks)
        return committed

    def _restore(self) -> None:
        snapshot = self._registry.snapshot()
        if snapshot is None:
            return
        made_with = snapshot.manifest.base
        if made_with.digest and self._base.digest and made_with.digest != self._base.digest:
            raise OtherHome(
                f"manifest {snapshot.manifest.number} was made with base {Path(made_with.model).name} "
                f"({made_with.digest[:8]}), this system runs with {Path(self._base.model).name} "
                f"({self._base.digest[:8]}); set base.model back or begin a new home folder"
            )
        digests = {name: value for name, value in snapshot.tensors.items() if name.startswith(_DIGESTS)}
        sums = {name: value for name, value in snapshot.tensors.items() if name not in digests}
        if sums:
            self._sums = StreamingRidge.from_tensors(sums, snapshot.metadata)
        for name, value in digests.items():
            self._known[name.removeprefix(_DIGESTS)] = {bytes(row) for row in value}
        for topic, partition, offset in json.loads(snapshot.metadata["watermarks"]):
            self._watermarks[TopicPartition(topic, partition)] = offset
        self._committed = dict(self._watermarks)


if TYPE_CHECKING:

    def _meets(actor: Router) -> tuple[SumsPort, ManifestPort]:
        return actor, actor

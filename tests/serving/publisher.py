"""Manifests for tests, written through the real registry, with a router that goes by words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from learning.abstention import Abstention
from learning.rls import RouterWeights
from learning.served_router import ServedRouter
from registry.adapters import Adapter, AdapterFacts, Parity
from registry.manifest import BaseRevision, Manifest, Placed, Route, RouterRef
from registry.registry import Registry
from registry.snapshots import Epoch
from serving.scorer import Decision


class WordFeatures:
    """Counts of known words, the simplest thing that has an extractor's two members."""

    def __init__(self, words: Sequence[str], fingerprint: str = "words") -> None:
        self.words = tuple(words)
        self.fingerprint = fingerprint

    def extract(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([[float(text.split().count(word)) for word in self.words] for text in texts])


MODULE = "base_model.model.model.layers.0.self_attn.q_proj"
"""Where the adapters stand."""

BASE = BaseRevision(model="test", digest="b" * 64)


class Publisher:
    """Adds adapters and commits manifests, each the successor of the last."""

    def __init__(self, registry: Registry, scratch: Path) -> None:
        self.registry = registry
        self._scratch = scratch
        self.base = BASE
        self._epoch: Epoch | None = None

    def adapter(
        self,
        domain: str,
        version: int,
        *,
        rank: int = 2,
        folder: Path | None = None,
        parity: Sequence[Parity] = (),
        figures: Mapping[str, float] | None = None,
        held_out: int = 1,
        exam: bytes = b"",
    ) -> Adapter:
        """A version in the registry, on the base of now; without a PEFT folder, one that only a memory engine takes."""
        if folder is None and rank:
            folder = self._scratch / f"{domain}-{version}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "adapter_config.json").write_text(f'{{"r": {rank}, "lora_alpha": {rank}, "peft_type": "LORA"}}')
            weights = np.full((rank, 2), version + len(domain), dtype=np.float32)
            factors = {f"{MODULE}.lora_A.weight": weights, f"{MODULE}.lora_B.weight": weights.T.copy()}
            save_file(factors, folder / "adapter_model.safetensors")
        facts = AdapterFacts(
            domain=domain,
            version=version,
            status="accepted",
            rank=rank,
            base_digest=self.base.digest,
            base_delta=self.base.delta,
            learner="test",
            train_examples=1,
            held_out_examples=held_out,
            figures=dict(figures or {}),
            parity=tuple(parity),
            created_at=datetime.now(UTC),
        )
        return self.registry.add_adapter(domain, version, folder, facts, exam)

    def change_base(self, folder: Path | None) -> str:
        """Let what follows be on a change of the base, which is put into the registry, or on the base as it was."""
        delta = self.registry.bases.put(folder) if folder is not None else ""
        self.base = self.base.model_copy(update={"delta": delta})
        return delta

    def publish(
        self,
        adapters: Sequence[Adapter],
        router: RouterWeights | ServedRouter | None = None,
        threshold: float = 0.5,
    ) -> Manifest:
        """`threshold`: of the top score, for weights that come without a rule."""
        if isinstance(router, RouterWeights):
            router = rule(router, threshold)
        current = self.registry.current()
        manifest = Manifest(
            number=current.number + 1 if current else 1,
            parent=current.number if current else None,
            parent_digest=current.digest() if current else "",
            created_at=datetime.now(UTC),
            base=self.base,
            routes=routes(adapters),
            router=RouterRef(fingerprint=router.weights.fingerprint) if router else None,
        )
        if self._epoch is None:
            self._epoch = self.registry.begin_epoch()
        _, committed = self.registry.commit(
            {},
            [],
            epoch=self._epoch,
            parent=self.registry.head().snapshot_digest,
            manifest=manifest,
            weights=router.to_bytes() if router else None,
        )
        return committed or manifest


def rule(weights: RouterWeights, threshold: float = 0.5) -> ServedRouter:
    """The router that leaves what scores lower to the base."""
    return ServedRouter(weights, Abstention("top", 0.95, threshold, rows=20))


def routes(adapters: Sequence[Adapter]) -> dict[str, Route]:
    """Several adapters of one domain are its segments, in this order."""
    made: dict[str, Route] = {}
    for domain in {adapter.domain for adapter in adapters}:
        own = [adapter.route().model_dump() for adapter in adapters if adapter.domain == domain]
        newest = max(range(len(own)), key=lambda at: int(own[at]["version"]))
        names = ("adapter", "digest", "rank", "version")
        placed = {at + 1: Placed(**{name: each[name] for name in names}) for at, each in enumerate(own)}
        beside = {segment: each for segment, each in placed.items() if segment != newest + 1}
        made[domain] = Route(**{**own[newest], "segment": newest + 1, "beside": beside})
    return made


def claimed(decision: Decision) -> str | None:
    """The column that the decision would give the prompt to."""
    return None if decision.abstained else decision.best(decision.scores)


def word_router(words: Mapping[str, str], fingerprint: str = "words") -> RouterWeights:
    """A router that sends a text with a domain's word to the domain; `words` maps column to word, in feature order."""
    domains = tuple(sorted(words))
    order = list(words.values())
    weight_DK = np.zeros((len(order), len(domains)))
    for column, domain in enumerate(domains):
        weight_DK[order.index(words[domain]), column] = 1.0
    return RouterWeights(domains, weight_DK, fingerprint)

"""Deployments of the benchmark's methods as manifests of a real registry, one after another, all with the same router.

A task's version has the number of the manifest that brings it. Where a deployment has no adapter for a task, its
version is of rank 0: the base answers, as it is changed. Knows no method and no engine.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.continual.method import Deployment, Task
from learning.abstention import Abstention
from learning.features import FeatureExtractor
from learning.rls import StreamingRidge
from learning.served_router import ServedRouter
from registry.adapters import Adapter, AdapterFacts
from registry.manifest import BaseRevision, Manifest, RouterRef
from registry.registry import Registry


class DeploymentRegistry:
    """A new registry below `folder`, for adapters on `base`."""

    def __init__(self, folder: Path, base: BaseRevision, router: ServedRouter) -> None:
        self.registry = Registry(folder, writer=True)
        self._base, self._router = base, router
        self._epoch = self.registry.begin_epoch()

    def publish(self, deployment: Deployment, learner: str, examples: int) -> Manifest:
        """Puts all of it into the registry and in force; `examples` is how many each task was trained on."""
        current = self.registry.current()
        number = 1 if current is None else current.number + 1
        delta = "" if deployment.base_delta is None else self.registry.bases.put(deployment.base_delta)
        base = self._base.model_copy(update={"delta": delta})
        versions = [
            self._version(task, number, deployment.adapters.get(task), base, learner, examples)
            for task in deployment.tasks
        ]
        manifest = Manifest(
            number=number,
            parent=current.number if current else None,
            parent_digest=current.digest() if current else "",
            created_at=datetime.now(UTC),
            base=base,
            routes={each.domain: each.route() for each in versions},
            router=RouterRef(fingerprint=self._router.weights.fingerprint),
            reason=learner,
        )
        _, committed = self.registry.commit(
            {},
            [],
            epoch=self._epoch,
            parent=self.registry.head().snapshot_digest,
            manifest=manifest,
            weights=self._router.to_bytes(),
        )
        return committed or manifest

    def _version(
        self, task: str, number: int, folder: Path | None, base: BaseRevision, learner: str, examples: int
    ) -> Adapter:
        facts = AdapterFacts(
            domain=task,
            version=number,
            status="accepted",
            reason="served as it was learned, whatever a gate would say",
            rank=0 if folder is None else rank_of(folder),
            base_digest=base.digest,
            base_delta=base.delta,
            learner=learner,
            train_examples=examples,
            held_out_examples=0,
            created_at=datetime.now(UTC),
        )
        return self.registry.add_adapter(task, number, folder, facts)


def rank_of(folder: Path) -> int:
    """Of a PEFT folder."""
    return int(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["r"])


def router_of(tasks: list[Task], extractor: FeatureExtractor, ridge: float) -> ServedRouter:
    """The service's router from the tasks' training rows; it leaves nothing to the base, as every row is a task's."""
    router = StreamingRidge(extractor.feature_dim, ridge, fingerprint=extractor.fingerprint)
    for task in tasks:
        router.observe(extractor.extract([row.prompt for row in task.train]), [task.name] * len(task.train))
    return ServedRouter(router.weights(), Abstention("top", 1.0))

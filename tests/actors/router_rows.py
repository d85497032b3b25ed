"""Rows, observations, versions and a router over a registry, for tests of the router."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from actors.change import Change
from actors.observation import Observation, RowKey, example_digest
from actors.router import Router
from learning.rls import RouterWeights
from learning.router_options import RouterOptions
from learning.served_router import ServedRouter
from learning.statistics import Statistics
from registry.adapters import Adapter, AdapterFacts
from registry.manifest import BaseRevision, Manifest
from registry.registry import Registry
from streaming.source import TopicPartition

P0, P1 = TopicPartition("stream", 0), TopicPartition("stream", 1)
DIM, RIDGE = 9, 2.0

Row = tuple[str, int]
"""A domain and the number of one of its examples."""


def features(rows: Sequence[Row]) -> np.ndarray:
    return np.stack([np.random.default_rng([ord(domain[0]), number]).normal(size=DIM) for domain, number in rows])


def keys(
    rows: Sequence[Row], start: int = 0, partition: TopicPartition = P0, *, held_out: bool = False
) -> list[RowKey]:
    """The rows one after another from offset `start` on."""
    digests = [example_digest(domain, str(number)) for domain, number in rows]
    return [RowKey(row[0], digests[at], partition, start + at, held_out) for at, row in enumerate(rows)]


def observation(
    spans: dict[TopicPartition, tuple[int, int]],
    rows: Sequence[Row],
    held_out: Sequence[Row] = (),
    fingerprint: str = "f",
    found: Sequence[Row] = (),
) -> Observation:
    """Rows lie in the first partition one after another: those to train on, held-out ones, and those that were lost."""
    statistics = Statistics.of(features(rows), [domain for domain, _ in rows], fingerprint) if rows else None
    partition, (start, _) = next(iter(spans.items()))
    named = [
        *keys(rows, start, partition),
        *keys(held_out, start + len(rows), partition, held_out=True),
        *keys(found, start + len(rows) + len(held_out), partition),
    ]
    return Observation(spans, tuple(named), statistics=statistics)


def seal_and_publish(router: Router, adapter: Adapter, until: dict[TopicPartition, int] | None = None) -> Manifest:
    """What the coordinator does with a domain: sealed up to where the router stands, learned, published."""
    router.seal(adapter.domain, adapter.version, until or dict(router.observed()))
    return router.publish(learned(adapter))


def of(domain: str, numbers: Iterable[int]) -> list[Row]:
    return [(domain, number) for number in numbers]


def batch(rows: Sequence[Row], domains: Sequence[str]) -> np.ndarray:
    phi_ND = features(rows)
    target_NK = np.array([[float(domain == column) for column in domains] for domain, _ in rows])
    return np.linalg.solve(phi_ND.T @ phi_ND + RIDGE * np.eye(DIM), phi_ND.T @ target_NK)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry", writer=True)


@pytest.fixture
def start(registry: Registry) -> Callable[[], Router]:
    """Starts a router from what is in the registry."""

    def _start() -> Router:
        base = BaseRevision(model="tiny", digest="b" * 64)
        return Router(registry, base, RouterOptions(ridge=RIDGE, background=False))

    return _start


@pytest.fixture
def add(registry: Registry, tmp_path: Path) -> Callable[..., Adapter]:
    def _add(domain: str, version: int = 1, status: str = "accepted", segment: int = 1, *beside: str) -> Adapter:
        facts = AdapterFacts(
            domain=domain,
            version=version,
            status=status,  # type: ignore[arg-type]
            rank=4,
            base_digest="b" * 64,
            learner="lora",
            segment=segment,
            beside=beside,
            train_examples=1,
            held_out_examples=1,
            created_at=datetime.now(UTC),
        )
        folder = peft_folder(tmp_path / "trained" / f"{domain}{version}", seed=version * 100 + ord(domain[0]))
        return registry.add_adapter(domain, version, folder, facts)

    return _add


def learned(adapter: Adapter, **more: bool) -> Change:
    return Change("learned", puts={adapter.domain: adapter.name}, **more)  # type: ignore[arg-type]


def served(registry: Registry) -> RouterWeights:
    manifest = registry.current()
    assert manifest is not None
    return ServedRouter.from_bytes(registry.weights(manifest)).weights


def peft_folder(folder: Path, seed: int, rank: int = 4) -> Path:
    """A folder as PEFT saves it, with weights drawn from `seed`."""
    folder.mkdir(parents=True)
    values = np.random.default_rng(seed).normal(size=(rank, 8)).astype(np.float32)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank}))
    safetensors.numpy.save_file({"layers.0.lora_A.weight": values}, folder / "adapter_model.safetensors")
    return folder

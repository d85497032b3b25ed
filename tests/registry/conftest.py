"""A registry in an empty folder, and the makings of what goes into it."""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from registry.adapters import Adapter, AdapterFacts
from registry.manifest import BaseRevision, Manifest, RouterRef
from registry.registry import Registry

START = datetime(2030, 1, 1, tzinfo=UTC)


def facts_of(domain: str, version: int = 1, **changes: Any) -> AdapterFacts:
    fields: dict[str, Any] = {
        "domain": domain,
        "version": version,
        "status": "accepted",
        "reason": "better than the base",
        "rank": 4,
        "base_digest": "b" * 64,
        "learner": "lora",
        "train_examples": 90,
        "held_out_examples": 10,
        "figures": {"loss": 0.5},
        "created_at": START,
    }
    return AdapterFacts(**fields | changes)


def peft_folder(folder: Path, seed: int = 0, rank: int = 4) -> Path:
    """A folder as PEFT saves it, with values drawn from `seed`."""
    folder.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).normal(size=(rank, 8)).astype(np.float32)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank}))
    safetensors.numpy.save_file({"layers.0.lora_A.weight": values}, folder / "adapter_model.safetensors")
    (folder / "README.md").write_text("what PEFT adds, and the registry leaves out")
    return folder


def next_manifest(current: Manifest | None, *adapters: Adapter, **changes: Any) -> Manifest:
    """The manifest after `current`, with these adapters routed beside those there."""
    number = current.number + 1 if current else 1
    routes = dict(current.routes) if current else {}
    fields: dict[str, Any] = {
        "number": number,
        "parent": current.number if current else None,
        "created_at": START + timedelta(minutes=number),
        "base": BaseRevision(model="owner/model", digest="b" * 64),
        "routes": routes | {adapter.domain: adapter.route() for adapter in adapters},
        "router": RouterRef(fingerprint="f", abstain_below=0.25),
        "examples": {adapter.domain: 100 for adapter in adapters},
        "reason": "a test",
    }
    return Manifest(**fields | changes)


def state_of(number: int) -> tuple[bytes, dict[str, np.ndarray[Any, Any]], dict[str, str]]:
    """Weights, tensors and metadata that tell which manifest they belong to."""
    tensors = {"router.gram": np.full((4, 4), number, dtype=np.float64), "router.n": np.array(number)}
    return f"weights {number}".encode(), tensors, {"watermarks": json.dumps({"anabranch-0": number})}


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real fsync shows only when the power fails; `Machine` counts the calls and plays that, at no cost."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


@pytest.fixture
def add(registry: Registry, tmp_path: Path) -> Callable[..., Adapter]:
    """Add a version of a domain to `registry`, with content of its own."""

    def _add(domain: str, version: int = 1, **changes: Any) -> Adapter:
        folder = peft_folder(tmp_path / "trained" / f"{domain}{version}", seed=hash((domain, version)) % 2**32)
        return registry.add_adapter(domain, version, folder, facts_of(domain, version, **changes))

    return _add


@pytest.fixture
def publish(registry: Registry) -> Callable[..., Manifest]:
    """Commit the next manifest of `registry` with these adapters routed."""

    def _publish(*adapters: Adapter, **changes: Any) -> Manifest:
        manifest = next_manifest(registry.current(), *adapters, **changes)
        return registry.commit(manifest, *state_of(manifest.number))

    return _publish

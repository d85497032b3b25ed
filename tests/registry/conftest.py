"""A registry in an empty folder, and the makings of what goes into it."""

import json
import os
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from obstore.store import MemoryStore

from registry.adapters import Adapter, AdapterFacts
from registry.bucket import Bucket
from registry.disk import Disk
from registry.location import storage_at
from registry.manifest import BaseRevision, Manifest, RouterRef
from registry.registry import Registry
from registry.snapshots import Epoch
from registry.storage import Storage
from tests.registry.server import BUCKET, s3_server

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


def folder_of(path: Path, seed: int = 0) -> Path:
    """Two files as a method leaves them beside an adapter."""
    path.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).normal(size=(3, 5)).astype(np.float32)
    safetensors.numpy.save_file({"kept": values}, path / "kept.safetensors")
    (path / "settings.json").write_text('{"ratio": 0.5}')
    return path


def next_manifest(current: Manifest | None, *adapters: Adapter, **changes: Any) -> Manifest:
    """The manifest after `current`, with these adapters routed beside those there."""
    number = current.number + 1 if current else 1
    routes = dict(current.routes) if current else {}
    fields: dict[str, Any] = {
        "number": number,
        "parent": current.number if current else None,
        "parent_digest": current.digest() if current else "",
        "created_at": START + timedelta(minutes=number),
        "base": BaseRevision(model="owner/model", digest="b" * 64),
        "routes": routes | {adapter.domain: adapter.route() for adapter in adapters},
        "router": RouterRef(fingerprint="f", threshold=0.25),
        "examples": {adapter.domain: 100 for adapter in adapters},
        "reason": "a test",
    }
    return Manifest(**fields | changes)


def content_of(number: int) -> dict[str, np.ndarray[Any, Any]]:
    """What a segment holds that belongs to a manifest of this number."""
    return {"gram": np.full((4, 4), number, dtype=np.float64), "count": np.array(number, dtype=np.int64)}


def run_of(registry: Registry) -> Epoch:
    """The run that may commit now; the first where none has begun."""
    return registry._head.epoch() or registry.begin_epoch()


def commit(
    registry: Registry,
    manifest: Manifest | None,
    number: int | None = None,
    *,
    weights: bytes | None = b"",
    epoch: Epoch | None = None,
    parent: str | None = None,
) -> Manifest:
    """Commit a manifest, or none, with a state that tells its number; returns the manifest in force then."""
    number = (manifest.number if manifest else 0) if number is None else number
    segment = registry.segments.put(content_of(number))
    if weights == b"":
        weights = f"weights {number}".encode() if manifest is not None and manifest.router is not None else None
    _, committed = registry.commit(
        {"number": number, "segment": segment},
        [segment],
        epoch=epoch or run_of(registry),
        parent=registry.head().snapshot_digest if parent is None else parent,
        manifest=manifest,
        weights=weights,
    )
    found = committed or registry.current()
    assert found is not None
    return found


def check_state(registry: Registry, number: int) -> None:
    """The snapshot in force is that of this number, with its segment whole."""
    snapshot = registry.snapshot()
    assert snapshot is not None and snapshot.state["number"] == number
    assert snapshot.segments == {snapshot.state["segment"]}
    found = registry.segments.get(snapshot.state["segment"])
    assert (found["gram"] == number).all() and found["count"] == number


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real fsync shows only when the power fails; `Machine` counts the calls and plays that, at no cost."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment by which an S3 server is found."""
    with s3_server(tmp_path_factory.mktemp("s3")) as environment:
        yield environment


STORAGES = ["folder", "memory", pytest.param("server", marks=pytest.mark.store)]
"""A folder; a bucket that honours conditions and is nothing but memory; a bucket of an S3 server."""


@pytest.fixture(params=STORAGES)
def new_storage(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Storage]:
    """Makes an empty place for a registry, by its name."""
    unique = uuid.uuid4().hex

    def _new(name: str) -> Storage:
        if request.param == "folder":
            return Disk(tmp_path / name)
        if request.param == "memory":
            return Bucket(MemoryStore(), f"memory://{unique}/{name}", tmp_path / f"{name}-copies")
        return storage_at(f"s3://{BUCKET}/{unique}/{name}", tmp_path / f"{name}-copies")

    if request.param == "server":
        for key, value in request.getfixturevalue("server").items():
            monkeypatch.setenv(key, value)
    return _new


@pytest.fixture
def storage(new_storage: Callable[[str], Storage]) -> Storage:
    return new_storage("registry")


@pytest.fixture
def registry(storage: Storage) -> Registry:
    return Registry(storage)


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
        return commit(registry, next_manifest(registry.current(), *adapters, **changes))

    return _publish

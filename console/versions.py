"""The versions in a home's registry: listed, exported as PEFT folders, merged into their base, whether a system runs on
it or not. What can't be done is a `ClusterError` or a `LearningError`, one line.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError
from cluster.home import Home
from learning.adapter_check import CONFIG, FACTS, WEIGHTS, norms_of
from learning.adapter_norms import layer_norms
from learning.checkpoint import base_digest
from learning.errors import LearningError
from registry.adapters import Adapter
from registry.atomic import place_folder
from registry.errors import RegistryError
from registry.offers import Offer, Offers
from registry.registry import Registry

_TOLD = {
    "domain",
    "version",
    "status",
    "reason",
    "rank",
    "base_digest",
    "base_delta",
    "learner",
    "figures",
    "created_at",
}
"""Of a version's facts those that go along with it: nothing of its examples does."""


@dataclass(frozen=True)
class AdapterLine:
    """A version as it is listed."""

    name: str
    status: str
    origin: str
    """The method that trained it, or `imported`."""
    in_service: bool
    rank: int
    norm: float | None
    """The largest of its layers' norms; None where it has no adapter, or its files can't be read."""
    reason: str


def listed(home: Home) -> tuple[list[AdapterLine], list[Offer], dict[str, str]]:
    """All versions that can be read, what was decided of adapters that were offered, and by name what is wrong with
    versions that can't be."""
    with home.registry() as registry:
        current = registry.current()
        served = {name for route in (current.routes.values() if current else ()) for name in route.names}
        adapters, damaged = registry.survey()
        lines = [
            AdapterLine(
                each.name,
                each.facts.status,
                each.facts.learner,
                each.name in served,
                each.facts.rank,
                _norm(each),
                each.facts.reason,
            )
            for each in adapters
        ]
        return lines, Offers(registry.storage).all(), {name: str(error) for name, error in damaged.items()}


def export(home: Home, version: str, target: Path) -> str:
    """Write a version as a plain PEFT folder, with the facts of its training; returns its full name."""
    with home.registry() as registry:
        adapter = _version(registry, version)
        if adapter.facts.rank == 0:
            raise ClusterError(
                f"{adapter.name}: it has no adapter, its changed base answers by itself; merge it instead"
            )

        def write(folder: Path) -> None:
            fetched = adapter.fetch()
            folder.mkdir()
            for name in (CONFIG, WEIGHTS):
                shutil.copyfile(fetched / name, folder / name)
            facts = json.loads(adapter.facts.model_dump_json(include=_TOLD))
            (folder / FACTS).write_text(json.dumps({"name": adapter.name, "facts": facts}, indent=2) + "\n")

        _place(target, write)
        return adapter.name


def merge(home: Home, version: str, target: Path, model: str | None, dtype: str | None) -> str:
    """Write a version as a model of its own, with the base's tokenizer and template; returns its full name. `model` is
    where the base lies, where the registry does not know or it has moved."""
    with home.registry() as registry:
        adapter = _version(registry, version)
        current = registry.current()
        model = model or (current.base.model if current else None)
        if model is None:
            raise ClusterError(f"{adapter.name}: nothing is published, so that no base is known; name it with --base")
        if (found := base_digest(model)) != adapter.facts.base_digest:
            raise ClusterError(
                f"{adapter.name}: expected its base {adapter.facts.base_digest:.8}, got {found:.8} in {model}; name "
                "its own with --base"
            )
        from learning.merging import merge as merged

        delta = registry.bases.fetch(adapter.facts.base_delta) if adapter.facts.base_delta else None
        fetched = adapter.fetch() if adapter.facts.rank else None
        _place(target, lambda folder: merged(model, fetched, delta, dtype, folder))
        return adapter.name


def _version(registry: Registry, version: str) -> Adapter:
    """A version by its full name, or the newest in service of a domain."""
    current = registry.current()
    route = current.routes.get(version) if current else None
    return registry.adapter(route.adapter if route else version)


def _norm(adapter: Adapter) -> float | None:
    if adapter.facts.rank == 0:
        return None
    with suppress(RegistryError, LearningError, OSError):
        storage, key = adapter.place.storage, adapter.place.key
        norms = norms_of(*(storage.read_in(key, file) for file in (CONFIG, WEIGHTS)))
        return max(layer_norms(norms).values(), default=0.0)
    return None


def _place(target: Path, write: Callable[[Path], None]) -> None:
    """Have `write` make a folder, and put it at `target` whole or not at all."""
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise ClusterError(f"{target}: expected a new or an empty folder, got something in it")
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}~{uuid.uuid4().hex[:8]}")
    try:
        write(staged)
        place_folder(staged, target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)

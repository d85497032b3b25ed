"""What is forgotten, and above all what is not."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from registry.adapters import Adapter
from registry.errors import RegistryError, UnknownAdapter, UnknownManifest
from registry.manifest import Manifest
from registry.registry import Registry
from tests.registry.conftest import START, next_manifest, state_of

Add = Callable[..., Adapter]
Publish = Callable[..., Manifest]


def names(registry: Registry, folder: str) -> list[str]:
    return sorted(path.name for path in (registry.root / folder).iterdir())


@pytest.fixture
def six(registry: Registry, add: Add, publish: Publish) -> list[Manifest]:
    """Six versions of one domain, each published; one stays under the version it had at first."""
    sport = add("sport")
    return [publish(add("news", version), sport) for version in range(1, 7)]


def test_snapshots_manifests_routers_and_adapters(registry: Registry, six: list[Manifest]) -> None:
    removed = registry.prune(keep_snapshots=2, keep_manifests=3)
    assert names(registry, "snapshots") == ["000005.safetensors", "000006.safetensors"]
    assert names(registry, "manifests") == ["000004.json", "000005.json", "000006.json"]
    assert names(registry, "routers") == [f"00000{n}.safetensors" for n in (4, 5, 6)]
    assert [(adapter.domain, adapter.version) for adapter in registry.adapters()] == [
        ("news", 4),
        ("news", 5),
        ("news", 6),
        ("sport", 1),
    ]
    assert len(removed) == 4 + 3 + 3 + 3
    assert registry.prune(keep_snapshots=2, keep_manifests=3) == []
    assert registry.current() == six[-1] and registry.manifests() == six[3:]
    with pytest.raises(UnknownManifest, match="older ones are pruned"):
        registry.manifest(2)
    with pytest.raises(UnknownManifest, match=r"kept are \[5, 6\]"):
        registry.snapshot(4)
    with pytest.raises(UnknownAdapter):
        registry.adapter(six[0].routes["news"].adapter)


def test_what_the_current_manifest_names_always_stays(registry: Registry, six: list[Manifest]) -> None:
    registry.prune(keep_snapshots=1, keep_manifests=1)
    current = registry.current()
    assert current == six[-1] and registry.manifests() == [current]
    registry.weights(current)
    assert registry.snapshot() is not None
    for route in current.routes.values():
        registry.adapter(route.adapter).verify()


def test_a_rollback_keeps_its_old_adapter_and_router(registry: Registry, six: list[Manifest]) -> None:
    back = next_manifest(six[-1], routes=six[0].routes, router=six[0].router)
    current = registry.commit(back, None, *state_of(7)[1:])
    registry.prune(keep_snapshots=1, keep_manifests=1)
    assert registry.weights(current) == b"weights 1"
    registry.adapter(current.routes["news"].adapter).verify()
    assert [adapter.version for adapter in registry.adapters("news")] == [1, 6]


def test_each_domains_newest_version_stays_so_that_numbers_are_not_given_twice(
    registry: Registry, six: list[Manifest], add: Add
) -> None:
    add("news", 7, status="rejected")
    registry.prune(keep_snapshots=1, keep_manifests=1)
    assert [adapter.version for adapter in registry.adapters("news")] == [6, 7]


def test_rejected_versions_stay_with_their_figures_as_long_as_manifests_of_their_time(
    registry: Registry, six: list[Manifest], add: Add
) -> None:
    made = {"status": "rejected", "created_at": START + timedelta(minutes=5, seconds=30)}
    add("law", 1, **made)
    add("law", 2, **made)
    registry.prune(keep_snapshots=1, keep_manifests=2)
    assert [adapter.version for adapter in registry.adapters("law")] == [1, 2]
    registry.prune(keep_snapshots=1, keep_manifests=1)
    assert [adapter.version for adapter in registry.adapters("law")] == [2]


def test_a_kept_snapshot_keeps_its_manifest(registry: Registry, six: list[Manifest]) -> None:
    registry.prune(keep_snapshots=4, keep_manifests=1)
    assert registry.manifests() == six[2:]
    for manifest in six[2:]:
        snapshot = registry.snapshot(manifest.number)
        assert snapshot is not None and snapshot.manifest == manifest
        registry.weights(manifest)
        registry.adapter(manifest.routes["news"].adapter).verify()


def test_frozen_files_stay(registry: Registry, six: list[Manifest]) -> None:
    (registry.root / "frozen" / "standardisation").write_bytes(b"x")
    registry.prune(keep_snapshots=1, keep_manifests=1)
    assert registry.frozen("standardisation") == b"x"


@pytest.mark.parametrize("keep", [{"keep_snapshots": 0}, {"keep_manifests": 0}])
def test_keeping_nothing_is_refused(registry: Registry, six: list[Manifest], keep: dict[str, int]) -> None:
    with pytest.raises(RegistryError, match="expected to keep at least 1"):
        registry.prune(**keep)
    assert registry.manifests() == six


def test_an_adapter_that_can_not_be_read_stays_and_keeps_nothing_else(registry: Registry, six: list[Manifest]) -> None:
    damaged, *_ = registry.adapters("news")
    (damaged.path / "anabranch.json").write_bytes(b"")
    registry.prune(keep_snapshots=1, keep_manifests=1)
    assert names(registry, "adapters") == sorted([damaged.name, *(route.adapter for route in six[-1].routes.values())])

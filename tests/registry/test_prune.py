"""What is forgotten, and above all what is not."""

import os
from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest

from registry.adapters import Adapter
from registry.errors import RegistryError, UnknownAdapter, UnknownManifest
from registry.manifest import Manifest, Tombstone
from registry.pruning import Pruning
from registry.registry import Registry
from tests.registry.conftest import START, check_state, commit, next_manifest, run_of

Add = Callable[..., Adapter]
Publish = Callable[..., Manifest]


def names(registry: Registry, folder: str) -> list[str]:
    return sorted(path.name for path in (registry.root / folder).iterdir())


@pytest.fixture
def six(registry: Registry, add: Add, publish: Publish) -> list[Manifest]:
    """Six versions of one domain, each published; one stays under the version it had at first."""
    sport = add("sport")
    return [publish(add("news", version), sport) for version in range(1, 7)]


KEEP_ONE = {"keep_snapshots": 1, "keep_manifests": 1, "keep_versions": 1}


@pytest.fixture(autouse=True)
def _the_past_is_past(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files younger than the last commit are left alone, as one may be on its way: here none is."""
    if "on_its_way" not in request.node.name:
        monkeypatch.setattr(Pruning, "_settled", lambda self, paths: list(paths))


def test_snapshots_manifests_routers_segments_and_adapters(registry: Registry, six: list[Manifest]) -> None:
    removed = registry.prune(keep_snapshots=2, keep_manifests=3, keep_versions=1)
    assert [name[:6] for name in names(registry, "snapshots")] == ["000005", "000006"]
    assert names(registry, "manifests") == ["000004.json", "000005.json", "000006.json"]
    assert len(names(registry, "routers")) == 3 and len(list(registry.segments.names())) == 2
    assert [(adapter.domain, adapter.version) for adapter in registry.adapters()] == [
        ("news", 4),
        ("news", 5),
        ("news", 6),
        ("sport", 1),
    ]
    assert len(removed) == 4 + 3 + 3 + 4 + 3
    assert registry.prune(keep_snapshots=2, keep_manifests=3, keep_versions=1) == []
    assert registry.current() == six[-1] and registry.manifests() == six[3:]
    check_state(registry, 6)
    with pytest.raises(UnknownManifest, match="older ones are pruned"):
        registry.manifest(2)
    with pytest.raises(UnknownManifest, match=r"kept are \[5, 6\]"):
        registry.snapshot(4)
    with pytest.raises(UnknownAdapter):
        registry.adapter(six[0].routes["news"].adapter)


def test_a_rollback_reaches_back_in_each_domain_however_much_others_publish(
    registry: Registry, six: list[Manifest], add: Add, publish: Publish
) -> None:
    busy = add("busy")
    for _ in range(12):
        publish(busy)
    registry.prune(keep_snapshots=1, keep_manifests=2, keep_versions=3)
    assert [adapter.version for adapter in registry.adapters("news")] == [4, 5, 6]
    for version in range(7, 10):
        add("news", version, status="rejected", created_at=START)
    registry.prune(keep_snapshots=1, keep_manifests=2, keep_versions=3)
    assert [adapter.version for adapter in registry.adapters("news")] == [4, 5, 6, 9], "rejected ones count for nothing"


def test_what_waits_to_be_put_in_service_stays_while_a_manifest_says_so(
    registry: Registry, add: Add, publish: Publish
) -> None:
    one, _, _ = [add("news", version) for version in (1, 2, 3)]
    sport = add("sport")
    for _ in range(3):
        publish(sport, withdrawn={"news": one.name})
    registry.prune(**KEEP_ONE)
    assert [adapter.version for adapter in registry.adapters("news")] == [1, 3]
    publish(sport)
    registry.prune(**KEEP_ONE)
    assert [adapter.version for adapter in registry.adapters("news")] == [3]


def test_what_a_commit_on_its_way_may_need_stays(registry: Registry, six: list[Manifest]) -> None:
    other = Registry(registry.root)
    on_its_way = registry.segments.put({"next": np.ones(3)})
    orphan = registry.segments.put({"orphan": np.ones(3)})
    os.utime(registry.segments.path(orphan), (0, 0))
    removed = other.prune(**KEEP_ONE)
    assert on_its_way in registry.segments.names()
    assert orphan not in registry.segments.names() and any(orphan in path for path in removed)
    os.utime(registry.segments.path(on_its_way), (0, 0))
    assert registry.segments.put({"next": np.ones(3)}) == on_its_way
    other.prune(**KEEP_ONE)
    assert on_its_way in registry.segments.names(), "put again, it is young again"


class TestRemovedDomains:
    @pytest.fixture
    def gone(self, registry: Registry, six: list[Manifest]) -> Manifest:
        """News is removed after six versions."""
        routes = {"sport": six[-1].routes["sport"]}
        removed = {"news": Tombstone(version=6, manifest=7)}
        return commit(registry, next_manifest(six[-1], routes=routes, removed=removed))

    def test_nothing_of_them_stays(self, registry: Registry, gone: Manifest) -> None:
        registry.prune(keep_snapshots=5, keep_manifests=20, keep_versions=3)
        assert [adapter.domain for adapter in registry.adapters()] == ["sport"]
        assert registry.manifests() == [gone]
        assert len(names(registry, "routers")) == len(names(registry, "snapshots")) == 1
        assert len(list(registry.segments.names())) == 1
        check_state(registry, 7)

    def test_until_nobody_serves_them(self, registry: Registry, gone: Manifest) -> None:
        registry.prune(keep_snapshots=5, keep_manifests=20, keep_versions=3, serving=6)
        assert len(registry.adapters("news")) == 6 and len(registry.manifests()) == 7
        registry.prune(keep_snapshots=5, keep_manifests=20, keep_versions=3, serving=7)
        assert registry.adapters("news") == []

    def test_what_comes_later_under_their_name_is_another_domain(
        self, registry: Registry, gone: Manifest, add: Add
    ) -> None:
        later = add("news", 7)
        commit(registry, next_manifest(gone, later, removed=gone.removed))
        registry.prune(**KEEP_ONE)
        assert [adapter.version for adapter in registry.adapters("news")] == [7]


def test_what_replicas_still_serve_stays(registry: Registry, six: list[Manifest]) -> None:
    registry.prune(**KEEP_ONE, serving=3)
    assert [manifest.number for manifest in registry.manifests()] == [3, 4, 5, 6]
    for manifest in registry.manifests():
        registry.weights(manifest)
        registry.adapter(manifest.routes["news"].adapter).verify()


def test_states_without_a_manifest_are_pruned_too(registry: Registry) -> None:
    segments = [registry.segments.put({"n": np.array(float(n))}) for n in range(5)]
    for segment in segments:
        registry.commit({}, [segment], epoch=run_of(registry), parent=registry.head().snapshot_digest)
    registry.prune(keep_snapshots=2)
    assert [name[:6] for name in names(registry, "snapshots")] == ["000004", "000005"]
    assert sorted(registry.segments.names()) == sorted(segments[3:])


def test_what_the_current_manifest_names_always_stays(registry: Registry, six: list[Manifest]) -> None:
    registry.prune(**KEEP_ONE)
    current = registry.current()
    assert current == six[-1] and registry.manifests() == [current]
    registry.weights(current)
    assert registry.snapshot() is not None
    for route in current.routes.values():
        registry.adapter(route.adapter).verify()


def test_a_rollback_keeps_its_old_adapter_and_router(registry: Registry, six: list[Manifest]) -> None:
    current = commit(registry, next_manifest(six[-1], routes=six[0].routes, router=six[0].router), weights=None)
    registry.prune(**KEEP_ONE)
    assert registry.weights(current) == b"weights 1"
    registry.adapter(current.routes["news"].adapter).verify()
    assert [adapter.version for adapter in registry.adapters("news")] == [1, 6]


def test_each_domains_newest_version_stays_so_that_numbers_are_not_given_twice(
    registry: Registry, six: list[Manifest], add: Add
) -> None:
    add("news", 7, status="rejected")
    registry.prune(**KEEP_ONE)
    assert [adapter.version for adapter in registry.adapters("news")] == [6, 7]


def test_rejected_versions_stay_with_their_figures_as_long_as_manifests_of_their_time(
    registry: Registry, six: list[Manifest], add: Add
) -> None:
    made = {"status": "rejected", "created_at": START + timedelta(minutes=5, seconds=30)}
    add("law", 1, **made)
    add("law", 2, **made)
    registry.prune(keep_snapshots=1, keep_manifests=2, keep_versions=1)
    assert [adapter.version for adapter in registry.adapters("law")] == [1, 2]
    registry.prune(**KEEP_ONE)
    assert [adapter.version for adapter in registry.adapters("law")] == [2]


def test_a_kept_snapshot_keeps_its_manifest(registry: Registry, six: list[Manifest]) -> None:
    registry.prune(keep_snapshots=4, keep_manifests=1, keep_versions=1)
    assert registry.manifests() == six[2:]
    for manifest in six[2:]:
        snapshot = registry.snapshot(manifest.number)
        assert snapshot is not None and snapshot.manifest == manifest.number
        registry.weights(manifest)
        registry.adapter(manifest.routes["news"].adapter).verify()


@pytest.mark.parametrize("keep", [{"keep_snapshots": 0}, {"keep_manifests": 0}, {"keep_versions": 0}])
def test_keeping_nothing_is_refused(registry: Registry, six: list[Manifest], keep: dict[str, int]) -> None:
    with pytest.raises(RegistryError, match="expected to keep at least 1"):
        registry.prune(**keep)
    assert registry.manifests() == six


def test_an_adapter_that_can_not_be_read_stays_and_keeps_nothing_else(registry: Registry, six: list[Manifest]) -> None:
    damaged, *_ = registry.adapters("news")
    (damaged.path / "anabranch.json").write_bytes(b"")
    registry.prune(**KEEP_ONE)
    assert names(registry, "adapters") == sorted([damaged.name, *(route.adapter for route in six[-1].routes.values())])

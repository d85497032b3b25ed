"""What is forgotten, and above all what is not."""

from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest

from registry.adapters import Adapter
from registry.errors import DamagedSnapshot, RegistryError, UnknownAdapter, UnknownManifest
from registry.manifest import Manifest, Tombstone
from registry.pruning import Pruning
from registry.registry import Registry
from tests.registry.conftest import START, check_state, commit, next_manifest, run_of
from tests.registry.places import files, make_old

Add = Callable[..., Adapter]
Publish = Callable[..., Manifest]


def names(registry: Registry, folder: str) -> list[str]:
    """Manifests by their number alone, as a bucket adds their digest."""
    found = (path.name for path in (files(registry) / folder).iterdir())
    return sorted(name[:6] + ".json" if folder == "manifests" else name for name in found)


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
        monkeypatch.setattr(Pruning, "_settled", lambda self, entries: [entry.key for entry in entries])


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
    assert [adapter.version for adapter in registry.adapters("news")] == [3, 4, 5, 6], "three beside the one in service"
    for version in range(7, 10):
        add("news", version, status="rejected", created_at=START)
    registry.prune(keep_snapshots=1, keep_manifests=2, keep_versions=3)
    kept = [adapter.version for adapter in registry.adapters("news")]
    assert kept == [3, 4, 5, 6, 9], "rejected ones count for nothing"


def test_a_rollback_reaches_back_before_a_pinned_version_and_nothing_that_may_serve_after_it_is_lost(
    registry: Registry, six: list[Manifest], add: Add
) -> None:
    """Version 3 of six is pinned: one may go back to 2, and after the pin's end from 6 to 5."""
    pinned = six[2].routes["news"].model_copy(update={"pinned": True})
    rolled = commit(registry, next_manifest(six[-1], routes={**six[-1].routes, "news": pinned}))
    registry.prune(**KEEP_ONE)
    assert [adapter.version for adapter in registry.adapters("news")] == [2, 3, 5, 6]
    # What is learned while the pin holds is reached too, and keeps what is before the pinned one.
    newest = add("news", 7, created_at=START)
    registry.prune(**KEEP_ONE)
    assert [adapter.version for adapter in registry.adapters("news")] == [2, 3, 6, 7]
    commit(registry, next_manifest(rolled, newest))
    registry.prune(**KEEP_ONE)
    assert [adapter.version for adapter in registry.adapters("news")] == [6, 7]


def test_a_domain_that_is_not_in_service_keeps_as_many(registry: Registry, publish: Publish, add: Add) -> None:
    """Its first versions could not be loaded, or it is to be published yet."""
    waiting = [add("law", version, created_at=START) for version in range(1, 6)]
    publish(add("news"), withdrawn={"law": waiting[-1].name})
    registry.prune(keep_snapshots=1, keep_manifests=1, keep_versions=2)
    assert [adapter.version for adapter in registry.adapters("law")] == [3, 4, 5]


def test_what_waits_to_be_put_in_service_stays_while_a_manifest_says_so(
    registry: Registry, add: Add, publish: Publish
) -> None:
    one, *_ = [add("news", version) for version in (1, 2, 3, 4)]
    sport = add("sport")
    for _ in range(3):
        publish(sport, withdrawn={"news": one.name})
    registry.prune(**KEEP_ONE)
    assert [adapter.version for adapter in registry.adapters("news")] == [1, 3, 4]
    publish(sport)
    registry.prune(**KEEP_ONE)
    assert [adapter.version for adapter in registry.adapters("news")] == [3, 4]


def test_what_a_commit_on_its_way_may_need_stays(registry: Registry, six: list[Manifest]) -> None:
    other = Registry(registry.storage)
    orphan = registry.segments.put({"orphan": np.ones(3)})
    make_old(registry, files(registry.segments.place(orphan)))
    on_its_way = registry.segments.put({"next": np.ones(3)})
    removed = other.prune(**KEEP_ONE)
    assert on_its_way in registry.segments.names()
    assert orphan not in registry.segments.names() and any(orphan in path for path in removed)
    make_old(registry, files(registry.segments.place(on_its_way)))
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

    def test_not_even_a_version_that_can_not_be_read(self, registry: Registry, gone: Manifest, add: Add) -> None:
        commit(registry, next_manifest(gone, add("news", 7), removed=gone.removed))
        for version in registry.adapters("news"):
            (files(version) / "anabranch.json").write_bytes(b"")
        registry = Registry(registry.storage)
        registry.prune(**KEEP_ONE, serving=6)
        assert len(registry.survey("news")[1]) == 7
        registry.prune(**KEEP_ONE)
        (later,) = registry.survey("news")[1]
        assert later.startswith("news@v7-")

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
    assert [adapter.version for adapter in registry.adapters("news")] == [1, 5, 6]


def test_each_domains_newest_version_stays_so_that_numbers_are_not_given_twice(
    registry: Registry, six: list[Manifest], add: Add
) -> None:
    add("news", 7, status="rejected")
    registry.prune(**KEEP_ONE)
    assert [adapter.version for adapter in registry.adapters("news")] == [5, 6, 7]


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


def test_what_a_filesystem_leaves_among_segments_stops_nothing(registry: Registry, six: list[Manifest]) -> None:
    folder = files(registry.segments.place(next(registry.segments.names()))).parent
    strays = [folder / ".nfs0001", folder.parent / ".DS_Store"]
    for stray in strays:
        stray.write_bytes(b"")
    registry.prune(**KEEP_ONE)
    assert len(list(registry.segments.names())) == 1 and all(stray.exists() for stray in strays)


@pytest.mark.parametrize("keep", [{"keep_snapshots": 0}, {"keep_manifests": 0}, {"keep_versions": 0}])
def test_keeping_nothing_is_refused(registry: Registry, six: list[Manifest], keep: dict[str, int]) -> None:
    with pytest.raises(RegistryError, match="expected to keep at least 1"):
        registry.prune(**keep)
    assert registry.manifests() == six


def test_an_adapter_that_can_not_be_read_stays_and_keeps_nothing_else(registry: Registry, six: list[Manifest]) -> None:
    damaged, *_ = registry.adapters("news")
    (files(damaged) / "anabranch.json").write_bytes(b"")
    Registry(registry.storage).prune(**KEEP_ONE)
    kept = [damaged.name, six[-2].routes["news"].adapter, *(route.adapter for route in six[-1].routes.values())]
    assert names(registry, "adapters") == sorted(kept)


class TestDamage:
    """What is damaged before what is in force stops nothing; in what is in force it stops everything."""

    @pytest.fixture
    def there(self, registry: Registry, six: list[Manifest]) -> set[str]:
        return {str(path) for path in files(registry).rglob("*") if path.is_file()}

    def test_of_an_old_manifest_lets_the_rest_be_pruned(self, registry: Registry, six: list[Manifest]) -> None:
        path = files(registry) / "manifests" / "000004.json"
        path.write_bytes(path.read_bytes().replace(b"a test", b"a jest"))
        assert registry.manifests() == six[4:], "the chain ends there"
        (number,) = registry.chain().damaged
        assert number == 4 and "000004" in str(registry.chain().damaged[4])
        # A replica still serves 3, and nobody can tell what 4 named.
        registry.prune(**KEEP_ONE, serving=3)
        assert names(registry, "manifests") == [f"00000{number}.json" for number in (3, 4, 5, 6)]
        assert names(registry, "snapshots")[0].startswith("000006") and len(names(registry, "snapshots")) == 1
        assert len(list(registry.segments.names())) == 1
        assert len(registry.adapters("news")) == 6 and len(names(registry, "routers")) == 6
        assert registry.manifest(3) == six[2]
        with pytest.raises(UnknownManifest, match=r"manifest 4: .*expected sha256.*restore"):
            registry.manifest(4)
        # Once its time is past it goes with the rest.
        registry.prune(**KEEP_ONE, serving=5)
        assert names(registry, "manifests") == ["000005.json", "000006.json"]
        assert [adapter.version for adapter in registry.adapters("news")] == [5, 6]
        assert len(names(registry, "routers")) == 2

    def test_of_an_old_manifest_keeps_those_that_snapshots_before_it_stand_with(
        self, registry: Registry, six: list[Manifest]
    ) -> None:
        (files(registry) / "manifests" / "000005.json").write_bytes(b"{")
        registry.prune(keep_snapshots=4, keep_manifests=1, keep_versions=1)
        assert names(registry, "manifests") == [f"00000{number}.json" for number in (3, 4, 5, 6)]
        back, (passed_over,) = registry.go_back()
        assert back.number == 4 and registry.current() == six[3]
        assert "snapshot 5 is not whole" in passed_over and "000005" in passed_over

    @pytest.mark.parametrize("number", [5, 8])
    def test_of_an_old_manifest_keeps_nothing_of_a_removed_domain(
        self, registry: Registry, six: list[Manifest], publish: Publish, number: int
    ) -> None:
        removed = {"news": Tombstone(version=6, manifest=7)}
        gone = commit(registry, next_manifest(six[-1], routes={"sport": six[-1].routes["sport"]}, removed=removed))
        for _ in range(2):
            gone = publish(removed=removed)
        (files(registry) / "manifests" / f"{number:06d}.json").write_bytes(b"{")
        registry.prune(keep_snapshots=9, keep_manifests=9, keep_versions=9)
        assert names(registry, "manifests") == ["000007.json", "000008.json", "000009.json"]
        assert registry.adapters("news") == [] and len(names(registry, "routers")) == 3
        assert registry.current() == gone

    def test_of_an_old_snapshot_keeps_those_before_it(self, registry: Registry, six: list[Manifest]) -> None:
        damaged = next((files(registry) / "snapshots").glob("000005*"))
        damaged.write_bytes(b"{")
        registry.prune(keep_snapshots=3, keep_manifests=3, keep_versions=1)
        assert [name[:6] for name in names(registry, "snapshots")] == ["000003", "000004", "000005", "000006"]
        back, passed_over = registry.go_back()
        assert back.number == 4 and len(passed_over) == 1 and damaged.name in passed_over[0]

    @pytest.mark.parametrize("what", ["head.json", "snapshots/000006*", "manifests/000006*"])
    @pytest.mark.parametrize("how", ["flipped", "gone"])
    def test_of_what_is_in_force_removes_nothing(
        self, registry: Registry, there: set[str], what: str, how: str
    ) -> None:
        (path,) = files(registry).glob(what)
        content = path.read_bytes()
        path.unlink()
        if how == "flipped":
            path.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
        with pytest.raises(DamagedSnapshot, match="anabranch home back"):
            registry.prune(**KEEP_ONE)
        path.write_bytes(content)
        assert {str(path) for path in files(registry).rglob("*") if path.is_file()} == there

"""Publication: one step after the other, whole, checked, and refused where it does not fit."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from registry.adapters import Adapter
from registry.errors import (
    CommitConflict,
    DamagedSnapshot,
    DigestMismatch,
    NewerHome,
    RegistryError,
    StaleWriter,
    UnknownAdapter,
    UnknownManifest,
    UnknownSegment,
)
from registry.manifest import Manifest, Route, RouterRef, Tombstone
from registry.records import canonical, sealed
from registry.registry import Registry
from tests.registry.conftest import check_state, commit, next_manifest, run_of
from tests.registry.places import Files, files

Add = Callable[..., Adapter]
Publish = Callable[..., Manifest]


def root_file(registry: Registry) -> Files:
    """The file of the snapshot in force."""
    head = registry.head()
    return files(registry) / "snapshots" / f"{head.snapshot:06d}-{head.snapshot_digest}.json"


def test_an_empty_registry_has_nothing(registry: Registry) -> None:
    assert registry.current() is None
    assert registry.snapshot() is None
    assert registry.manifests() == []
    assert registry.adapters() == []
    assert registry.prune() == []
    assert (registry.head().snapshot, registry.next_number()) == (0, 1)
    with pytest.raises(UnknownManifest, match="there is none yet"):
        registry.manifest(1)
    with pytest.raises(UnknownManifest):
        registry.snapshot(1)


def test_what_was_committed_is_what_is_read(registry: Registry, add: Add, publish: Publish) -> None:
    manifest = publish(add("news"), add("sport"))
    again = Registry(registry.storage)
    assert again.current() == again.manifest(1) == manifest
    digest = hashlib.sha256(b"weights 1").hexdigest()
    assert manifest.router is not None and manifest.router.path == f"routers/{digest}.safetensors"
    assert again.weights(manifest) == b"weights 1"
    assert again.lineage == registry.lineage
    snapshot = again.snapshot()
    assert snapshot is not None and (snapshot.manifest, snapshot.manifest_digest) == (1, manifest.digest())
    assert (snapshot.lineage, snapshot.parent, snapshot.epoch) == (registry.lineage, "", run_of(registry))
    check_state(again, 1)


@pytest.mark.parametrize("new_storage", ["folder"], indirect=True)
def test_the_json_is_the_manifest_and_moves_with_the_folder(registry: Registry, add: Add, publish: Publish) -> None:
    manifest = publish(add("news"))
    text = (files(registry) / "manifests" / "000001.json").read_text()
    assert Manifest.model_validate(json.loads(text)) == manifest
    assert str(registry.root) not in text
    moved = registry.root.rename(registry.root.parent / "elsewhere")
    elsewhere = Registry(moved)
    assert elsewhere.current() == manifest and elsewhere.weights(manifest) == b"weights 1"
    check_state(elsewhere, 1)
    elsewhere.adapter(manifest.routes["news"].adapter).verify()


def test_manifests_follow_each_other_by_digest(registry: Registry, add: Add, publish: Publish) -> None:
    first = publish(add("news"))
    second = publish(add("sport"))
    assert (second.number, second.parent, second.parent_digest) == (2, 1, first.digest())
    assert registry.current() == second and registry.manifest(1) == first
    assert registry.manifests() == [first, second]
    older = registry.snapshot(1)
    assert older is not None and older.manifest == 1
    newer = registry.snapshot()
    assert newer is not None and newer.parent == hashlib.sha256(older.to_bytes()).hexdigest()


def test_a_state_may_be_committed_without_a_manifest(registry: Registry, add: Add, publish: Publish) -> None:
    manifest = publish(add("news"))
    assert commit(registry, None, 17) == manifest
    check_state(registry, 17)
    head = registry.head()
    assert (head.snapshot, head.manifest, head.issued, registry.next_number()) == (2, 1, 1, 2)
    assert registry.current() == manifest and registry.weights(manifest) == b"weights 1"
    assert publish(add("sport")).number == 2


def test_a_first_state_needs_no_manifest(registry: Registry) -> None:
    segment = registry.segments.put({})
    registry.commit({}, [segment], epoch=run_of(registry), parent="")
    assert registry.current() is None and registry.snapshot() is not None


def test_the_same_commit_again_returns_what_is_there(registry: Registry, add: Add) -> None:
    manifest = next_manifest(None, add("news"))
    first = commit(registry, manifest, parent="")
    assert commit(registry, manifest, parent="") == first
    before = registry.head().snapshot_digest
    commit(registry, None, 5, parent=before)
    head = registry.head()
    commit(registry, None, 5, parent=before)
    assert registry.head() == head


@pytest.mark.parametrize(
    "change",
    [
        {"number": 1, "parent": None, "parent_digest": ""},
        {"number": 1},
        {"parent": 2},
        {"parent": None, "parent_digest": ""},
        {"parent_digest": "0" * 64},
        {"parent_digest": ""},
    ],
)
def test_a_manifest_that_does_not_follow_is_a_conflict(
    registry: Registry, add: Add, publish: Publish, change: dict[str, object]
) -> None:
    news = add("news")
    current = publish(news)
    stray = next_manifest(current, news, reason="stray", **change)
    with pytest.raises(CommitConflict, match="in force is manifest 1"):
        commit(registry, stray, 7)
    assert registry.current() == current
    assert registry.weights(current) == b"weights 1"
    check_state(registry, 1)


@pytest.mark.parametrize("parent", ["", "0" * 64])
def test_a_state_that_does_not_follow_is_a_conflict(
    registry: Registry, add: Add, publish: Publish, parent: str
) -> None:
    current = publish(add("news"))
    with pytest.raises(CommitConflict, match=r"does not follow: in force is snapshot 1 \("):
        commit(registry, next_manifest(current, add("sport")), parent=parent)
    with pytest.raises(CommitConflict):
        commit(registry, None, 9, parent=parent)
    assert registry.current() == current


def test_a_run_that_was_followed_commits_nothing(registry: Registry, add: Add, publish: Publish) -> None:
    current = publish(add("news"))
    stale = run_of(registry)
    newer = Registry(registry.storage).begin_epoch()
    assert newer.counter == stale.counter + 1
    for manifest in (None, next_manifest(current, add("sport"))):
        with pytest.raises(StaleWriter, match=f"{stale.name}.*{newer.name}"):
            commit(registry, manifest, 2, epoch=stale)
    assert registry.current() == current


def test_a_manifest_may_keep_the_router_before(registry: Registry, add: Add, publish: Publish) -> None:
    first = publish(add("news"))
    written = registry.segments.written
    second = commit(registry, next_manifest(first, add("news", 2), router=first.router), 1, weights=None)
    assert second.router == first.router and registry.weights(second) == b"weights 1"
    if not registry.storage.keeps_all:
        assert registry.segments.written == written, "what is there is not written again"
    assert len(list((files(registry) / "routers").iterdir())) == 1


def test_a_manifest_may_have_no_router(registry: Registry) -> None:
    manifest = commit(registry, next_manifest(None, router=None))
    assert registry.current() == manifest
    with pytest.raises(RegistryError, match="has no router"):
        registry.weights(manifest)
    with pytest.raises(RegistryError, match="weights were given, but no router"):
        commit(registry, next_manifest(manifest, router=None), weights=b"w")


class TestRefusedBeforeAnythingIsWritten:
    @pytest.fixture(autouse=True)
    def _nothing_is_published(self, registry: Registry) -> object:
        yield
        assert registry.current() is None and registry.head().snapshot == 0
        assert list((files(registry) / "routers").iterdir()) == []

    def test_an_adapter_that_is_not_there(self, registry: Registry) -> None:
        route = Route(adapter="news@v1-" + "0" * 8, digest="0" * 64, rank=4, version=1)
        with pytest.raises(UnknownAdapter):
            commit(registry, next_manifest(None, routes={"news": route}))

    def test_an_adapter_that_was_rejected(self, registry: Registry, add: Add) -> None:
        with pytest.raises(RegistryError, match="which was rejected"):
            commit(registry, next_manifest(None, add("news", status="rejected")))

    def test_an_adapter_whose_files_were_changed(self, registry: Registry, add: Add) -> None:
        adapter = add("news")
        (files(adapter) / "adapter_config.json").write_text('{"r": 5}')
        with pytest.raises(DigestMismatch):
            commit(registry, next_manifest(None, adapter))

    def test_a_digest_with_the_right_beginning(self, registry: Registry, add: Add) -> None:
        adapter = add("news")
        route = adapter.route().model_copy(update={"digest": adapter.digest[:8] + "0" * 56})
        with pytest.raises(DigestMismatch, match="take the route from the adapter"):
            commit(registry, next_manifest(None, routes={"news": route}))

    def test_weights_that_are_not_those_announced(self, registry: Registry) -> None:
        with pytest.raises(DigestMismatch, match="expected router weights"):
            commit(registry, next_manifest(None, router=RouterRef(fingerprint="f", digest="0" * 64)))

    def test_a_router_that_is_not_there(self, registry: Registry) -> None:
        router = RouterRef(fingerprint="f", path="routers/000009.safetensors", digest="0" * 64)
        with pytest.raises(RegistryError, match="router weights in"):
            commit(registry, next_manifest(None, router=router), weights=None)

    def test_a_segment_that_is_not_there(self, registry: Registry) -> None:
        with pytest.raises(UnknownSegment):
            registry.commit({}, ["0" * 64], epoch=run_of(registry), parent="")

    @pytest.mark.parametrize("state", [{"at": object()}, {"share": float("nan")}])
    def test_a_state_that_is_no_json(self, registry: Registry, state: dict[str, object]) -> None:
        with pytest.raises(RegistryError, match="snapshot 1: expected what JSON can say"):
            registry.commit(state, [], epoch=run_of(registry), parent="", manifest=next_manifest(None, router=None))


class TestDamage:
    """What the disk or a person has done to files is found, and said; nothing takes its place in silence."""

    @pytest.fixture
    def two(self, registry: Registry, add: Add, publish: Publish) -> tuple[Manifest, Manifest]:
        return publish(add("news")), publish(add("sport"))

    @pytest.mark.parametrize("what", ["cut", "flipped", "gone", "empty"])
    def test_a_damaged_snapshot_is_refused(self, registry: Registry, two: tuple[Manifest, Manifest], what: str) -> None:
        path = root_file(registry)
        damage(path, what)
        for opened in (registry, Registry(registry.storage, writer=True)):
            with pytest.raises(DamagedSnapshot, match="anabranch home back") as refused:
                opened.snapshot()
            assert path.name in str(refused.value) and "\n" not in str(refused.value)
            assert opened.current() == two[1], "what is served is known all the same"

    @pytest.mark.parametrize("what", ["cut", "flipped", "gone", "empty"])
    def test_a_damaged_head_is_refused(self, registry: Registry, two: tuple[Manifest, Manifest], what: str) -> None:
        damage(files(registry) / "head.json", what)
        for ask in (registry.head, registry.current, registry.snapshot, registry.prune):
            with pytest.raises(DamagedSnapshot, match=r"head.json: expected .*anabranch home back"):
                ask()
        back, _ = registry.go_back(2)
        assert (back.number, registry.current(), registry.next_number()) == (2, two[1], 3)

    @pytest.mark.parametrize("new_storage", ["folder"], indirect=True)
    def test_going_back_finds_the_newest_also_in_a_home_that_was_copied(
        self, registry: Registry, two: tuple[Manifest, Manifest]
    ) -> None:
        """Copying, or restoring a file, makes old files young."""
        damage(files(registry) / "head.json", "gone")
        oldest = min((files(registry) / "snapshots").iterdir())
        os.utime(oldest, (2e9, 2e9))
        back, passed_over = registry.go_back()
        assert (back.number, registry.current(), passed_over) == (2, two[1], [])

    @pytest.mark.parametrize("what", ["cut", "flipped", "gone"])
    def test_a_damaged_manifest_is_refused(self, registry: Registry, two: tuple[Manifest, Manifest], what: str) -> None:
        damage(files(registry) / "manifests" / "000002.json", what)
        with pytest.raises(DamagedSnapshot, match=r"000002[^ ]*.json: expected .*anabranch home back"):
            registry.current()

    def test_going_back_is_a_decision_and_numbers_are_not_given_twice(
        self, registry: Registry, add: Add, publish: Publish, two: tuple[Manifest, Manifest]
    ) -> None:
        first, second = two
        stale = run_of(registry)
        damage(root_file(registry), "cut")
        back, passed_over = registry.go_back()
        assert (back.number, registry.current(), passed_over) == (1, first, [])
        check_state(registry, 1)
        with pytest.raises(StaleWriter):
            commit(registry, None, 2, epoch=stale)
        assert registry.next_number() == 3
        third = publish(add("law"), number=registry.next_number())
        assert registry.head().snapshot == 3, "nor of snapshots"
        with pytest.raises(UnknownManifest, match=r"kept are \[1, 3\]"):
            registry.snapshot(2)
        assert (third.number, third.parent, registry.manifests()) == (3, 1, [first, third])
        for number in (second.number, 4):
            with pytest.raises(UnknownManifest):
                registry.manifest(number)
        assert second not in registry.manifests()

    def test_numbers_are_not_given_twice_either_where_the_head_is_lost_after_going_back(
        self, registry: Registry, add: Add, publish: Publish, two: tuple[Manifest, Manifest]
    ) -> None:
        commit(registry, None, 9)
        registry.go_back(1)
        damage(files(registry) / "head.json", "flipped")
        registry.go_back(1)
        assert (registry.current(), registry.next_number()) == (two[0], 3)
        law = add("law")
        manifest = next_manifest(two[0], law, number=3)
        head = registry.head()
        assert commit(registry, manifest, parent=head.snapshot_digest).number == 3
        assert registry.head().snapshot == 4
        # An interrupted caller repeats it.
        assert commit(registry, manifest, parent=head.snapshot_digest).number == 3
        assert registry.head().snapshot == 4

    @pytest.mark.parametrize("number", [1, 3])
    @pytest.mark.parametrize(
        "part",
        ["snapshot", "segment", "manifest", "weights", "adapter", "facts", "waits", "beside", "facts beside"],
    )
    def test_going_back_passes_over_what_is_not_whole(
        self, registry: Registry, add: Add, publish: Publish, part: str, number: int
    ) -> None:
        """Of four snapshots the third, or the first, has something damaged that it alone needs."""
        for domain in ("news", "sport", "law", "birds"):
            route, beside = (adapter := add(domain)).route(), add(domain, 2)
            waits = add(domain, 3, segment=2, beside=(beside.name,))
            publish(adapter, routes={domain: route}, withdrawn={domain: waits.name})
        manifest, snapshot = registry.manifest(number), registry.snapshot(number)
        assert snapshot is not None and manifest.router is not None
        ((domain, route),) = manifest.routes.items()
        waits = registry.adapter(manifest.withdrawn[domain])
        beside = registry.adapter(*waits.facts.beside)
        path = {
            "snapshot": next(files(registry).glob(f"snapshots/{number:06d}*")),
            "segment": files(registry.segments.place(next(iter(snapshot.segments)))),
            "manifest": next(files(registry).glob(f"manifests/{number:06d}*")),
            "weights": files(registry) / manifest.router.path,
            "adapter": files(registry) / "adapters" / route.adapter / "adapter_model.safetensors",
            "facts": files(registry) / "adapters" / route.adapter / "anabranch.json",
            "waits": files(waits) / "adapter_model.safetensors",
            "beside": files(beside) / "adapter_model.safetensors",
            "facts beside": files(beside) / "anabranch.json",
        }[part]
        damage(path, "flipped")
        named = path.parent.name if "adapters" in path.parts else path.name
        before = (registry.head(), registry.epoch())
        with pytest.raises(RegistryError, match="no whole snapshot") as refused:
            registry.go_back(number)
        assert named in str(refused.value) and f"snapshot {number} is not whole" in str(refused.value)
        assert "\n" not in str(refused.value) and (registry.head(), registry.epoch()) == before
        back, passed_over = registry.go_back()
        if number == 3:
            assert back.number == 2 and len(passed_over) == 1 and named in passed_over[0]
        else:
            assert back.number == 3 and passed_over == []
        check_state(registry, back.number)

    def test_going_back_goes_beyond_what_is_damaged_and_what_is_lost(
        self, registry: Registry, publish: Publish
    ) -> None:
        for _ in range(5):
            publish()
        for number, how in ((4, "cut"), (3, "gone"), (2, "flipped")):
            damage(next(files(registry).glob(f"snapshots/{number:06d}*")), how)
        back, passed_over = registry.go_back()
        assert back.number == 1
        assert [line[:10] for line in passed_over] == ["snapshot 4", "snapshot 2"]

    @pytest.mark.parametrize("what", ["head", "snapshot"])
    def test_what_is_another_homes_is_refused_in_a_line_that_names_both(
        self, registry: Registry, two: tuple[Manifest, Manifest], tmp_path: Path, what: str
    ) -> None:
        other = Registry(tmp_path / "other")
        commit(other, next_manifest(None))
        if what == "head":
            (files(registry) / "head.json").write_bytes((files(other) / "head.json").read_bytes())
        else:
            # All of its files, but for its name.
            for path in [each for each in other.root.rglob("*.json") if each.name != "lineage.json"]:
                target = files(registry) / path.relative_to(other.root)
                text = path.read_bytes()
                if path.name == "head.json":
                    text = other.head().to_bytes(registry.lineage)
                target.write_bytes(text)
        with pytest.raises(DamagedSnapshot) as refused:
            registry.snapshot()
        for name in (registry.lineage, other.lineage, "anabranch home back"):
            assert name in str(refused.value)
        assert "\n" not in str(refused.value)
        if what == "head":
            assert registry.go_back(2)[0].number == 2 and registry.current() == two[1]

    @pytest.mark.parametrize("what", ["head", "snapshot"])
    def test_what_a_later_version_wrote_is_refused_in_one_line(
        self, registry: Registry, two: tuple[Manifest, Manifest], what: str
    ) -> None:
        head = registry.head()
        if what == "head":
            content = json.loads((files(registry) / "head.json").read_bytes())
            del content["sha256"]
            later = sealed({**content, "format": 4, "more": []}, "head.json")
        else:
            text = canonical({**json.loads(root_file(registry).read_bytes()), "format": 4}, "a snapshot")
            digest = hashlib.sha256(text).hexdigest()
            (files(registry) / "snapshots" / f"000002-{digest}.json").write_bytes(text)
            later = replace(head, snapshot_digest=digest).to_bytes(registry.lineage)
        (files(registry) / "head.json").write_bytes(later)
        with pytest.raises(NewerHome, match=r"got 4; it is of a newer Anabranch: upgrade") as refused:
            Registry(registry.storage).snapshot()
        assert "\n" not in str(refused.value)
        with pytest.raises(NewerHome):
            registry.prune(1, 1, 1)
        if what == "head":
            with pytest.raises(NewerHome):
                registry.go_back()

    def test_there_may_be_nothing_to_go_back_to(self, registry: Registry, publish: Publish) -> None:
        with pytest.raises(RegistryError, match="there is no whole snapshot before"):
            registry.go_back()
        publish()
        for to in (None, 1, 7):
            with pytest.raises(RegistryError, match="restore a backup"):
                registry.go_back(to)

    def test_changed_weights_are_never_loaded(self, registry: Registry, add: Add, publish: Publish) -> None:
        manifest = publish(add("news"))
        assert manifest.router is not None
        (files(registry) / manifest.router.path).write_bytes(b"weights 2")
        with pytest.raises(DigestMismatch, match="router weights"):
            registry.weights(manifest)

    @pytest.mark.parametrize("name", ["lineage.json", "epoch.json"])
    def test_a_damaged_name_is_refused(self, registry: Registry, publish: Publish, name: str) -> None:
        publish()
        damage(files(registry) / name, "flipped")
        with pytest.raises(DigestMismatch, match=name):
            commit(Registry(registry.storage), None, 2)

    def test_damaged_weights_are_whole_again_once_they_are_published_again(
        self, registry: Registry, two: tuple[Manifest, Manifest]
    ) -> None:
        router = two[1].router
        assert router is not None
        damage(files(registry) / router.path, "cut")
        manifest = commit(registry, next_manifest(two[1]), weights=b"weights 2")
        assert manifest.router is not None and manifest.router.path == router.path
        assert registry.weights(manifest) == b"weights 2"

    def test_a_home_that_lost_its_name_gets_no_new_one(self, registry: Registry, publish: Publish) -> None:
        publish()
        (files(registry) / "lineage.json").unlink()
        with pytest.raises(RegistryError, match=r"lineage.json: expected the name of the home"):
            Registry(registry.storage)
        (files(registry) / "head.json").unlink()
        with pytest.raises(RegistryError, match=r"lineage.json: expected the name of the home"):
            Registry(registry.storage)


def damage(path: Files, what: str) -> None:
    content = bytearray(path.read_bytes())
    if what == "gone":
        path.unlink()
        return
    if what == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes(content[:-1] if what == "cut" else b"" if what == "empty" else content)


def test_damage_to_one_domain_in_service_leaves_the_others_publishable(
    registry: Registry, add: Add, publish: Publish
) -> None:
    news = add("news")
    publish(news)
    (files(news) / "anabranch.json").write_bytes(b"")
    registry = Registry(registry.storage)
    assert publish(add("sport")).routes.keys() == {"news", "sport"}
    with pytest.raises(DigestMismatch, match="news"):
        publish(news, routes={"news": news.route(pinned=True)})


def test_what_was_removed_can_not_be_published(registry: Registry, add: Add, publish: Publish) -> None:
    news = add("news", 2)
    current = publish(news, routes={}, removed={"news": Tombstone(version=2, manifest=1)})
    with pytest.raises(ValueError, match="was removed with manifest 1"):
        next_manifest(current, news, removed=current.removed)


@pytest.mark.parametrize("content", [{}, {"counter": 0, "name": "x"}, {"counter": "1", "name": "x"}, {"counter": 2}])
def test_an_epoch_that_names_no_run_is_refused(
    registry: Registry, publish: Publish, content: dict[str, object]
) -> None:
    current, run = publish(), run_of(registry)
    (files(registry) / "epoch.json").write_bytes(sealed(content, "epoch.json"))
    for ask in (registry.epoch, registry.begin_epoch, lambda: commit(registry, next_manifest(current), epoch=run)):
        with pytest.raises(DigestMismatch, match=r"epoch.json: expected a run's counter and name"):
            ask()

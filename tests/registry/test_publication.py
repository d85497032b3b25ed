"""Publication: one step after the other, whole, checked, and refused where it does not fit."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from registry.adapters import Adapter
from registry.errors import CommitConflict, DigestMismatch, RegistryError, UnknownAdapter, UnknownManifest
from registry.manifest import Manifest, Route, RouterRef
from registry.registry import Registry
from registry.tensors import decode, digest_of, encode
from tests.registry.conftest import next_manifest, state_of

Add = Callable[..., Adapter]
Publish = Callable[..., Manifest]


def test_an_empty_registry_has_nothing(registry: Registry) -> None:
    assert registry.current() is None
    assert registry.snapshot() is None
    assert registry.manifests() == []
    assert registry.adapters() == []
    assert registry.prune() == []
    with pytest.raises(UnknownManifest, match="there is none yet"):
        registry.manifest(1)
    with pytest.raises(UnknownManifest):
        registry.snapshot(1)


def test_what_was_committed_is_what_is_read(registry: Registry, add: Add, publish: Publish) -> None:
    manifest = publish(add("news"), add("sport"))
    again = Registry(registry.root)
    assert again.current() == again.manifest(1) == manifest
    assert manifest.router is not None and manifest.router.path == "routers/000001.safetensors"
    assert again.weights(manifest) == b"weights 1"
    snapshot = again.snapshot()
    assert snapshot is not None and snapshot.manifest == manifest
    assert snapshot.metadata == {"watermarks": '{"anabranch-0": 1}'}
    gram, count = snapshot.tensors["router.gram"], snapshot.tensors["router.n"]
    assert gram.dtype == np.float64 and (gram == 1).all() and gram.shape == (4, 4)
    assert count.shape == () and count == 1


def test_the_json_is_the_manifest_and_moves_with_the_folder(registry: Registry, add: Add, publish: Publish) -> None:
    manifest = publish(add("news"))
    text = (registry.root / "manifests" / "000001.json").read_text()
    assert Manifest.model_validate(json.loads(text)) == manifest
    assert str(registry.root) not in text
    moved = registry.root.rename(registry.root.parent / "elsewhere")
    elsewhere = Registry(moved)
    assert elsewhere.current() == manifest and elsewhere.weights(manifest) == b"weights 1"
    elsewhere.adapter(manifest.routes["news"].adapter).verify()


def test_a_snapshot_whose_manifest_an_earlier_version_wrote_otherwise_is_read(
    registry: Registry, add: Add, publish: Publish
) -> None:
    """Its digest is of the text as it stands in the file, not as this version would write it."""
    manifest = publish(add("news"))
    path = registry.root / "snapshots" / "000001.safetensors"
    tensors, metadata = decode(path.read_bytes(), str(path))
    written = json.dumps(json.loads(metadata["anabranch.manifest"]) | {"features_digest": None})
    metadata = {"watermarks": metadata["watermarks"], "anabranch.manifest": written}
    path.write_bytes(encode(tensors, metadata | {"anabranch.digest": digest_of(tensors, metadata)}))
    again = Registry(registry.root)
    snapshot = again.snapshot()
    assert snapshot is not None and snapshot.manifest == again.current() == manifest
    assert snapshot.metadata == {"watermarks": metadata["watermarks"]}
    assert publish(add("sport")).number == 2
    other = encode(tensors, metadata | {"anabranch.digest": digest_of(tensors, metadata | {"watermarks": "[]"})})
    path.write_bytes(other)
    with pytest.raises(DigestMismatch, match="the file was changed"):
        registry.snapshot(1)


def test_numbers_follow_each_other(registry: Registry, add: Add, publish: Publish) -> None:
    news = add("news")
    first = publish(news)
    second = publish(add("sport"))
    assert (second.number, second.parent) == (2, 1)
    assert registry.current() == second and registry.manifest(1) == first
    assert [manifest.number for manifest in registry.manifests()] == [1, 2]
    older = registry.snapshot(1)
    assert older is not None and older.manifest == first


def test_the_same_commit_again_returns_what_is_there(registry: Registry, add: Add) -> None:
    manifest = next_manifest(None, add("news"))
    first = registry.commit(manifest, *state_of(1))
    assert registry.commit(manifest, *state_of(1)) == first
    assert registry.commit(first, *state_of(1)) == first


@pytest.mark.parametrize(("number", "parent"), [(1, None), (3, 2), (2, None), (3, 1), (1, 1), (5, 4)])
def test_what_does_not_follow_is_a_conflict(
    registry: Registry, add: Add, publish: Publish, number: int, parent: int | None
) -> None:
    news = add("news")
    current = publish(news)
    stray = next_manifest(None, news, number=number, parent=parent, reason="stray")
    with pytest.raises(CommitConflict, match="read"):
        registry.commit(stray, *state_of(7))
    assert registry.current() == current
    assert registry.weights(current) == b"weights 1"


def test_other_state_under_a_committed_number_is_a_conflict(registry: Registry, add: Add) -> None:
    manifest = next_manifest(None, add("news"))
    registry.commit(manifest, *state_of(1))
    weights, tensors, metadata = state_of(1)
    for other in ((weights, tensors, {}), (weights, {}, metadata), (b"other", tensors, metadata)):
        with pytest.raises(CommitConflict):
            registry.commit(manifest, *other)


def test_the_first_has_number_one(registry: Registry, add: Add) -> None:
    with pytest.raises(CommitConflict, match="no manifest"):
        registry.commit(next_manifest(None, add("news"), number=2, parent=1), *state_of(2))


def test_a_manifest_may_keep_the_router_before(registry: Registry, add: Add, publish: Publish) -> None:
    first = publish(add("news"))
    second = registry.commit(next_manifest(first, add("news", 2), router=first.router), None, *state_of(2)[1:])
    assert second.router == first.router and registry.weights(second) == b"weights 1"


def test_a_manifest_may_have_no_router(registry: Registry) -> None:
    manifest = registry.commit(next_manifest(None, router=None), None, {}, {})
    assert registry.current() == manifest
    with pytest.raises(RegistryError, match="has no router"):
        registry.weights(manifest)
    with pytest.raises(RegistryError, match="weights were given, but no router"):
        registry.commit(next_manifest(manifest, router=None), b"w", {}, {})


class TestRefusedBeforeAnythingIsWritten:
    @pytest.fixture(autouse=True)
    def _nothing_is_published(self, registry: Registry) -> object:
        yield
        assert registry.current() is None
        assert list((registry.root / "routers").iterdir()) == []

    def test_an_adapter_that_is_not_there(self, registry: Registry) -> None:
        route = Route(adapter="news@v1-" + "0" * 8, digest="0" * 64, rank=4, version=1)
        with pytest.raises(UnknownAdapter):
            registry.commit(next_manifest(None, routes={"news": route}), *state_of(1))

    def test_an_adapter_that_was_rejected(self, registry: Registry, add: Add) -> None:
        with pytest.raises(RegistryError, match="which was rejected"):
            registry.commit(next_manifest(None, add("news", status="rejected")), *state_of(1))

    def test_an_adapter_whose_files_were_changed(self, registry: Registry, add: Add) -> None:
        adapter = add("news")
        (adapter.path / "adapter_config.json").write_text('{"r": 5}')
        with pytest.raises(DigestMismatch):
            registry.commit(next_manifest(None, adapter), *state_of(1))

    def test_a_digest_with_the_right_beginning(self, registry: Registry, add: Add) -> None:
        adapter = add("news")
        route = adapter.route().model_copy(update={"digest": adapter.digest[:8] + "0" * 56})
        with pytest.raises(DigestMismatch, match="take the route from the adapter"):
            registry.commit(next_manifest(None, routes={"news": route}), *state_of(1))

    def test_weights_that_are_not_those_announced(self, registry: Registry) -> None:
        with pytest.raises(DigestMismatch, match="expected router weights"):
            registry.commit(next_manifest(None, router=RouterRef(fingerprint="f", digest="0" * 64)), *state_of(1))

    def test_a_router_that_is_not_there(self, registry: Registry) -> None:
        router = RouterRef(fingerprint="f", path="routers/000009.safetensors", digest="0" * 64)
        with pytest.raises(RegistryError, match="router weights in"):
            registry.commit(next_manifest(None, router=router), None, {}, {})

    def test_a_reserved_metadata_key(self, registry: Registry) -> None:
        with pytest.raises(RegistryError, match="reserved"):
            registry.commit(next_manifest(None), b"w", {}, {"anabranch.digest": "x"})


class TestDamage:
    """What the disk or a person has done to files is found, and said."""

    def test_a_snapshot_cut_short_gives_way_to_the_one_before(
        self, registry: Registry, add: Add, publish: Publish
    ) -> None:
        first = publish(add("news"))
        publish(add("sport"))
        path = registry.root / "snapshots" / "000002.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        assert registry.current() == first
        assert registry.manifests() == [first]
        with pytest.raises(UnknownManifest):
            registry.manifest(2)
        second = publish(*registry.adapters("sport"))
        assert registry.current() == second and second.number == 2

    def test_a_flipped_bit_in_a_snapshot_is_never_loaded(self, registry: Registry, add: Add, publish: Publish) -> None:
        publish(add("news"))
        path = registry.root / "snapshots" / "000001.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(DigestMismatch, match=r"000001.safetensors: expected sha256"):
            registry.snapshot()

    def test_changed_weights_are_never_loaded(self, registry: Registry, add: Add, publish: Publish) -> None:
        manifest = publish(add("news"))
        (registry.root / "routers" / "000001.safetensors").write_bytes(b"weights 2")
        with pytest.raises(DigestMismatch, match="router weights"):
            registry.weights(manifest)

    def test_a_newer_format_is_refused_and_not_passed_over(
        self, registry: Registry, add: Add, publish: Publish
    ) -> None:
        publish(add("news"))
        publish(add("sport"))
        path = registry.root / "snapshots" / "000002.safetensors"
        content = path.read_bytes()
        assert content.count(rb"\"format\":1") + content.count(rb"\"format\": 1") == 1
        path.write_bytes(
            content.replace(rb"\"format\": 1", rb"\"format\": 2").replace(rb"\"format\":1", rb"\"format\":2")
        )
        with pytest.raises(RegistryError, match="newer Anabranch"):
            registry.current()


def test_damage_to_one_domain_in_service_leaves_the_others_publishable(
    registry: Registry, add: Add, publish: Publish
) -> None:
    news = add("news")
    publish(news)
    (news.path / "anabranch.json").write_bytes(b"")
    assert publish(add("sport")).routes.keys() == {"news", "sport"}
    with pytest.raises(DigestMismatch, match="news"):
        publish(news, routes={"news": news.route(pinned=True)})

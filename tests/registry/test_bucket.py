"""What only a bucket has: conditions and lost answers, copies on a node, and URLs that name it."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from obstore.store import MemoryStore

from registry.adapters import Adapter
from registry.bucket import Bucket
from registry.disk import Disk
from registry.errors import CommitConflict, DigestMismatch, Overtaken, RegistryError, StoreAway
from registry.location import storage_at
from registry.registry import Registry
from registry.storage import Listed, Storage
from registry.verification import verify
from tests.registry.conftest import commit, facts_of, folder_of, next_manifest, peft_folder, run_of
from tests.registry.line import HOWS, Line
from tests.registry.places import files
from tests.registry.test_crashes import check_whole, prepared

IN_A_BUCKET = pytest.mark.parametrize(
    "new_storage", ["memory", pytest.param("server", marks=pytest.mark.store)], indirect=True
)


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    made = Bucket(MemoryStore(), f"memory://{tmp_path.name}", tmp_path / "copies")
    made.open(())
    return made


class TestARecord:
    def test_is_replaced_only_where_it_is_what_was_read(self, bucket: Bucket) -> None:
        bucket.replace("head", b"one", None)
        _, tag = bucket.read_tagged("head")
        bucket.replace("head", b"two", tag)
        for stale in (None, tag):
            with pytest.raises(Overtaken, match="somebody else has replaced it"):
                bucket.replace("head", b"three", stale)
        assert bucket.read("head") == b"two"

    @pytest.mark.parametrize("how", ["refused", "answer-lost"])
    def test_a_lost_answer_is_read_back(self, bucket: Bucket, how: str) -> None:
        line = Line(bucket, how, 1)
        if how == "refused":
            with pytest.raises(StoreAway, match="the line is broken"):
                line.replace("head", b"one", None)
        line.replace("head", b"one", None)
        assert bucket.read("head") == b"one" and line.failed

    def test_a_repeated_request_that_is_refused_as_the_first_took_effect_is_read_back(self, bucket: Bucket) -> None:
        bucket.replace("head", b"one", None)
        _, tag = bucket.read_tagged("head")
        bucket.replace("head", b"two", tag)
        # As a client does whose first answer did not come.
        bucket.replace("head", b"two", tag)

    def test_a_number_is_settled_once(self, bucket: Bucket) -> None:
        assert [bucket.settle("numbers/a", value) for value in ("x", "y", "x")] == ["x", "x", "x"]


@IN_A_BUCKET
class TestFencing:
    def test_a_commit_on_its_way_fails_once_another_run_has_begun(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has read the head and its run when the other begins."""
        epoch, other = run_of(registry), Registry(registry.storage)
        place = registry._head.place

        def late(*of: object) -> None:
            other._head.fence(other._head.begin())
            place(*of)  # type: ignore[arg-type]

        monkeypatch.setattr(registry._head, "place", late)
        with pytest.raises(CommitConflict, match="has begun since"):
            commit(registry, next_manifest(None), epoch=epoch)
        assert other.current() is None
        assert commit(other, next_manifest(None)).number == 1

    def test_what_a_late_writer_puts_changes_nothing_in_force(self, registry: Registry) -> None:
        first = commit(registry, next_manifest(None))
        other = next_manifest(None, reason="another")
        registry.storage.keep(
            registry._layout.manifest(1, other.digest()).key, [other.to_json().encode()], other.digest()
        )
        assert registry.current() == first and verify(registry) == []


@IN_A_BUCKET
class TestCopies:
    def test_a_copy_is_filled_once_and_mended_where_it_is_damaged(
        self, registry: Registry, add: Callable[..., Adapter]
    ) -> None:
        adapter = add("news")
        path = adapter.fetch()
        weights = (path / "adapter_model.safetensors").read_bytes()
        (path / "adapter_model.safetensors").write_bytes(weights[:-1] + b"x")
        assert adapter.path == path, "who does not ask for a look gets none"
        assert (adapter.fetch() / "adapter_model.safetensors").read_bytes() == weights
        (path / "adapter_config.json").unlink()
        assert (adapter.fetch() / "adapter_config.json").exists()

    def test_what_is_damaged_in_the_bucket_leaves_no_copy(
        self, registry: Registry, add: Callable[..., Adapter], tmp_path: Path
    ) -> None:
        adapter = add("news")
        (files(adapter) / "adapter_model.safetensors").write_bytes(b"other")
        for _ in range(2):
            with pytest.raises(DigestMismatch, match="expected sha256"):
                adapter.fetch()
        name = registry.segments.put({"x": np.arange(9.0)})
        files(registry.segments.place(name)).write_bytes(b"other")
        with pytest.raises(DigestMismatch, match=f"expected sha256 {name}"):
            registry.segments.map(name, "x")
        copies = [path for path in (tmp_path / "registry-copies").rglob("*") if path.is_file()]
        assert copies == []

    def test_another_node_has_what_the_first_one_named(self, registry: Registry, tmp_path: Path) -> None:
        storage = registry.storage
        assert isinstance(storage, Bucket)
        name = registry.states.put(folder_of(tmp_path / "state"))
        path = registry.states.path(name)
        storage._copies.drop(f"states/{name}")
        storage.present(path)
        assert (path / "settings.json").exists()
        storage.present(tmp_path / "elsewhere")

    def test_copies_of_what_is_pruned_go(self, registry: Registry, add: Callable[..., Adapter]) -> None:
        storage = registry.storage
        assert isinstance(storage, Bucket)
        old, kept = add("news").fetch(), add("sport").fetch()
        segment = registry.segments.put({"x": np.arange(9.0)})
        mapped = registry.segments.path(segment)
        storage.remove_folder(f"adapters/{old.name}")
        storage.remove([f"segments/{segment[:2]}/{segment}.safetensors"])
        add("law").fetch()
        assert old.exists() and mapped.exists(), "nobody looks all the time"
        storage._copies._tidied -= 10_000
        add("birds").fetch()
        assert not old.exists() and not mapped.exists() and kept.exists()


@IN_A_BUCKET
def test_what_is_in_force_is_found_without_a_listing(
    registry: Registry, add: Callable[..., Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that shows nothing yet of what was put."""
    manifest = commit(registry, next_manifest(None, add("news")))
    commit(registry, next_manifest(manifest))
    empty: list[Listed] = []
    monkeypatch.setattr(Bucket, "entries", lambda self, folder: empty)
    monkeypatch.setattr(Bucket, "folders", lambda self, folder: empty)
    reader = Registry(registry.storage)
    current = reader.current()
    assert current is not None and reader.manifests() == [manifest, current]
    snapshot, before = reader.snapshot(), reader.snapshot(1)
    assert snapshot is not None and before is not None
    reader.segments.get(snapshot.state["segment"])
    reader.adapter(current.routes["news"].adapter).verify()
    head = reader.head()
    assert commit(reader, next_manifest(current), 3).number == 3
    # And the same commit again is known.
    assert commit(reader, next_manifest(current), 3, parent=head.snapshot_digest).number == 3


def test_large_objects_come_in_ranges(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.bucket._CHUNK_BYTES", 1000)
    content = bytes(range(256)) * 17
    bucket.keep("segments/x", [memoryview(content)[:3000], memoryview(content)[3000:]], "")
    assert bucket.read("segments/x") == content and bucket.size("segments/x") == len(content)
    bucket.keep("segments/none", [], "")
    assert bucket.read("segments/none") == b""


@pytest.mark.store
def test_a_home_moves_into_a_bucket_and_back(
    server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from registry.backup import back_up

    for key, value in server.items():
        monkeypatch.setenv(key, value)
    home = Registry(tmp_path / "home")
    news = home.add_adapter("news", 1, peft_folder(tmp_path / "news"), facts_of("news"), b'{"id": "1"}\n')
    commit(home, next_manifest(None, news))
    there = storage_at(f"s3://anabranch/{tmp_path.name}/moved", tmp_path / "copies")
    assert back_up(home, there) == []
    with pytest.raises(RegistryError, match="expected a new or an empty place"):
        back_up(home, there)
    assert back_up(Registry(there), tmp_path / "back") == []
    for copy in (Registry(there), Registry(tmp_path / "back")):
        assert (copy.lineage, copy.head(), copy.current()) == (home.lineage, home.head(), home.current())
        (found,) = copy.adapters()
        assert found.exam() == news.exam() and found.digest == news.digest


class TestLocation:
    def test_a_folder(self, tmp_path: Path) -> None:
        found = storage_at(f"file://{tmp_path}/registry", tmp_path)
        assert isinstance(found, Disk) and found.root == tmp_path / "registry"

    @pytest.mark.parametrize("url", ["s3://bucket/a/prefix", "s3://bucket"])
    def test_a_bucket(self, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        found = storage_at(url, tmp_path)
        assert isinstance(found, Bucket) and found.root == url

    @pytest.mark.parametrize(
        "url",
        [
            *(
                "ftp://bucket/x",
                "bucket/x",
                "s3:///x",
                "s3://",
                "file://host/x",
                "file:///",
                "s3://bucket/../x",
                "s3://[x",
            ),
            *("s3://key:secret@bucket/x", "s3://bucket/x?region=y", "s3://bucket/x#y", "s3://bucket:9000/x"),
        ],
    )
    def test_anything_else_is_refused_in_a_line_without_its_secrets(self, url: str, tmp_path: Path) -> None:
        with pytest.raises(RegistryError, match=r"registry\.url") as refused:
            storage_at(url, tmp_path)
        assert "\n" not in str(refused.value) and "secret" not in str(refused.value)


def test_a_store_that_is_away_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("registry.location._RETRIES", {"max_retries": 0})
    with pytest.raises(StoreAway, match=r"s3://bucket/x/lineage\.json: get failed") as refused:
        Registry(storage_at("s3://bucket/x", tmp_path))
    assert "\n" not in str(refused.value)


@IN_A_BUCKET
@pytest.mark.parametrize("how", HOWS)
def test_a_commit_that_breaks_at_any_request(new_storage: Callable[[str], Storage], tmp_path: Path, how: str) -> None:
    """Over a real line too: it is in force whole or not at all, and is repeated."""

    def second(registry: Registry) -> None:
        current = registry.current()
        assert current is not None
        if current.number == 1:
            (waiting,) = [adapter for adapter in registry.adapters("news") if adapter.version == 2]
            commit(registry, next_manifest(current, waiting))

    for fails_at in range(1, 100):
        bucket = new_storage(f"{fails_at}")
        assert isinstance(bucket, Bucket)
        prepared(bucket, tmp_path / "trained")
        line = Line(bucket, how)
        registry = Registry(line)
        line.changes, line._fails_at = 0, fails_at
        with suppress(StoreAway):
            line.run(lambda registry=registry: second(registry))
        assert check_whole(Registry(bucket)) in (1, 2)
        second(Registry(bucket))
        assert check_whole(Registry(bucket)) == 2
        if not line.failed:
            return
    raise AssertionError("the commit never ended")

"""Any byte that is changed and any file that is lost is said by verifying; a backup is whole and of one moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from registry.backup import back_up
from registry.disk import Disk
from registry.errors import DamagedSnapshot, RegistryError
from registry.manifest import BaseRevision, Manifest, RouterRef
from registry.registry import Registry
from registry.snapshots import Epoch
from registry.storage import Content, Storage
from registry.verification import verify
from tests.registry.conftest import facts_of, peft_folder
from tests.registry.places import Files, files, remove_tree


class Writer:
    """A run of the writer over a registry, and what it committed last."""

    def __init__(self, root: Path | Storage, trained: Path) -> None:
        self.registry, self._trained = Registry(root, writer=True), trained
        self.epoch: Epoch = self.registry.begin_epoch()
        self.count = self.registry.head().snapshot

    def checkpoint(self, **changes: object) -> None:
        """Commit a state of one new segment and one that stays."""
        self.count += 1
        put = self.registry.segments.put
        names = [put({"x": np.arange(500)}), put({"x": np.full(500, self.count)})]
        state = {"count": self.count, "segments": names}
        parent = self.registry.head().snapshot_digest
        self.registry.commit(state, names, epoch=self.epoch, parent=parent, **changes)  # type: ignore[arg-type]

    def publish(self, domain: str, exam: bytes = b"") -> None:
        """Commit the next version of a domain with the manifest that serves it."""
        registry, current = self.registry, self.registry.current()
        version = registry.newest_version(domain) + 1
        folder = peft_folder(self._trained / f"{domain}{version}", seed=version)
        adapter = registry.add_adapter(domain, version, folder, facts_of(domain, version), exam)
        manifest = Manifest(
            number=registry.next_number(),
            parent=current.number if current else None,
            parent_digest=current.digest() if current else "",
            created_at=datetime.now(UTC),
            base=BaseRevision(model="owner/model", digest="b" * 64),
            routes={**(current.routes if current else {}), domain: adapter.route()},
            router=RouterRef(fingerprint="f"),
        )
        self.checkpoint(manifest=manifest, weights=b"weights %d" % manifest.number)


@pytest.fixture
def writer(storage: Storage, tmp_path: Path) -> Writer:
    made = Writer(storage, tmp_path / "trained")
    for domain in ("news", "sport", "news"):
        made.publish(domain)
        made.checkpoint()
    assert verify(made.registry) == []
    return made


def all_files(registry: Registry) -> list[Files]:
    """Those that count: not the lock, nor what says which version got a number, as only two at once ask that."""
    found = [path for path in files(registry).rglob("*") if path.is_file() and path.name != "lock"]
    return sorted((path for path in found if "numbers" not in path.parts), key=str)


def test_every_file_and_any_byte_of_it_counts(writer: Writer, tmp_path: Path) -> None:
    registry = writer.registry
    kinds = set()
    for path in all_files(registry):
        content = path.read_bytes()
        for place in sorted({*range(0, len(content), max(len(content) // 16, 1)), len(content) - 1}):
            path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
            lines = _told(registry)
            assert lines and not any("\n" in line for line in lines), f"byte {place} of {path}"
        path.write_bytes(content)
        kinds.add(str(path).removeprefix(f"{registry.root}/").split("/")[0])
    folders = {"snapshots", "segments", "manifests", "routers", "adapters"}
    assert kinds == {"head.json", "lineage.json", "epoch.json", *folders}
    assert _told(registry) == []


def test_every_file_has_to_be_there(writer: Writer, tmp_path: Path) -> None:
    registry = writer.registry
    for path in all_files(registry):
        content = path.read_bytes()
        path.unlink()
        # Of these, one that is not there may have been pruned; and where no run has begun, the next is the first.
        before = path.parent.name == "snapshots" and not path.name.startswith("000006")
        assert _told(registry) or before or path.name == "epoch.json", f"{path} is gone, and nobody says so"
        path.write_bytes(content)


def _told(registry: Registry) -> list[str]:
    """What verifying says, or opening already."""
    try:
        return verify(Registry(registry.storage))
    except RegistryError as error:
        return [str(error)]


def test_what_commits_and_prunes_leave_behind_is_no_fault(writer: Writer) -> None:
    root = files(writer.registry)
    (root / "snapshots" / f"000007-{'0' * 64}.json").write_bytes(b"a commit on its way")
    (root / "manifests" / "000004.json").write_bytes(b"{")
    writer.registry.segments.put({"x": np.zeros(3)})
    assert verify(writer.registry) == []
    writer.registry.prune(1, 1, 1)
    assert verify(writer.registry) == []


def test_a_line_that_was_left_is_no_fault(writer: Writer) -> None:
    newest = max((files(writer.registry) / "snapshots").iterdir(), key=str)
    newest.write_bytes(b"damaged")
    assert any("anabranch home back" in line for line in verify(writer.registry))
    writer.registry.go_back()
    assert verify(writer.registry) == []


def test_damage_before_what_is_in_force_is_said_where_it_is(writer: Writer) -> None:
    """An old manifest whose blanks have changed, and what an old one alone routes to."""
    registry = writer.registry
    old = files(registry) / "manifests" / "000002.json"
    content = old.read_bytes()
    old.write_bytes(content.replace(b"\n ", b"\n\t", 1))
    lines = verify(registry)
    assert all("000002" in line and "expected sha256" in line for line in lines) and any(
        "restore" in line for line in lines
    )
    old.write_bytes(content)
    route = registry.manifests()[0].routes["news"]
    assert route.adapter not in {each.adapter for each in registry.manifests()[-1].routes.values()}
    remove_tree(files(registry) / "adapters" / route.adapter)
    (line,) = verify(registry)
    assert route.adapter in line


def test_the_rest_is_read_also_where_the_head_is_damaged(writer: Writer) -> None:
    root = files(writer.registry)
    (root / "head.json").write_bytes(b"{")
    next(root.glob("adapters/sport@*/adapter_config.json")).write_bytes(b"{}")
    head, adapter = verify(writer.registry)
    assert "head.json" in head and "sport@v1" in adapter


# -- backup -----------------------------------------------------------------------------------------------------------


def test_a_backup_is_what_is_in_force(writer: Writer, tmp_path: Path) -> None:
    registry = writer.registry
    assert back_up(registry, tmp_path / "copy") == []
    copy = Registry(tmp_path / "copy")
    assert copy.lineage == registry.lineage and copy.head() == registry.head()
    assert copy.snapshot() == registry.snapshot() and copy.manifests() == registry.manifests()
    assert {a.name for a in copy.adapters()} == {a.name for a in registry.adapters()}
    # And goes on from there.
    again = Writer(tmp_path / "copy", tmp_path / "trained-again")
    again.publish("third")
    assert verify(again.registry) == [] and again.epoch.counter == writer.epoch.counter + 1


def test_of_an_empty_registry_too(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    assert back_up(registry, tmp_path / "copy") == []
    assert Registry(tmp_path / "copy").lineage == registry.lineage


class Watched(Disk):
    """A folder that says when something is about to be kept in it."""

    def __init__(self, path: Path, before: Callable[[], None]) -> None:
        super().__init__(path)
        self._before = before

    def keep(self, key: str, parts: Sequence[bytes | memoryview], digest: str) -> bool:
        self._before()
        return super().keep(key, parts, digest)

    def keep_folder(self, key: str, files: Mapping[str, Content]) -> None:
        self._before()
        super().keep_folder(key, files)


def test_commits_and_prunes_in_between_leave_a_whole_copy(writer: Writer, tmp_path: Path) -> None:
    """At every third copy of the first rounds, a version comes into force and what is old is pruned."""
    copied = 0

    def before() -> None:
        nonlocal copied
        copied += 1
        if copied % 3 == 0 and copied < 15:
            writer.publish("news")
            writer.registry.prune(1, 1, 1)

    assert back_up(writer.registry, Watched(tmp_path / "copy", before)) == []
    found = Registry(tmp_path / "copy")
    assert found.head() == writer.registry.head() and copied >= 15
    assert len(all_files(found)) <= len(all_files(writer.registry))


def test_a_backup_beside_a_writer(writer: Writer, tmp_path: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            writer.publish("news")
            writer.registry.prune(2, 2, 2)

    writing = threading.Thread(target=write)
    writing.start()
    try:
        assert [back_up(Registry(writer.registry.storage), tmp_path / f"copy-{n}") for n in range(3)] == [[], [], []]
        assert verify(Registry(writer.registry.storage)) == []
    finally:
        stop.set()
        writing.join()


@pytest.mark.parametrize("at", [0, 3, 10])
def test_a_backup_that_did_not_end_is_no_registry(writer: Writer, tmp_path: Path, at: int) -> None:
    left = at

    def before() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")

    with pytest.raises(RegistryError, match="No space left"):
        back_up(writer.registry, Watched(tmp_path / "copy", before))
    if at > 0:
        with pytest.raises(DamagedSnapshot, match="backup that never ended"):
            Registry(tmp_path / "copy").head()


def test_a_backup_of_a_damaged_registry_says_so_and_keeps_the_rest(writer: Writer, tmp_path: Path) -> None:
    weights = next(files(writer.registry).glob("adapters/sport@*/adapter_model.safetensors"))
    weights.write_bytes(b"damaged")
    (line,) = back_up(writer.registry, tmp_path / "copy")
    assert "sport@v1" in line
    assert Registry(tmp_path / "copy").head() == writer.registry.head()


def test_a_damaged_old_manifest_does_not_stop_a_backup_and_is_said(writer: Writer, tmp_path: Path) -> None:
    registry = writer.registry
    (files(registry) / "manifests" / "000002.json").write_bytes(b"damaged")
    (line,) = back_up(registry, tmp_path / "copy")
    assert "000002" in line and "left out" in line
    copy = Registry(tmp_path / "copy")
    assert copy.current() == registry.current() and len(copy.manifests()) == 1
    again = Writer(tmp_path / "copy", tmp_path / "trained-again")
    again.publish("third")
    assert verify(again.registry) == []


def test_the_numbers_of_damaged_versions_stay_given_in_a_backup(writer: Writer, tmp_path: Path) -> None:
    registry = writer.registry
    folder = peft_folder(tmp_path / "trained" / "news3", seed=3)
    adapter = registry.add_adapter("news", 3, folder, facts_of("news", 3, status="rejected"))
    (files(adapter) / "anabranch.json").write_bytes(b"{")
    (line,) = back_up(registry, tmp_path / "copy")
    assert adapter.name in line and Registry(tmp_path / "copy").newest_version("news") == 3


def test_a_lost_old_file_does_not_stop_a_backup_and_is_said(writer: Writer, tmp_path: Path) -> None:
    registry = writer.registry
    old = registry.manifests()[0].router
    assert old is not None
    (files(registry) / old.path).unlink()
    (line,) = back_up(registry, tmp_path / "copy")
    assert old.digest in line
    copy = Registry(tmp_path / "copy")
    assert copy.head() == registry.head() and copy.snapshot() == registry.snapshot()


def test_a_lost_segment_in_force_is_said_by_a_backup_which_keeps_the_rest(writer: Writer, tmp_path: Path) -> None:
    registry = writer.registry
    snapshot = registry.snapshot()
    assert snapshot is not None
    name = snapshot.state["segments"][1]
    files(registry.segments.place(name)).unlink()
    assert any(name[:16] in line for line in back_up(registry, tmp_path / "copy"))
    assert Registry(tmp_path / "copy").manifests() == registry.manifests()


def test_a_damaged_exam_is_said_and_keeps_nobody_from_going_back(writer: Writer, tmp_path: Path) -> None:
    """It judges what is learned next; nothing starts on it or is served by it."""
    registry = writer.registry
    writer.publish("news", b'{"id": "a"}\n')
    writer.checkpoint()
    adapter = registry.adapters("news")[-1]
    assert verify(registry) == []
    (files(adapter) / "exam.jsonl").write_bytes(b'{"id": "b"}\n')
    (line,) = verify(registry)
    assert str(files(adapter) / "exam.jsonl") in line and "restore it" in line
    assert back_up(registry, tmp_path / "copy") != [] and (tmp_path / "copy" / "adapters" / adapter.name).is_dir()
    (files(adapter) / "exam.jsonl").unlink()
    (line,) = verify(registry)
    assert "can't be read" in line
    back, passed_over = registry.go_back()
    assert passed_over == [] and back.manifest == writer.registry.head().manifest

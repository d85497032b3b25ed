"""What a training leaves beside adapters: kept whole under the name of its content, said when it is damaged, and gone
with what names it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from registry.adapters import Adapter
from registry.backup import back_up
from registry.errors import DigestMismatch, OtherBase, RegistryError
from registry.folders import FolderStore
from registry.manifest import BaseRevision, Manifest
from registry.pruning import Pruning
from registry.registry import Registry
from registry.verification import verify
from tests.registry.conftest import START, commit, folder_of, next_manifest
from tests.registry.places import files, time_passes

Add = Callable[..., Adapter]
Publish = Callable[..., Manifest]


@pytest.fixture
def store(registry: Registry) -> FolderStore:
    return registry.states


def test_equal_content_is_one_folder(store: FolderStore, tmp_path: Path) -> None:
    name = store.put(folder_of(tmp_path / "one"))
    assert store.put(folder_of(tmp_path / "two")) == name and list(store.names()) == [name]
    other = store.put(folder_of(tmp_path / "three", seed=1))
    assert other != name and set(store.names()) == {name, other}
    assert sorted(path.name for path in store.path(name).glob("[!.]*")) == ["kept.safetensors", "settings.json"]
    store.verify(name)


def test_a_byte_that_moves_from_a_file_to_the_next_is_another_folder(store: FolderStore, tmp_path: Path) -> None:
    for name, contents in {"one": ("ab", "c"), "two": ("a", "bc")}.items():
        (tmp_path / name).mkdir()
        for file, content in zip(("x.json", "y.json"), contents, strict=True):
            (tmp_path / name / file).write_text(content)
    assert store.put(tmp_path / "one") != store.put(tmp_path / "two")


@pytest.mark.parametrize("strange", ["weights.pt", "weights.pkl", "within", "link.json"])
def test_nothing_but_safetensors_and_json_is_kept(store: FolderStore, tmp_path: Path, strange: str) -> None:
    folder = folder_of(tmp_path / "state")
    if strange == "within":
        (folder / strange).mkdir()
    elif strange == "link.json":
        (folder / strange).symlink_to(folder / "settings.json")
    else:
        (folder / strange).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(RegistryError, match=rf"expected files .json and .safetensors alone, got \['{strange}'\]"):
        store.put(folder)
    assert list(store.names()) == []


def test_an_empty_folder_and_none_are_refused(store: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RegistryError, match="got none"):
        store.put(tmp_path / "empty")
    with pytest.raises(RegistryError, match="expected a folder of files"):
        store.put(tmp_path / "nowhere")


def test_a_file_that_is_cut_short_is_not_kept(store: FolderStore, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "state")
    whole = (folder / "kept.safetensors").read_bytes()
    (folder / "kept.safetensors").write_bytes(whole[:-1])
    with pytest.raises(DigestMismatch, match="bytes instead of"):
        store.put(folder)
    assert list(store.names()) == []


@pytest.mark.parametrize("harm", ["changed", "lost", "more"])
def test_damage_is_said_by_name_and_never_put_over(store: FolderStore, tmp_path: Path, harm: str) -> None:
    name = store.put(folder_of(tmp_path / "state"))
    path = files(store.place(name)) / "settings.json"
    if harm == "changed":
        path.write_text('{"ratio": 0.6}')
    elif harm == "lost":
        path.unlink()
    elif isinstance(path, Path):
        path.with_name("more.json").write_text("{}")
    else:
        index = path.parent.parent / f"{name}.json"
        index.write_bytes(index.read_bytes()[:-1] + b', "more.json": ["' + b"0" * 64 + b'", 2]}')
    with pytest.raises(DigestMismatch, match=f"{name}: expected sha256 {name}"):
        store.verify(name)
    with pytest.raises(DigestMismatch):
        store.put(folder_of(tmp_path / "again"))


class TestInAManifest:
    @pytest.fixture
    def state(self, registry: Registry, tmp_path: Path) -> str:
        return registry.states.put(folder_of(tmp_path / "state"))

    @pytest.fixture
    def delta(self, registry: Registry, tmp_path: Path) -> str:
        return registry.bases.put(folder_of(tmp_path / "delta", seed=9))

    def test_it_has_to_be_there(self, registry: Registry, add: Add, delta: str) -> None:
        changed = BaseRevision(model="owner/model", digest="b" * 64, delta="c" * 64)
        with pytest.raises(RegistryError, match="expected a folder, got none"):
            commit(registry, next_manifest(None, add("news"), states={"osft": "c" * 64}))
        with pytest.raises(RegistryError, match="expected a folder, got none"):
            commit(registry, next_manifest(None, add("news", 2, base_delta="c" * 64), base=changed))
        assert registry.current() is None

    def test_a_manifest_never_mixes_what_was_judged_on_other_bases(
        self, registry: Registry, add: Add, delta: str
    ) -> None:
        plain, changed = add("news"), add("sport", base_delta=delta)
        base = BaseRevision(model="owner/model", digest="b" * 64, delta=delta)
        for given in ({}, {"base": base}):
            with pytest.raises(OtherBase, match="a manifest never mixes the two"):
                commit(registry, next_manifest(None, plain, changed, **given))
        first = commit(registry, next_manifest(None, plain))
        with pytest.raises(OtherBase, match=f"changed by {delta[:8]}"):
            commit(registry, next_manifest(first, base=base))
        both = commit(registry, next_manifest(first, add("news", 2, base_delta=delta), changed, base=base))
        assert both.base.delta == delta and set(both.routes) == {"news", "sport"}

    def test_damage_is_found_and_nobody_goes_back_to_it(
        self, registry: Registry, add: Add, publish: Publish, state: str, tmp_path: Path
    ) -> None:
        publish(add("news"), states={"osft": state})
        other = registry.states.put(folder_of(tmp_path / "other", seed=2))
        publish(add("news", 2), states={"osft": other})
        assert verify(registry) == []
        (files(registry.states.place(state)) / "settings.json").write_text("{}")
        (line,) = verify(registry)
        assert f"{state}: expected sha256 {state}" in line
        with pytest.raises(RegistryError, match="there is no whole snapshot before"):
            registry.go_back()

    def test_a_backup_has_it(
        self, registry: Registry, add: Add, publish: Publish, state: str, delta: str, tmp_path: Path
    ) -> None:
        base = BaseRevision(model="owner/model", digest="b" * 64, delta=delta)
        publish(add("news", base_delta=delta), states={"osft": state}, base=base)
        registry.states.put(folder_of(tmp_path / "unnamed", seed=5))
        assert back_up(registry, tmp_path / "copy") == []
        copy = Registry(tmp_path / "copy")
        assert (list(copy.states.names()), list(copy.bases.names())) == ([state], [delta])

    def test_it_stays_with_a_version_that_is_not_published_yet(
        self,
        registry: Registry,
        add: Add,
        publish: Publish,
        state: str,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        monkeypatch.setattr(Pruning, "_settled", lambda self, entries: [entry.key for entry in entries])
        publish(add("news"))
        unnamed = registry.states.put(folder_of(tmp_path / "unnamed", seed=5))
        waiting = add("news", 2, state=state, trained_on=1, created_at=START)
        add("news", 3, created_at=START)  # With another domain's version, while this one waited.
        for _ in range(3):
            publish()
        removed = registry.prune(1, 4, 1)
        assert f"states/{unnamed}" in removed and list(registry.states.names()) == [state]
        publish(waiting, states={"osft": state})
        publish(add("news", 4))
        registry.prune(1, 1, 1)
        assert list(registry.states.names()) == []

    def test_what_is_out_of_date_keeps_none(
        self, registry: Registry, add: Add, publish: Publish, state: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Pruning, "_settled", lambda self, entries: [entry.key for entry in entries])
        publish(add("news"))
        add("news", 2, state=state, trained_on=1, created_at=START)
        publish()
        registry.prune(1, 1, 1)
        assert list(registry.states.names()) == []

    def test_what_is_on_its_way_is_not_pruned(
        self, registry: Registry, add: Add, publish: Publish, tmp_path: Path
    ) -> None:
        publish(add("news"))
        name = registry.states.put(folder_of(tmp_path / "state"))
        registry.prune(1, 1, 1)
        assert list(registry.states.names()) == [name]

    def test_what_is_held_outlives_the_commits_of_others(
        self, registry: Registry, add: Add, publish: Publish, tmp_path: Path
    ) -> None:
        """A large folder takes longer to be written than others take to commit: it is older than the head by then."""
        publish(add("news"))
        with registry.states.held():
            name = registry.states.put(folder_of(tmp_path / "state"))
            time_passes(registry)
            publish(add("news", 2))
            registry.prune(1, 1, 1)
            assert list(registry.states.names()) == [name]
            assert registry.states.put(folder_of(tmp_path / "again")) == name
        time_passes(registry)
        publish(add("news", 3))
        registry.prune(1, 1, 1)
        assert list(registry.states.names()) == [], "nobody has named it"

    def test_a_prune_that_has_begun_takes_nothing_from_who_holds(
        self, registry: Registry, add: Add, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has made its choice when the same content is put again."""
        publish(add("news"))
        registry.states.put(folder_of(tmp_path / "state"))
        time_passes(registry)
        publish(add("news", 2))
        chosen, found = threading.Event(), list[bool]()
        settled = Pruning._settled

        def puts() -> None:
            chosen.wait(10)
            with registry.states.held():
                name = registry.states.put(folder_of(tmp_path / "again"))
                found.append(registry.states.path(name).is_dir())

        def chooses(self: Pruning, paths: Iterable[Path]) -> list[Path]:
            doomed = settled(self, paths)
            chosen.set()
            putting.join(0.2)
            return doomed

        monkeypatch.setattr(Pruning, "_settled", chooses)
        putting = threading.Thread(target=puts)
        putting.start()
        registry.prune(1, 1, 1)
        putting.join(10)
        assert found == [True] and len(list(registry.states.names())) == 1

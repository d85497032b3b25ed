"""Several processes: one wins, readers see whole things, a writer sweeps only what the dead have left."""

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from typing import Any

import pytest

from registry.adapters import Adapter
from registry.errors import CommitConflict, RegistryError, StaleWriter, UnknownSegment
from registry.manifest import Manifest
from registry.registry import Registry
from registry.snapshots import Epoch
from tests.registry.conftest import check_state, commit, facts_of, next_manifest, peft_folder, run_of

processes = multiprocessing.get_context("fork")


def together(target: Callable[..., Any], count: int, *arguments: Any) -> list[Any]:
    """Run `target(number, barrier, results, *arguments)` in processes; returns what they put in, sorted."""
    barrier, results = processes.Barrier(count, timeout=60), processes.Queue()
    children = [
        processes.Process(target=target, args=(number, barrier, results, *arguments), daemon=True)
        for number in range(count)
    ]
    for child in children:
        child.start()
    try:
        answers = sorted(results.get(timeout=60) for _ in children)
        for child in children:
            child.join(60)
            assert child.exitcode == 0
        return answers
    finally:
        for child in children:
            child.kill()
            child.join()


def _commit(number: int, barrier: Barrier, results: Any, root: Path, manifest: Manifest, epoch: Epoch) -> None:
    registry = Registry(root)
    mine = manifest.model_copy(update={"reason": str(number)})
    barrier.wait()
    try:
        commit(registry, mine, 1, weights=f"weights {number}".encode(), epoch=epoch, parent="")
        results.put("won")
    except CommitConflict:
        results.put("lost")


def test_of_many_who_commit_one_wins_and_nothing_of_the_others_is_mixed_in(
    registry: Registry, add: Callable[..., Adapter]
) -> None:
    manifest = next_manifest(None, add("news"))
    assert together(_commit, 6, registry.root, manifest, run_of(registry)) == ["lost"] * 5 + ["won"]
    current = registry.current()
    assert current is not None
    assert registry.weights(current) == f"weights {current.reason}".encode()
    check_state(registry, 1)


def _add(number: int, barrier: Barrier, results: Any, root: Path, trained: Path) -> None:
    folder = peft_folder(trained / str(number), seed=1)
    registry = Registry(root)
    barrier.wait()
    results.put(registry.add_adapter("news", 1, folder, facts_of("news")).name)


def test_the_same_adapter_added_by_many_is_there_once(registry: Registry, tmp_path: Path) -> None:
    added = together(_add, 6, registry.root, tmp_path / "trained")
    assert len(set(added)) == 1
    (adapter,) = registry.adapters()
    adapter.verify()


def _read(root: Path, stop: Event, results: Any) -> None:
    registry = Registry(root)
    last = reads = 0
    while not stop.is_set():
        current = registry.current()
        if current is None:
            continue
        assert current.number >= last
        last = current.number
        snapshot = registry.snapshot()
        assert snapshot is not None and snapshot.manifest >= last
        assert snapshot.state["number"] == snapshot.manifest
        try:
            assert (registry.segments.get(snapshot.state["segment"])["gram"] == snapshot.manifest).all()
        except UnknownSegment:
            # Pruned meanwhile, with the snapshot that named it.
            later = registry.snapshot()
            assert later is not None and later.number > snapshot.number
        for adapter in registry.adapters():
            try:
                adapter.verify()
            except RegistryError:
                # Pruned meanwhile, as a whole.
                assert not adapter.path.exists()
        registry.manifests()
        reads += 1
    results.put(reads)


def test_readers_never_see_a_part(registry: Registry, add: Callable[..., Adapter]) -> None:
    stop, results = processes.Event(), processes.Queue()
    readers = [processes.Process(target=_read, args=(registry.root, stop, results), daemon=True) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for number in range(1, 31):
            adapter = add("news", number)
            commit(registry, next_manifest(registry.current(), adapter))
            registry.prune(keep_snapshots=1, keep_manifests=1)
        stop.set()
        assert all(results.get(timeout=60) > 0 for _ in readers)
        for reader in readers:
            reader.join(60)
            assert reader.exitcode == 0
    finally:
        for reader in readers:
            reader.kill()
            reader.join()


class TestSweeping:
    @staticmethod
    def left(registry: Registry, host: str, process: int, *, age: float = 0.0) -> Path:
        path = registry.root / "staging" / f"{host}~{process}~0badc0de~00000000~half"
        path.mkdir()
        (path / "file").write_bytes(b"x")
        then = time.time() - age
        os.utime(path, (then, then))
        return path

    @pytest.fixture
    def gone(self) -> int:
        child = processes.Process(target=int)
        child.start()
        child.join()
        assert child.pid is not None
        return child.pid

    def test_what_the_dead_left_goes(self, registry: Registry, gone: int) -> None:
        dead = self.left(registry, socket.gethostname(), gone)
        earlier_self = self.left(registry, socket.gethostname(), os.getpid())
        stranger = registry.root / "staging" / "lost+found"
        stranger.mkdir()
        Registry(registry.root)
        assert dead.exists()
        Registry(registry.root, writer=True)
        assert not dead.exists() and not earlier_self.exists() and not stranger.exists()

    def test_what_the_living_write_stays(self, registry: Registry) -> None:
        living = self.left(registry, socket.gethostname(), os.getppid())
        elsewhere = self.left(registry, "another-host", 1)
        Registry(registry.root, writer=True)
        assert living.exists() and elsewhere.exists()

    def test_after_a_day_it_goes_all_the_same(self, registry: Registry) -> None:
        elsewhere = self.left(registry, "another-host", 1, age=25 * 3600)
        Registry(registry.root, writer=True)
        assert not elsewhere.exists()


def test_a_root_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RegistryError, match="expected a folder"):
        Registry(tmp_path / "file" / "registry")


def _begin(number: int, barrier: Barrier, results: Any, root: Path) -> None:
    registry = Registry(root)
    barrier.wait()
    results.put(registry.begin_epoch())


def test_of_many_runs_that_begin_at_once_the_last_may_commit(registry: Registry) -> None:
    runs = together(_begin, 5, registry.root)
    assert [run.counter for run in runs] == [1, 2, 3, 4, 5] and len({run.name for run in runs}) == 5
    for stale in runs[:-1]:
        with pytest.raises(StaleWriter, match=f"run {stale.counter} .*run 5 .*has begun since"):
            commit(registry, next_manifest(None), epoch=stale)
    assert commit(registry, next_manifest(None), epoch=runs[-1]).number == 1


def _open(number: int, barrier: Barrier, results: Any, root: Path) -> None:
    barrier.wait()
    results.put(Registry(root).lineage)


def test_a_home_opened_by_many_at_once_has_one_name(tmp_path: Path) -> None:
    assert len(set(together(_open, 6, tmp_path / "new"))) == 1
    assert Registry(tmp_path / "new").lineage != Registry(tmp_path / "other").lineage

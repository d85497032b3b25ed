"""Several processes: one wins, readers see whole things, a writer sweeps only what the dead have left."""

import multiprocessing
import os
import queue
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from typing import Any

import pytest

from registry.adapters import Adapter
from registry.bucket import Bucket
from registry.disk import Disk
from registry.errors import CommitConflict, RegistryError, StaleWriter, UnknownSegment
from registry.manifest import Manifest
from registry.registry import Registry
from registry.snapshots import Epoch
from registry.storage import Storage
from tests.registry.conftest import check_state, commit, facts_of, next_manifest, peft_folder, run_of

processes = multiprocessing.get_context("fork")


def together(target: Callable[..., Any], count: int, storage: Storage, *arguments: Any) -> list[Any]:
    """Run `target(number, barrier, results, where, *arguments)` at once; returns what they put in, sorted."""
    makes = _makes(storage)
    barrier, results = makes.barrier(count), makes.queue()
    children = [makes.child(target, number, barrier, results, apart(storage), *arguments) for number in range(count)]
    for child in children:
        child.start()
    try:
        answers = sorted(results.get(timeout=60) for _ in children)
        for child in children:
            child.join(60)
            assert not child.is_alive()
        return answers
    finally:
        makes.end(children)


class _Processes:
    """Of a folder the users are processes."""

    barrier = staticmethod(lambda count: processes.Barrier(count, timeout=60))
    queue, event = staticmethod(processes.Queue), staticmethod(processes.Event)

    @staticmethod
    def child(target: Callable[..., Any], *arguments: Any) -> Any:
        return processes.Process(target=target, args=arguments, daemon=True)

    @staticmethod
    def end(children: list[Any]) -> None:
        for child in children:
            child.kill()
            child.join()
        assert all(child.exitcode in (0, -signal.SIGKILL) for child in children)


class _Threads:
    """Of a bucket they are threads that share no lock: its client can't be forked."""

    barrier = staticmethod(lambda count: threading.Barrier(count, timeout=60))
    queue, event = staticmethod(queue.Queue), staticmethod(threading.Event)

    @staticmethod
    def child(target: Callable[..., Any], *arguments: Any) -> Any:
        return threading.Thread(target=target, args=arguments, daemon=True)

    @staticmethod
    def end(children: list[Any]) -> None:
        for child in children:
            child.join(60)


def _makes(storage: Storage) -> type[_Processes] | type[_Threads]:
    return _Processes if isinstance(storage, Disk) else _Threads


def apart(storage: Storage) -> Path | Storage:
    """What another process would open."""
    if isinstance(storage, Disk):
        return storage.path
    assert isinstance(storage, Bucket)
    return Bucket(storage._store, f"{storage.root}#{uuid.uuid4().hex}", storage._copies._folder)


def _commit(
    number: int, barrier: Barrier, results: Any, root: Path | Storage, manifest: Manifest, epoch: Epoch
) -> None:
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
    assert together(_commit, 6, registry.storage, manifest, run_of(registry)) == ["lost"] * 5 + ["won"]
    current = registry.current()
    assert current is not None
    assert registry.weights(current) == f"weights {current.reason}".encode()
    check_state(registry, 1)


def _add(number: int, barrier: Barrier, results: Any, root: Path | Storage, trained: Path) -> None:
    folder = peft_folder(trained / str(number), seed=1)
    registry = Registry(root)
    barrier.wait()
    results.put(registry.add_adapter("news", 1, folder, facts_of("news")).name)


def test_the_same_adapter_added_by_many_is_there_once(registry: Registry, tmp_path: Path) -> None:
    added = together(_add, 6, registry.storage, tmp_path / "trained")
    assert len(set(added)) == 1
    (adapter,) = registry.adapters()
    adapter.verify()


def _read(root: Path | Storage, stop: Event, results: Any) -> None:
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
                assert not adapter.place.storage.has_folder(adapter.place.key)
        registry.manifests()
        reads += 1
    results.put(reads)


def test_readers_never_see_a_part(registry: Registry, add: Callable[..., Adapter]) -> None:
    makes = _makes(registry.storage)
    stop, results = makes.event(), makes.queue()
    readers = [makes.child(_read, apart(registry.storage), stop, results) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for number in range(1, 31):
            adapter = add("news", number)
            commit(registry, next_manifest(registry.current(), adapter))
            registry.prune(keep_snapshots=1, keep_manifests=1)
        stop.set()
        assert all(results.get(timeout=60) > 0 for _ in readers)
    finally:
        stop.set()
        makes.end(readers)


@pytest.mark.parametrize("new_storage", ["folder"], indirect=True)
class TestSweeping:
    @staticmethod
    def left(registry: Registry, host: str, process: int, *, age: float = 0.0) -> Path:
        assert isinstance(registry.root, Path)
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
        Registry(registry.storage)
        assert dead.exists()
        Registry(registry.storage, writer=True)
        assert not dead.exists() and not earlier_self.exists() and not stranger.exists()

    def test_what_the_living_write_stays(self, registry: Registry) -> None:
        living = self.left(registry, socket.gethostname(), os.getppid())
        elsewhere = self.left(registry, "another-host", 1)
        Registry(registry.storage, writer=True)
        assert living.exists() and elsewhere.exists()

    def test_after_a_day_it_goes_all_the_same(self, registry: Registry) -> None:
        elsewhere = self.left(registry, "another-host", 1, age=25 * 3600)
        Registry(registry.storage, writer=True)
        assert not elsewhere.exists()


def test_a_root_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RegistryError, match="expected a folder"):
        Registry(tmp_path / "file" / "registry")


def _begin(number: int, barrier: Barrier, results: Any, root: Path | Storage) -> None:
    registry = Registry(root)
    barrier.wait()
    results.put(registry.begin_epoch())


def test_of_many_runs_that_begin_at_once_the_last_may_commit(registry: Registry) -> None:
    runs = together(_begin, 5, registry.storage)
    assert [run.counter for run in runs] == [1, 2, 3, 4, 5] and len({run.name for run in runs}) == 5
    for stale in runs[:-1]:
        with pytest.raises(StaleWriter, match=f"run {stale.counter} .*run 5 .*has begun since"):
            commit(registry, next_manifest(None), epoch=stale)
    assert commit(registry, next_manifest(None), epoch=runs[-1]).number == 1


def _open(number: int, barrier: Barrier, results: Any, root: Path | Storage) -> None:
    barrier.wait()
    results.put(Registry(root).lineage)


def test_a_home_opened_by_many_at_once_has_one_name(new_storage: Callable[[str], Storage]) -> None:
    new = new_storage("new")
    assert len(set(together(_open, 6, new))) == 1
    assert Registry(new).lineage != Registry(new_storage("other")).lineage


def _add_other(number: int, barrier: Barrier, results: Any, root: Path | Storage, trained: Path) -> None:
    folder = peft_folder(trained / str(number), seed=number)
    registry = Registry(root)
    barrier.wait()
    try:
        results.put(registry.add_adapter("news", 1, folder, facts_of("news")).name)
    except RegistryError as error:
        assert "with other content" in str(error)
        results.put("")


def test_of_many_contents_for_one_number_one_has_it(registry: Registry, tmp_path: Path) -> None:
    """Two coordinators, of which one does not know yet that it was replaced."""
    names = set(together(_add_other, 6, registry.storage, tmp_path / "trained")) - {""}
    (adapter,) = Registry(registry.storage).adapters()
    assert names == {adapter.name}
    adapter.verify()

"""A death at every single system call, or at every request: the registry is then in the old state or the new, whole,
and can go on."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import MemoryStore

from registry.bucket import Bucket
from registry.errors import StoreAway
from registry.manifest import Manifest, Tombstone
from registry.registry import Registry
from tests.registry.conftest import check_state, commit, facts_of, folder_of, next_manifest, peft_folder
from tests.registry.line import Line, copied
from tests.registry.machine import Machine
from tests.registry.places import files

Root = Path | Bucket
AtEach = Callable[..., int]
DEATHS = ("dies-before", "dies-after")


def prepared(root: Root, trained: Path) -> Manifest:
    """A registry with one manifest and a second version waiting to be routed; returns that manifest."""
    registry = Registry(root)
    news = registry.add_adapter("news", 1, peft_folder(trained / "news1", 1), facts_of("news"))
    sport = registry.add_adapter("sport", 1, peft_folder(trained / "sport1", 2), facts_of("sport"))
    first = commit(registry, next_manifest(None, news, sport))
    registry.add_adapter("news", 2, peft_folder(trained / "news2", 3), facts_of("news", 2))
    return first


def check_whole(registry: Registry) -> int:
    """The current number, after every byte that it stands on was verified."""
    current = registry.current()
    if current is None:
        return 0
    check_state(registry, current.number)
    assert registry.weights(current) == f"weights {current.number}".encode()
    for route in current.routes.values():
        registry.adapter(route.adapter).verify()
    for adapter in registry.adapters():
        adapter.verify()
    assert [manifest.number for manifest in registry.manifests()] == list(range(1, current.number + 1))
    return current.number


def at_every_call(
    tmp_path: Path,
    action: Callable[[Root], Any],
    check: Callable[[Root, bool], None],
    *,
    how: str,
    prepare: Callable[[Root], Any] = lambda root: None,
) -> int:
    """Run `action` on a prepared registry, dead at call 1, 2, ... until it survives; returns the number of calls."""
    if how in DEATHS:
        return _at_every_request(tmp_path, action, check, how=how, prepare=prepare)
    prepared(tmp_path / "prepared", tmp_path / "trained")
    prepare(tmp_path / "prepared")
    for dies_at in range(1, 1000):
        case = tmp_path / f"{dies_at}"
        root, shadows = case / "registry", case / "shadows"
        shadows.mkdir(parents=True)
        shutil.copytree(tmp_path / "prepared", root)
        machine = Machine(root, shadows, dies_at)
        finished = machine.run(lambda root=root: action(root))
        if how == "power-lost":
            machine.lose_power()
        check(root, finished)
        if finished:
            return dies_at - 1
    raise AssertionError("the action never ended")


def _at_every_request(
    tmp_path: Path,
    action: Callable[[Root], Any],
    check: Callable[[Root, bool], None],
    *,
    how: str,
    prepare: Callable[[Root], Any],
) -> int:
    """The same in a bucket, dead before or after each request that changes something. Returns a large number: there are
    few requests, and each was there."""
    start = empty_bucket(tmp_path)
    prepared(start, tmp_path / "trained")
    prepare(start)
    for dies_at in range(1, 1000):
        bucket = copied(start, f"{tmp_path.name}-{how}-{dies_at}")
        line = Line(bucket, how, dies_at)
        finished = line.run(lambda line=line: action(line))
        assert line.failed != finished or how == "dies-after"
        check(bucket, finished)
        if not line.failed:
            return 1000
    raise AssertionError("the action never ended")


def empty_bucket(tmp_path: Path) -> Bucket:
    return Bucket(MemoryStore(), f"memory://{tmp_path.name}", tmp_path / "copies")


@pytest.mark.parametrize("how", ["killed", "power-lost", *DEATHS])
class TestAtEveryCall:
    def test_commit(self, tmp_path: Path, how: str) -> None:
        def second(root: Root) -> None:
            registry = Registry(root)
            (waiting,) = [adapter for adapter in registry.adapters("news") if adapter.version == 2]
            parent = registry.snapshot(1)
            assert parent is not None
            digest = sha256(parent.to_bytes()).hexdigest()
            commit(registry, next_manifest(registry.manifest(1), waiting), parent=digest)

        def check(root: Root, finished: bool) -> None:
            number = check_whole(Registry(root, writer=True))
            assert number == 2 if finished else number in (1, 2)
            second(root)
            assert check_whole(Registry(root)) == 2

        assert at_every_call(tmp_path, second, check, how=how) > 12

    def test_add_adapter(self, tmp_path: Path, how: str) -> None:
        trained = peft_folder(tmp_path / "law", 9)

        def add(root: Root) -> None:
            Registry(root).add_adapter("law", 1, trained, facts_of("law"))

        def check(root: Root, finished: bool) -> None:
            registry = Registry(root, writer=True)
            found = registry.adapters("law")
            assert len(found) == 1 if finished else len(found) <= 1
            check_whole(registry)
            add(root)
            (law,) = Registry(root).adapters("law")
            law.verify()

        assert at_every_call(tmp_path, add, check, how=how) > 10

    def test_what_a_training_leaves_beside_adapters(self, tmp_path: Path, how: str) -> None:
        state = folder_of(tmp_path / "state")

        def put(root: Root) -> None:
            Registry(root).states.put(state)

        def check(root: Root, finished: bool) -> None:
            registry = Registry(root, writer=True)
            found = list(registry.states.names())
            assert len(found) == 1 if finished else len(found) <= 1
            for name in found:
                registry.states.verify(name)
            check_whole(registry)
            put(root)
            (name,) = Registry(root).states.names()
            registry.states.verify(name)

        assert at_every_call(tmp_path, put, check, how=how) > 10

    def test_first_opening(self, tmp_path: Path, how: str) -> None:
        def empty(root: Root) -> None:
            if isinstance(root, Path):
                shutil.rmtree(root)
                root.mkdir()
            else:
                obstore.delete(root._store, [meta["path"] for meta in obstore.list(root._store).collect()])

        def open_new(root: Root) -> None:
            commit(Registry(root), next_manifest(None), parent="")

        def check(root: Root, finished: bool) -> None:
            if finished:
                assert Registry(root).current() is not None
            assert commit(Registry(root, writer=True), next_manifest(None), parent="").number == 1

        at_every_call(tmp_path, open_new, check, how=how, prepare=empty)

    def test_prune(self, tmp_path: Path, how: str) -> None:
        def publish(root: Root) -> None:
            registry = Registry(root)
            for number in range(2, 5):
                newest = registry.adapters("news")[-1]
                commit(registry, next_manifest(registry.manifest(number - 1), newest))

        def prune(root: Root) -> None:
            Registry(root).prune(1, 1, 1)

        def check(root: Root, finished: bool) -> None:
            registry = Registry(root, writer=True)
            current = registry.current()
            assert current is not None
            check_state(registry, current.number)
            for route in current.routes.values():
                registry.adapter(route.adapter).verify()
            for manifest in registry.manifests():
                for route in manifest.routes.values():
                    registry.adapter(route.adapter).verify()
                registry.weights(manifest)
            registry.prune(1, 1, 1)
            assert registry.current() == current
            assert len(list((files(registry) / "snapshots").iterdir())) == 1

        assert at_every_call(tmp_path, prune, check, how=how, prepare=publish) > 12

    def test_going_back(self, tmp_path: Path, how: str) -> None:
        """Three snapshots, the second damaged; the third or the first is in force, and numbers go on from there."""

        def publish(root: Root) -> None:
            registry = Registry(root)
            commit(registry, None, 1)
            second = registry.head()
            commit(registry, next_manifest(registry.current()))
            (files(registry) / "snapshots" / f"000002-{second.snapshot_digest}.json").write_bytes(b"{")

        def back(root: Root) -> None:
            registry = Registry(root)
            if registry.head().snapshot == 3:
                assert registry.go_back()[0].number == 1

        def check(root: Root, finished: bool) -> None:
            registry = Registry(root, writer=True)
            head = registry.head()
            assert (head.snapshot, head.manifest) in ([(1, 1)] if finished else [(1, 1), (3, 2)])
            assert (head.issued, head.issued_snapshot) == (2, 3)
            check_whole(registry)
            back(root)
            commit(registry, next_manifest(registry.current(), number=registry.next_number()), 3)
            assert (registry.head().snapshot, registry.head().manifest) == (4, 3)
            check_state(Registry(root), 3)

        assert at_every_call(tmp_path, back, check, how=how, prepare=publish) > 5

    def test_prune_around_damage(self, tmp_path: Path, how: str) -> None:
        """An old manifest and an old root are damaged: what is before them and kept stays whole at every call."""

        def publish(root: Root) -> None:
            registry = Registry(root)
            for number in range(2, 6):
                commit(registry, next_manifest(registry.manifest(number - 1)))
            next(files(registry).glob("manifests/000004*")).write_bytes(b"{")
            next(files(registry).glob("snapshots/000004*")).write_bytes(b"{")

        def prune(root: Root) -> None:
            Registry(root).prune(2, 1, 1)

        def check(root: Root, finished: bool) -> None:
            registry = Registry(root, writer=True)
            prune(root)
            for folder in ("snapshots", "manifests"):
                assert sorted(path.name[:6] for path in (files(registry) / folder).iterdir()) == [
                    "000003",
                    "000004",
                    "000005",
                ]
            check_state(registry, 5)
            assert registry.go_back()[0].number == 3
            check_state(registry, 3)

        assert at_every_call(tmp_path, prune, check, how=how, prepare=publish) > 5


def test_what_a_second_attempt_returns_is_durable(tmp_path: Path) -> None:
    """A process dies anywhere, the next one repeats its work and returns, then the power fails: nothing is lost."""
    trained = peft_folder(tmp_path / "law", 9)

    def work(registry: Registry) -> None:
        law = registry.add_adapter("law", 1, trained, facts_of("law"))
        parent = registry.snapshot(1)
        assert parent is not None
        digest = sha256(parent.to_bytes()).hexdigest()
        commit(registry, next_manifest(registry.manifest(1), law), parent=digest)

    prepared(tmp_path / "prepared", tmp_path / "trained")
    for dies_at in range(1, 1000):
        case = tmp_path / f"{dies_at}"
        root, shadows = case / "registry", case / "shadows"
        shadows.mkdir(parents=True)
        shutil.copytree(tmp_path / "prepared", root)
        registry = Registry(root)
        machine = Machine(root, shadows, dies_at)
        finished = machine.run(lambda registry=registry: work(registry))
        machine.revive()
        # The same process may try again after an error of the disk, or another one after a restart.
        again = registry if dies_at % 2 else Registry(root)
        assert machine.run(lambda again=again: work(again))
        machine.lose_power()
        assert check_whole(Registry(root)) == 2
        if finished:
            return
    raise AssertionError("the work never ended")


def test_what_returns_is_durable(tmp_path: Path) -> None:
    """After the last call returned, a power cut takes nothing away."""
    root, shadows = tmp_path / "registry", tmp_path / "shadows"
    shadows.mkdir()
    machine = Machine(root, shadows)
    trained = peft_folder(tmp_path / "news", 1)

    def work() -> None:
        registry = Registry(root)
        news = registry.add_adapter("news", 1, trained, facts_of("news"))
        commit(registry, next_manifest(None, news))

    root.mkdir()
    assert machine.run(work)
    machine.lose_power()
    registry = Registry(root)
    assert check_whole(registry) == 1


def check_action_done(registry: Registry) -> None:
    assert check_whole(registry) == 2


def fail_at_every_call(
    tmp_path: Path,
    action: Callable[[Registry], Any],
    check: Callable[[Registry], None],
    check_done: Callable[[Registry], None] = check_action_done,
) -> int:
    """One call after another fails and the process goes on: each with a full disk, then with one that can't write."""
    prepared(tmp_path / "prepared", tmp_path / "trained")
    for fails_at in range(1, 1000):
        for number in (errno.ENOSPC, errno.EIO):
            case = tmp_path / f"{fails_at}-{number}"
            root, shadows = case / "registry", case / "shadows"
            shadows.mkdir(parents=True)
            shutil.copytree(tmp_path / "prepared", root)
            registry = Registry(root)
            machine = Machine(root, shadows, fails_at, error=number)
            finished = False
            try:
                finished = machine.run(lambda registry=registry: action(registry))
            except OSError as error:
                assert error.errno == number
            if not machine.failed:
                assert finished
                return fails_at - 1
            check(registry)
            # The disk has room again, and the very same process goes on.
            action(registry)
            if (root / "staging").exists():
                Registry(root, writer=True)
            machine.run(lambda registry=registry: action(registry))
            check_done(registry)
    raise AssertionError("the action never ended")


def fail_at_every_request(
    tmp_path: Path,
    action: Callable[[Registry], Any],
    check: Callable[[Registry], None],
    check_done: Callable[[Registry], None] = check_action_done,
) -> int:
    """One request after another is refused, or takes effect and its answer is lost, and the process goes on. A large
    number, as each was there."""
    start = empty_bucket(tmp_path)
    prepared(start, tmp_path / "trained")
    for fails_at in range(1, 1000):
        for how in ("refused", "answer-lost"):
            line = Line(copied(start, f"{tmp_path.name}-{how}-{fails_at}"), how)
            registry = Registry(line)
            line.changes, line._fails_at = 0, fails_at
            with suppress(StoreAway):
                action(registry)
            if not line.failed:
                return 1000
            check(registry)
            # The line is whole again, and the very same process goes on.
            action(registry)
            action(registry)
            check_done(registry)
    raise AssertionError("the action never ended")


FAILURES = pytest.mark.parametrize("at_each", [fail_at_every_call, fail_at_every_request], ids=["disk", "line"])


@FAILURES
class TestWhatFails:
    def test_commit(self, tmp_path: Path, at_each: AtEach) -> None:
        def act(registry: Registry) -> None:
            if (current := registry.current()) is not None and current.number == 2:
                return
            (waiting,) = [adapter for adapter in registry.adapters("news") if adapter.version == 2]
            commit(registry, next_manifest(registry.current(), waiting))

        def check(registry: Registry) -> None:
            assert check_whole(registry) in (1, 2)
            assert check_whole(Registry(registry.storage)) in (1, 2)

        assert at_each(tmp_path, act, check) > 12

    def test_pin_and_removal(self, tmp_path: Path, at_each: AtEach) -> None:
        """They keep the weights there are, or have none."""

        def act(registry: Registry) -> None:
            current = registry.current()
            assert current is not None
            if current.number == 2:
                return
            routes = {"sport": current.routes["sport"].model_copy(update={"pinned": True})}
            removed = {"news": Tombstone(version=2, manifest=2)}
            manifest = next_manifest(current, routes=routes, removed=removed)
            commit(registry, manifest)

        def check(registry: Registry) -> None:
            current = registry.current()
            assert current is not None and (current.number == 2) == ("news" not in current.routes)
            check_whole(registry)

        assert at_each(tmp_path, act, check) > 12

    def test_beginning_a_run(self, tmp_path: Path, at_each: AtEach) -> None:
        def act(registry: Registry) -> None:
            registry.begin_epoch()
            if (current := registry.current()) is not None and current.number == 1:
                commit(registry, next_manifest(current))

        assert at_each(tmp_path, act, lambda registry: None) > 12

    def test_going_back(self, tmp_path: Path, at_each: AtEach) -> None:
        def act(registry: Registry) -> None:
            if registry.head().issued_snapshot == 1:
                commit(registry, next_manifest(registry.current()))
            if registry.head().snapshot == 2:
                assert registry.go_back()[0].number == 1
            if registry.head().snapshot == 1:
                commit(registry, next_manifest(registry.current(), number=3), 3)

        def check(registry: Registry) -> None:
            head = registry.head()
            assert (head.snapshot, head.manifest) in [(1, 1), (2, 2), (3, 3)]
            check_state(registry, head.manifest)

        assert at_each(tmp_path, act, check, lambda registry: check_state(registry, 3)) > 12


@pytest.mark.slow
def test_a_writer_killed_again_and_again_goes_on_where_it_was(tmp_path: Path) -> None:
    """A real process, a real SIGKILL, at moments that nobody chose."""
    root = tmp_path / "registry"
    code = textwrap.dedent(
        f"""
        from pathlib import Path
        from registry.registry import Registry
        from tests.registry.conftest import check_state, commit, facts_of, folder_of, next_manifest, peft_folder
        root, trained = Path({str(root)!r}), Path({str(tmp_path / "trained")!r})
        registry = Registry(root, writer=True)
        print("ready", flush=True)
        while True:
            current = registry.current()
            version = current.number + 1 if current else 1
            folder = peft_folder(trained / str(version), version)
            adapter = registry.add_adapter("news", version, folder, facts_of("news", version))
            commit(registry, next_manifest(current, adapter))
            registry.prune(keep_snapshots=2, keep_manifests=10_000)
        """
    )
    before = 0
    for round_ in range(6):
        child = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE)
        try:
            assert child.stdout is not None and child.stdout.readline() == b"ready\n"
            time.sleep(0.05 + 0.037 * round_)
        finally:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            if child.stdout:
                child.stdout.close()
        number = check_whole(Registry(root))
        assert number >= before
        before = number
    assert before > 0
    Registry(root, writer=True)
    assert list((root / "staging").iterdir()) == []

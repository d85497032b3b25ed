"""Nodes of a Ray cluster on this machine, each with a raylet of its own, to be lost and joined; and who runs where."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil
import ray
from ray.cluster_utils import Cluster

from cluster import names
from cluster.runtime import _ENVIRONMENT

REPLICA = "SERVE_REPLICA::"
_NEW_MOUNTS, _NEW_VIEW, _PRIVATE = 0x20000, 0x200, 0x44000
"""CLONE_NEWNS, CLONE_FS; MS_REC and MS_PRIVATE."""


@dataclass(frozen=True)
class Process:
    """One actor's process, as Ray tells of it."""

    actor: str
    pid: int
    node: str
    is_alive: bool

    @property
    def is_replica(self) -> bool:
        return self.actor.startswith(REPLICA)

    def signal(self, number: int) -> None:
        """Send it a signal; one that is gone gets none."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


class Nodes:
    """A head, which runs no actor that reserves a CPU, and `workers` others; goes down with the context. Of each of
    the folders `own` every one of those sees one of its own, empty and in memory, and nobody else does."""

    def __init__(self, workers: int, cpus: int, own: Sequence[Path] = ()) -> None:
        self._count, self._cpus, self._own = workers, cpus, own
        self._cluster: Any = None
        self._workers: list[Any] = []

    def __enter__(self) -> Self:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 150 << 20}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(self._count):
                self.join()
            ray.init(address=self.address, namespace=names.NAMESPACE, log_to_driver=False, logging_level="ERROR")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        ray.shutdown()
        self._cluster.shutdown()

    @property
    def address(self) -> str:
        """Where drivers join."""
        return str(self._cluster.address)

    def join(self) -> None:
        """Have one more node join."""
        with _own_folders(self._own):
            node = self._cluster.add_node(num_cpus=self._cpus, object_store_memory=100 << 20)
        self._workers.append(node)

    def ids(self) -> list[str]:
        """The workers' ids, as Ray names them in what it says of actors."""
        return [node.node_id for node in self._workers]

    def lose(self, node_id: str) -> None:
        """Kill a node with all that runs there."""
        (node,) = [each for each in self._workers if each.node_id == node_id]
        self._workers.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def processes(self) -> list[Process]:
        """Every named actor's process."""
        from ray._private.state import actors

        return [
            Process(each["Name"], each["Pid"], each["Address"]["NodeID"], each["State"] == "ALIVE")
            for each in actors().values()
            if each["Name"] and each["State"] != "DEAD"
        ]

    def family(self) -> dict[psutil.Process, str]:
        """Every process below this one, with what it is: an actor, a part of Ray, a driver, a broker."""
        actors = {each.pid: re.sub("(::|-[0-9a-f]{9}).*", "", each.actor) for each in self.processes() if each.is_alive}
        family = {}
        for each in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                family[each] = actors.get(each.pid) or _title(each.cmdline())
        return family


def may_mount() -> bool:
    """Whether this process may have mounts of its own."""
    try:
        with _own_folders([Path(tempfile.gettempdir())]):
            return True
    except PermissionError:
        return False


@contextmanager
def _own_folders(folders: Sequence[Path]) -> Iterator[None]:
    """Meanwhile this thread sees an empty folder of its own in the place of each, and what it starts always does."""
    if not folders:
        yield
        return
    system, where = ctypes.CDLL(None, use_errno=True), Path.cwd()

    def check(result: int) -> None:
        if result:
            raise OSError(ctypes.get_errno(), f"mounts of its own: {os.strerror(ctypes.get_errno())}")

    with open("/proc/thread-self/ns/mnt", "rb") as before:
        check(system.unshare(_NEW_MOUNTS))
        try:
            check(system.mount(b"none", b"/", None, _PRIVATE, None))
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
                check(system.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, None))
            yield
        finally:
            # Threads that began meanwhile see what this one saw, and keep it.
            check(system.unshare(_NEW_VIEW))
            check(system.setns(before.fileno(), _NEW_MOUNTS))
            os.chdir(where)


def _title(words: list[str]) -> str:
    """What a process is by its command line: the module or script of a Python, else the program."""
    if not words:
        return "leaving"
    if not Path(words[0]).name.startswith("python"):
        return Path(words[0].split()[0]).name
    if "-c" in words:
        # `from multiprocessing.forkserver import ...`
        return next((each for each in words[-1].split() if "." in each), "python -c")
    return next((Path(each).name for each in words[1:] if not each.startswith("-")), "python")


@contextmanager
def stopped(process: Process) -> Iterator[None]:
    """Have a process stand still meanwhile."""
    process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.signal(signal.SIGCONT)

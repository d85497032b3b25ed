"""A home as a person at a terminal handles it: checked, backed up, put back, its spools dropped, another log taken.

What changes a home wants it at rest, and holds the lock on it meanwhile; checking and copying also work beside a
running system.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from actors import home, spool_folder
from actors.errors import ActorError
from cluster.builders import registry, registry_root, registry_storage, stream_file
from cluster.errors import ClusterError
from cluster.preflight import HomeLock
from configs.settings import Settings
from registry.backup import back_up
from registry.errors import RegistryError
from registry.registry import Registry
from registry.storage import Storage
from registry.verification import verify
from streaming.embedded_copy import check_log, copy_log
from streaming.errors import StreamError


@contextmanager
def registry_of(settings: Settings) -> Iterator[Storage]:
    """The storage of a system's registry, made where it is not there yet; what fails there is a `ClusterError`."""
    try:
        yield registry(settings).storage
    except (RegistryError, ActorError) as error:
        raise ClusterError(str(error)) from error


@dataclass(frozen=True)
class Home:
    """The home in `folder`; `spools` and `url` are what its settings choose for spools and registry, where they are
    known.

    What can't be done is a `ClusterError`, one line.
    """

    folder: Path
    spools: Path | None = None
    url: str | None = None

    def __post_init__(self) -> None:
        if self.url is None and not registry_root(self.folder).is_dir():
            raise ClusterError(f"home {self.folder}: expected the home folder of a system, got no registry in it")

    def check(self) -> tuple[list[str], list[str]]:
        """Read and verify everything; returns what there is and what is wrong, in lines."""
        there, wrong = [f"home {self.folder}"], []
        try:
            with self.registry() as registry:
                wrong += verify(registry)
                snapshot = registry.snapshot()
                number, segments = (snapshot.number, len(snapshot.segments)) if snapshot else (0, 0)
                there.append(
                    f"registry: snapshot {number}, {segments} segment files, {len(registry.survey()[0])} versions"
                )
                for folder in spool_folder.known_folders(self.folder, registry.lineage, self.spools):
                    there.append(f"spools: {len(spool_folder.spools(folder))} in {folder}")
                    wrong += spool_folder.faults(folder, registry)
        except ClusterError as error:
            wrong.append(str(error))
        stream = stream_file(self.folder)
        try:
            there += [f"stream: {check_log(stream)} records in {stream}"] if stream.exists() else []
        except StreamError as error:
            wrong.append(str(error))
        return there, list(dict.fromkeys(wrong))

    def backup(self, target: Path, url: str | None = None) -> list[str]:
        """Copy the home to `target`, a new folder, as it is now, without its spools; the registry to `url`, where one
        is given. Returns what is wrong with it."""
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ClusterError(f"backup to {target}: expected a new or an empty folder, got something in it")
        target.mkdir(parents=True, exist_ok=True)
        with self.registry() as registry:
            # The log last: then it holds everything that the snapshot says was counted.
            wrong = back_up(registry, registry_storage(target.absolute(), url))
        if stream_file(self.folder).exists():
            copy_log(stream_file(self.folder), stream_file(target))
        return wrong

    def go_back(self, to: int | None) -> list[str]:
        """Put an earlier whole snapshot in force: `to`, or the newest there is; returns what that means, in lines."""
        with self.registry(at_rest=True) as registry:
            return home.go_back(registry, to)

    def reread(self) -> list[Path]:
        """Delete this machine's spools of the home; returns them."""
        with self.registry(at_rest=True) as registry:
            folders = spool_folder.known_folders(self.folder, registry.lineage, self.spools)
            return [path for folder in folders for path in spool_folder.drop(folder)]

    def take_log(self, topic: str) -> list[str]:
        """Accept that another log stands under a topic's name; returns what that means, in lines."""
        with self.registry(at_rest=True) as registry:
            return home.take_log(registry, topic)

    @contextmanager
    def registry(self, *, at_rest: bool = False) -> Iterator[Registry]:
        """The registry while it is looked at; `at_rest` holds the lock on the home, so that nobody runs on it."""
        lock = HomeLock(self.folder) if at_rest else None
        try:
            yield Registry(registry_storage(self.folder, self.url))
        except (RegistryError, ActorError) as error:
            raise ClusterError(str(error)) from error
        finally:
            if lock is not None:
                lock.release()

"""The spools of a home on one machine: where they lie, whether they follow the ledger, and dropping them.

They are caches, so they lie on the machine's own disk and not below a home that several machines share. Each home has a
folder of its own there, named for its lineage and its place: a copy of a home never meets the spools of the first.
It knows nothing of what is in a row.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from actors.errors import OtherHome
from actors.observation import LedgerView, WriterRun
from actors.spool_facts import SnapshotNote, facts_in
from actors.spool_file import FORMAT, UnreadableSpool, is_in_use
from registry.registry import Registry

_PERSISTENT = Path("/var/tmp")
_PATIENCE_S = 0.1


def spool_folder(home: Path, lineage: str, chosen: Path | None) -> Path:
    """Return the folder of a home's spools: `chosen` itself below the home where it is relative, else one of the home's
    own in it; None stands for a private one of this user on this machine.
    """
    if chosen is not None and chosen.parts and not chosen.is_absolute():
        return home / chosen
    place = hashlib.sha256(os.fsencode(home.absolute())).hexdigest()[:8]
    return (chosen if chosen is not None and chosen.parts else _private()) / f"{lineage[:16]}-{place}"


def make_spool_folder(home: Path, lineage: str, chosen: Path | None) -> Path:
    """Return `spool_folder`, there for this user alone; raises `OtherHome` where another user has it."""
    folder = spool_folder(home, lineage, chosen)
    if folder.is_relative_to(_private()):
        private_folder()
    return _own(folder)


def private_folder() -> Path:
    """Return the folder on this machine for what this user's processes keep here, there for this user alone; raises
    `OtherHome` where another user has it."""
    return _own(_private())


def _own(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.geteuid():
        raise OtherHome(
            f"spool folder {folder}: expected a folder of {getpass.getuser()}'s own, got one of user {found.st_uid}; "
            "remove it, or set ingest.spool_folder"
        )
    return folder


def known_folders(home: Path, lineage: str, chosen: Path | None) -> list[Path]:
    """Return every folder on this machine where spools of the home may lie."""
    folders = (spool_folder(home, lineage, each) for each in (chosen, None, Path("spool")))
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _private() -> Path:
    # Beyond a restart of the machine, where there is such a folder.
    where = _PERSISTENT if _PERSISTENT.is_dir() else Path(tempfile.gettempdir())
    return where / f"anabranch-{os.geteuid()}"


def spools(folder: Path) -> list[Path]:
    """Return the spools in a folder."""
    return sorted(folder.glob("*.sqlite"))


def drop(folder: Path) -> list[Path]:
    """Delete all files of spools in a folder, also such as belong to none that is there, and return them; the rows are
    read again from the stream."""
    found = sorted(folder.glob("*.sqlite*"))
    for path in found:
        path.unlink(missing_ok=True)
    return found


def faults(folder: Path, registry: Registry) -> Iterator[str]:
    """Say in one line each which spools can't be opened, or were led after a snapshot that the one in force does not
    descend from; what another process uses is passed over. Nothing is changed."""
    snapshot = registry.snapshot()
    runs = tuple(WriterRun(name, first) for name, first in snapshot.state["runs"]) if snapshot else ()
    number = snapshot.number if snapshot else 0
    view = LedgerView(registry.lineage, "", runs, number, {}, {}, {}, {}, {})
    for path in spools(folder):
        try:
            written, noted = _look_into(path)
        except (UnreadableSpool, sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if not is_in_use(error):
                yield f"spool {path}: {error}; what can't be read is deleted at the start, and the stream is read again"
            continue
        if written != FORMAT:
            yield f"spool {path}: has format {written}, this version reads {FORMAT}; it is deleted at the start"
        elif noted is not None and not noted.precedes(view):
            yield (
                f"spool {path}: was led after {noted}, which {SnapshotNote.of(view)} in force does not descend from; "
                "put that snapshot back, or delete the spools by: anabranch home reread HOME"
            )


def _look_into(path: Path) -> tuple[int, SnapshotNote | None]:
    """Return a spool's format and the snapshot that it was led after last; raises where the file is damaged."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=_PATIENCE_S)) as db:
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        (written,) = db.execute("PRAGMA user_version").fetchone()
        (sound,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        if sound != "ok":
            raise sqlite3.DatabaseError(sound)
        if written != FORMAT:
            return written, None
        return written, SnapshotNote.among(facts_in(db))

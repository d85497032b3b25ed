"""A whole copy of the embedded stream's file, made while others write to it, and a look at whether the file is sound.

Knows SQLite and nothing of topics.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from streaming.errors import StreamError


def copy_log(path: Path, target: Path) -> None:
    """Copy the file at `path` as it is at one moment, durably; raises StreamError where that can't be done."""
    try:
        with closing(_read_only(path)) as source, closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except (sqlite3.Error, OSError) as error:
        raise StreamError(
            f"cannot copy the embedded stream {path} to {target}: {error}; see that there is room, and that it is whole"
        ) from error


def check_log(path: Path) -> int:
    """Return the number of records in the file; raises StreamError where it is damaged."""
    try:
        with closing(_read_only(path)) as database:
            (found,) = database.execute("PRAGMA integrity_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(found)
            (records,) = database.execute("SELECT count(*) FROM record").fetchone()
            return int(records)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        # What SQLite says of damage may hold bytes of it, which may be no text.
        said = " ".join(str(error).split())
        raise StreamError(f"embedded stream {path}: {said}; restore the file from a backup") from error


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)

"""Whether the spools of a home can be read by this version: all of them, or none is touched.

A worker opens its own file only. Were one upgraded while another is refused, neither version could run the home: so
each worker looks at all of them first. It knows nothing of rows but that they wait.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from actors.errors import OtherHome

FORMAT = 2
"""Kept as SQLite's user_version; files of format 1 have none and hold messages instead of rendered prompts."""
_PATIENCE_S = 0.1


def check_formats(path: Path) -> None:
    """Raise `OtherHome` when the spool at `path`, or one beside it, has a later format, or rows in an earlier one."""
    for each in sorted({path, *path.parent.glob(f"*{path.suffix}")}):
        if each.exists():
            _check(each)


def _check(path: Path) -> None:
    try:
        with closing(sqlite3.connect(path, timeout=_PATIENCE_S)) as db:
            (written,) = db.execute("PRAGMA user_version").fetchone()
            if written > FORMAT:
                raise OtherHome(f"spool {path.name}: has format {written}, this version reads up to {FORMAT}; upgrade")
            rows = 0
            if written < FORMAT and db.execute("SELECT 1 FROM sqlite_master WHERE name='rows'").fetchone():
                (rows,) = db.execute("SELECT count(*) FROM rows").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            # A worker of this version has it, which looked at it before.
            return
        raise
    if rows:
        raise OtherHome(
            f"spool {path.name}: holds {rows} examples in the format of an earlier version; let that version publish "
            "or remove their domains, or begin a new home folder"
        )

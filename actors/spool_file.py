"""The file of a spool: opened for this process alone, private to its user, and deleted where it can't be read.

A transaction is on disk when it returns (`synchronous=FULL`): coverage must not be remembered without its rows. The
lock on the file also spares WAL its shared memory. What can't be read, damaged or in another format, is of no use and
may hold texts of domains that were removed, which nobody could take out of it: so it is not kept. It knows nothing of
what lies in the tables.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from actors.errors import ActorError

FORMAT = 5
"""Kept as SQLite's user_version."""
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_IN_USE = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_PARTS = ("", "-wal", "-shm", "-journal")
"""SQLite makes a rollback journal while the file goes over to WAL, and for a disk that can't do WAL."""


class UnreadableSpool(ActorError):
    """A spool's file is damaged, or of another format."""


def open_file(path: Path, schema: str, *, patience_s: float = 30.0) -> sqlite3.Connection:
    """Open the file, made if missing, locked to this process.

    Raises `UnreadableSpool` when it is damaged or in another format, and `sqlite3.OperationalError` when another
    process still has it after `patience_s` seconds.
    """
    _make_private(path)
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=patience_s)
    try:
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        # What is dropped is gone from the file, not only from its index.
        db.execute("PRAGMA secure_delete=ON")
        (written,) = db.execute("PRAGMA user_version").fetchone()
        if written != FORMAT and db.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise UnreadableSpool(f"it has format {written}, this version reads format {FORMAT}")
        db.executescript(f"BEGIN IMMEDIATE; {schema} PRAGMA user_version={FORMAT}; COMMIT;")
        _check_tables(db, schema)
    except BaseException as error:
        db.close()
        # What SQLite says of a damaged schema holds bytes of it, which may be no text.
        if is_damage(error) or isinstance(error, UnicodeDecodeError):
            raise UnreadableSpool(f"it is damaged ({error})") from error
        raise
    return db


def _check_tables(db: sqlite3.Connection, schema: str) -> None:
    """Raise `UnreadableSpool` where tables or columns are not those of the schema."""
    columns = "SELECT m.name, c.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c"
    with closing(sqlite3.connect(":memory:")) as empty:
        empty.executescript(schema)
        expected = set(empty.execute(columns))
    if (other := set(db.execute(columns)) ^ expected) != set():
        raise UnreadableSpool(f"it is damaged (its schema differs in {sorted(other)[:3]})")


def is_damage(error: BaseException) -> bool:
    """Tell whether an error means that the file's content is broken, rather than busy, full or out of reach."""
    if isinstance(error, UnreadableSpool):
        return True
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        # Not SQLite's own: a text in the file that is no UTF-8.
        return isinstance(error, sqlite3.OperationalError)
    return code & 0xFF in _DAMAGE


def is_in_use(error: BaseException) -> bool:
    """Tell whether an error means that another process has the file."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF in _IN_USE


def delete_file(path: Path) -> None:
    """Delete the file with its logs, which are of no use without it."""
    for part in _PARTS:
        path.with_name(path.name + part).unlink(missing_ok=True)


class Transaction:
    """BEGIN IMMEDIATE ... COMMIT, or ROLLBACK when the body or the commit raises."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")


def _make_private(path: Path) -> None:
    """Keep the examples from other users of the machine; a folder that is not ours stays as it is."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.parent.stat().st_uid == os.geteuid():
        path.parent.chmod(0o700)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))

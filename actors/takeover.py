"""Spools of workers that are no more: who is there takes their rows over, so that less of the stream is read again.

A file is taken whole or left alone: one that a process still has, that is damaged, or that was led after a snapshot
that the ledger's does not descend from. It knows nothing of what becomes of the rows.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from actors.observation import LedgerView
from actors.spool import SCHEMA, SnapshotNote, Spool
from actors.spool_file import Transaction, UnreadableSpool, delete_file, open_file

_NUMBERED = re.compile(r"^(?P<stem>.*?)(?P<number>\d+)\.sqlite$")
_PATIENCE_S = 0.1
_AT_ONCE = 500


def left_behind(path: Path, workers: int) -> tuple[Path, ...]:
    """Return the spools beside `path`, a worker's own, that the worker is to take over when there are `workers`."""
    own = _NUMBERED.match(path.name)
    if own is None:
        return ()
    found = []
    for other in sorted(path.parent.glob("*.sqlite")):
        match = _NUMBERED.match(other.name)
        if match is None or match["stem"] != own["stem"]:
            continue
        if int(match["number"]) >= workers and int(match["number"]) % workers == int(own["number"]):
            found.append(other)
    return tuple(found)


def take_over(spool: Spool, others: Sequence[Path], view: LedgerView) -> tuple[list[Path], str | None]:
    """Move what lies in other spools into this one; return those that are left, and what is to be said of them."""
    left: list[Path] = []
    trouble: str | None = None
    for path in others:
        try:
            _take(spool, path, view)
        except (UnreadableSpool, sqlite3.DatabaseError) as error:
            if path.exists():
                left.append(path)
                trouble = f"spool {path.name} of a worker that is no more was not taken over: {error}"
    return left, trouble


def _take(spool: Spool, path: Path, view: LedgerView) -> None:
    if not path.exists():
        return
    with closing(open_file(path, SCHEMA, patience_s=_PATIENCE_S)) as db:
        facts = dict(db.execute("SELECT name, value FROM facts").fetchall())
        note = SnapshotNote(facts["lineage"], facts["run"], int(facts["snapshot"])) if "lineage" in facts else None
        if note is not None and not note.precedes(view):
            raise UnreadableSpool(f"it was led after {note}, which {SnapshotNote.of(view)} does not descend from")
        logs = {name: value for name, value in facts.items() if name.startswith("log ")}
        if any((spool.fact(name) or value) != value for name, value in {**logs, **_template(facts)}.items()):
            raise UnreadableSpool("it was read from another log or rendered by another template")
        with Transaction(db):
            spool.take(
                _batches(db, "rows", "topic, part, pos, domain, record_id, held_out, prompt, completion"),
                _batches(db, "markers", "topic, part, pos, domain"),
                db.execute("SELECT topic, part, first, next FROM coverage").fetchall(),
                {**logs, **_template(facts)},
            )
    delete_file(path)


def _template(facts: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in facts.items() if name == "template"}


def _batches(db: sqlite3.Connection, table: str, columns: str) -> list[list[tuple[object, ...]]]:
    cursor = db.execute(f"SELECT {columns} FROM {table}")
    return list(iter(lambda: cursor.fetchmany(_AT_ONCE), []))

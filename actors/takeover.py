"""Spools of workers that are no more: who is there takes their rows over, so that less of the stream is read again.

A file is taken whole, or deleted where it is damaged or does not belong to what is counted: its rows are read again
from the stream, or named as lost. One that a process still has is left for later, and so is one that the machine could
not read, as on a full disk. It knows nothing of what becomes of the rows.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from actors.observation import LedgerView
from actors.packs import Packs, SpooledRow
from actors.spool import SCHEMA, Spool
from actors.spool_facts import SnapshotNote, facts_in
from actors.spool_file import UnreadableSpool, delete_file, is_damage, open_file

_NUMBERED = re.compile(r"^(?P<stem>.*?)(?P<number>\d+)\.sqlite$")
_PATIENCE_S = 0.1


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


def take_over(
    spool: Spool, others: Sequence[Path], view: LedgerView, deleted: list[str]
) -> tuple[list[Path], str | None]:
    """Move what lies in other spools into this one, which has followed `view`.

    Returns those that are left for later, and what is to be said of them and of those that were deleted: that is kept
    in `deleted`, from one call to the next. Raises what `Spool.take` raises where this spool is damaged.
    """
    left: list[Path] = []
    troubles: list[str] = []
    for path in others:
        said = f"spool {path.name} of a worker that is no more was not taken over"
        try:
            if path.exists() and (why := _take(spool, path, view)) is not None:
                deleted.append(f"{said} but deleted: {why}; what lay in it is read again from the stream")
        except (sqlite3.Error, OSError) as error:
            if is_damage(error):
                # This spool's own: of the other it would have been a reason to delete that.
                raise
            left.append(path)
            troubles.append(f"{said} yet, and nothing is given up before: {error}; if that stays so, delete the file")
    return left, "; ".join([*deleted, *troubles]) or None


class _Content(NamedTuple):
    """All that lies in a spool, markers and coverage as its tables have them, and what it was made by."""

    rows: list[list[SpooledRow]]
    markers: list[tuple[str, int, int, str]]
    coverage: list[tuple[str, int, int, int]]
    made_by: dict[str, str]


def _take(spool: Spool, path: Path, view: LedgerView) -> str | None:
    """Take over one spool and delete it; returns why nothing of it was taken, or None."""
    try:
        with closing(open_file(path, SCHEMA, patience_s=_PATIENCE_S)) as db:
            content = _content(db, spool, view)
            # While nobody else can open it.
            spool.take(*content)
    except UnreadableSpool as error:
        why: str | None = str(error)
    else:
        why = None
    delete_file(path)
    return why


def _content(db: sqlite3.Connection, spool: Spool, view: LedgerView) -> _Content:
    """Read a spool; raises `UnreadableSpool` where it is damaged or does not belong to what is counted here."""
    facts = facts_in(db)
    note = SnapshotNote.among(facts)
    if note is not None and not note.precedes(view):
        raise UnreadableSpool(f"it was led after {note}, which {SnapshotNote.of(view)} does not descend from")
    made_by = {name: str(value) for name, value in facts.items() if name == "template" or name.startswith("log ")}
    expected = {name: spool.fact(name) for name in made_by} | {f"log {topic}": log for topic, log in view.logs.items()}
    is_former = any(facts.get(f"taken {topic}") != str(times) for topic, times in view.taken.items())
    if is_former or any((expected[name] or value) != value for name, value in made_by.items()):
        raise UnreadableSpool("it was read from another log or rendered by another template")
    try:
        return _Content(
            list(Packs(db).all()),
            db.execute("SELECT topic, part, pos, domain FROM markers").fetchall(),
            db.execute("SELECT topic, part, first, next FROM coverage").fetchall(),
            made_by,
        )
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            raise UnreadableSpool(f"it is damaged ({error})") from error
        raise

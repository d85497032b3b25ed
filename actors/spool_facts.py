"""What a spool's file says of itself: the snapshot it was led after, and for which removals it was made anew.

Facts are texts by name. They are read from files that anything may have happened to, so what is none is damage.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Mapping
from hashlib import blake2b
from typing import NamedTuple

from actors.observation import LedgerView, Watermarks
from actors.spool_file import UnreadableSpool, is_damage


class SnapshotNote(NamedTuple):
    """The snapshot that a spool was led after last; number 0 where there was none yet."""

    lineage: str
    run: str
    snapshot: int

    @classmethod
    def of(cls, view: LedgerView) -> SnapshotNote:
        """Return the note of the snapshot in force."""
        return cls(view.lineage, view.runs[-1].name if view.runs else "", view.snapshot)

    @classmethod
    def among(cls, facts: Mapping[str, object]) -> SnapshotNote | None:
        """Return what the facts in a spool's file say, or None before its first view.

        Raises `UnreadableSpool` where they are none that a spool notes.
        """
        found = [facts.get(name) for name in cls._fields]
        if found == [None] * len(found):
            return None
        texts = [value for value in found if isinstance(value, str)]
        if len(texts) < len(found) or re.fullmatch("[0-9]{1,18}", texts[-1]) is None:
            what = f"expected lineage, run and number of a snapshot in it, got {str(found)[:120]}"
            raise UnreadableSpool(f"it is damaged ({what})")
        return cls(texts[0], texts[1], int(texts[2]))

    def precedes(self, view: LedgerView) -> bool:
        """Tell whether the snapshot in force is this one or descends from it."""
        if self.snapshot == 0:
            return self.lineage == view.lineage
        return view.follows(*self)

    def __str__(self) -> str:
        return f"snapshot {self.snapshot} (run {self.run[:8] or 'none'}, home {self.lineage[:8]})"


def facts_in(db: sqlite3.Connection) -> dict[str, object]:
    """Return all facts that were noted in a spool's file; raises `UnreadableSpool` where they are damaged."""
    try:
        return dict(db.execute("SELECT name, value FROM facts").fetchall())
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            raise UnreadableSpool(f"it is damaged ({error})") from error
        raise


def removals(removed: Collection[str], fences: Mapping[str, Watermarks]) -> str:
    """Return what stands for the removals of these domains, "" for none: a removal raises the fence of its domain.

    So does a publication of one that was removed and fed again; that can't be told apart and costs a wipe as well.
    """
    if not removed:
        return ""
    known = [(domain, sorted(fences.get(domain, {}).items())) for domain in sorted(removed)]
    return blake2b(repr(known).encode(), digest_size=16).hexdigest()

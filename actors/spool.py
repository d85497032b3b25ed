"""What one ingest worker keeps of the stream until its domains are published: a cache, which may be deleted any time.

One SQLite file. Rows lie in it by topic, partition and offset (`packs`), so spooling a record twice is spooling it
once, and the offsets that were covered are stored in the same transaction. What was stored last is in memory as well,
for the one who reads on. What becomes of a row the router's ledger says alone: the spool is led after its snapshots,
drops what they have settled, and notes by which one it did. A router that does not descend from that one is refused: it
may ask for rows that are not here any more, and nobody would read them again.

A row holds the prompt as it was rendered when it came, and that text is featured and trained on: a file whose rows were
rendered by another template is refused. The spool knows nothing of features, training or publication.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors import packs
from actors.coverage import Coverage, Span
from actors.errors import OtherHome, SpoolAhead
from actors.fresh_rows import FreshRows
from actors.observation import Int64, LedgerView, Marker, Watermarks
from actors.packs import Added, Amount, Packs, SpooledRow
from actors.spool_facts import SnapshotNote, facts_in, removals
from actors.spool_file import Transaction, UnreadableSpool, delete_file, open_file
from streaming.source import TopicPartition

SCHEMA = f"""{packs.SCHEMA}
CREATE TABLE IF NOT EXISTS markers (
    topic TEXT NOT NULL, part INTEGER NOT NULL, pos INTEGER NOT NULL, domain TEXT NOT NULL,
    PRIMARY KEY (topic, part, pos)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS coverage (
    topic TEXT NOT NULL, part INTEGER NOT NULL, first INTEGER NOT NULL, next INTEGER NOT NULL,
    PRIMARY KEY (topic, part, first)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_WIPED = "wiped"
"""The fact for which removals the file was made anew last."""
_WIPE_AGAIN_S = 30.0
"""At least, as a wipe writes everything that is left."""
_FOR_EVER = 2**63 - 1
"""Beyond every offset."""
_STRETCH = "topic=? AND part=? AND pos>=? AND pos<?"
_REREAD = "`anabranch home reread` deletes the spools, and the stream is read again"


@dataclass(frozen=True)
class Block:
    """Consecutive rows and markers to observe, and the span of offsets that they cover of their partition."""

    rows: tuple[SpooledRow, ...]
    markers: tuple[Marker, ...]
    spans: Mapping[TopicPartition, tuple[int, int]]


class Spool:
    """The spool of one ingest worker, in the file `path`. Safe to use from several threads.

    A file that can't be read is deleted, and `trouble` says so. Raises `sqlite3.OperationalError` when another process
    has it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trouble: str | None = None
        self._lock = threading.RLock()
        self._fences: Mapping[str, Watermarks] = {}
        self._removals: str | None = None
        """The removals that the snapshot in force knows, as `_WIPED` is noted; None before the first view."""
        self._made_by: dict[str, str] = {}
        """Facts of what is read into the file, whichever file it is: its logs and the template."""
        self._wipe_at = 0.0
        self._counted: tuple[int, dict[str, Amount]] = (-1, {})
        """What there is of each domain, as of a number of changes to the file."""
        self._fresh = FreshRows()
        self._last_block: TopicPartition | None = None
        self._open()

    def _open(self) -> None:
        try:
            self._db = open_file(self.path, SCHEMA)
            try:
                SnapshotNote.among(facts_in(self._db))
            except BaseException:
                self._db.close()
                raise
        except UnreadableSpool as error:
            self._delete(str(error))
        self._hold()

    def _hold(self) -> None:
        self.coverage, self._packs = Coverage(self._db), Packs(self._db)
        self._counted = (-1, {})
        self._fresh.clear()

    def _delete(self, why: str) -> None:
        delete_file(self.path)
        self.trouble = f"spool {self.path.name}: {why}; it was deleted, and the stream is read again"
        self._db = open_file(self.path, SCHEMA)

    def begin_anew(self, why: str) -> None:
        """Delete the file and go on with an empty one: whatever was covered has to be read again."""
        with self._lock:
            self._db.close()
            self._delete(why)
            for name, value in self._made_by.items():
                self.note(name, value)
            self._hold()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    # -- what it holds, and for whom ----------------------------------------------------------------------------------

    def check_template(self, digest: str) -> None:
        """Raise `OtherHome` when rows wait that were rendered by another template than the one of this digest."""
        with self._lock:
            if self.fact("template") == digest:
                self._made_by["template"] = digest
                return
            if rows := self.size():
                raise OtherHome(
                    f"spool {self.path.name}: holds {rows} examples rendered by another prompt template; set "
                    "base.chat_template, base.terminator and the tokenizer back until their domains are published; or "
                    + _REREAD
                )
            self._note_made_by("template", digest)

    def fact(self, name: str) -> str | None:
        """Return what was noted under a name, or None."""
        with self._lock:
            row = self._db.execute("SELECT value FROM facts WHERE name=?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def note(self, name: str, value: str) -> None:
        """Keep a fact about what the file holds."""
        with self._lock:
            self._db.execute(
                "INSERT INTO facts VALUES (?,?) ON CONFLICT DO UPDATE SET value=excluded.value", (name, value)
            )

    def log_of(self, topic: str) -> str | None:
        """Return the identity of the log that the topic's rows were read from."""
        return self.fact(f"log {topic}")

    def note_log(self, topic: str, identity: str) -> None:
        """Note the identity of the log that the topic's rows are read from."""
        self._note_made_by(f"log {topic}", identity)

    def _note_made_by(self, name: str, value: str) -> None:
        self._made_by[name] = value
        self.note(name, value)

    def snapshot(self) -> SnapshotNote | None:
        """Return the snapshot that this spool was led after last, or None before the first view."""
        with self._lock:
            return SnapshotNote.among({name: self.fact(name) for name in SnapshotNote._fields})

    def follow(self, view: LedgerView) -> None:
        """Drop what the snapshot in force has settled or removed, and what was read from another log than the ledger's.

        Raises `SpoolAhead` when that snapshot does not descend from the one this spool was led after last.
        """
        with self._lock:
            noted, present = self.snapshot(), SnapshotNote.of(view)
            if noted is not None and not noted.precedes(view):
                raise SpoolAhead(
                    f"spool {self.path.name}: was led after {noted}, which the router's {present} does not descend "
                    f"from, so rows may be missing in it: put that snapshot back, or {_REREAD}"
                )
            if view.fences is not None:
                self._fences, self._removals = view.fences, removals(view.removed, view.fences)
            if noted is None and self._removals and not self.size() and not self.partitions():
                # Nothing was ever in it.
                self.note(_WIPED, self._removals)
            if view.fences is not None or noted != present:
                with Transaction(self._db):
                    self._drop_other_logs(view)
                    self._drop_settled(view.durable)
                    for name, value in zip(SnapshotNote._fields, present, strict=True):
                        self.note(name, str(value))
            self._wipe()

    def _wipe(self) -> None:
        """Make the file anew after a removal: pages and log may still hold texts of the domain, whenever its rows were
        dropped, also long before as those of a published version."""
        due = self._removals
        if due is None or due == (self.fact(_WIPED) or "") or time.monotonic() < self._wipe_at:
            return
        self._wipe_at = time.monotonic() + _WIPE_AGAIN_S
        self._db.execute("VACUUM")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        # After that: cut short, it is done again.
        self.note(_WIPED, due)

    def _drop_other_logs(self, view: LedgerView) -> None:
        for topic, identity in view.logs.items():
            if self.log_of(topic) not in (None, identity):
                self._drop_topic(topic)
        for topic, times in view.taken.items():
            if self.fact(f"taken {topic}") != str(times):
                self._drop_topic(topic)
                self._note_made_by(f"taken {topic}", str(times))

    def _drop_topic(self, topic: str) -> None:
        for table in ("packs", "markers", "coverage"):
            self._db.execute(f"DELETE FROM {table} WHERE topic=?", (topic,))
        self._fresh.clear()
        # The fences of another log begin anew, so by them two removals may look like one.
        self._db.execute("DELETE FROM facts WHERE name IN (?,?)", (f"log {topic}", _WIPED))

    def _drop_settled(self, durable: Watermarks) -> None:
        for domain in self.counts():
            for partition, offset in self._fences.get(domain, {}).items():
                if self._packs.drop_below(domain, partition, offset):
                    self._fresh.forget(partition)
        for partition, offset in durable.items():
            self._db.execute("DELETE FROM markers WHERE topic=? AND part=? AND pos<?", (*partition, offset))

    # -- filling ------------------------------------------------------------------------------------------------------

    def continuation(self, partition: TopicPartition, offset: int) -> int:
        """Return where reading has to go on, so that everything from `offset` on is covered without a hole."""
        with self._lock:
            end = self.coverage.reaches(partition, offset)
        return offset if end is None else end

    def append(self, rows: Iterable[SpooledRow], markers: Iterable[Marker], spans: Iterable[Span]) -> None:
        """Store rows and markers and cover `spans`, in one transaction.

        What is there already stays; rows below a fence of the snapshot in force are not taken.
        """
        with self._lock:
            kept, spans = list(rows), list(spans)
            if not self._fences.keys().isdisjoint({row.domain for row in kept}):
                kept = [row for row in kept if row.offset >= self._fence(row.domain, row.partition)]
            unread = [span for span in spans if not self.coverage.within(*span)]
            before = self._db.total_changes
            with Transaction(self._db):
                added = self._packs.add(kept)
                self._db.executemany(
                    "INSERT INTO markers VALUES (?,?,?,?) ON CONFLICT DO NOTHING",
                    [(*m.partition, m.offset, m.domain) for m in markers],
                )
                for span in spans:
                    self.coverage.add(span)
            if self._counted[0] == before:
                tallies = dict(self._counted[1])
                for domain, amount in (item for each in added for item in each.amounts.items()):
                    tallies[domain] = tallies.get(domain, Amount()).plus(amount)
                self._counted = (self._db.total_changes, tallies)
            self._hand_over(added, unread)

    def _hand_over(self, added: Sequence[Added], unread: Sequence[Span]) -> None:
        """Keep what was just added at hand, where it is all that there is of a stretch."""
        by_partition = {each.partition: each for each in added}
        for partition in by_partition.keys() | {span.partition for span in unread}:
            _, rows, amounts = by_partition.get(partition, Added(partition, [], {}))
            spans = [span for span in unread if span.partition == partition]
            if len(spans) == 1 and (not rows or (spans[0].first <= rows[0].offset and rows[-1].offset < spans[0].end)):
                self._fresh.add(spans[0], rows, sum(amount.size for amount in amounts.values()))
            else:
                self._fresh.forget(partition)

    def take(
        self,
        rows: Iterable[Iterable[SpooledRow]],
        markers: Iterable[tuple[str, int, int, str]],
        coverage: Iterable[tuple[str, int, int, int]],
        facts: Mapping[str, str],
    ) -> None:
        """Take in what lay in another spool, markers and coverage as the tables have them, in one transaction.

        What is there already stays; rows below a fence are not taken, so that nothing of what was removed comes over.
        """
        with self._lock, Transaction(self._db):
            self._fresh.clear()
            for some in rows:
                self._packs.add([row for row in some if row.offset >= self._fence(row.domain, row.partition)])
            self._db.executemany("INSERT INTO markers VALUES (?,?,?,?) ON CONFLICT DO NOTHING", markers)
            for topic, part, first, end in coverage:
                self.coverage.add(Span(TopicPartition(topic, part), first, end))
            for name, value in facts.items():
                self.note(name, value)

    def _fence(self, domain: str, partition: TopicPartition) -> int:
        return self._fences.get(domain, {}).get(partition, 0)

    def turn(self, places: Iterable[tuple[TopicPartition, int]]) -> None:
        """Put single rows on the other side of the exam, where the ledger has them."""
        self._change(places, lambda row: row._replace(held_out=not row.held_out))

    def discard(self, places: Iterable[tuple[TopicPartition, int]]) -> None:
        """Delete single rows, which the ledger has elsewhere or not at all."""
        self._change(places, lambda _: None)

    def _change(
        self, places: Iterable[tuple[TopicPartition, int]], change: Callable[[SpooledRow], SpooledRow | None]
    ) -> None:
        by_partition: dict[TopicPartition, list[int]] = {}
        for partition, offset in places:
            by_partition.setdefault(partition, []).append(offset)
        with self._lock, Transaction(self._db):
            for partition, offsets in by_partition.items():
                self._fresh.forget(partition)
                self._packs.change(partition, offsets, change)

    # -- asking -------------------------------------------------------------------------------------------------------

    def block(self, observed: Watermarks, limit: int) -> Block | None:
        """Return up to `limit` rows and as many markers of one partition that the router has not counted, in stream
        order; None when it has counted everything.

        No block holds rows of a domain from before and behind its marker, whose sums would have to be told apart. A
        partition that `observed` doesn't name begins at offset 0. Where it stands in a hole of the coverage, nothing of
        it is returned.
        """
        with self._lock:
            for partition in self._in_turn(self.coverage.partitions()):
                start = observed.get(partition, 0)
                end = self.coverage.reaches(partition, start)
                if end is None:
                    continue
                self._last_block = partition
                rows, end = self._fresh_or_filed(partition, start, end, limit + 1)
                markers = self._markers(partition, start, end, limit + 1)
                for some in (rows, markers):
                    if len(some) > limit:
                        end = min(end, some[-1].offset)
                end = min([end, *_behind_markers(rows, markers)])
                kept = tuple([row for row in rows if row.offset < end])
                return Block(kept, tuple(m for m in markers if m.offset < end), {partition: (start, end)})
        return None

    def _in_turn(self, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
        """Return the partitions, first those after the one of the last block: none keeps the others waiting."""
        later = [each for each in partitions if self._last_block is not None and each > self._last_block]
        return [*later, *(each for each in partitions if each not in later)]

    def _fresh_or_filed(
        self, partition: TopicPartition, first: int, end: int, limit: int
    ) -> tuple[Sequence[SpooledRow], int]:
        """Return up to `limit` rows of a stretch, in order, and up to where these are all there are, or the limit."""
        fresh = self._fresh.recall(partition, first, limit)
        return fresh if fresh is not None else (self._packs.recall(partition, first, end, limit), end)

    def recall(self, partition: TopicPartition, first: int, end: int, limit: int) -> Sequence[SpooledRow]:
        """Return up to `limit` rows of a stretch of a partition, in order."""
        with self._lock:
            return self._packs.recall(partition, first, end, limit)

    def examples(self, domain: str, until: Watermarks) -> Sequence[SpooledRow]:
        """Return the rows of a domain below `until`."""
        with self._lock:
            return [row for partition, end in until.items() for row in self._packs.of(domain, partition, end)]

    def survey(self, partition: TopicPartition, first: int, end: int) -> tuple[Int64, tuple[Span, ...]]:
        """Return the offsets of the rows of a stretch, and what of the partition was read from its beginning on."""
        with self._lock:
            found = self._packs.offsets(partition, first, end)
            return found, tuple(self.coverage.within(partition, first, _FOR_EVER))

    def holes(self, partition: TopicPartition, first: int, end: int) -> list[Span]:
        """Return what of a stretch was not read."""
        with self._lock:
            return self.coverage.holes(partition, first, end)

    def partitions(self) -> list[TopicPartition]:
        """Return the partitions of which anything was read."""
        with self._lock:
            return self.coverage.partitions()

    def ends(self) -> dict[TopicPartition, int]:
        """Return up to where each of these partitions was read."""
        with self._lock:
            return self.coverage.ends()

    def counts(self) -> dict[str, int]:
        """Return the number of rows of each domain."""
        return {domain: rows for domain, (rows, _) in self._tallies().items()}

    def shares(self, limit: int, limit_bytes: int) -> dict[str, float]:
        """Return how much of a limit of rows and of bytes each domain takes, of the one of which it takes more.

        What the file has beside the texts is laid to the domains as their texts are.
        """
        with self._lock:
            tallies, used = self._tallies(), self.bytes()
        texts = sum(size for _, size in tallies.values()) or 1
        return {d: max(rows / limit, size / texts * used / limit_bytes) for d, (rows, size) in tallies.items()}

    def _tallies(self) -> dict[str, Amount]:
        with self._lock:
            changes = self._db.total_changes
            if self._counted[0] == changes:
                return self._counted[1]
            tallies = self._packs.tallies()
            if not self._db.in_transaction:
                # Which may be rolled back, with no further change.
                self._counted = (changes, tallies)
            return tallies

    def counts_from(self, partition: TopicPartition, offset: int) -> dict[str, int]:
        """Return the number of rows of each domain in a partition, from an offset on."""
        with self._lock:
            return self._packs.counts_from(partition, offset)

    def size(self) -> int:
        """Return the number of rows held."""
        return sum(self.counts().values())

    def bytes(self) -> int:
        """Return the bytes of the file that are in use."""
        with self._lock:
            pages, free, size = (
                int(self._db.execute(f"PRAGMA {name}").fetchone()[0])
                for name in ("page_count", "freelist_count", "page_size")
            )
        return (pages - free) * size

    def _markers(self, partition: TopicPartition, first: int, end: int, limit: int) -> list[Marker]:
        found = self._db.execute(
            f"SELECT pos, domain FROM markers WHERE {_STRETCH} ORDER BY pos LIMIT ?", (*partition, first, end, limit)
        ).fetchall()
        return [Marker(partition, pos, domain) for pos, domain in found]


def _behind_markers(rows: Sequence[SpooledRow], markers: Sequence[Marker]) -> list[int]:
    """Return where rows of a domain lie behind a marker of it; all are of one partition, in order."""
    if not markers:
        return []
    ended: dict[str, int] = {}
    for marker in markers:
        ended.setdefault(marker.domain, marker.offset)
    return [row.offset for row in rows if row.offset > ended.get(row.domain, row.offset)]

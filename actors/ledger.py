"""The ledger: what has become of every row of the stream, known once.

Of each partition it holds up to where rows were decided on (`observed`), of each domain its examples in three states:

    open       counted in the sums, to be trained on or held out; the row is the one at the place where it was counted
    settled    part of a version's training or exam that was published: nothing is asked of the row any more
    lost       counted, but its text can be read nowhere; the same example sent again is taken in its place, on the
               same side of the exam

and a fence: offsets below which no row of the domain is ever taken. A seal names the open rows that a version is
trained on, before it is trained, so that a crash in between changes nothing about which these are. Everything that
spools and coordinator hold is a cache of this, or follows from it.

Values and rules only: it knows neither sums nor publication, and of storage only that settled digests lie there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from actors.errors import NotCaughtUp, OtherHome, UnknownDomain
from actors.observation import Fate, Int64, Loss, Marker, Observation, OpenDomain, RowKey, Seal, Watermarks
from registry.digests import DigestRuns
from streaming.source import TopicPartition

Offsets = dict[TopicPartition, int]


@dataclass(frozen=True, slots=True)
class OpenRow:
    """Where an example was counted, and whether it is held out."""

    partition: TopicPartition
    offset: int
    held_out: bool

    def is_below(self, watermarks: Watermarks) -> bool:
        """Tell whether it lies below its partition's offset."""
        return self.offset < watermarks.get(self.partition, 0)


@dataclass
class DomainEntry:
    """One domain in the ledger."""

    settled: DigestRuns
    open: dict[bytes, OpenRow] = field(default_factory=dict)
    lost: dict[bytes, OpenRow] = field(default_factory=dict)
    fence: Offsets = field(default_factory=dict)
    markers: Offsets = field(default_factory=dict)
    tried: Offsets = field(default_factory=dict)
    """Up to where the last rejected version was trained: rows below are tried again together with fresh ones only."""
    seal: Seal | None = None
    versions: list[tuple[int, int]] = field(default_factory=list)
    """Numbers of the versions that were published, as stretches from first to last: others were rejected or undone."""
    files: dict[str, str] = field(default_factory=dict)
    """Segments that hold `open` and `lost` as they are; one that is absent is to be written."""
    described: OpenDomain | None = None
    """What `Ledger.open` said last, while nothing has changed since."""
    offsets: dict[TopicPartition, Int64] | None = field(default=None, compare=False)
    """The offsets of the open rows in order, while nothing has changed since."""

    def copy(self) -> DomainEntry:
        """Return an entry that may be changed apart from this one."""
        return replace(
            self,
            open=dict(self.open),
            lost=dict(self.lost),
            fence=dict(self.fence),
            markers=dict(self.markers),
            tried=dict(self.tried),
            versions=list(self.versions),
            files=dict(self.files),
        )

    @property
    def examples(self) -> int:
        """Distinct examples, whatever has become of them."""
        return len(self.open) + len(self.lost) + self.settled.count

    def note(self, version: int) -> None:
        """Note that a version was published."""
        first = version
        if self.versions and self.versions[-1][1] == version - 1:
            first, _ = self.versions.pop()
        self.versions.append((first, version))

    def pass_markers(self, until: Watermarks) -> None:
        """Drop the markers below these offsets: what they ended was sealed or given up."""
        self.markers = {p: offset for p, offset in self.markers.items() if offset >= until.get(p, 0)}

    def fate(self, row: RowKey, observed: int) -> Fate:
        """Say what becomes of a row, by the offset up to which its partition was decided on."""
        if row.offset < self.fence.get(row.partition, 0):
            return "gone"
        known = self.open.get(row.digest)
        if known is not None:
            if (known.partition, known.offset) != (row.partition, row.offset):
                return "gone"
            return "counted" if known.held_out == row.held_out else "turned"
        if row.offset < observed:
            # Decided on before, and not kept: settled, removed, refused, or counted elsewhere.
            return "gone"
        lost = self.lost.get(row.digest)
        if lost is None:
            return "new"
        return "lost" if lost.held_out == row.held_out else "turned"


class Ledger:
    """The state of all rows. Changes are made on a `copy` where they are to be committed with something else."""

    def __init__(self, nothing: DigestRuns) -> None:
        self._nothing = nothing
        self.observed: Offsets = {}
        """Next offset to be decided on; a partition that is absent stands at 0."""
        self.logs: dict[str, str] = {}
        self.taken: dict[str, int] = {}
        self.unread: list[Loss] = []
        self.entries: dict[str, DomainEntry] = {}
        self._shared: set[str] = set()

    def copy(self) -> Ledger:
        """Return a ledger that may be changed while this one stays as it is, for as long as only one of them is."""
        other = Ledger(self._nothing)
        other.observed, other.unread = dict(self.observed), list(self.unread)
        other.logs, other.taken = dict(self.logs), dict(self.taken)
        other.entries, other._shared = dict(self.entries), set(self.entries)
        return other

    def differs_from(self, other: Ledger) -> bool:
        """Tell whether anything was changed since it was copied from `other`."""
        mine, theirs = self.entries, other.entries
        return self.unread != other.unread or any(mine[domain] is not theirs.get(domain) for domain in mine)

    # -- rows ---------------------------------------------------------------------------------------------------------

    def fates(self, rows: Sequence[RowKey]) -> tuple[Fate, ...]:
        """Say what becomes of each row, were it alone."""
        found: list[Fate] = []
        unknown: dict[str, list[int]] = {}
        for place, row in enumerate(rows):
            entry = self.entries.get(row.domain)
            observed = self.observed.get(row.partition, 0)
            fate = (entry or DomainEntry(self._nothing)).fate(row, observed)
            found.append(fate)
            if fate == "new" and entry is not None:
                unknown.setdefault(row.domain, []).append(place)
        for domain, places in unknown.items():
            settled = self.entries[domain].settled.contains([rows[place].digest for place in places])
            for place, is_settled in zip(places, settled, strict=True):
                if is_settled:
                    found[place] = "gone"
        return tuple(found)

    def check_logs(self, logs: Mapping[str, str]) -> None:
        """Raise `OtherHome` where a topic's log is another than the one that was counted."""
        for topic, found in logs.items():
            known = self.logs.get(topic, found)
            if known != found:
                raise OtherHome(
                    f"topic {topic!r} is another log than the one that was counted: expected identity {known}, got "
                    f"{found}; put the old one back, or go on with the new one by: anabranch home take-log HOME {topic}"
                )

    def apply(self, observation: Observation, fates: Sequence[Fate]) -> None:
        """Take in an observation whose rows have these fates, `new` or `lost`."""
        self.logs.update(observation.logs)
        for row, fate in zip(observation.rows, fates, strict=True):
            entry = self._change(row.domain)
            if fate == "lost":
                entry.lost.pop(row.digest)
                entry.files.pop("lost", None)
            entry.open[row.digest] = OpenRow(row.partition, row.offset, row.held_out)
            entry.files.pop("open", None)
        for marker in observation.markers:
            self._mark(marker)
        self.observed.update({partition: end for partition, (_, end) in observation.spans.items()})

    def ends(self, observation: Observation) -> dict[tuple[str, TopicPartition], int]:
        """Return where domains of an observation are marked to end, by domain and partition, once it is taken in."""
        found: dict[tuple[str, TopicPartition], int] = {}
        for domain in {*(row.domain for row in observation.rows), *(marker.domain for marker in observation.markers)}:
            entry = self.entries.get(domain)
            found.update({(domain, p): offset for p, offset in (entry.markers if entry else {}).items()})
        for domain, partition, offset in ((m.domain, m.partition, m.offset) for m in observation.markers):
            entry = self.entries.get(domain)
            if offset >= (entry.fence.get(partition, 0) if entry else 0):
                found[domain, partition] = max(offset, found.get((domain, partition), 0))
        return found

    def _mark(self, marker: Marker) -> None:
        entry = self._change(marker.domain)
        if marker.offset >= entry.fence.get(marker.partition, 0):
            entry.markers[marker.partition] = max(marker.offset, entry.markers.get(marker.partition, 0))

    # -- what a version is trained on ---------------------------------------------------------------------------------

    def seal(self, domain: str, version: int, until: Watermarks) -> Seal:
        """Seal the domain's open rows below `until`; one that is sealed already keeps its seal, which is returned.

        A partition that does not end at a marker is sealed up to where it was counted by now, so that what is open
        afterwards lies behind markers or was counted later. Raises `NotCaughtUp` where not everything below `until` is
        decided on, `UnknownDomain` where there is nothing to train.
        """
        behind = {f"{p}": (end, self.observed.get(p, 0)) for p, end in until.items() if self.observed.get(p, 0) < end}
        if behind:
            raise NotCaughtUp(f"the router is behind what is to be sealed of {domain} (needed, reached): {behind}")
        known = self.entries.get(domain)
        if known is not None and known.seal is not None:
            return known.seal
        until = self._reach(known.markers if known else {}, until)
        seal = _sealed(known.open.values() if known else (), version, until)
        if seal.train == 0:
            raise UnknownDomain(f"domain {domain!r} has no example to train on that is not settled")
        self._change(domain).seal = seal
        return seal

    def _reach(self, markers: Watermarks, until: Watermarks) -> Offsets:
        ends = {partition: offset + 1 for partition, offset in markers.items()}
        return {
            partition: min(ends.get(partition, observed), observed)
            if until.get(partition, 0) <= ends.get(partition, 0)
            else observed
            for partition, observed in self.observed.items()
        }

    def settle(self, domain: str) -> None:
        """Settle what is sealed of a domain, and fence it off."""
        entry = self._change(domain)
        if entry.seal is None:
            raise UnknownDomain(f"domain {domain!r} has nothing sealed to settle")
        until = entry.seal.until
        done = [digest for digest, row in entry.open.items() if row.is_below(until)]
        entry.settled = entry.settled.plus(done)
        for digest in done:
            del entry.open[digest]
        entry.files.pop("open", None)
        _raise_to(entry.fence, until)
        entry.pass_markers(until)
        entry.note(entry.seal.version)
        entry.tried, entry.seal = {}, None

    def note(self, domain: str, version: int) -> None:
        """Note a version that settles nothing: it was made of what others had learned, with another domain's."""
        self._change(domain).note(version)

    def renumber(self, domain: str, version: int, other: int) -> None:
        """Seal for another version what is sealed for this one: the same rows."""
        known = self.entries.get(domain)
        if known is not None and known.seal is not None and known.seal.version == version:
            self._change(domain).seal = replace(known.seal, version=other)

    def reopen(self, domain: str, version: int) -> None:
        """Open the rows of a rejected version again: they join the next training of the domain."""
        known = self.entries.get(domain)
        if known is None or known.seal is None or known.seal.version != version:
            return
        entry = self._change(domain)
        _raise_to(entry.tried, known.seal.until)
        entry.pass_markers(known.seal.until)
        entry.seal = None

    def drop_markers(self, domain: str, markers: Watermarks) -> None:
        """Drop the markers of a domain at or below these offsets."""
        if domain in self.entries:
            entry = self._change(domain)
            entry.markers = {p: offset for p, offset in entry.markers.items() if offset > markers.get(p, -1)}

    # -- what goes ----------------------------------------------------------------------------------------------------

    def remove(self, domain: str, fence: Watermarks) -> None:
        """Forget a domain's examples, and fence off everything up to `observed` and up to `fence`."""
        entry = DomainEntry(self._nothing, fence=dict(self.entries[domain].fence) if domain in self.entries else {})
        _raise_to(entry.fence, self.observed)
        _raise_to(entry.fence, fence)
        self.entries[domain] = entry
        self._shared.discard(domain)

    def lose(self, offsets: Mapping[TopicPartition, Collection[int]], unlearned: Collection[str]) -> None:
        """Note that the rows at these places can be read nowhere any more.

        What is sealed stays so, as a version may have been trained on it; but for the domains in `unlearned`, whose
        sealed version is neither learned nor being learned: theirs is made of what is left.
        """
        gone = {partition: frozenset(some) for partition, some in offsets.items()}
        for domain, known in list(self.entries.items()):
            keeps = known.seal.until if known.seal is not None and domain not in unlearned else {}
            lost = {
                digest: row
                for digest, row in known.open.items()
                if row.offset in gone.get(row.partition, ()) and not row.is_below(keeps)
            }
            if lost:
                self._lose(self._change(domain), lost)

    def _lose(self, entry: DomainEntry, lost: Mapping[bytes, OpenRow]) -> None:
        entry.lost.update(lost)
        for digest in lost:
            del entry.open[digest]
        entry.files.clear()
        if entry.seal is not None:
            seal = _sealed(entry.open.values(), entry.seal.version, entry.seal.until)
            if seal.train == 0:
                entry.pass_markers(seal.until)
            entry.seal = seal if seal.train else None

    def skip(self, partition: TopicPartition, first: int, end: int) -> None:
        """Note that nobody has read or can read offsets `first` up to `end`; what was decided on of them is none."""
        self._note_unread(partition, max(first, self.observed.get(partition, 0)), end)

    def give_up(self, domain: str, until: Watermarks) -> None:
        """Give up the domain's open rows below `until`, which no version is made of: they are lost, and fenced off.

        Sent again they are taken like any that were lost. What is sealed is not given up.
        """
        known = self.entries.get(domain)
        if known is None or known.seal is not None:
            return
        lost = {digest: row for digest, row in known.open.items() if row.is_below(until)}
        if not lost:
            return
        entry = self._change(domain)
        self._lose(entry, lost)
        _raise_to(entry.fence, until)
        entry.pass_markers(until)
        entry.tried = {p: offset for p, offset in entry.tried.items() if offset > until.get(p, 0)}

    def _note_unread(self, partition: TopicPartition, first: int, end: int) -> None:
        if first >= end:
            return
        touching = [e for e in self.unread if e.partition == partition and e.first <= end and e.last + 1 >= first]
        joined = Loss(
            partition,
            min([first, *(each.first for each in touching)]),
            max([end - 1, *(each.last for each in touching)]),
            0,
        )
        if touching != [joined]:
            self.unread = [each for each in self.unread if each not in touching]
            self.unread.append(joined)

    def take_log(self, topic: str, unlearned: Collection[str]) -> int:
        """Begin the topic's partitions anew, as another log stands under its name; returns the rows lost by it.

        What was decided of the former log stays so, under a name of its own: a version that is sealed over it and
        learned may still be published. `unlearned` as for `lose`.
        """
        self.taken[topic] = self.taken.get(topic, 0) + 1
        former = _Renamed(topic, f"{topic} (log {self.taken[topic]})")
        lost = sum(len(entry.lost) for entry in self.entries.values())
        self.lose({p: some.tolist() for p, some in self.open_offsets().items() if p.topic == topic}, unlearned)
        rows = sum(len(entry.lost) for entry in self.entries.values()) - lost
        for domain in self.entries:
            entry = self._change(domain)
            entry.open = {digest: former.row(row) for digest, row in entry.open.items()}
            entry.lost = {digest: former.row(row) for digest, row in entry.lost.items()}
            entry.fence, entry.markers = former.without(entry.fence), former.without(entry.markers)
            entry.tried = former.without(entry.tried)
            if entry.seal is not None:
                entry.seal = replace(entry.seal, until={former.place(p): end for p, end in entry.seal.until.items()})
            entry.files.clear()
        self.unread = [replace(loss, partition=former.place(loss.partition)) for loss in self.unread]
        self.observed = former.without(self.observed)
        self.logs.pop(topic, None)
        return rows

    # -- what it says -------------------------------------------------------------------------------------------------

    def low(self) -> Offsets:
        """Return, of each partition, the offset below which everything is settled, lost or gone."""
        low = dict(self.observed)
        for entry in self.entries.values():
            for row in entry.open.values():
                if row.offset < low.get(row.partition, 0):
                    low[row.partition] = row.offset
        return low

    def open_offsets(self) -> dict[TopicPartition, Int64]:
        """Return the offsets of all open rows in order, by partition."""
        parts: dict[TopicPartition, list[Int64]] = {}
        for entry in self.entries.values():
            if entry.offsets is None:
                entry.offsets = _offsets(entry.open.values())
            for partition, offsets in entry.offsets.items():
                parts.setdefault(partition, []).append(offsets)
        return {partition: np.sort(np.concatenate(some)) for partition, some in parts.items()}

    def fences(self) -> dict[str, Watermarks]:
        """Return the fence of each domain that has one."""
        return {domain: dict(entry.fence) for domain, entry in self.entries.items() if entry.fence}

    def examples(self) -> dict[str, int]:
        """Return the number of distinct examples of each domain, held-out ones included."""
        return {domain: entry.examples for domain, entry in sorted(self.entries.items()) if entry.examples}

    def versions(self, domain: str) -> frozenset[int]:
        """Return the numbers of the domain's versions that were published, along what is in force."""
        entry = self.entries.get(domain)
        return frozenset(v for first, last in (entry.versions if entry else ()) for v in range(first, last + 1))

    def open(self) -> dict[str, OpenDomain]:
        """Describe every domain that has open or lost rows or a marker."""
        found = {domain: self._describe(entry) for domain, entry in self.entries.items()}
        return {domain: each for domain, each in found.items() if each != OpenDomain()}

    def tidy(self) -> None:
        """Join the runs of settled digests of each domain: the same sets in fewer files."""
        for domain, entry in list(self.entries.items()):
            merged = entry.settled.merged()
            if merged is not entry.settled:
                self._change(domain).settled = merged

    def _describe(self, entry: DomainEntry) -> OpenDomain:
        if entry.described is None:
            entry.described = _describe(entry)
        return entry.described

    def _change(self, domain: str) -> DomainEntry:
        """Return the domain's entry, this ledger's own, about to be changed."""
        if domain not in self.entries:
            self.entries[domain] = DomainEntry(self._nothing)
        elif domain in self._shared:
            self.entries[domain] = self.entries[domain].copy()
        self._shared.discard(domain)
        entry = self.entries[domain]
        entry.described = entry.offsets = None
        return entry


@dataclass(frozen=True)
class _Renamed:
    """A topic under another name."""

    topic: str
    name: str

    def place(self, partition: TopicPartition) -> TopicPartition:
        return TopicPartition(self.name, partition.partition) if partition.topic == self.topic else partition

    def row(self, row: OpenRow) -> OpenRow:
        return replace(row, partition=self.place(row.partition)) if row.partition.topic == self.topic else row

    def without(self, offsets: Watermarks) -> Offsets:
        return {partition: offset for partition, offset in offsets.items() if partition.topic != self.topic}


def _raise_to(offsets: Offsets, others: Watermarks) -> None:
    for partition, offset in others.items():
        offsets[partition] = max(offset, offsets.get(partition, 0))


def _offsets(rows: Iterable[OpenRow]) -> dict[TopicPartition, Int64]:
    found: dict[TopicPartition, list[int]] = {}
    for row in rows:
        found.setdefault(row.partition, []).append(row.offset)
    return {partition: np.array(offsets, dtype=np.int64) for partition, offsets in found.items()}


def _sealed(rows: Iterable[OpenRow], version: int, until: Watermarks) -> Seal:
    below = [row.held_out for row in rows if row.is_below(until)]
    return Seal(version, dict(until), len(below) - sum(below), sum(below))


def _describe(entry: DomainEntry) -> OpenDomain:
    seal = entry.seal
    markers = {p: offset for p, offset in entry.markers.items() if seal is None or offset >= seal.until.get(p, 0)}
    train = held_out = fresh = closable = 0
    for row in entry.open.values():
        train, held_out = train + (not row.held_out), held_out + row.held_out
        if row.is_below(entry.tried) or (seal is not None and row.is_below(seal.until)):
            continue
        fresh += 1
        if not row.held_out and row.offset <= markers.get(row.partition, row.offset):
            closable += 1
    return OpenDomain(train, held_out, fresh, closable, markers, seal, _losses(entry.lost.values()))


def _losses(rows: Iterable[OpenRow]) -> tuple[Loss, ...]:
    offsets: dict[TopicPartition, list[int]] = {}
    for row in rows:
        offsets.setdefault(row.partition, []).append(row.offset)
    return tuple(Loss(p, min(lost), max(lost), len(lost)) for p, lost in sorted(offsets.items()))

"""The examples of one domain that are settled, known by digest: an immutable set that grows by sorted runs.

A run is what one publication settled, or several runs joined: its digests in ascending order, in one or more segment
files ("parts", each beyond the one before). Beside its digests a part holds what is needed to look one up, and that
alone is held in memory, about 1.33 bytes a digest:

    filter    Bloom filter of 10 bits a digest, 7 probes by double hashing of the digest's own bytes: it says "absent"
              rightly always, "perhaps there" wrongly for about one digest in a hundred
    firsts    the first digest of each block of 256 digests, by which the one block that could hold a digest is found
    checks    a checksum of each such block
    about     the part's place in its run, and how many digests it holds
    seal      a checksum of all four

So a digest that is not there costs no file, and one that is there costs one block of 4 KiB. Files are mapped for one
call and let go: however many domains and runs there are, no descriptor stays open.

What can be damaged is checked before it is believed: the four held in memory against their seal when a set is
restored, each block against its checksum when an answer or a merge rests on it. So a start does not read the digests,
and yet no answer comes from a damaged file: DigestMismatch is raised instead. That a whole file is what its name says
(sha256) is for whoever checks a home to find out; no lookup does.

What this module does not know: what a digest stands for (it takes digests for 16 bytes of a good hash: the filter and
the slices of a merge rely on their uniformity, correctness does not), who names the files, and when they may go.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from registry.errors import DigestMismatch, RegistryError

if TYPE_CHECKING:
    from registry.segments import SegmentStore

Digests = NDArray[np.bytes_]
"""Digests as `S16`, which compares as their bytes do."""

DIGEST_BYTES = 16
_BLOCK = 256
_PART = 1 << 19
"""Digests of a file: 8 MiB of them, of which a merge holds a few times that."""
_FILTER_BITS = 10
_PROBES = np.arange(7, dtype=np.uint64)
_HASHED_AT_ONCE = 1 << 13
_HELD = ("about", "filter", "firsts", "checks")


class DigestRuns:
    """A set of 16-byte digests over a segment store; `plus` and `merged` give another one and leave this as it is."""

    def __init__(self, store: SegmentStore, runs: Sequence[_Run] = ()) -> None:
        self._store, self._runs = store, tuple(runs)

    @classmethod
    def empty(cls, store: SegmentStore) -> DigestRuns:
        """The set without a digest; it has no files."""
        return cls(store)

    @classmethod
    def restore(cls, store: SegmentStore, names: Sequence[str]) -> DigestRuns:
        """The set whose `names` these are; DigestMismatch if a file is damaged or one of them is missing among them."""
        runs: list[list[_Part]] = []
        for name in names:
            place, part = _Part.load(store, name)
            if place == 0:
                runs.append([])
            if not runs or place != len(runs[-1]):
                raise DigestMismatch(
                    f"segment {name}: expected the first part of a run of digests or the one after the part before it, "
                    f"got part {place}; what named it is damaged: restore it from a backup"
                )
            runs[-1].append(part)
        return cls(store, [_Run(tuple(parts)) for parts in runs])

    @property
    def names(self) -> tuple[str, ...]:
        """The segment files that hold the set, in the order in which `restore` wants them."""
        return tuple(part.name for run in self._runs for part in run.parts)

    @property
    def count(self) -> int:
        """Digests held; one that was added twice counts twice until its runs are merged."""
        return sum(run.count for run in self._runs)

    def contains(self, digests: Sequence[bytes]) -> list[bool]:
        """Tell of each digest whether it is in the set; DigestMismatch where the answer lies in a damaged block."""
        wanted = _array(digests)
        found = np.zeros(len(wanted), dtype=np.bool_)
        for run in self._runs:
            unknown = np.flatnonzero(~found)
            found[unknown] = run.contains(self._store, wanted[unknown])
        return [bool(each) for each in found]

    def plus(self, digests: Collection[bytes]) -> DigestRuns:
        """This set and these digests, durable, as one more run; only they are sorted and written."""
        if not digests:
            return self
        added = np.unique(_array(list(digests)))
        slices = (added[start : start + _PART] for start in range(0, len(added), _PART))
        return DigestRuns(self._store, [*self._runs, _Run.write(self._store, slices)])

    def merged(self) -> DigestRuns:
        """The same set with each run at least twice as large as all smaller ones together; itself if it is so already.

        What has to be joined is joined in one pass, slice by slice of the digests' range: memory is bounded by the
        slice. A digest is written again only when the run that it is in grows by half or more.
        """
        runs = sorted(self._runs, key=lambda run: run.count, reverse=True)
        smaller, first = 0, len(runs)
        for index in reversed(range(len(runs))):
            if smaller and runs[index].count < 2 * smaller:
                first = index
            smaller += runs[index].count
        if first == len(runs):
            return self
        joined = _Run.write(self._store, _join(self._store, runs[first:]))
        return DigestRuns(self._store, [*runs[:first], joined])


@dataclass(frozen=True, eq=False)
class _Run:
    """Parts whose ranges follow each other; no digest is in it twice."""

    parts: tuple[_Part, ...]

    @staticmethod
    def write(store: SegmentStore, slices: Iterator[Digests]) -> _Run:
        """Ascending slices, none of them empty."""
        return _Run(tuple(_Part.write(store, place, digests) for place, digests in enumerate(slices)))

    @property
    def count(self) -> int:
        return sum(part.count for part in self.parts)

    def contains(self, store: SegmentStore, wanted: Digests) -> NDArray[np.bool_]:
        found = np.zeros(len(wanted), dtype=np.bool_)
        starts = np.concatenate([part.firsts[:1] for part in self.parts])
        places = np.searchsorted(starts, wanted, side="right") - 1
        for place in np.unique(places[places >= 0]):
            inside = np.flatnonzero(places == place)
            found[inside] = self.parts[place].contains(store, wanted[inside])
        return found

    def between(self, store: SegmentStore, low: bytes, end: bytes | None) -> Iterator[Digests]:
        """The digests from `low` to below `end`, ascending; None is the end of all."""
        for part in self.parts:
            first = max(int(np.searchsorted(part.firsts, low, side="right")) - 1, 0)
            last = len(part.firsts) if end is None else int(np.searchsorted(part.firsts, end, side="left"))
            if first < last:
                digests = part.read(part.map(store), first, last)
                stop = len(digests) if end is None else int(np.searchsorted(digests, end, side="left"))
                yield digests[int(np.searchsorted(digests, low, side="left")) : stop]


@dataclass(frozen=True, eq=False)
class _Part:
    """What is held in memory of one file of ascending digests."""

    name: str
    count: int
    filter: NDArray[np.uint8]
    firsts: Digests
    checks: NDArray[np.uint32]

    @staticmethod
    def write(store: SegmentStore, place: int, digests: Digests) -> _Part:
        content = np.ascontiguousarray(digests)
        checks = [zlib.crc32(content[start : start + _BLOCK].tobytes()) for start in range(0, len(content), _BLOCK)]
        held: dict[str, NDArray[Any]] = {
            "about": np.array([place, len(content)], dtype=np.int64),
            "filter": _filter(content),
            "firsts": _rows(content[::_BLOCK]),
            "checks": np.array(checks, dtype=np.uint32),
        }
        name = store.put({"digests": _rows(content), **held, "seal": _seal(held)})
        return _Part(name, len(content), held["filter"], _flat(held["firsts"]), held["checks"])

    @staticmethod
    def load(store: SegmentStore, name: str) -> tuple[int, _Part]:
        """The part in that file, and its place in its run."""
        held = {key: np.array(store.map(name, key)) for key in _HELD}
        place, count = (int(each) for each in held["about"]) if held["about"].shape == (2,) else (-1, -1)
        blocks = -(-count // _BLOCK)
        if (
            not np.array_equal(_seal(held), store.map(name, "seal"))
            or held["firsts"].shape != (blocks, DIGEST_BYTES)
            or held["checks"].shape != (blocks,)
        ):
            raise DigestMismatch(
                f"segment {name}: filter and index of its {count} digests: expected what their seal says, got other "
                "bytes; the file was changed: restore it from a backup"
            )
        return place, _Part(name, count, held["filter"], _flat(held["firsts"]), held["checks"])

    def map(self, store: SegmentStore) -> NDArray[np.uint8]:
        mapped: NDArray[np.uint8] = store.map(self.name, "digests")
        if mapped.shape != (self.count, DIGEST_BYTES) or mapped.dtype != np.uint8:
            raise DigestMismatch(
                f"segment {self.name}: expected {self.count} digests of {DIGEST_BYTES} bytes, got {mapped.dtype} of "
                f"shape {mapped.shape}; the file was changed: restore it from a backup"
            )
        return mapped

    def contains(self, store: SegmentStore, wanted: Digests) -> NDArray[np.bool_]:
        """Of digests that are not below the first one."""
        bits = _probes(wanted, 8 * len(self.filter))
        perhaps = ((self.filter[bits >> 3] >> (bits & 7).astype(np.uint8)) & 1).all(axis=1)
        found = np.zeros(len(wanted), dtype=np.bool_)
        if not perhaps.any():
            return found
        mapped = self.map(store)
        asked = np.flatnonzero(perhaps)
        blocks = np.searchsorted(self.firsts, wanted[asked], side="right") - 1
        order = np.argsort(blocks, kind="stable")
        starts = np.flatnonzero(np.diff(blocks[order], prepend=-1))
        for inside in np.split(order, starts[1:]):
            block = int(blocks[inside[0]])
            digests = self.read(mapped, block, block + 1)
            places = np.searchsorted(digests, wanted[asked[inside]], side="right") - 1
            found[asked[inside]] = digests[places] == wanted[asked[inside]]
        return found

    def read(self, mapped: NDArray[np.uint8], first: int, end: int) -> Digests:
        """The digests of blocks `first` to below `end`, checked, in memory of their own."""
        digests = np.array(mapped[first * _BLOCK : end * _BLOCK])
        for block in range(first, end):
            start = (block - first) * _BLOCK
            found = zlib.crc32(digests[start : start + _BLOCK].tobytes())
            if found != self.checks[block]:
                raise DigestMismatch(
                    f"segment {self.name}: block {block} of its digests: expected crc32 {self.checks[block]:08x}, got "
                    f"{found:08x}; the file was changed: restore it from a backup"
                )
        return _flat(digests)


def _join(store: SegmentStore, runs: Sequence[_Run]) -> Iterator[Digests]:
    """The digests of all runs, each once, in ascending slices of about `_PART` of them."""
    slices = -(-sum(run.count for run in runs) // _PART)
    edges = [(index * 256**DIGEST_BYTES // slices).to_bytes(DIGEST_BYTES, "big") for index in range(slices)]
    for low, end in zip(edges, [*edges[1:], None], strict=True):
        pieces = [piece for run in runs for piece in run.between(store, low, end)]
        digests = np.concatenate([np.empty(0, dtype=f"S{DIGEST_BYTES}"), *pieces])
        # Stable is the kind that takes what is ascending already as it is, and joins it.
        digests.sort(kind="stable")
        if len(digests):
            yield digests[np.concatenate([[True], digests[1:] != digests[:-1]])]


def _array(digests: Sequence[bytes]) -> Digests:
    wrong = {len(digest) for digest in digests} - {DIGEST_BYTES}
    if wrong:
        raise RegistryError(f"digests: expected {DIGEST_BYTES} bytes each, got some of {sorted(wrong)}; hash them so")
    return np.frombuffer(b"".join(digests), dtype=f"S{DIGEST_BYTES}")


def _rows(digests: Digests) -> NDArray[np.uint8]:
    return np.ascontiguousarray(digests).view(np.uint8).reshape(-1, DIGEST_BYTES)


def _flat(rows: NDArray[np.uint8]) -> Digests:
    flat: Digests = rows.reshape(-1).view(f"S{DIGEST_BYTES}")
    return flat


def _probes(digests: Digests, bits: int) -> NDArray[np.uint64]:
    """The bits of a filter of `bits` that belong to each digest, [n, 7]."""
    halves = digests.view(">u8").reshape(-1, 2).astype(np.uint64)
    probes: NDArray[np.uint64] = (halves[:, 1:] + _PROBES * (halves[:, :1] | np.uint64(1))) % np.uint64(bits)
    return probes


def _filter(digests: Digests) -> NDArray[np.uint8]:
    held = np.zeros(-(-len(digests) * _FILTER_BITS // 8) * 8, dtype=np.bool_)
    for start in range(0, len(digests), _HASHED_AT_ONCE):
        held[_probes(digests[start : start + _HASHED_AT_ONCE], len(held))] = True
    return np.packbits(held, bitorder="little")


def _seal(held: dict[str, NDArray[Any]]) -> NDArray[np.uint8]:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for key in _HELD:
        digest.update(np.ascontiguousarray(held[key]).tobytes())
    return np.frombuffer(digest.digest(), dtype=np.uint8)

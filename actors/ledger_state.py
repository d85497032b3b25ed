"""The ledger as a snapshot holds it: a small document, and segment files for the rows of each domain.

Only what has changed is written: a domain's rows go into a new segment when they are not the ones that lie there.
This module knows the ledger's fields and none of its rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from actors.ledger import DomainEntry, Ledger, Offsets, OpenRow
from actors.observation import Loss, Seal, Watermarks
from registry.digests import DigestRuns
from registry.segments import SegmentStore
from streaming.source import TopicPartition


def save(ledger: Ledger, store: SegmentStore) -> dict[str, Any]:
    """Write what has changed to `store`, durably, and return the document that names it all."""
    # Every place that rows may name, so that an index means the same partition throughout the document.
    places = _Places()
    observed = places.pairs(ledger.observed)
    domains = {domain: _saved(entry, places, store) for domain, entry in sorted(ledger.entries.items())}
    unread = [[places.index(loss.partition), loss.first, loss.last] for loss in ledger.unread]
    return {
        "observed": observed,
        "low": places.pairs(ledger.low()),
        "logs": dict(ledger.logs),
        "taken": dict(ledger.taken),
        "unread": unread,
        "domains": domains,
        "partitions": places.known,
    }


def restore(document: Mapping[str, Any], store: SegmentStore) -> Ledger:
    """The inverse of `save`: raises KeyError or ValueError where the document is of another form."""
    partitions = [TopicPartition(topic, number) for topic, number in document["partitions"]]
    ledger = Ledger(DigestRuns.empty(store))
    ledger.observed = _offsets(document["observed"], partitions)
    ledger.logs, ledger.taken = dict(document["logs"]), dict(document["taken"])
    ledger.unread = [Loss(partitions[place], first, last, 0) for place, first, last in document["unread"]]
    for domain, saved in document["domains"].items():
        ledger.entries[domain] = _restored(saved, partitions, store)
    return ledger


def segments(document: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of all segments that a document of `save` names."""
    domains = document["domains"].values()
    return frozenset(name for saved in domains for name in (*saved["files"].values(), *saved["settled"]))


class _Places:
    """The partitions that a document speaks of, by the order in which they came up."""

    def __init__(self) -> None:
        self.known: list[list[Any]] = []
        self._index: dict[TopicPartition, int] = {}

    def index(self, partition: TopicPartition) -> int:
        if partition not in self._index:
            self._index[partition] = len(self.known)
            self.known.append([partition.topic, partition.partition])
        return self._index[partition]

    def pairs(self, watermarks: Watermarks) -> list[list[int]]:
        return [[self.index(partition), offset] for partition, offset in sorted(watermarks.items())]


def _saved(entry: DomainEntry, places: _Places, store: SegmentStore) -> dict[str, Any]:
    for name, rows in (("open", entry.open), ("lost", entry.lost)):
        if rows and name not in entry.files:
            entry.files[name] = store.put(_tensors(rows))
        elif not rows:
            entry.files.pop(name, None)
    seal = entry.seal
    return {
        "files": dict(entry.files),
        "settled": list(entry.settled.names),
        "fence": places.pairs(entry.fence),
        "markers": places.pairs(entry.markers),
        "tried": places.pairs(entry.tried),
        "versions": [list(stretch) for stretch in entry.versions],
        "seal": None if seal is None else [seal.version, places.pairs(seal.until), seal.train, seal.held_out],
    }


def _tensors(rows: Mapping[bytes, OpenRow]) -> dict[str, np.ndarray[Any, Any]]:
    """Rows as arrays, by digest, so that equal rows are equal files; partitions by an index of the file's own."""
    ordered = sorted(rows.items())
    partitions = sorted({row.partition for _, row in ordered})
    index = {partition: place for place, partition in enumerate(partitions)}
    topics = "\0".join(f"{partition.partition}:{partition.topic}" for partition in partitions)
    return {
        "digests": np.frombuffer(b"".join(digest for digest, _ in ordered), dtype=np.uint8).reshape(-1, 16),
        "partitions": np.array([index[row.partition] for _, row in ordered], dtype=np.int32),
        "offsets": np.array([row.offset for _, row in ordered], dtype=np.int64),
        "held_out": np.array([row.held_out for _, row in ordered], dtype=np.uint8),
        "topics": np.frombuffer(topics.encode(), dtype=np.uint8),
    }


def _rows(tensors: Mapping[str, np.ndarray[Any, Any]]) -> dict[bytes, OpenRow]:
    named = [each.split(":", 1) for each in tensors["topics"].tobytes().decode().split("\0")]
    partitions = [TopicPartition(topic, int(number)) for number, topic in named]
    columns = (tensors["digests"], tensors["partitions"].tolist(), tensors["offsets"].tolist(), tensors["held_out"])
    return {
        digest.tobytes(): OpenRow(partitions[place], offset, bool(held_out))
        for digest, place, offset, held_out in zip(*columns, strict=True)
    }


def _restored(saved: Mapping[str, Any], partitions: list[TopicPartition], store: SegmentStore) -> DomainEntry:
    files = dict(saved["files"])
    seal = saved["seal"]
    return DomainEntry(
        settled=DigestRuns.restore(store, saved["settled"]),
        open=_rows(store.get(files["open"])) if "open" in files else {},
        lost=_rows(store.get(files["lost"])) if "lost" in files else {},
        fence=_offsets(saved["fence"], partitions),
        markers=_offsets(saved["markers"], partitions),
        tried=_offsets(saved["tried"], partitions),
        seal=None if seal is None else Seal(seal[0], _offsets(seal[1], partitions), seal[2], seal[3]),
        versions=[(first, last) for first, last in saved["versions"]],
        files=files,
    )


def _offsets(pairs: list[list[int]], partitions: list[TopicPartition]) -> Offsets:
    return {partitions[place]: offset for place, offset in pairs}

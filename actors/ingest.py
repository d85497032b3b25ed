"""Ingest: from the stream to the router's sums, without ever keeping the stream waiting.

    source --poll--> [decode] --spool--> [features] --observe--> router
                        |                                          |
                   dead letters                       receipt: applied, or cut anew

Two loops share the spool. The polling loop alone touches the source; it decodes, sends what is unreadable to the dead
letters, spools the rest and keeps polling, so that no training and no slow router ever costs a rebalance. When the
spool is full it pauses its partitions. The observing loop takes what the router has not applied yet, extracts features
and submits them; the router's watermarks decide where it goes on, so a crash on either side repeats nothing.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

from actors.observation import Observation, Receipt, Watermarks, example_digest
from actors.spool import Block, DomainBacklog, Seal, Spool, SpooledMarker, SpooledRow
from learning.contract import Example
from learning.features import FeatureExtractor, Standardisation
from learning.statistics import Statistics
from learning.template import PromptTemplate
from streaming.dead_letters import DeadLetters
from streaming.errors import RecordError
from streaming.records import EndOfDomain, TaskRecord
from streaming.source import Envelope, RecordSource, TopicPartition
from streaming.wire import decode

StartAt = Callable[[TopicPartition], int | None]


class RouterPort(Protocol):
    """What ingest needs of the router."""

    def watermarks(self) -> Watermarks: ...

    def observe(self, observation: Observation) -> Receipt: ...

    def freeze_standardisation(self, content: bytes) -> bytes: ...

    def standardisation(self) -> bytes | None: ...


@dataclass(frozen=True)
class IngestOptions:
    """Limits of one ingest worker: sizes in records and bytes, the held-out share as a fraction."""

    max_record_bytes: int
    poll_records: int
    block_rows: int
    spool_limit: int
    held_out_fraction: float
    standardise_examples: int


@dataclass(frozen=True)
class IngestReport:
    """Where a worker stands: backlog by domain, spool size, counters since it started, and its last trouble."""

    backlog: Mapping[str, DomainBacklog]
    partitions: frozenset[TopicPartition]
    spooled: int
    full: bool
    polled: int
    dead_letters: int
    duplicates: int
    trouble: Mapping[str, str]
    """The last error of each loop that is failing now; empty when all is well."""


def is_held_out(record: TaskRecord, fraction: float) -> bool:
    """Tell whether an example is held out: by its own split, or by a hash of its domain and id."""
    if record.split is not None:
        return record.split == "test"
    digest = blake2b(f"held-out\0{record.domain}\0{record.id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


class Ingest:
    """One ingest worker: a source, a spool, a feature extractor, and the two loops between them."""

    def __init__(
        self,
        open_source: Callable[[StartAt], RecordSource],
        dead_letters: DeadLetters,
        spool: Spool,
        extractor: FeatureExtractor,
        template: PromptTemplate,
        router: RouterPort,
        options: IngestOptions,
    ) -> None:
        self._spool, self._router, self._options = spool, router, options
        self._dead_letters = dead_letters
        self._bare_extractor, self._extractor = extractor, None
        self._template = template
        self._watermarks: dict[TopicPartition, int] = dict(router.watermarks())
        self._counters = {"polled": 0, "dead_letters": 0, "duplicates": 0}
        self._trouble: dict[str, str] = {}
        self._paused = False
        self._asked_at = 0.0
        self._idle_since = time.monotonic()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._source = open_source(self._start_at)

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run both loops in threads of their own until `stop`."""
        for loop in (self.poll_once, self._observe_or_wait):
            thread = threading.Thread(target=self._keep_running, args=(loop,), name=loop.__name__, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Stop the loops, commit the positions and close source and spool."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=30)
        self._source.close()
        self._spool.close()

    # -- polling ------------------------------------------------------------------------------------------------------

    def poll_once(self, timeout_s: float = 0.2) -> int:
        """Poll the source once and spool what came; returns the number of records."""
        self._pause_when_full()
        envelopes = self._source.poll(timeout_s, self._options.poll_records)
        rows: list[SpooledRow] = []
        markers: list[SpooledMarker] = []
        spans: dict[TopicPartition, tuple[int, int]] = {}
        for envelope in envelopes:
            partition = TopicPartition(envelope.topic, envelope.partition)
            start, _ = spans.get(partition, (envelope.offset, 0))
            spans[partition] = (start, envelope.offset + 1)
            try:
                record = decode(envelope.value, envelope.headers, max_bytes=self._options.max_record_bytes)
                if isinstance(record, EndOfDomain):
                    markers.append(SpooledMarker(partition, envelope.offset, record.domain))
                else:
                    rows.append(self._row(envelope, partition, record))
            except RecordError as error:
                self._dead_letters.put(envelope, error)
                self._counters["dead_letters"] += 1
        if envelopes:
            self._spool.append(rows, markers, spans)
            self._source.commit({partition: end for partition, (_, end) in spans.items()})
            self._counters["polled"] += len(envelopes)
        return len(envelopes)

    def _row(self, envelope: Envelope, partition: TopicPartition, record: TaskRecord) -> SpooledRow:
        if record.domain is None:
            raise RecordError(
                "unlabelled",
                f"record {record.id!r} has no domain: learning needs a labelled example; "
                "set `domain` and send it again, or replay it once it is labelled",
            )
        body = json.dumps(
            {"messages": record.messages_or_prompt(), "completion": record.completion}, ensure_ascii=False
        ).encode()
        held_out = is_held_out(record, self._options.held_out_fraction)
        return SpooledRow(partition, envelope.offset, record.domain, record.id, held_out, body)

    def _start_at(self, partition: TopicPartition) -> int | None:
        """Say where to start a newly assigned partition: where the spool ends, or the router stands, if further."""
        spooled = self._spool.position(partition)
        applied = self._router.watermarks().get(partition)
        known = [offset for offset in (spooled, applied) if offset is not None]
        if not known:
            return None
        start = max(known)
        self._spool.cover_from(partition, start)
        return start

    def _pause_when_full(self) -> None:
        size = self._spool.size()
        if not self._paused and size >= self._options.spool_limit:
            self._source.pause(self._source.assignment())
            self._paused = True
        elif self._paused and size < 0.8 * self._options.spool_limit:
            self._source.resume(self._source.assignment())
            self._paused = False

    # -- observing ----------------------------------------------------------------------------------------------------

    def observe_once(self) -> int:
        """Submit one block to the router; returns the rows applied (0 when there is nothing to do yet)."""
        if time.monotonic() - self._asked_at > 2.0:
            # A restarted router stands further back than the last receipt said.
            self._watermarks = dict(self._router.watermarks())
            self._asked_at = time.monotonic()
        block = self._spool.block(self._watermarks, self._options.block_rows)
        if block is None:
            return 0
        rows = self._without_repeats(block)
        training = [row for row in rows if not row.held_out]
        statistics = None
        if training:
            extractor = self._ready_extractor()
            if extractor is None:
                return 0
            features = extractor.extract([self._prompt(row) for row in training])
            statistics = Statistics.of(features, [row.domain for row in training], extractor.fingerprint)
        digests: dict[str, list[bytes]] = {}
        for row in rows:
            digests.setdefault(row.domain, []).append(example_digest(row.domain, row.record_id))
        receipt = self._router.observe(
            Observation(block.spans, {domain: tuple(known) for domain, known in digests.items()}, statistics)
        )
        self._watermarks = dict(receipt.watermarks)
        self._asked_at = self._idle_since = time.monotonic()
        if receipt.duplicates:
            self._discard([row for row in rows if example_digest(row.domain, row.record_id) in receipt.duplicates])
        return len(rows) if receipt.applied else 0

    def _without_repeats(self, block: Block) -> list[SpooledRow]:
        kept: dict[bytes, SpooledRow] = {}
        repeats: list[SpooledRow] = []
        for row in block.rows:
            digest = example_digest(row.domain, row.record_id)
            if digest in kept:
                repeats.append(row)
            else:
                kept[digest] = row
        self._discard(repeats)
        return list(kept.values())

    def _discard(self, rows: Sequence[SpooledRow]) -> None:
        if rows:
            self._spool.discard((row.partition, row.offset) for row in rows)
            self._counters["duplicates"] += len(rows)

    def _ready_extractor(self) -> FeatureExtractor | None:
        """Return the extractor with the frozen standardisation, fitting it on the first examples if nobody has.

        It waits for `standardise_examples` examples, a marker, or two quiet seconds, whichever comes first: a stream
        that only trickles must still be learned from.
        """
        if self._extractor is None:
            frozen = self._router.standardisation()
            if frozen is None:
                waiting = self._spool.prompts(self._options.standardise_examples)
                enough = len(waiting) >= self._options.standardise_examples or self._spool.has_markers()
                if not waiting or not (enough or time.monotonic() - self._idle_since > 2.0):
                    return None
                fitted = self._bare_extractor.fit([self._prompt(row) for row in waiting])
                frozen = self._router.freeze_standardisation(fitted.to_bytes())
            self._extractor = self._bare_extractor.with_standardisation(Standardisation.from_bytes(frozen))
        return self._extractor

    def _prompt(self, row: SpooledRow) -> str:
        return self._template.render(json.loads(row.body)["messages"])

    # -- what the coordinator asks ------------------------------------------------------------------------------------

    def report(self) -> IngestReport:
        """Say where this worker stands."""
        return IngestReport(
            backlog=self._spool.backlog(self._watermarks),
            partitions=self._source.partitions(),
            spooled=self._spool.size(),
            full=self._paused,
            trouble=dict(self._trouble),
            **self._counters,
        )

    def seal(self, domain: str, version: int) -> Seal:
        """Seal the domain's observed rows under a version; repeating it adds rows that came since."""
        return self._spool.seal(domain, version, self._watermarks)

    def sealed(self, domain: str, version: int) -> Seal:
        """Say what is sealed under a version, without adding to it."""
        return self._spool.seal_of(domain, version)

    def examples(self, domain: str, version: int) -> tuple[list[Example], list[Example]]:
        """Return the training and the held-out examples sealed under a version, prompts rendered."""
        train: list[Example] = []
        held_out: list[Example] = []
        for row in self._spool.sealed(domain, version):
            completion = json.loads(row.body)["completion"]
            (held_out if row.held_out else train).append(Example(row.record_id, self._prompt(row), completion))
        return train, held_out

    def release(self, domain: str, version: int) -> int:
        """Delete the rows of a published version."""
        return self._spool.release(domain, version)

    def reopen(self, domain: str, version: int) -> None:
        """Open the rows of a rejected version again."""
        self._spool.reopen(domain, version)

    def forget(self, domain: str) -> int:
        """Delete everything that waits of a domain."""
        return self._spool.forget(domain)

    def drop_markers(self, domain: str) -> None:
        """Drop the markers of a domain with nothing to train on."""
        self._spool.drop_markers(domain, self._watermarks)

    # -- loops --------------------------------------------------------------------------------------------------------

    def _observe_or_wait(self) -> None:
        if not self.observe_once():
            self._stop.wait(0.05)

    def _keep_running(self, step: Callable[[], object]) -> None:
        """Repeat a step until stopped; trouble is kept for the report and the step tried again after a second."""
        while not self._stop.is_set():
            try:
                step()
                self._trouble.pop(step.__name__, None)
            except Exception as error:
                self._trouble[step.__name__] = f"{type(error).__name__}: {error}"
                self._stop.wait(1.0)

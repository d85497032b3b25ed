"""Ingest: from the stream to the router's sums, without ever keeping the stream waiting.

    source --poll--> [decode] --spool--> [features] --observe--> router
                        |                                          |
                   dead letters                       receipt: applied, or cut anew

Two loops share the spool. The polling loop alone touches the source; it decodes, sends what is unreadable to the dead
letters, spools the rest and keeps polling, so that no training and no slow router ever costs a rebalance. When the
spool is full it pauses its partitions. The observing loop takes what the router has not applied yet, extracts features
and submits them; the router's watermarks decide where it goes on, so a crash on either side repeats nothing.

A partition that neither the router nor the spool knows is read from its beginning, whatever offsets a consumer group
has committed: those say what was polled, not what was learned.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Protocol

from actors.observation import Observation, Receipt, Watermarks, example_digest
from actors.report import IngestReport
from actors.spool import Block, Seal, Spool, SpooledMarker, SpooledRow
from learning.contract import Example
from learning.errors import LearningError
from learning.features import FeatureExtractor, Standardisation
from learning.statistics import Statistics
from learning.template import PromptTemplate
from streaming.dead_letters import DeadLetters
from streaming.errors import RecordError
from streaming.records import EndOfDomain, TaskRecord
from streaming.source import Envelope, RecordSource, TopicPartition
from streaming.wire import decode

StartAt = Callable[[TopicPartition], int | None]
Spans = dict[TopicPartition, tuple[int, int]]
Letter = tuple[Envelope, RecordError]

_QUIET_S = 2.0
"""Pause after which a stream is taken to have nothing more to say for now."""
_ASK_AGAIN_S = 2.0


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
        self._bare_extractor = extractor
        self._extractor: FeatureExtractor | None = None
        self._template = template
        self._watermarks: dict[TopicPartition, int] = dict(router.watermarks())
        self._counters = {"polled": 0, "dead_letters": 0, "duplicates": 0}
        self._trouble: dict[str, str] = {}
        self._paused = False
        self._asked_at = 0.0
        self._arrived_at = time.monotonic()
        self._next: dict[TopicPartition, int] = {}
        self._polled: tuple[list[Envelope], Spans] = ([], {})
        self._observing = threading.Lock()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._source = open_source(self._start_at)
        self._partitions = self._source.partitions()

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run both loops in threads of their own until `stop`."""
        for loop in (self.poll_once, self._observe_or_wait):
            thread = threading.Thread(target=self._keep_running, args=(loop,), name=loop.__name__, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Stop the loops and close source and spool."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=30)
        self._source.close()
        self._spool.close()

    # -- polling ------------------------------------------------------------------------------------------------------

    def poll_once(self, timeout_s: float = 0.2) -> int:
        """Poll the source once and spool what came; returns the number of records.

        What was polled stays here until it is spooled: the source has moved on and would not bring it again.
        """
        self._pause_when_full()
        if not self._polled[0]:
            envelopes = self._source.poll(timeout_s, self._options.poll_records)
            self._polled = (envelopes, self._spans(envelopes))
        envelopes, spans = self._polled
        if not envelopes:
            return 0
        rows, markers, letters = self._decode(envelopes)
        if letters:
            self._dead_letters.put_all(letters)
        self._spool.append(rows, markers, spans)
        self._polled = ([], {})
        self._arrived_at = time.monotonic()
        self._partitions |= spans.keys()
        self._counters["polled"] += len(envelopes)
        self._counters["dead_letters"] += len(letters)
        self._source.commit({partition: end for partition, (_, end) in spans.items()})
        return len(envelopes)

    def _spans(self, envelopes: Sequence[Envelope]) -> Spans:
        """Return what a poll covered: from where reading stood, as offsets that hold no record are covered too."""
        spans: Spans = {}
        for envelope in envelopes:
            partition = TopicPartition(envelope.topic, envelope.partition)
            stood = min(self._next.get(partition, envelope.offset), envelope.offset)
            spans[partition] = (spans.get(partition, (stood, 0))[0], envelope.offset + 1)
        self._next.update({partition: end for partition, (_, end) in spans.items()})
        return spans

    def _decode(self, envelopes: Sequence[Envelope]) -> tuple[list[SpooledRow], list[SpooledMarker], list[Letter]]:
        rows: list[SpooledRow] = []
        markers: list[SpooledMarker] = []
        letters: list[Letter] = []
        for envelope in envelopes:
            partition = TopicPartition(envelope.topic, envelope.partition)
            try:
                record = decode(envelope.value, envelope.headers, max_bytes=self._options.max_record_bytes)
                if isinstance(record, EndOfDomain):
                    markers.append(SpooledMarker(partition, envelope.offset, record.domain))
                else:
                    rows.append(self._row(envelope, partition, record))
            except RecordError as error:
                letters.append((envelope, error))
        return rows, markers, letters

    def _row(self, envelope: Envelope, partition: TopicPartition, record: TaskRecord) -> SpooledRow:
        if record.domain is None:
            raise RecordError(
                "unlabelled",
                f"record {record.id!r} has no domain: learning needs a labelled example; "
                "set `domain` and send it again, or replay it once it is labelled",
            )
        messages = record.messages_or_prompt()
        self._check_renders(record.id, messages)
        body = json.dumps({"messages": messages, "completion": record.completion}, ensure_ascii=False).encode()
        held_out = is_held_out(record, self._options.held_out_fraction)
        return SpooledRow(partition, envelope.offset, record.domain, record.id, held_out, body)

    def _check_renders(self, record_id: str, messages: list[dict[str, str]]) -> None:
        """Refuse at the border what would stop the observing loop for good."""
        try:
            rendered = self._template.render(messages)
        except LearningError as error:
            raise RecordError("bad-record", f"record {record_id!r}: the chat template refuses it: {error}") from error
        if not rendered.strip():
            raise RecordError("bad-record", f"record {record_id!r}: its prompt is empty once it is rendered")

    def _start_at(self, partition: TopicPartition) -> int:
        """Say where to start a newly assigned partition: where the router stands, or where the spool ends."""
        start = self._spool.continuation(partition, self._router.watermarks().get(partition, 0))
        self._next[partition] = start
        return start

    def _pause_when_full(self) -> None:
        size, limit = self._spool.size(), self._options.spool_limit
        if size >= limit or (self._paused and size >= 0.8 * limit):
            # Again at every poll: a rebalance may have brought partitions that are not paused yet.
            self._source.pause(self._source.assignment())
            self._paused = True
        elif self._paused:
            self._source.resume(self._partitions)
            self._paused = False

    # -- observing ----------------------------------------------------------------------------------------------------

    def observe_once(self) -> int:
        """Submit one block to the router; returns the rows applied (0 when there is nothing to do yet)."""
        with self._observing:
            return self._observe()

    def _observe(self) -> int:
        if time.monotonic() - self._asked_at > _ASK_AGAIN_S:
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
        self._asked_at = time.monotonic()
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

        It waits for `standardise_examples` training examples, a marker, or two seconds without a record, whichever
        comes first: a stream that only trickles must still be learned from. Two examples it needs in any case.
        """
        if self._extractor is None:
            frozen = self._router.standardisation()
            if frozen is None:
                waiting = self._spool.prompts(self._options.standardise_examples)
                enough = len(waiting) >= self._options.standardise_examples or self._spool.has_markers()
                if len(waiting) < 2 or not (enough or time.monotonic() - self._arrived_at > _QUIET_S):
                    return None
                fitted = self._bare_extractor.fit([self._prompt(row) for row in waiting])
                frozen = self._router.freeze_standardisation(fitted.to_bytes())
            self._extractor = self._bare_extractor.with_standardisation(Standardisation.from_bytes(frozen))
        return self._extractor

    def _prompt(self, row: SpooledRow) -> str:
        return self._template.render(json.loads(row.body)["messages"])

    # -- what the coordinator asks ------------------------------------------------------------------------------------

    def report(self) -> IngestReport:
        """Say where this worker stands.

        No domain is quiet while rows wait to be observed: after a restart, the clock has run on without them.
        """
        backlog = self._spool.backlog(self._watermarks)
        if self._spool.block(self._watermarks, 1) is not None:
            now = time.time()
            backlog = {domain: replace(waiting, last_arrival=now) for domain, waiting in backlog.items()}
        return IngestReport(
            backlog=backlog,
            partitions=self._partitions,
            spooled=self._spool.size(),
            full=self._paused,
            trouble=dict(self._trouble),
            **self._counters,
        )

    def seal(self, domain: str, version: int, watermarks: Watermarks) -> Seal:
        """Seal the domain's rows below the router's `watermarks` under a version; repeating it adds to them."""
        return self._spool.seal(domain, version, watermarks)

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

    def release(self, domain: str, version: int, watermarks: Watermarks) -> int:
        """Delete the rows of a published version, and copies of them below the `watermarks` of its seals."""
        return self._spool.release(domain, version, watermarks)

    def reopen(self, domain: str, version: int) -> None:
        """Open the rows of a rejected version again."""
        self._spool.reopen(domain, version)

    def forget(self, domain: str, watermarks: Watermarks | None = None) -> int:
        """Delete what waits of a domain, below `watermarks` if they are given.

        No row of it is on its way to the router when this returns.
        """
        with self._observing:
            return self._spool.forget(domain, watermarks)

    def drop_markers(self, domain: str) -> None:
        """Drop the markers of a domain with nothing to train on."""
        self._spool.drop_markers(domain, self._watermarks)

    # -- loops --------------------------------------------------------------------------------------------------------

    def _observe_or_wait(self) -> None:
        if not self.observe_once():
            self._stop.wait(0.1)

    def _keep_running(self, step: Callable[[], object]) -> None:
        """Repeat a step until stopped; trouble is kept for the report and the step tried again after a second."""
        while not self._stop.is_set():
            try:
                step()
                self._trouble.pop(step.__name__, None)
            except Exception as error:
                self._trouble[step.__name__] = f"{type(error).__name__}: {error}"
                self._stop.wait(1.0)

"""Ingest: from the stream to the router's sums, without ever keeping the stream waiting.

    source --poll--> [decode] --spool--> [features] --observe--> router
                        |                                          |
                   dead letters                       receipt: applied, or cut anew

Two loops share the spool. The polling loop alone touches the source; it decodes, sends what is unreadable to the dead
letters, spools the rest and keeps polling, so that no training and no slow router ever costs a rebalance. When the
spool is full it pauses its partitions. The observing loop (`observer`) takes what the router has not applied yet.

A partition that neither the router nor the spool knows is read from its beginning, whatever offsets a consumer group
has committed: those say what was polled, not what was learned.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from actors.errors import in_words
from actors.exam import is_held_out
from actors.observation import Watermarks
from actors.observer import Letter, Observer
from actors.ports import ExamplesPort, SpoolPort, SumsPort
from actors.quiet import Quiet
from actors.report import IngestReport
from actors.spool import Seal, Spool, SpooledMarker, SpooledRow
from learning.contract import Example
from learning.errors import LearningError
from learning.features import FeatureExtractor
from learning.template import PromptTemplate
from streaming.dead_letters import DeadLetters
from streaming.errors import RecordError
from streaming.records import EndOfDomain, TaskRecord
from streaming.source import Envelope, RecordSource, StartAt, TopicPartition, check_identity
from streaming.wire import decode

Spans = dict[TopicPartition, tuple[int, int]]


@dataclass(frozen=True)
class IngestOptions:
    """Limits of one ingest worker: sizes in records and bytes, the held-out share as a fraction."""

    max_record_bytes: int
    poll_records: int
    block_rows: int
    spool_limit: int
    held_out_fraction: float


class Ingest:
    """One ingest worker: a source, a spool, a feature extractor, and the two loops between them."""

    def __init__(
        self,
        open_source: Callable[[StartAt], RecordSource],
        dead_letters: DeadLetters,
        spool: Spool,
        extractor: FeatureExtractor,
        template: PromptTemplate,
        router: SumsPort,
        options: IngestOptions,
    ) -> None:
        self._spool, self._router, self._options = spool, router, options
        self._dead_letters, self._putting = dead_letters, threading.Lock()
        self._template = template
        self._template_checked = self._log_checked = False
        self._quiet = Quiet()
        self._observer = Observer(
            spool,
            extractor,
            router,
            self._put_letters,
            self._quiet,
            block_rows=options.block_rows,
        )
        self._counters = {"polled": 0, "dead_letters": 0}
        self._trouble: dict[str, str] = {}
        self._paused = False
        self._next: dict[TopicPartition, int] = {}
        self._polled: tuple[list[Envelope], Spans] = ([], {})
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._source = open_source(self._start_at)
        self._partitions = self._source.partitions()

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run both loops in threads of their own until `stop`."""
        for loop, step in (("polling", self.poll_once), ("observing", self._observe_or_wait)):
            thread = threading.Thread(target=self._keep_running, args=(loop, step), name=loop, daemon=True)
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
        self._check_template()
        self._check_log()
        self._pause_when_full()
        if not self._polled[0]:
            envelopes = self._source.poll(timeout_s, self._options.poll_records)
            self._polled = (envelopes, self._spans(envelopes))
        envelopes, spans = self._polled
        if not envelopes:
            return 0
        rows, markers, letters = self._decode(envelopes)
        if letters:
            self._put_letters(letters)
        self._spool.append(rows, markers, spans)
        self._polled = ([], {})
        self._quiet.stir([row.domain for row in rows])
        self._quiet.stir([marker.domain for marker in markers])
        self._partitions |= spans.keys()
        self._counters["polled"] += len(envelopes)
        self._source.commit({partition: end for partition, (_, end) in spans.items()})
        return len(envelopes)

    def _put_letters(self, letters: Sequence[Letter]) -> None:
        """Keep what can't be used; either loop may ask."""
        with self._putting:
            self._dead_letters.put_all(letters)
            self._counters["dead_letters"] += len(letters)

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
        prompt = self._render(record)
        held_out = is_held_out(record, self._options.held_out_fraction)
        return SpooledRow(partition, envelope.offset, record.domain, record.id, held_out, prompt, record.completion)

    def _check_log(self) -> None:
        """Refuse another log under the name of the one that was read: the positions kept here belong to that one."""
        if not self._log_checked:
            topic = next(iter(self._source.partitions())).topic
            found, known = self._source.identity(), self._spool.fact(f"log {topic}")
            check_identity(f"topic {topic!r}", found, known)
            if found is not None:
                self._spool.note(f"log {topic}", found)
            self._log_checked = True

    def _check_template(self) -> None:
        """Prompts stand in the spool as they were rendered: under another template they can't be used."""
        if not self._template_checked:
            self._spool.check_template(self._template.digest)
            self._template_checked = True

    def _render(self, record: TaskRecord) -> str:
        """Return the prompt as it will be featured and trained; what can't be rendered is refused at the border."""
        try:
            rendered = self._template.render(record.messages_or_prompt())
        except LearningError as error:
            raise RecordError("bad-record", f"record {record.id!r}: the chat template refuses it: {error}") from error
        if not rendered.strip():
            raise RecordError("bad-record", f"record {record.id!r}: its prompt is empty once it is rendered")
        return rendered

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

    def observe_once(self) -> int:
        """Submit one block to the router; returns the rows applied (0 when there is nothing to do yet)."""
        self._check_template()
        return self._observer.observe_once()

    # -- what the coordinator asks ------------------------------------------------------------------------------------

    def report(self) -> IngestReport:
        """Say where this worker stands. No domain is quiet while rows of it wait to be observed."""
        watermarks = self._observer.watermarks
        backlog = self._spool.backlog(watermarks)
        self._quiet.stir(domain for domain, waiting in backlog.items() if waiting.unobserved)
        trouble = dict(self._trouble)
        if lost := self._dead_letters.lost:
            trouble["dead letters"] = f"{lost} could not be written and are lost; this worker's log names them"
        return IngestReport(
            backlog={
                domain: replace(waiting, quiet_seconds=0.0 if waiting.unobserved else self._quiet.seconds(domain))
                for domain, waiting in backlog.items()
            },
            watermarks=watermarks,
            partitions=self._partitions,
            spooled=self._spool.size(),
            full=self._paused,
            duplicates=self._observer.duplicates,
            trouble=trouble,
            **self._counters,
        )

    def seal(self, domain: str, version: int, watermarks: Watermarks) -> Seal:
        """Seal the domain's rows below the router's `watermarks` under a version; repeating it adds to them."""
        return self._spool.seal(domain, version, watermarks)

    def sealed(self, domain: str, version: int) -> Seal:
        """Say what is sealed under a version, without adding to it."""
        return self._spool.seal_of(domain, version)

    def examples(self, domain: str, version: int) -> tuple[list[Example], list[Example]]:
        """Return the training and the held-out examples sealed under a version."""
        self._check_template()
        train: list[Example] = []
        held_out: list[Example] = []
        for row in self._spool.sealed(domain, version):
            (held_out if row.held_out else train).append(Example(row.record_id, row.prompt, row.completion))
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
        return self._observer.forget(domain, watermarks)

    def drop_markers(self, domain: str, watermarks: Watermarks) -> None:
        """Drop the markers below `watermarks` of a domain that had nothing to train on there."""
        self._spool.drop_markers(domain, watermarks)

    # -- loops --------------------------------------------------------------------------------------------------------

    def _observe_or_wait(self) -> None:
        if not self.observe_once():
            self._stop.wait(0.1)

    def _keep_running(self, loop: str, step: Callable[[], object]) -> None:
        """Repeat a step until stopped; trouble is kept for the report and the step tried again after a second."""
        while not self._stop.is_set():
            try:
                step()
                self._trouble.pop(loop, None)
            except Exception as error:
                self._trouble[loop] = in_words(error)
                self._stop.wait(1.0)


if TYPE_CHECKING:

    def _meets(actor: Ingest) -> tuple[ExamplesPort, SpoolPort]:
        return actor, actor

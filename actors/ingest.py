"""Ingest: from the stream to the router's sums, without ever keeping the stream waiting.

    source --poll--> [decode] --spool--> [fates, features] --observe--> router
                        |                                                 |
                   dead letters                              receipt: applied, or cut anew

Two loops share the spool. The polling loop alone touches the source; it decodes, sends what is unreadable to the dead
letters, spools the rest and keeps polling, so that no training and no slow router ever costs a rebalance. When the
spool is full it pauses its partitions. The observing loop (`observer`) takes what the router has not applied yet.

Polling waits for nobody but the stream: of the router it knows what the other loop was told last. The source is opened
once that is known, so whoever can't say yet where a partition begins is given none.

A partition is read from where the spool ends, or from the ledger's `low` where the spool has nothing, whatever offsets
a consumer group has committed: those say what was polled, not what was learned. Offsets that the log gives no more are
not covered, until the coordinator has asked the others and says that they are given up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from actors.coverage import Span
from actors.decoding import Decoding
from actors.errors import in_words
from actors.following import Following
from actors.loop import Loop
from actors.observation import LedgerView, Watermarks
from actors.observer import Letter, Observer
from actors.ports import ExamplesPort, SpoolPort, SumsPort
from actors.quiet import Quiet
from actors.report import IngestReport, Survey
from actors.spool import Spool
from actors.spool_file import is_damage
from actors.vitals import Vitals, vitals_of
from learning.contract import Example
from learning.features import FeatureExtractor
from learning.template import PromptTemplate
from streaming.dead_letters import DeadLetters
from streaming.errors import LogReplaced
from streaming.source import Envelope, RecordSource, StartAt, TopicPartition, check_identity

_RESUME_BELOW = 0.8
_IDLE_S = 0.1
_COMMIT_EVERY_S = 1.0
_LOOK_EVERY_S = 5.0
"""Between looks at where the log of a partition begins and ends, and between searches for holes to be read again."""


@dataclass(frozen=True)
class IngestOptions:
    """Limits of one ingest worker: sizes in records and bytes, the held-out share as a fraction."""

    max_record_bytes: int
    poll_records: int
    block_rows: int
    spool_limit: int
    spool_bytes: int
    held_out_fraction: float
    domain_share: float = 0.25
    """Of the spool, what a domain may take while others wait in it."""


class Ingest:
    """One ingest worker: a source, a spool, a feature extractor, and the two loops between them.

    It connects to nothing before it is started: what can't be reached is trouble of the loop that needs it. The other
    parts may be such as are opened when they are first used. `left_behind` are spools of workers that are no more, to
    be taken over.
    """

    def __init__(
        self,
        open_source: Callable[[StartAt], RecordSource],
        dead_letters: DeadLetters,
        spool: Spool,
        extractor: FeatureExtractor,
        template: PromptTemplate,
        router: SumsPort,
        options: IngestOptions,
        left_behind: Sequence[Path] = (),
    ) -> None:
        self._spool, self._options = spool, options
        self._open_source = open_source
        self._following = Following(spool, router, left_behind)
        self._dead_letters, self._putting = dead_letters, threading.Lock()
        self._template = template
        self._decoding = Decoding(template, options.max_record_bytes, options.held_out_fraction)
        self._template_checked = False
        self._has_put = False
        """Whether the dead letters were ever there: before that they are asked for nothing."""
        self._logs: dict[str, str] = {}
        self._started = time.monotonic()
        self._quiet = Quiet()
        self._observer = Observer(
            spool,
            extractor,
            router,
            self._following,
            self._put_letters,
            self._quiet,
            lambda: self._logs,
            block_rows=options.block_rows,
        )
        self._counters = {"polled": 0, "dead_letters": 0}
        self._paused = False
        self._next: dict[TopicPartition, int] = {}
        """Where reading goes on, of every partition that was ever assigned."""
        self._assigned: frozenset[TopicPartition] = frozenset()
        self._begins: dict[TopicPartition, int] = {}
        """First offset that the log of an assigned partition still gives, as far as it was asked for."""
        self._ends: dict[TopicPartition, int] = {}
        """Where the log of a partition ended when it was last looked at."""
        self._looked_at: dict[TopicPartition, float] = {}
        """When it was last tried to look at each assigned partition; `_unseen`: what is wrong where that failed."""
        self._unseen: dict[TopicPartition, str] = {}
        self._uncommitted: dict[TopicPartition, int] = {}
        self._committed_at = -_COMMIT_EVERY_S
        self._searched_at = 0.0
        self._must_reopen = False
        self._damage: str | None = None
        """What is wrong with the spool's file, whoever came upon it, until it was made anew."""
        self._mending = threading.Lock()
        self._polled: list[Envelope] = []
        self._polling = Loop("polling", self._mended(self.poll_once))
        self._observing = Loop("observing", self._mended(self._observe_or_wait))
        self._source: RecordSource | None = None
        self._partitions: frozenset[TopicPartition] = frozenset()

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run both loops in threads of their own until `stop`."""
        for loop in self._loops:
            loop.start()

    def stop(self) -> None:
        """Stop the loops and close source and spool."""
        for loop in self._loops:
            loop.stop()
        self._close_source()
        self._spool.close()

    def vitals(self) -> Vitals:
        """Say since when this worker is up, and how its loops go."""
        return vitals_of(self._started, self._loops)

    @property
    def _loops(self) -> tuple[Loop, Loop]:
        return self._polling, self._observing

    # -- polling ------------------------------------------------------------------------------------------------------

    def poll_once(self, timeout_s: float = 0.2) -> int:
        """Poll the source once and spool what came; returns the number of records.

        What was polled stays here until it is spooled: the source has moved on and would not bring it again.
        """
        if (view := self._following.last) is None:
            # Why there is none, the observing loop says.
            self._polling.wait(timeout_s)
            return 0
        self._check_template()
        self._reopen_where_stuck(view)
        try:
            return self._poll(self._opened(), view, timeout_s)
        except LogReplaced:
            # A source stays with the log that it found.
            self._must_reopen = True
            raise

    def _opened(self) -> RecordSource:
        if self._source is None:
            self._source = self._open_source(self._start_at)
        if not self._partitions:
            self._partitions = self._source.partitions()
        return self._source

    def _close_source(self) -> None:
        source, self._source = self._source, None
        self._next, self._begins, self._looked_at, self._polled = {}, {}, {}, []
        self._assigned, self._uncommitted = frozenset(), {}
        if source is not None:
            source.close()

    def _poll(self, source: RecordSource, view: LedgerView, timeout_s: float) -> int:
        self._check_log(source, view)
        self._pause_when_full(source)
        self._look_at_logs(source)
        if not self._polled:
            self._polled = source.poll(timeout_s, self._options.poll_records)
        envelopes = self._polled
        self._assigned = source.assignment()
        if not envelopes:
            self._pass_what_is_gone()
            self._pass_what_holds_nothing(source)
            self._commit_if_due(source)
            return 0
        spans = self._spans(source, envelopes)
        rows, markers, letters = self._decoding.decode(envelopes)
        if letters:
            self._put_letters(letters)
        with self._following.reading(spans):
            self._spool.append(rows, markers, spans)
        ends = {span.partition: span.end for span in spans}
        self._next.update(ends)
        self._uncommitted.update(ends)
        self._polled = []
        self._quiet.stir([row.domain for row in rows])
        self._quiet.stir([marker.domain for marker in markers])
        self._partitions |= ends.keys()
        self._counters["polled"] += len(envelopes)
        self._commit_if_due(source)
        return len(envelopes)

    def _commit_if_due(self, source: RecordSource) -> None:
        """Note at the broker how far this has come, at most once a second: nothing here goes by it."""
        if self._uncommitted and time.monotonic() - self._committed_at >= _COMMIT_EVERY_S:
            self._committed_at = time.monotonic()
            source.commit(self._uncommitted)
            self._uncommitted = {}

    def _put_letters(self, letters: Sequence[Letter]) -> None:
        """Keep what can't be used; either loop may ask."""
        with self._putting:
            self._dead_letters.put_all(letters)
            self._has_put = True
            self._counters["dead_letters"] += len(letters)

    def _spans(self, source: RecordSource, envelopes: Sequence[Envelope]) -> list[Span]:
        """Return what a poll covers: from where reading stood, as offsets that hold no record are covered too.

        Offsets from before the log's beginning are not: they held records once.
        """
        firsts: dict[tuple[str, int], int] = {}
        ends: dict[tuple[str, int], int] = {}
        for place, run in groupby(envelopes, itemgetter(0, 1)):
            some = list(run)
            firsts.setdefault(place, some[0].offset)
            ends[place] = some[-1].offset + 1
        spans = []
        for place, first in firsts.items():
            partition = TopicPartition(*place)
            stood = min(self._next.get(partition, first), first)
            if stood < first:
                stood = min(max(stood, self._look(source, partition)), first)
            spans.append(Span(partition, stood, ends[place]))
        return spans

    def _look(self, source: RecordSource, partition: TopicPartition) -> int:
        self._begins[partition], self._ends[partition] = source.bounds(partition)
        return self._begins[partition]

    def _look_at_logs(self, source: RecordSource) -> None:
        """See where each assigned partition begins and ends, whether anything comes or not: at once, then every 5 s.

        Where that fails it is said in the report, and reading goes on. Since it may have taken seconds, the others are
        looked at in the next turn, and this one when they were.
        """
        now, assigned = time.monotonic(), source.assignment()
        self._looked_at = {each: self._looked_at.get(each, -_LOOK_EVERY_S) for each in assigned}
        self._unseen = {each: why for each, why in self._unseen.items() if each in assigned}
        for partition, looked_at in sorted(self._looked_at.items(), key=lambda item: item[1]):
            if now - looked_at < _LOOK_EVERY_S:
                return
            self._looked_at[partition] = now
            try:
                self._look(source, partition)
            except Exception as error:
                self._unseen[partition] = in_words(error)
                return
            self._unseen.pop(partition, None)

    def _pass_what_is_gone(self) -> None:
        """While nothing comes: what a log has let go would be missed in silence."""
        for partition in self._assigned & self._next.keys():
            self._next[partition] = max(self._next[partition], self._begins.get(partition, 0))

    def _pass_what_holds_nothing(self, source: RecordSource) -> None:
        """Cover the offsets at the end of a log that hold no record, such as a transaction's marker: perhaps nothing
        ever comes behind them."""
        behind = {each for each in self._assigned if self._next.get(each, 0) < self._ends.get(each, 0)}
        positions = source.positions() if behind else {}
        for partition in behind & self._next.keys() & positions.keys():
            if self._next[partition] < positions[partition]:
                first = max(self._next[partition], self._look(source, partition))
                span = Span(partition, min(first, positions[partition]), positions[partition])
                with self._following.reading([span]):
                    self._spool.append([], [], [span])
                self._next[partition] = span.end

    def _has_passed_over(self, low: Watermarks) -> bool:
        """Tell whether reading is beyond offsets that were not read and that the log still gives."""
        return any(
            hole.end > self._begins[partition]
            for partition in self._assigned & self._next.keys() & self._begins.keys()
            for hole in self._spool.holes(partition, low.get(partition, 0), self._next[partition])
        )

    def _reopen_where_stuck(self, view: LedgerView) -> None:
        """Read again from a hole that reading has passed: nothing behind it could ever be observed."""
        if not self._must_reopen and time.monotonic() - self._searched_at >= _LOOK_EVERY_S:
            self._searched_at = time.monotonic()
            self._must_reopen = self._has_passed_over(view.low)
        if self._must_reopen:
            self._must_reopen = False
            self._close_source()

    def _check_log(self, source: RecordSource, view: LedgerView) -> None:
        """Refuse another log under the name of the one that was counted: the ledger's positions belong to that one."""
        found = source.identity()
        for topic in {partition.topic for partition in self._partitions}:
            check_identity(f"topic {topic!r}", found, view.logs.get(topic) or self._spool.log_of(topic))
            if found is not None and self._logs.get(topic) != found:
                self._spool.note_log(topic, found)
                self._logs[topic] = found

    def _check_template(self) -> None:
        """Prompts stand in the spool as they were rendered: under another template they can't be used."""
        if not self._template_checked:
            self._spool.check_template(self._template.digest)
            self._template_checked = True

    def _start_at(self, partition: TopicPartition) -> int:
        """Say where to start a newly assigned partition: where the ledger needs it from, or where the spool ends.

        By the last view: an older one may have more read again, and what a router that went back needs beyond it is a
        hole that is found when that has told so.
        """
        view = self._following.last
        start = self._spool.continuation(partition, view.low.get(partition, 0) if view is not None else 0)
        self._next[partition] = start
        return start

    def _pause_when_full(self, source: RecordSource) -> None:
        filled = max(
            self._spool.size() / self._options.spool_limit,
            self._spool.bytes() / self._options.spool_bytes,
        )
        if filled >= 1.0 or (self._paused and filled >= _RESUME_BELOW):
            # Again at every poll: a rebalance may have brought partitions that are not paused yet. What was counted is
            # read all the same: a version waits for its rows, and nothing makes room but versions.
            assigned, observed = source.assignment(), self._following.observed
            behind = {each for each in assigned if self._next.get(each, 0) < observed.get(each, 0)}
            source.pause(assigned - behind)
            source.resume(behind)
            self._paused = True
        elif self._paused:
            source.resume(self._partitions)
            self._paused = False

    def observe_once(self) -> int:
        """Submit one block to the router; returns the rows applied (0 when there is nothing to do yet)."""
        self._check_template()
        return self._observer.observe_once()

    # -- what the coordinator asks ------------------------------------------------------------------------------------

    def report(self) -> IngestReport:
        """Say where this worker stands. No domain is quiet while rows of it wait to be observed."""
        with self._noting_damage():
            return self._report()

    def _report(self) -> IngestReport:
        unobserved: dict[str, int] = {}
        for partition in self._spool.partitions():
            waiting = self._spool.counts_from(partition, self._following.confirmed(partition))
            for domain, rows in waiting.items():
                unobserved[domain] = unobserved.get(domain, 0) + rows
        self._quiet.stir(unobserved)
        trouble = {loop.name: loop.trouble for loop in self._loops if loop.trouble}
        if self._has_put and (lost := self._dead_letters.lost):
            trouble["dead letters"] = f"{lost} could not be written and are lost; this worker's log names them"
        for who, what in (("spool", self._spool.trouble), ("other spools", self._following.trouble)):
            if what:
                trouble[who] = what
        if unseen := list(self._unseen.values()):
            trouble["looking"] = unseen[0]
        return IngestReport(
            rows=self._spool.counts(),
            unobserved=unobserved,
            quiet={domain: 0.0 if domain in unobserved else seconds for domain, seconds in self._quiet.all().items()},
            up_seconds=time.monotonic() - self._started,
            partitions=self._partitions,
            spooled=self._spool.size(),
            spooled_bytes=self._spool.bytes(),
            full=self._paused,
            polled=self._counters["polled"],
            dead_letters=self._counters["dead_letters"],
            duplicates=self._observer.duplicates,
            trouble=trouble,
            positions=dict(self._next),
            reaches=self._spool.ends(),
            ends=dict(self._ends),
            over_share=self._over_share(),
            lag=self._lag(),
        )

    def _over_share(self) -> frozenset[str]:
        shares = self._spool.shares(self._options.spool_limit, self._options.spool_bytes)
        return frozenset(domain for domain, share in shares.items() if share > self._options.domain_share)

    def _lag(self) -> dict[TopicPartition, int]:
        next_, ends = dict(self._next), dict(self._ends)
        return {each: max(ends[each] - next_[each], 0) for each in self._assigned & next_.keys() & ends.keys()}

    def survey(self, stretches: Mapping[TopicPartition, tuple[int, int]]) -> dict[TopicPartition, Survey]:
        """Say of each partition what is here of it: the rows of the stretch, and what was read from its beginning on.

        Rows that a worker has left behind are among them: raises what keeps them from being taken over.
        """
        found = {}
        with self._noting_damage():
            self._following.view()
            self._following.check_taken_over()
            for partition, (first, end) in stretches.items():
                # Whose polling fails may have lost the partition to another since.
                reads = partition in self._assigned and self._polling.trouble is None
                begins = self._begins.get(partition) if reads else None
                found[partition] = Survey(*self._spool.survey(partition, first, end), begins)
        return found

    def give_up(self, partition: TopicPartition, first: int, end: int) -> None:
        """Count a stretch as read: nobody can read it, and the ledger says what is lost by that.

        The spool is led after the snapshot that says so first: a router that goes back behind it is to be refused.
        """
        self._following.renew()
        self._spool.append([], [], [Span(partition, first, end)])

    def examples(self, domain: str, until: Watermarks) -> tuple[list[Example], list[Example]]:
        """Return the training and the held-out examples of a domain below `until` that the router has counted.

        What another run of the router confirmed, and this one was not asked about, is not among them.
        """
        with self._noting_damage():
            self._check_template()
            self._following.renew()
            rows = self._spool.examples(domain, until)
        train: list[Example] = []
        held_out: list[Example] = []
        for row in rows:
            if row.offset < self._following.confirmed(row.partition):
                (held_out if row.held_out else train).append(Example(row.record_id, row.prompt, row.completion))
        return train, held_out

    # -- loops --------------------------------------------------------------------------------------------------------

    def _observe_or_wait(self) -> None:
        if not self.observe_once():
            self._observing.wait(_IDLE_S)

    def _mended(self, step: Callable[[], object]) -> Callable[[], None]:
        """Return a loop's step, before which the spool is mended where anybody came upon damage."""

        def mend_and_step() -> None:
            self._mend_spool()
            with self._noting_damage():
                step()

        return mend_and_step

    def _mend_spool(self) -> None:
        """Begin the spool's file anew where it is damaged; where that fails it is tried again."""
        with self._mending:
            if self._damage is not None:
                self._spool.begin_anew(self._damage)
                self._must_reopen = True
                self._damage = None

    @contextmanager
    def _noting_damage(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if is_damage(error):
                self._damage = in_words(error)
            raise


if TYPE_CHECKING:

    def _meets(actor: Ingest) -> tuple[ExamplesPort, SpoolPort]:
        return actor, actor

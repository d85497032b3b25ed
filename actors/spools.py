"""The ingest workers as one: how long a domain has been quiet, how far they have read, and what of the stream is gone.

What waits is the ledger's to say, so a worker that does not answer keeps nobody else waiting: its rows are read again
elsewhere, or by itself once it is back. This module decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

from actors.errors import Unanswered, in_words
from actors.fan_out import FanOut
from actors.observation import Watermarks
from actors.ports import SpoolPort
from actors.report import IngestReport, Survey
from serving.api import IngestStatus
from streaming.source import TopicPartition


class Spools:
    """All ingest workers by name; `reports` are the last answers, `silent` says of the others why there is none."""

    def __init__(self, ingests: Mapping[str, SpoolPort], peers: FanOut | None = None) -> None:
        self._ingests, self._peers = dict(ingests), peers or FanOut()
        self.reports: dict[str, IngestReport] = {}
        self.silent: dict[str, str] = {}
        self.silent_since: dict[str, float] = {}
        """Monotonic time at which each silent worker was first found so."""
        self._last: dict[str, IngestReport] = {}
        """The last answer of each worker, also of those that are silent now."""
        self._ends: dict[TopicPartition, int] = {}

    def ask(self) -> None:
        """Take the report of each worker; one that can't give it is named in `silent`."""
        reports, silent = {}, {}
        asked = {
            name: self._peers.ask(f"{name} report", partial(_report, ingest)) for name, ingest in self._ingests.items()
        }
        for name, question in asked.items():
            try:
                reports[name] = question.answer()
            except Exception as error:
                silent[name] = in_words(error)
        now = time.monotonic()
        self.silent_since = {name: self.silent_since.get(name, now) for name in silent}
        self._last.update(reports)
        for report in reports.values():
            for partition, end in (*report.positions.items(), *report.ends.items()):
                self._ends[partition] = max(end, self._ends.get(partition, 0))
        self.reports, self.silent = reports, silent

    def worker(self, name: str) -> SpoolPort:
        """Return the worker of that name."""
        return self._ingests[name]

    def survey(
        self, stretches: Mapping[TopicPartition, tuple[int, int]]
    ) -> tuple[dict[str, dict[TopicPartition, Survey]], list[str]]:
        """Return what each worker has of these stretches, and what is to be said of each that does not answer."""
        found: dict[str, dict[TopicPartition, Survey]] = {}
        silent = dict(self.silent)
        asked = {
            name: self._peers.ask(f"{name} survey", partial(_survey, ingest, stretches))
            for name, ingest in self._ingests.items()
            if name not in silent
        }
        for name, question in asked.items():
            try:
                of, survey = question.answer()
                if of != stretches:
                    raise Unanswered("its answer came too late")
                found[name] = survey
            except Exception as error:
                silent[name] = in_words(error)
        return found, [f"{name} may hold them and does not answer: {why}" for name, why in silent.items()]

    def partitions(self) -> frozenset[TopicPartition]:
        """Return all partitions of the stream."""
        return frozenset(p for report in self._last.values() for p in report.partitions)

    def ends(self) -> dict[TopicPartition, int]:
        """Return where each partition ends, read or not, whoever reads it: as a worker that answers saw it at most five
        seconds ago, and one that is silent or can't look when it last did."""
        return dict(self._ends)

    def unobserved(self) -> dict[str, int]:
        """Return the rows that wait to be counted, by domain, at the workers that answered."""
        waiting: dict[str, int] = {}
        for report in self.reports.values():
            for domain, rows in report.unobserved.items():
                if rows:
                    waiting[domain] = waiting.get(domain, 0) + rows
        return waiting

    def quiet_seconds(self, domain: str, observed: Watermarks) -> float:
        """Return for how long nobody has heard anything of a domain.

        A silent worker has heard nothing since it fell silent, as far as anybody knows; if it held rows of the domain
        that were not counted, the domain is not quiet before they are: `observed` is how far the router has come,
        whoever read them.
        """
        now = time.monotonic()
        ages = []
        for name in self._ingests:
            report = self._last.get(name)
            is_passed = report is not None and all(observed.get(p, 0) >= end for p, end in report.reaches.items())
            if report is not None and report.unobserved.get(domain) and not (name in self.silent and is_passed):
                return 0.0
            if name in self.silent:
                ages.append(now - self.silent_since[name])
            elif report is not None:
                ages.append(report.quiet_seconds(domain))
        return min(ages, default=0.0)

    def status(self) -> tuple[IngestStatus, ...]:
        """Describe every worker, also those that don't answer."""
        return tuple(self._describe(name) for name in self._ingests)

    def _describe(self, name: str) -> IngestStatus:
        report = self.reports.get(name)
        if report is None:
            # Before the first answer there is nothing to say, not even that there is trouble.
            trouble = {"report": self.silent[name]} if name in self.silent else {}
            return IngestStatus(
                name=name, partitions=(), spooled=0, full=False, polled=0, dead_letters=0, duplicates=0, trouble=trouble
            )
        return IngestStatus(
            name=name,
            partitions=tuple(str(partition) for partition in sorted(report.partitions)),
            spooled=report.spooled,
            spooled_bytes=report.spooled_bytes,
            full=report.full,
            polled=report.polled,
            dead_letters=report.dead_letters,
            duplicates=report.duplicates,
            lag={str(partition): records for partition, records in sorted(report.lag.items())},
            trouble=dict(report.trouble),
        )


def _report(ingest: SpoolPort) -> IngestReport:
    return ingest.report()


_Stretches = Mapping[TopicPartition, tuple[int, int]]


def _survey(ingest: SpoolPort, stretches: _Stretches) -> tuple[_Stretches, dict[TopicPartition, Survey]]:
    """Return a worker's answer with what it is the answer to."""
    return stretches, ingest.survey(stretches)

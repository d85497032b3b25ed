"""The spools of all ingest workers as one: what waits in the whole stream, and the steps that all of them take.

A domain is sealed, released or forgotten in every spool or not at all, as any of them may hold a copy of a row that
another has learned from. So while a worker doesn't answer, nothing begins that needs it; what is said of the others
stays right. This module decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from actors.backlog import DomainBacklog, merge_backlogs
from actors.errors import NotCaughtUp, Unanswered, in_words
from actors.observation import Watermarks
from actors.ports import SpoolPort
from actors.report import IngestReport
from serving.api import IngestStatus
from streaming.source import TopicPartition


class Spools:
    """All ingest workers by name; `reports` are the last answers, `silent` says of the others why there is none."""

    def __init__(self, ingests: Mapping[str, SpoolPort]) -> None:
        self._ingests = dict(ingests)
        self.reports: dict[str, IngestReport] = {}
        self.silent: dict[str, str] = {}

    def ask(self) -> None:
        """Take the report of each worker; one that can't give it is named in `silent`, and its last one dropped."""
        reports, silent = {}, {}
        for name, ingest in self._ingests.items():
            try:
                reports[name] = ingest.report()
            except Exception as error:
                silent[name] = in_words(error)
        self.reports, self.silent = reports, silent

    def check(self) -> None:
        """Ask anew; raises `Unanswered` naming the workers that don't answer."""
        self.ask()
        if self.silent:
            words = "; ".join(f"{name}: {why}" for name, why in self.silent.items())
            raise Unanswered(f"every ingest worker must take part, and these do not answer: {words}")

    def backlog(self) -> dict[str, DomainBacklog]:
        """Return what waits of each domain at the workers that answered."""
        return merge_backlogs(report.backlog for report in self.reports.values())

    def partitions(self) -> frozenset[TopicPartition]:
        """Return all partitions of the stream."""
        return frozenset(p for report in self.reports.values() for p in report.partitions)

    def seal(self, domain: str, version: int, watermarks: Watermarks) -> int:
        """Seal everywhere up to the same watermarks, and return the number of rows; of a row of which two hold copies,
        both seal theirs.

        Until the adapter exists a seal may be repeated and take in more; one that was cut short is completed, once the
        router stands where it stood then: before, this raises `NotCaughtUp`.
        """
        _, sealed = self.sealed(domain, version)
        behind = [f"{each}" for each, end in sealed.items() if watermarks.get(each, 0) < end]
        if behind:
            raise NotCaughtUp(f"the router is behind what was sealed as {domain} v{version} in {behind}")
        return sum(ingest.seal(domain, version, watermarks).rows for ingest in self._ingests.values())

    def sealed(self, domain: str, version: int) -> tuple[int, Watermarks]:
        """Return the number of rows sealed under a version, and up to where."""
        seals = [ingest.sealed(domain, version) for ingest in self._ingests.values()]
        return sum(seal.rows for seal in seals), _highest(seal.watermarks for seal in seals)

    def release(self, domain: str, version: int, watermarks: Watermarks) -> None:
        """Delete the rows of a published version, and copies of them below the `watermarks` of its seals."""
        for ingest in self._ingests.values():
            ingest.release(domain, version, watermarks)

    def reopen(self, domain: str, version: int) -> None:
        """Open the rows of a rejected version again."""
        for ingest in self._ingests.values():
            ingest.reopen(domain, version)

    def forget(self, domain: str, watermarks: Watermarks | None = None) -> None:
        """Delete what waits of a domain, below `watermarks` if they are given."""
        for ingest in self._ingests.values():
            ingest.forget(domain, watermarks)

    def drop_markers(self, domain: str) -> None:
        """Drop those of its markers that the last reports knew: of a domain that had nothing to train on then."""
        for name, report in self.reports.items():
            self._ingests[name].drop_markers(domain, report.watermarks)

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
            full=report.full,
            polled=report.polled,
            dead_letters=report.dead_letters,
            duplicates=report.duplicates,
            trouble=dict(report.trouble),
        )


def _highest(watermarks: Iterable[Watermarks]) -> dict[TopicPartition, int]:
    """Return the highest watermark of each partition."""
    merged: dict[TopicPartition, int] = {}
    for some in watermarks:
        for partition, offset in some.items():
            merged[partition] = max(offset, merged.get(partition, 0))
    return merged

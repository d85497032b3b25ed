"""What is sent to a system that is attacked, drawn from one seed; what is sent is kept, to compare with."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path

from streaming.records import EndOfDomain, TaskRecord
from streaming.source import RecordSink

DOMAINS = {"birds": "wing", "boats": "sail", "trees": "leaf"}
ROWS = 24
"""Of each domain at each point; a fifth of them are sent again later."""
PARTITIONS = 3
SMALL = [
    f"stream.partitions={PARTITIONS}",
    "stream.session_timeout_ms=6000",
    "stream.max_poll_interval_ms=60000",
    "ingest.workers=2",
    "ingest.num_cpus=0.1",
    "ingest.block_rows=16",
    "closing.settle_seconds=1",
    "features.expansion=256",
    "features.layers=[0]",
    "learner.num_cpus=0.1",
    "learner.max_steps=10",
    "learner.warmup_steps=1",
    "learner.patience=null",
    "learner.evaluate_every=10",
    "learner.learning_rate=1.0e-2",
    "learner.rank=4",
]
"""Overrides for a system of two ingest workers whose trainings take a moment."""


class Course:
    """What is sent, drawn from one seed; `sent` holds every record once."""

    def __init__(self, seed: int, sink: RecordSink, report: Path) -> None:
        self._random = random.Random(seed)
        self._sink, self._report, self._began = sink, report, time.monotonic()
        self.sent: dict[str, TaskRecord] = {}
        self.steps: list[tuple[float, str]] = []

    def send(self) -> None:
        """New records of every domain among some that were sent before, and now and then the end of a domain."""
        again = self._random.sample(sorted(self.sent), len(self.sent) // 5) if len(self.sent) < 400 else []
        records = [self.sent[each] for each in again]
        for domain in DOMAINS:
            records += self._new(domain)
        self._random.shuffle(records)
        for record in records:
            self._sink.append(record)
        for domain in DOMAINS:
            if self._random.random() < 0.4:
                self._sink.append(EndOfDomain(domain=domain))
        self._sink.flush()

    def send_more(self, domain: str) -> None:
        """New records of one domain, and its end, as an operator sends them whose version was rejected."""
        for record in self._new(domain):
            self._sink.append(record)
        self._sink.append(EndOfDomain(domain=domain))
        self._sink.flush()

    def counts(self) -> Counter[str]:
        """Records sent of each domain, each counted once."""
        return Counter(str(record.domain) for record in self.sent.values())

    def _new(self, domain: str) -> list[TaskRecord]:
        records = [_record(domain, len(self.sent) + number, self._random) for number in range(ROWS)]
        self.sent.update({record.id: record for record in records})
        return records

    def end(self) -> None:
        """The last marker of every domain."""
        for domain in DOMAINS:
            self._sink.append(EndOfDomain(domain=domain))
        self._sink.flush()

    def note(self, what: str) -> None:
        """Note what happens now, for whoever reads the course afterwards."""
        self.steps.append((round(time.monotonic() - self._began, 1), what))
        self._report.write_text(json.dumps(self.steps))


def _record(domain: str, number: int, chance: random.Random) -> TaskRecord:
    words = " ".join(chance.choice(["red", "old", "big", "new", "far"]) for _ in range(3))
    return TaskRecord(
        id=f"{domain}-{number}", domain=domain, prompt=f"{domain} {number} {words}", completion=DOMAINS[domain]
    )

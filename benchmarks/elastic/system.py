"""The whole system on simulated nodes, but for the time that a training and an answer take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.elastic.fixed_engine import start
from cluster import builders
from cluster.runtime import Runtime
from configs.loader import load
from configs.settings import Settings
from streaming.feeding import append_all
from streaming.records import EndOfDomain, TaskRecord

LEARNER = "benchmarks.elastic.fixed_learner:learner"
_ROWS = 24
_SETS = (
    # What is scaled has a node's one slot each; the others have no reservation and run wherever there is room.
    "serving.port=0",
    "ingest.num_cpus=0",
    "router.num_cpus=0",
    "ingest.held_out_fraction=0.25",
    "features.expansion=256",
    "features.dtype=float32",
    "serving.max_num_seqs=8",
    "learner.evaluate_every=1",
    "learner.warmup_steps=0",
)


@dataclass(frozen=True)
class SimulatedSystem:
    """A running system and where it answers."""

    settings: Settings
    url: str

    def feed(self, domains: Sequence[str]) -> None:
        """Send examples of all domains, and behind them the ends of all, so that all are closed at about one time."""
        records = [
            TaskRecord(id=f"{domain}-{number}", domain=domain, prompt=f"{domain} {number}", completion="yes")
            for domain in domains
            for number in range(_ROWS)
        ]
        append_all(builders.sink(self.settings), [*records, *(EndOfDomain(domain=domain) for domain in domains)])

    def states(self) -> dict[str, str]:
        """The state of each domain, by its name."""
        found = self._get("/v1/domains")
        return {each["domain"]: each["state"] for each in found["domains"]}

    def learners(self) -> dict[str, str]:
        """The state of each learner that is there or is to be, by its name."""
        found = self._get("/v1/status")
        return {each["name"]: each["state"] for each in found["actors"] if each["name"].startswith("learner")}

    def replicas(self) -> list[str]:
        """The names of the replicas that take part in publications."""
        return sorted(self._get("/v1/status")["replicas"])

    def _get(self, path: str) -> Any:
        answer = httpx.get(f"{self.url}{path}", timeout=30)
        answer.raise_for_status()
        return answer.json()


@contextmanager
def system(address: str, home: Path, sets: Sequence[str]) -> Iterator[SimulatedSystem]:
    """A system on the Ray cluster at `address`, all up; goes down with the context."""
    settings = load("demo", [f"home={home}", f"ray.address={address}", *_SETS, *sets])
    with Runtime(settings, learner=LEARNER, start=start) as runtime:
        yield SimulatedSystem(settings, runtime.url)

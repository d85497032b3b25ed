"""The whole program killed with SIGKILL while it learns and while it publishes, then started on the same folders."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from actors.exam import is_held_out
from configs.loader import load
from configs.settings import Settings
from streaming.records import TaskRecord, read_jsonl
from tests.e2e.system import System
from tests.faults.oracle import difference_from_batch

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.timeout(900)]

DOMAINS = ("german-dates", "it-helpdesk")
QUICK = [
    "learner.max_steps=60",
    "learner.patience=null",
    "learner.evaluate_every=30",
    "learner.checkpoint_seconds=0.01",
    "features.expansion=512",
]


@pytest.fixture
def files(tmp_path: Path, repository: Path) -> dict[str, Path]:
    """Part of two of the demo's domains, so that learning is short."""
    found = {}
    for domain in DOMAINS:
        lines = (repository / "examples" / "stream" / f"{domain}.train.jsonl").read_text().splitlines()[:240]
        found[domain] = tmp_path / f"{domain}.jsonl"
        found[domain].write_text("\n".join(lines) + "\n")
    return found


def test_killed_while_learning_and_while_publishing(tmp_path: Path, files: dict[str, Path]) -> None:
    home = tmp_path / "home"
    system = System("demo", home, QUICK)
    first, second = DOMAINS
    try:
        system.start()
        system.feed(files[first])
        system.feed(files[second])
        system.wait_for(lambda: (system.domain(first).get("progress") or {}).get("step", 0) > 5, 120, "learning", 0.05)
        system.kill()
        assert not _adapters(home, first)

        system.start()
        # The adapter's folder appears when training is done; the publication is what comes next.
        system.wait_for(lambda: bool(_adapters(home, second)), 240, "adapter written", 0.001)
        system.kill()

        system.start()
        system.wait_until_published(*DOMAINS)
        served = {d["domain"]: d["version"] for d in system.status()["domains"]}
        assert set(served) == set(DOMAINS)
        assert {name: len(_adapters(home, name)) for name in DOMAINS} == {first: 1, second: 1}, "learned twice"
        figures = {name: system.domain(name)["versions"][0]["figures"] for name in DOMAINS}
        assert figures[first]["resumed_from"] > 0 and figures[first]["steps"] == 60, "begun anew"
        system.wait_for(lambda: _unfinished(home) == [], 30, "nothing kept of what is done")
        for domain in DOMAINS:
            answer = system.ask(next(iter(_records(files[domain]))).messages_or_prompt()[-1]["content"], domain)
            assert answer.headers["x-anabranch-adapter"] == served[domain]

        _resend_changes_nothing(system, files, served)
        settings = load("demo", [f"home={home}", *QUICK])
        _counts_are_exact(system, settings, files)
    finally:
        system.stop()
    _predicts_as_batch_ridge(settings, files)


def _adapters(home: Path, domain: str) -> list[Path]:
    return list((home / "registry" / "adapters").glob(f"{domain}@v*"))


def _unfinished(home: Path) -> list[Path]:
    return list((home / "registry" / "unfinished").iterdir())


def _records(file: Path) -> list[TaskRecord]:
    return [record for record in read_jsonl(file) if isinstance(record, TaskRecord)]


def _training_records(settings: Settings, files: dict[str, Path]) -> list[TaskRecord]:
    fraction = settings.ingest.held_out_fraction
    return [r for file in files.values() for r in _records(file) if not is_held_out(r, fraction)]


def _resend_changes_nothing(system: System, files: dict[str, Path], served: dict[str, str]) -> None:
    """Each `feed` is a producer of its own: a burst sent twice, and by a restarted producer."""
    before = {d["domain"]: (d["examples"], d["router_rows"]) for d in system.status()["domains"]}
    for _ in range(2):
        system.feed(files[DOMAINS[0]])
    sent = 2 * (len(_records(files[DOMAINS[0]])) + 1)

    def settled() -> bool:
        ingest = system.status()["ingest"][0]
        return bool(ingest["polled"] >= sent and ingest["duplicates"] >= sent - 2 and ingest["spooled"] == 0)

    system.wait_for(settled, 60, "resent records seen")
    time.sleep(2)
    after = system.status()["domains"]
    assert {d["domain"]: (d["examples"], d["router_rows"]) for d in after} == before
    assert {d["domain"]: d["version"] for d in after} == served
    assert all(d["state"] == "published" for d in after)


def _counts_are_exact(system: System, settings: Settings, files: dict[str, Path]) -> None:
    trained = [record.domain for record in _training_records(settings, files)]
    for domain in DOMAINS:
        described = system.domain(domain)
        assert described["examples"] == len({record.id for record in _records(files[domain])})
        assert described["router_rows"] == trained.count(domain)


def _predicts_as_batch_ridge(settings: Settings, files: dict[str, Path]) -> None:
    """The published router's scores against one ridge solve over all training examples (relative 1e-10)."""
    records = _training_records(settings, files)
    assert {str(record.domain) for record in records} == set(DOMAINS)
    difference = difference_from_batch(settings, records)
    assert difference <= 1e-10, json.dumps({"relative difference": difference})

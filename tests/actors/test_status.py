"""The status: whole while parts are down, in one line each, and cheap however many domains there are."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.ingest import Ingest
from registry.registry import Registry
from serving.api import SystemStatus
from streaming.records import EndOfDomain
from tests.actors.house import House, records_of
from tests.registry.conftest import facts_of, peft_folder

Build = Callable[..., House]
ALPHA, BETA = EndOfDomain(domain="alpha"), EndOfDomain(domain="beta")

REMOTE = RuntimeError(
    "ray::X.call() (pid=7, ip=10.0.0.9)\nTraceback (most recent call last):\n"
    '  File "/srv/app/x.py", line 3, in call\nConnectionError: the actor /srv/app/run is restarting at 10.0.0.9'
)


def away(*_: Any) -> Any:
    raise REMOTE


def in_one_line(text: object) -> bool:
    return not any(part in str(text) for part in ("\n", "Traceback", "/srv", "10.0.0.9", ".py"))


def test_it_is_typed_and_survives_its_way_as_json(two_versions: House) -> None:
    status = two_versions.status()
    assert SystemStatus.model_validate_json(status.model_dump_json()) == status
    alpha = status.domains[0]
    assert (alpha.domain, alpha.state, [version.status for version in alpha.versions]) == (
        "alpha",
        "published",
        ["accepted", "accepted"],
    )
    assert [worker.name for worker in status.ingest] == ["ingest-0"]
    assert status.ingest[0].partitions == ("stream[0]", "stream[1]")
    assert status.replicas["0"].manifest == status.manifest
    assert list(status.troubles()) == []


@pytest.mark.parametrize("part", ["router", "directory"])
def test_who_can_not_be_asked_is_named_and_the_rest_is_answered(
    two_versions: House, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    house = two_versions
    if part == "router":
        house.router.on_call = away
    else:
        monkeypatch.setattr(house.replicas, "replicas", away)
    status = house.status()
    assert {domain.domain for domain in status.domains} == {"alpha", "beta"}
    assert status.trouble is not None and f"{part} does not answer" in status.trouble
    assert status.trouble.count("does not answer") == 1 and in_one_line(status.trouble)
    assert bool(status.replicas) == (part == "router")
    assert [domain.domain for domain in house.coordinator.domains()] == ["alpha", "beta"]
    house.router.on_call = lambda _name: None
    monkeypatch.undo()
    assert house.status().trouble is None


def test_a_damaged_version_is_named_and_stops_no_other_domain(two_versions: House) -> None:
    house = two_versions
    damaged, served = house.registry.adapters("alpha")
    (damaged.path / "anabranch.json").write_text("{}")
    house.send([*records_of("alpha", 24, start=48), ALPHA, *records_of("beta", 24, start=24), BETA])
    house.settle(lambda: house.version("beta") == 2 and house.version("alpha") == 3)
    status = house.status()
    assert damaged.name in str(status.trouble) and "restore it" in str(status.trouble) and in_one_line(status.trouble)
    alpha, beta = status.domains
    assert [each.name for each in alpha.versions] == [served.name, alpha.version], "its own domain goes on as well"
    assert (beta.state, beta.detail) == ("published", beta.version)


def test_a_damaged_version_that_is_to_be_published_fails_its_own_domain_alone(two_versions: House) -> None:
    house = two_versions
    add = house.registry.add_adapter

    def damage(*arguments: Any) -> Any:
        added = add(*arguments)
        if added.domain == "alpha":
            (added.path / "anabranch.json").write_text("{}")
        return added

    house.registry.add_adapter = damage  # type: ignore[method-assign]
    house.send([*records_of("alpha", 24, start=48), ALPHA, *records_of("beta", 24, start=24), BETA])
    house.settle(lambda: house.version("beta") == 2 and house.is_in("alpha", "failed"))
    alpha, _ = house.status().domains
    assert "alpha@v3" in alpha.detail and "restore it" in alpha.detail


def test_a_domain_in_service_has_not_failed_because_nothing_could_be_pruned(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = build()

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(house.registry, "prune", full)
    house.send([*records_of("alpha", 24), ALPHA])
    house.learn("alpha")
    alpha = house.state("alpha")
    assert alpha is not None and alpha.state == "published"
    house.tick()
    assert alpha.detail == alpha.version
    assert "No space left" in str(house.status().trouble)


def test_a_learner_that_dies_while_it_trains_is_named(build: Build) -> None:
    house = build()
    asked: list[SystemStatus] = []

    def look(_domain: str) -> None:
        asked.append(house.status())

    house.trainer.before = look
    house.trainer.progress = away  # type: ignore[method-assign]
    house.send([*records_of("alpha", 24), ALPHA])
    house.learn("alpha")
    (status,) = asked
    assert [(domain.domain, domain.state, domain.progress) for domain in status.domains] == [
        ("alpha", "learning", None)
    ]
    assert "the learner of alpha does not answer" in str(status.trouble) and in_one_line(status.trouble)


def test_all_trouble_of_all_loops_is_there(build: Build) -> None:
    house = build(workers=2)
    house.send(records_of("alpha", 24))
    house.poll()
    for ingest in house.ingests:
        ingest._source.poll = away  # type: ignore[method-assign]
    house.router.on_call = lambda name: away() if name == "observe" else None
    for ingest in house.ingests:
        ingest._observer._asked_at = 1e18
        ingest.start()
    troubles: dict[str, str] = {}
    wanted = {f"ingest-{n} {loop}" for n in (0, 1) for loop in ("polling", "observing")}
    done = threading.Event()
    for _ in range(500):
        house.coordinator.tick()
        troubles = dict(house.status().troubles())
        if set(troubles) == wanted or done.wait(0.01):
            break
    assert set(troubles) == wanted
    assert all(in_one_line(trouble) and "restarting" in trouble for trouble in troubles.values())
    house.router.on_call = lambda _name: None


# -- one worker dead --------------------------------------------------------------------------------------------------


def dead(ingest: Ingest) -> Callable[[], None]:
    """Let a worker answer nothing any more; returns what brings it back."""
    names = ["report", "survey", "give_up", "examples"]
    for name in names:
        setattr(ingest, name, away)

    def back() -> None:
        for name in names:
            delattr(ingest, name)

    return back


def test_one_dead_worker_stops_neither_the_status_nor_the_others(build: Build) -> None:
    house = build(workers=2)
    house.send([*records_of("alpha", 24), ALPHA])
    house.drain()
    back = dead(house.ingests[1])
    house.tick()
    status = house.status()
    assert [(worker.name, worker.spooled > 0, set(worker.trouble)) for worker in status.ingest] == [
        ("ingest-0", True, set()),
        ("ingest-1", False, {"report"}),
    ]
    (alpha,) = status.domains
    assert (alpha.state, alpha.waiting.sealed) == ("failed", (1,)), "sealed, and its rows there are waited for"
    assert house.trainer.asked == [], "what the dead worker holds of alpha must not be left out of it"
    assert all(in_one_line(what) for _, what in status.troubles())
    back()
    house.wait(60.0)
    house.learn("alpha")
    assert len(house.trained("alpha")[0]) == 18
    assert list(house.status().troubles()) == []


def test_a_worker_that_dies_during_a_training_delays_nothing(build: Build) -> None:
    house = build(workers=2)
    house.send([*records_of("alpha", 24), ALPHA])
    house.drain()
    back: list[Callable[[], None]] = []
    house.trainer.before = lambda _domain: back.append(dead(house.ingests[1]))
    house.tick()
    assert house.version("alpha") == 1, "the rows were fetched, and the ledger settles them"
    house.trainer.before = lambda _domain: None
    back[0]()
    house.learn("alpha")
    assert len(house.trainer.asked) == 1


def test_a_domain_is_removed_while_a_worker_is_dead_and_its_rows_go_when_it_is_back(build: Build) -> None:
    house = build(workers=2)
    house.send(records_of("alpha", 24))
    house.drain()
    back = dead(house.ingests[1])
    house.coordinator.remove("alpha")
    assert house.router.counts() == {}
    back()
    house.settle(lambda: house.waiting("alpha") == 0)
    assert house.router.counts() == {}


# -- many domains -----------------------------------------------------------------------------------------------------


def test_a_status_lists_the_adapters_once_and_reads_each_once_for_good(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = build()
    for number in range(40):
        domain = f"domain-{number}"
        folder = peft_folder(tmp_path / "trained" / domain, seed=number)
        house.registry.add_adapter(domain, 1, folder, facts_of(domain))
    house.router.inner.examples = lambda: {f"domain-{number}": 1 for number in range(40)}  # type: ignore[method-assign]
    house.coordinator._registry = Registry(house.home / "registry")
    listed, read = [], []
    listdir, read_bytes = os.listdir, Path.read_bytes
    monkeypatch.setattr(os, "listdir", lambda path=".": (listed.append(Path(path).name), listdir(path))[1])
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path.name), read_bytes(path))[1])
    for calls in (1, 2, 3):
        status = house.status()
        assert [len(domain.versions) for domain in status.domains] == [1] * 40
        assert (listed.count("adapters"), read.count("anabranch.json")) == (calls, 40)

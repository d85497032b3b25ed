"""Spools of workers that are no more: taken over whole, once, or deleted and said."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from actors.coverage import Span
from actors.following import Following
from actors.observation import Marker
from actors.packs import SpooledRow
from actors.spool import Spool
from actors.takeover import left_behind, take_over
from streaming.records import EndOfDomain
from streaming.source import TopicPartition
from tests.actors.house import House, records_of, training
from tests.actors.memory_log import MemoryStream
from tests.actors.views import LINEAGE, view

P0, P1 = TopicPartition("stream", 0), TopicPartition("stream", 1)


def row(partition: TopicPartition, offset: int, domain: str = "alpha") -> SpooledRow:
    return SpooledRow(partition, offset, domain, f"{domain}-{offset}", False, "ask", "say")


def held(spool: Spool, partition: TopicPartition) -> list[int]:
    return spool.survey(partition, 0, 9)[0].tolist()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[str], Spool]]:
    """Opens a spool by its name; all are closed in the end."""
    spools: list[Spool] = []

    def _open(name: str) -> Spool:
        spools.append(Spool(tmp_path / f"{name}.sqlite"))
        return spools[-1]

    yield _open
    for spool in spools:
        spool.close()


@pytest.mark.parametrize(
    ("workers", "index", "found"), [(1, 0, "1234"), (2, 0, "24"), (2, 1, "3"), (3, 1, "4"), (5, 0, "")]
)
def test_each_worker_takes_over_its_share(tmp_path: Path, workers: int, index: int, found: str) -> None:
    for name in ("ingest-0", "ingest-1", "ingest-2", "ingest-3", "ingest-4", "other-7", "notes"):
        (tmp_path / f"{name}.sqlite").touch()
    (tmp_path / "ingest-9.sqlite.set-aside").touch()
    names = [path.name for path in left_behind(tmp_path / f"ingest-{index}.sqlite", workers)]
    assert names == [f"ingest-{number}.sqlite" for number in found]
    assert left_behind(tmp_path / "notes.sqlite", 1) == ()


def test_rows_markers_and_coverage_move(opened: Callable[[str], Spool], tmp_path: Path) -> None:
    own, other = opened("ingest-0"), opened("ingest-1")
    own.append([row(P0, 0), row(P0, 1)], [], [Span(P0, 0, 2)])
    other.append([row(P0, 1), row(P0, 2), row(P1, 5)], [Marker(P1, 6, "alpha")], [Span(P0, 1, 3), Span(P1, 5, 7)])
    other.follow(view(3, fences={"alpha": {P1: 1}}))
    other.close()
    path = tmp_path / "ingest-1.sqlite"
    assert take_over(own, [path], view(4), []) == ([], None)
    assert not path.exists()
    assert held(own, P0) == [0, 1, 2] and held(own, P1) == [5]
    assert (own.continuation(P0, 0), own.continuation(P1, 5)) == (3, 7)
    block = own.block({P0: 3, P1: 5}, 9)
    assert block is not None and block.markers == (Marker(P1, 6, "alpha"),)
    assert take_over(own, [path], view(4), []) == ([], None), "again, after a crash before its answer"


def test_what_is_settled_is_not_taken(opened: Callable[[str], Spool], tmp_path: Path) -> None:
    own, other = opened("ingest-0"), opened("ingest-1")
    other.append([row(P0, 0), row(P0, 1)], [], [Span(P0, 0, 2)])
    other.close()
    own.follow(view(2, fences={"alpha": {P0: 1}}))
    take_over(own, [tmp_path / "ingest-1.sqlite"], view(2), [])
    assert held(own, P0) == [1]


def test_one_that_a_process_has_is_left_for_later(opened: Callable[[str], Spool], tmp_path: Path) -> None:
    own, other = opened("ingest-0"), opened("ingest-1")
    other.append([row(P0, 0)], [], [Span(P0, 0, 1)])
    path = tmp_path / "ingest-1.sqlite"
    left, trouble = take_over(own, [path], view(), [])
    assert left == [path] and trouble is not None and "ingest-1.sqlite" in trouble and "locked" in trouble
    other.close()
    assert take_over(own, left, view(), []) == ([], None) and own.size() == 1


@pytest.mark.parametrize(
    "what", ["ahead", "home", "damaged", "format", "facts", "text", "template", "log", "the ledger's log"]
)
def test_one_that_can_not_be_trusted_is_deleted_and_said(
    opened: Callable[[str], Spool], tmp_path: Path, what: str
) -> None:
    own, other = opened("ingest-0"), opened("ingest-1")
    own.note("template", "one")
    if what == "log":
        own.note_log("stream", "one")
    other.append([row(P0, 0)], [], [Span(P0, 0, 1)])
    other.follow(view(9 if what == "ahead" else 3, fences={}, lineage="0" * 32 if what == "home" else LINEAGE))
    if what == "template":
        other.note("template", "two")
    if "log" in what:
        other.note_log("stream", "two")
    if what == "format":
        other._db.execute("PRAGMA user_version=2")
    if what == "facts":
        other.note("snapshot", "many")
    if what == "text":
        other._db.execute("UPDATE packs SET content=replace(content, 'ask', x'ff6b6b')")
    other.close()
    path = tmp_path / "ingest-1.sqlite"
    if what == "damaged":
        path.write_bytes(b"\xff" * 5000)
    deleted: list[str] = []
    left, trouble = take_over(own, [path], view(4, logs={"stream": "one"}), deleted)
    assert left == [] and (own.size(), own.coverage.spans()) == (0, [])
    assert [each.name for each in sorted(tmp_path.iterdir())] in (
        ["ingest-0.sqlite"],
        ["ingest-0.sqlite", "ingest-0.sqlite-wal"],
    )
    assert trouble is not None and "ingest-1.sqlite of a worker that is no more" in trouble and "deleted" in trouble
    assert deleted == [trouble] and "\n" not in trouble


def test_what_is_said_of_a_deleted_one_stays_while_others_are_tried_again(
    opened: Callable[[str], Spool], tmp_path: Path
) -> None:
    own, held = opened("ingest-0"), opened("ingest-1")
    bad = tmp_path / "ingest-2.sqlite"
    bad.write_bytes(b"\xff" * 5000)
    router = SimpleNamespace(view=lambda _known=-1: view())
    following = Following(own, router, [held.path, bad])  # type: ignore[arg-type]
    for _ in range(2):
        following.renew()
        assert following.trouble is not None
        assert "ingest-1.sqlite" in following.trouble and "locked" in following.trouble
        assert following.trouble.count("ingest-2.sqlite") == 1 and not bad.exists()
    held.close()
    for _ in range(2):
        following.renew()
        assert following.trouble is not None
        assert "ingest-1.sqlite" not in following.trouble and "ingest-2.sqlite" in following.trouble


def test_damage_of_the_own_spool_is_no_fault_of_the_other(opened: Callable[[str], Spool], tmp_path: Path) -> None:
    own, other = opened("ingest-0"), opened("ingest-1")
    other.append([row(P0, 0)], [], [Span(P0, 0, 1)])
    other.close()

    def take(*_: object) -> None:
        sqlite3.connect(tmp_path / "other").execute("SELECT 1 FROM sqlite_master")

    (tmp_path / "other").write_bytes(b"no database " * 500)
    own.take = take  # type: ignore[method-assign, assignment]
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        take_over(own, [other.path], view(), [])
    assert other.path.exists()


def test_one_that_the_machine_can_not_read_is_left_for_later(opened: Callable[[str], Spool], tmp_path: Path) -> None:
    own, path = opened("ingest-0"), tmp_path / "ingest-1.sqlite"
    path.mkdir()
    left, trouble = take_over(own, [path], view(), [])
    assert left == [path] and trouble is not None and "ingest-1.sqlite" in trouble
    path.rmdir()
    assert take_over(own, left, view(), []) == ([], None)


def test_nothing_is_lost_while_what_was_left_behind_is_not_taken_over(build: Callable[..., House]) -> None:
    """The process of the worker that is no more still has its file when the log lets go what lies in it."""
    stream = MemoryStream(2)
    house = build(workers=2, stream=stream)
    stream.log.deal(2)
    records = records_of("alpha", 24)
    house.send(records)
    house.drain()
    house.coordinator.stop()
    for ingest in house.ingests:
        house._close(ingest)
    held = Spool(house.spool_path(1))
    house.workers = 1
    stream.log.deal(1)
    for each, end in stream.ends().items():
        stream.truncate(each, end)
    house.ingests = [house._ingest(0)]
    house.employ(house.parts.learner)
    house.start_coordinator()
    for _ in range(3):
        _round(house)
    state = house.state("alpha")
    assert state is not None and state.lost == ()
    assert "1.sqlite of a worker that is no more was not taken over yet" in str(dict(house.status().troubles()))
    held.close()
    for _ in range(2):
        _round(house)
    state = house.state("alpha")
    assert state is not None and state.lost == () and house.waiting("alpha") == 24
    assert house.status().trouble is None
    house.send([EndOfDomain(domain="alpha")])
    house.learn("alpha")
    house.check_exact(training(records))


def _round(house: House) -> None:
    house.poll()
    house.observe()
    house.tick()
    house.wait(6.0)

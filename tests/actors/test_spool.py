"""The spool: what was stored once is there once, through every stage and any end of the process."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from actors.backlog import DomainBacklog
from actors.errors import OtherHome
from actors.spool import Spool, SpooledMarker, SpooledRow
from streaming.source import TopicPartition

P0, P1 = TopicPartition("stream", 0), TopicPartition("stream", 1)


def row(partition: TopicPartition, offset: int, domain: str = "alpha", *, held_out: bool = False) -> SpooledRow:
    return SpooledRow(partition, offset, domain, f"{domain}-{partition.partition}-{offset}", held_out, "ask", "say")


def rows(partition: TopicPartition, offsets: Iterable[int], domain: str = "alpha") -> list[SpooledRow]:
    return [row(partition, offset, domain) for offset in offsets]


def offsets(found: Iterable[SpooledRow]) -> list[tuple[int, int]]:
    return [(each.partition.partition, each.offset) for each in found]


@pytest.fixture
def reopen(tmp_path: Path) -> Iterator[Callable[[], Spool]]:
    """Opens the one spool file, giving up the handle that was open before."""
    opened: list[Spool] = []

    def _reopen() -> Spool:
        if opened:
            opened.pop().close()
        opened.append(Spool(tmp_path / "spool.sqlite"))
        return opened[0]

    yield _reopen
    if opened:
        opened.pop().close()


@pytest.fixture
def spool(reopen: Callable[[], Spool]) -> Spool:
    return reopen()


def test_storing_twice_is_storing_once(spool: Spool) -> None:
    for _ in range(2):
        spool.append(rows(P0, range(3)), [SpooledMarker(P0, 3, "alpha")], {P0: (0, 4)})
    assert spool.size() == 3
    assert spool.backlog({P0: 4}) == {
        "alpha": DomainBacklog(
            train=3,
            fresh=3,
            markers=frozenset({P0}),
        )
    }


def test_a_transaction_that_fails_leaves_nothing(spool: Spool) -> None:
    bad = SpooledRow(P0, 1, "alpha", None, False, "ask", "say")  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        spool.append([row(P0, 0), bad], [], {P0: (0, 2)})
    assert (spool.size(), spool.continuation(P0, 0)) == (0, 0)
    spool.append([row(P0, 0)], [], {P0: (0, 1)})
    assert spool.size() == 1


def test_blocks_are_cut_at_the_limit_over_partitions(spool: Spool) -> None:
    spool.append([*rows(P0, range(5)), *rows(P1, range(4))], [], {P0: (0, 5), P1: (0, 4)})
    first = spool.block({}, 3)
    assert first is not None
    assert (offsets(first.rows), dict(first.spans)) == ([(0, 0), (0, 1), (0, 2)], {P0: (0, 3)})
    second = spool.block({P0: 3}, 3)
    assert second is not None
    assert offsets(second.rows) == [(0, 3), (0, 4), (1, 0)]
    assert dict(second.spans) == {P0: (3, 5), P1: (0, 1)}
    assert spool.block({P0: 5, P1: 4}, 3) is None


def test_offsets_without_rows_belong_to_a_block(spool: Spool) -> None:
    # 0-1 unreadable, 2 a row, 3-6 a hole in the log, 7-8 rows, 9 a marker
    spool.append([row(P0, 2), *rows(P0, [7, 8])], [SpooledMarker(P0, 9, "alpha")], {P0: (0, 10)})
    first = spool.block({}, 2)
    assert first is not None
    assert (offsets(first.rows), dict(first.spans)) == ([(0, 2), (0, 7)], {P0: (0, 8)})
    rest = spool.block({P0: 8}, 2)
    assert rest is not None
    assert (offsets(rest.rows), dict(rest.spans)) == ([(0, 8)], {P0: (8, 10)})


def test_a_block_without_rows_still_moves_the_watermark(spool: Spool) -> None:
    spool.append([], [SpooledMarker(P0, 0, "alpha")], {P0: (0, 1)})
    found = spool.block({}, 5)
    assert found is not None
    assert (found.rows, dict(found.spans)) == ((), {P0: (0, 1)})


def test_an_unknown_partition_begins_at_its_beginning_or_not_at_all(spool: Spool) -> None:
    spool.append(rows(P0, range(5, 8)), [], {P0: (5, 8)})
    assert spool.block({}, 9) is None, "what lies before offset 5 would be skipped for good"
    assert spool.block({P0: 5}, 9) is not None


def test_coverage_with_a_hole_and_its_mending(spool: Spool) -> None:
    spool.append(rows(P0, range(3)), [], {P0: (0, 3)})
    spool.append(rows(P0, range(10, 12)), [], {P0: (10, 12)})
    assert [spool.continuation(P0, at) for at in (0, 2, 3, 9, 10, 12)] == [3, 3, 3, 9, 12, 12]
    inside = spool.block({P0: 1}, 9)
    assert inside is not None and dict(inside.spans) == {P0: (1, 3)}
    assert spool.block({P0: 3}, 9) is None, "3 to 9 are another worker's to supply"
    beyond = spool.block({P0: 10}, 9)
    assert beyond is not None and offsets(beyond.rows) == [(0, 10), (0, 11)]
    spool.append(rows(P0, range(3, 10)), [], {P0: (3, 10)})
    assert spool.continuation(P0, 0) == 12
    whole = spool.block({}, 99)
    assert whole is not None and dict(whole.spans) == {P0: (0, 12)}


def test_positions_of_what_was_never_read(spool: Spool) -> None:
    assert spool.continuation(P0, 0) == 0
    assert spool.continuation(P0, 41) == 41
    assert spool.block({P0: 41}, 5) is None


def test_the_backlog_counts_only_what_was_observed(spool: Spool) -> None:
    spool.append(
        [row(P0, 0), row(P0, 1, held_out=True), row(P0, 2, "beta"), row(P1, 0), row(P1, 1)],
        [SpooledMarker(P0, 3, "alpha"), SpooledMarker(P1, 2, "alpha")],
        {P0: (0, 4), P1: (0, 3)},
    )
    nothing = spool.backlog({})
    assert {domain: (b.train, b.held_out, b.fresh, b.unobserved, b.markers) for domain, b in nothing.items()} == {
        "alpha": (0, 0, 0, 4, frozenset()),
        "beta": (0, 0, 0, 1, frozenset()),
    }
    some = spool.backlog({P0: 4, P1: 1})
    assert (some["alpha"].train, some["alpha"].held_out, some["alpha"].fresh, some["alpha"].unobserved) == (2, 1, 3, 1)
    assert some["alpha"].markers == {P0}
    assert (some["beta"].train, some["beta"].markers) == (1, frozenset())
    assert spool.backlog({P0: 4, P1: 3})["alpha"].markers == {P0, P1}


def test_sealing_takes_observed_rows_and_markers_and_may_be_repeated(spool: Spool) -> None:
    spool.append(
        [*rows(P0, range(4)), row(P0, 4, "beta")],
        [SpooledMarker(P0, 5, "alpha"), SpooledMarker(P0, 6, "beta")],
        {P0: (0, 7)},
    )
    assert spool.seal("alpha", 1, {P0: 2}).rows == 2
    assert spool.backlog({P0: 7})["alpha"].markers == {P0}, "the marker lies beyond what was observed"
    again = spool.seal("alpha", 1, {P0: 6})
    assert (again.rows, dict(again.watermarks)) == (4, {P0: 6})
    assert spool.seal_of("alpha", 1) == again
    left = spool.backlog({P0: 7})
    assert (left["alpha"].train, left["alpha"].fresh, left["alpha"].markers) == (0, 0, frozenset())
    assert left["alpha"].sealed == {1}
    assert (left["beta"].train, left["beta"].markers) == (1, {P0})
    assert offsets(spool.sealed("alpha", 1)) == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert spool.seal_of("alpha", 2).rows == 0


def test_what_comes_after_a_seal_waits_for_the_next_version(spool: Spool) -> None:
    spool.append(rows(P0, range(2)), [], {P0: (0, 2)})
    spool.seal("alpha", 1, {P0: 2})
    spool.append(rows(P0, range(2, 5)), [], {P0: (2, 5)})
    assert spool.backlog({P0: 5})["alpha"].fresh == 3
    assert spool.release("alpha", 1, {P0: 2}) == 2
    assert (spool.size(), spool.backlog({P0: 5})["alpha"].sealed) == (3, frozenset())


def test_release_takes_copies_below_the_seals_of_all_and_nothing_else(spool: Spool) -> None:
    spool.append([*rows(P0, range(6)), row(P0, 6, "beta"), *rows(P1, range(2))], [], {P0: (0, 7), P1: (0, 2)})
    # Another worker has sealed P0 up to 4 as version 1 and it was published; here nothing was sealed in time.
    assert spool.release("alpha", 1, {P0: 4}) == 0
    block = spool.block({}, 99)
    assert block is not None
    assert [(r.domain, r.partition.partition, r.offset) for r in block.rows] == [
        ("alpha", 0, 4),
        ("alpha", 0, 5),
        ("beta", 0, 6),
        ("alpha", 1, 0),
        ("alpha", 1, 1),
    ]
    spool.seal("alpha", 2, {P0: 5})
    spool.release("alpha", 1, {P0: 7})
    assert offsets(spool.sealed("alpha", 2)) == [(0, 4)], "another version's seal is not touched"


def test_a_rejected_version_is_opened_again_but_is_not_fresh(spool: Spool) -> None:
    spool.append(rows(P0, range(3)), [], {P0: (0, 3)})
    spool.seal("alpha", 1, {P0: 3})
    spool.reopen("alpha", 1)
    found = spool.backlog({P0: 3})["alpha"]
    assert (found.train, found.fresh, found.sealed) == (3, 0, frozenset())
    spool.append([row(P0, 3)], [], {P0: (3, 4)})
    assert spool.backlog({P0: 4})["alpha"].fresh == 1
    assert spool.seal("alpha", 2, {P0: 4}).rows == 4


def test_forgetting_a_domain(spool: Spool) -> None:
    spool.append(
        [*rows(P0, range(4)), row(P0, 4, "beta")],
        [SpooledMarker(P0, 5, "alpha"), SpooledMarker(P0, 9, "alpha")],
        {P0: (0, 10)},
    )
    spool.seal("alpha", 1, {P0: 2})
    assert spool.forget("alpha", {P0: 3}) == 3
    assert spool.backlog({P0: 10})["alpha"].train == 1
    assert spool.forget("alpha") == 1
    assert set(spool.backlog({P0: 10})) == {"beta"}


def test_everything_is_there_after_reopening(reopen: Callable[[], Spool]) -> None:
    spool = reopen()
    spool.append([*rows(P0, range(4)), row(P1, 0, "beta")], [SpooledMarker(P1, 1, "beta")], {P0: (0, 4), P1: (0, 2)})
    spool.seal("alpha", 1, {P0: 3})
    spool.discard([(P0, 3)])
    watermarks = {P0: 4, P1: 2}
    before = spool.backlog(watermarks)
    spool = reopen()
    assert spool.backlog(watermarks) == before
    assert offsets(spool.sealed("alpha", 1)) == [(0, 0), (0, 1), (0, 2)]
    assert (spool.continuation(P0, 0), spool.continuation(P1, 0)) == (4, 2)
    block = spool.block({}, 99)
    assert block is not None and len(block.rows) == 4


def test_what_was_stored_survives_a_kill(tmp_path: Path, repository: Path) -> None:
    path = tmp_path / "spool.sqlite"
    script = f"""
import os, signal
from pathlib import Path
from actors.spool import Spool, SpooledRow
from streaming.source import TopicPartition
partition = TopicPartition("stream", 0)
spool = Spool(Path({str(path)!r}))
rows = [SpooledRow(partition, n, "alpha", str(n), False, "ask", "say") for n in range(5)]
spool.append(rows, [], {{partition: (0, 5)}})
spool.seal("alpha", 1, {{partition: 3}})
spool._db.execute("BEGIN IMMEDIATE")
spool._db.execute("DELETE FROM rows")
os.kill(os.getpid(), signal.SIGKILL)
"""
    died = subprocess.run([sys.executable, "-c", script], cwd=repository, capture_output=True, timeout=60)
    assert died.returncode == -9, died.stderr.decode()
    spool = Spool(path)
    try:
        assert (spool.size(), spool.seal_of("alpha", 1).rows, spool.continuation(P0, 0)) == (5, 3, 5)
    finally:
        spool.close()


def test_transactions_are_forced_to_the_disk_and_the_file_is_not_shared(spool: Spool, tmp_path: Path) -> None:
    assert spool._db.execute("PRAGMA synchronous").fetchone() == (2,)
    spool.append([row(P0, 0)], [], {P0: (0, 1)})
    other = sqlite3.connect(tmp_path / "spool.sqlite", timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("SELECT count(*) FROM rows")
    other.close()


# -- files written before ---------------------------------------------------------------------------------------------

FORMAT_1 = """
CREATE TABLE rows (
    topic TEXT NOT NULL, part INTEGER NOT NULL, pos INTEGER NOT NULL,
    domain TEXT NOT NULL, record_id TEXT NOT NULL, held_out INTEGER NOT NULL, body BLOB NOT NULL,
    arrived REAL NOT NULL, sealed INTEGER, tried INTEGER,
    PRIMARY KEY (topic, part, pos)) WITHOUT ROWID;
CREATE INDEX rows_stage ON rows (domain, sealed, tried, held_out, arrived);
CREATE TABLE markers (
    topic TEXT NOT NULL, part INTEGER NOT NULL, pos INTEGER NOT NULL, domain TEXT NOT NULL, arrived REAL NOT NULL,
    PRIMARY KEY (topic, part, pos)) WITHOUT ROWID;
CREATE TABLE coverage (
    topic TEXT NOT NULL, part INTEGER NOT NULL, first INTEGER NOT NULL, next INTEGER NOT NULL,
    PRIMARY KEY (topic, part, first)) WITHOUT ROWID;
CREATE TABLE seals (
    domain TEXT NOT NULL, version INTEGER NOT NULL, topic TEXT NOT NULL, part INTEGER NOT NULL, next INTEGER NOT NULL,
    PRIMARY KEY (domain, version, topic, part)) WITHOUT ROWID;
INSERT INTO coverage VALUES ('stream', 0, 0, 7);
INSERT INTO markers VALUES ('stream', 0, 6, 'alpha', 1.0);
"""


@pytest.fixture
def format_1(tmp_path: Path) -> sqlite3.Connection:
    """A file of the first format, in which nothing waits but a marker."""
    made = sqlite3.connect(tmp_path / "spool.sqlite")
    made.executescript(FORMAT_1)
    return made


def test_an_old_file_with_nothing_waiting_is_taken_over(
    format_1: sqlite3.Connection, reopen: Callable[[], Spool]
) -> None:
    format_1.close()
    for _ in range(2):
        spool = reopen()
        assert (spool.size(), spool.continuation(P0, 0)) == (0, 7)
        assert spool.backlog({P0: 7})["alpha"].markers == {P0}
    spool.append([row(P0, 7)], [], {P0: (7, 8)})
    assert reopen().size() == 1


def test_an_old_file_with_rows_is_refused_in_one_line_and_left_as_it_is(
    format_1: sqlite3.Connection, tmp_path: Path
) -> None:
    format_1.execute("INSERT INTO rows VALUES ('stream', 0, 1, 'alpha', 'a', 0, '{}', 1.0, NULL, NULL)")
    format_1.commit()
    format_1.close()
    for _ in range(2):
        with pytest.raises(OtherHome, match=r"^spool spool.sqlite: holds 1 examples in the format of an earlier.*$"):
            Spool(tmp_path / "spool.sqlite")
    again = sqlite3.connect(tmp_path / "spool.sqlite")
    assert again.execute("SELECT body FROM rows").fetchall() == [("{}",)]
    again.close()


def test_a_spool_beside_one_that_is_refused_is_left_as_it_was(format_1: sqlite3.Connection, tmp_path: Path) -> None:
    """Else the version that is to publish what waits there could not run any more."""
    format_1.execute("VACUUM INTO ?", (str(tmp_path / "beside.sqlite"),))
    format_1.execute("INSERT INTO rows VALUES ('stream', 0, 1, 'alpha', 'a', 0, '{}', 1.0, NULL, NULL)")
    format_1.commit()
    format_1.close()
    before = (tmp_path / "beside.sqlite").read_bytes()
    for name in ("beside", "new"):
        with pytest.raises(OtherHome, match=r"^spool spool.sqlite: holds 1 examples in the format of an earlier.*$"):
            Spool(tmp_path / f"{name}.sqlite")
    assert (tmp_path / "beside.sqlite").read_bytes() == before and not (tmp_path / "new.sqlite").exists()
    (tmp_path / "spool.sqlite").unlink()
    beside = Spool(tmp_path / "beside.sqlite")
    Spool(tmp_path / "new.sqlite").close()
    beside.close()


def test_a_file_of_a_later_format_is_refused(reopen: Callable[[], Spool], tmp_path: Path) -> None:
    reopen()._db.execute("PRAGMA user_version=99")
    with pytest.raises(OtherHome, match="format 99"):
        reopen()


def test_rows_rendered_by_another_template_are_refused_and_others_are_not(spool: Spool) -> None:
    spool.check_template("one")
    spool.append([row(P0, 0)], [], {P0: (0, 1)})
    spool.check_template("one")
    for _ in range(2):
        with pytest.raises(OtherHome, match="1 examples rendered by another prompt template"):
            spool.check_template("two")
    spool.discard([(P0, 0)])
    spool.check_template("two")


def test_texts_come_back_as_they_were(reopen: Callable[[], Spool]) -> None:
    texts = ["a\0b", "\n", " \U0001f600 \u00e4 ", "'; DROP TABLE rows; --", ""]
    written = [SpooledRow(P0, n, "alpha", str(n), False, text, text) for n, text in enumerate(texts)]
    reopen().append(written, [], {P0: (0, len(texts))})
    block = reopen().block({}, 99)
    assert block is not None and list(block.rows) == written

"""The spool: what was stored once is there once, until the ledger says otherwise, through any end of the process."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.coverage import Span
from actors.errors import OtherHome, SpoolAhead
from actors.observation import Marker
from actors.packs import SpooledRow
from actors.spool import Spool
from actors.spool_facts import SnapshotNote
from actors.spool_file import UnreadableSpool, delete_file, is_damage
from streaming.source import TopicPartition
from tests.actors.views import LINEAGE, view

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
        spool.append(rows(P0, range(3)), [Marker(P0, 3, "alpha")], [Span(P0, 0, 4)])
    assert spool.size() == 3
    assert spool.counts() == {"alpha": 3}
    block = spool.block({}, 9)
    assert block is not None and block.markers == (Marker(P0, 3, "alpha"),)


def test_a_transaction_that_fails_leaves_nothing(spool: Spool) -> None:
    bad = SpooledRow(P0, 1, "beta", "\ud800", False, "ask", "say")
    with pytest.raises(UnicodeEncodeError):
        spool.append([row(P0, 0), bad], [], [Span(P0, 0, 2)])
    assert (spool.size(), spool.continuation(P0, 0)) == (0, 0)
    spool.append([row(P0, 0)], [], [Span(P0, 0, 1)])
    assert spool.size() == 1


def test_blocks_are_of_one_partition_in_turn_and_cut_at_the_limit(spool: Spool) -> None:
    spool.append([*rows(P0, range(5)), *rows(P1, range(4))], [], [Span(P0, 0, 5), Span(P1, 0, 4)])
    first = spool.block({}, 3)
    assert first is not None
    assert (offsets(first.rows), dict(first.spans)) == ([(0, 0), (0, 1), (0, 2)], {P0: (0, 3)})
    second = spool.block({P0: 3}, 3)
    assert second is not None
    assert (offsets(second.rows), dict(second.spans)) == ([(1, 0), (1, 1), (1, 2)], {P1: (0, 3)})
    third = spool.block({P0: 3, P1: 3}, 3)
    assert third is not None
    assert (offsets(third.rows), dict(third.spans)) == ([(0, 3), (0, 4)], {P0: (3, 5)})
    assert spool.block({P0: 5, P1: 4}, 3) is None


def test_offsets_without_rows_belong_to_a_block(spool: Spool) -> None:
    # 0-1 unreadable, 2 a row, 3-6 a hole in the log, 7-8 rows, 9 a marker
    spool.append([row(P0, 2), *rows(P0, [7, 8])], [Marker(P0, 9, "alpha")], [Span(P0, 0, 10)])
    first = spool.block({}, 2)
    assert first is not None
    assert (offsets(first.rows), dict(first.spans)) == ([(0, 2), (0, 7)], {P0: (0, 8)})
    rest = spool.block({P0: 8}, 2)
    assert rest is not None
    assert (offsets(rest.rows), dict(rest.spans)) == ([(0, 8)], {P0: (8, 10)})


def test_a_block_without_rows_still_moves_the_watermark(spool: Spool) -> None:
    spool.append([], [Marker(P0, 0, "alpha")], [Span(P0, 0, 1)])
    found = spool.block({}, 5)
    assert found is not None
    assert (found.rows, dict(found.spans)) == ((), {P0: (0, 1)})


def test_an_unknown_partition_begins_at_its_beginning_or_not_at_all(spool: Spool) -> None:
    spool.append(rows(P0, range(5, 8)), [], [Span(P0, 5, 8)])
    assert spool.block({}, 9) is None, "what lies before offset 5 would be skipped for good"
    assert spool.block({P0: 5}, 9) is not None


def test_coverage_with_a_hole_and_its_mending(spool: Spool) -> None:
    spool.append(rows(P0, range(3)), [], [Span(P0, 0, 3)])
    spool.append(rows(P0, range(10, 12)), [], [Span(P0, 10, 12)])
    assert [spool.continuation(P0, at) for at in (0, 2, 3, 9, 10, 12)] == [3, 3, 3, 9, 12, 12]
    inside = spool.block({P0: 1}, 9)
    assert inside is not None and dict(inside.spans) == {P0: (1, 3)}
    assert spool.block({P0: 3}, 9) is None, "3 to 9 are another worker's to supply"
    beyond = spool.block({P0: 10}, 9)
    assert beyond is not None and offsets(beyond.rows) == [(0, 10), (0, 11)]
    spool.append(rows(P0, range(3, 10)), [], [Span(P0, 3, 10)])
    assert spool.continuation(P0, 0) == 12
    whole = spool.block({}, 99)
    assert whole is not None and dict(whole.spans) == {P0: (0, 12)}


def test_positions_of_what_was_never_read(spool: Spool) -> None:
    assert spool.continuation(P0, 0) == 0
    assert spool.continuation(P0, 41) == 41
    assert spool.block({P0: 41}, 5) is None


def test_markers_go_with_the_block_that_covers_them(spool: Spool) -> None:
    markers = [Marker(P0, 1, "beta"), Marker(P0, 4, "alpha"), Marker(P1, 0, "beta")]
    spool.append([row(P0, 0), row(P0, 2), row(P0, 3)], markers, [Span(P0, 0, 5), Span(P1, 0, 1)])
    first = spool.block({}, 2)
    assert first is not None and (first.markers, dict(first.spans)) == ((markers[0],), {P0: (0, 3)})
    other = spool.block({P0: 3}, 9)
    assert other is not None and other.markers == (markers[2],)
    rest = spool.block({P0: 3, P1: 1}, 9)
    assert rest is not None and rest.markers == (markers[1],)
    many = [Marker(P1, offset, "beta") for offset in range(1, 8)]
    spool.append([], many, [Span(P1, 1, 8)])
    some = spool.block({P0: 5, P1: 1}, 3)
    assert some is not None and (len(some.markers), dict(some.spans)) == (3, {P1: (1, 4)})


def test_no_block_has_rows_of_a_domain_from_before_and_behind_its_marker(spool: Spool) -> None:
    spool.append(
        [*rows(P0, range(2)), row(P0, 3, "beta"), row(P0, 4), row(P0, 6), row(P0, 7, "beta")],
        [Marker(P0, 2, "alpha"), Marker(P0, 5, "gamma")],
        [Span(P0, 0, 8)],
    )
    before = spool.block({}, 9)
    assert before is not None
    assert (offsets(before.rows), dict(before.spans)) == ([(0, 0), (0, 1), (0, 3)], {P0: (0, 4)})
    behind = spool.block({P0: 4}, 9)
    assert behind is not None
    assert (offsets(behind.rows), dict(behind.spans)) == ([(0, 4), (0, 6), (0, 7)], {P0: (4, 8)})


def test_everything_is_there_after_reopening(reopen: Callable[[], Spool]) -> None:
    spool = reopen()
    spool.append([*rows(P0, range(4)), row(P1, 0, "beta")], [Marker(P1, 1, "beta")], [Span(P0, 0, 4), Span(P1, 0, 2)])
    spool.discard([(P0, 3)])
    spool.follow(view(3, fences={}))
    spool = reopen()
    assert (spool.counts(), spool.snapshot()) == ({"alpha": 3, "beta": 1}, SnapshotNote(LINEAGE, "first", 3))
    assert (spool.continuation(P0, 0), spool.continuation(P1, 0)) == (4, 2)
    block, other = spool.block({}, 99), spool.block({}, 99)
    assert block is not None and other is not None
    assert (len(block.rows), len(other.rows), other.markers) == (3, 1, (Marker(P1, 1, "beta"),))


# -- following the ledger ---------------------------------------------------------------------------------------------


def test_rows_below_a_fence_and_markers_that_are_durable_are_dropped(spool: Spool) -> None:
    spool.append(
        [*rows(P0, range(4)), row(P0, 4, "beta"), row(P1, 0)],
        [Marker(P0, 5, "alpha"), Marker(P0, 6, "beta")],
        [Span(P0, 0, 7), Span(P1, 0, 1)],
    )
    spool.follow(view(1, fences={"alpha": {P0: 3}, "beta": {P1: 9}}, durable={P0: 6}))
    assert offsets(spool.examples("alpha", {P0: 9, P1: 9})) == [(0, 3), (1, 0)]
    assert spool.counts() == {"alpha": 2, "beta": 1}
    block = spool.block({}, 99)
    assert block is not None and block.markers == (Marker(P0, 6, "beta"),)
    assert spool.continuation(P0, 0) == 7, "what was dropped was read"
    spool.append(rows(P0, [1, 2, 7]), [], [Span(P0, 7, 8)])
    assert offsets(spool.examples("alpha", {P0: 9})) == [(0, 3), (0, 7)], "nor are they taken again"
    spool.follow(view(2, fences=None))
    spool.follow(view(3, fences={"alpha": {P0: 8}}))
    assert spool.counts() == {"alpha": 1, "beta": 1}


@pytest.mark.parametrize(
    ("later", "refused"),
    [
        ({"snapshot": 5}, False),
        ({"snapshot": 9}, False),
        ({"snapshot": 9, "runs": (("first", 1), ("second", 6))}, False),
        ({"snapshot": 4}, True),
        ({"snapshot": 0}, True),
        ({"snapshot": 9, "runs": (("first", 1), ("second", 5))}, True),
        ({"snapshot": 9, "runs": (("other", 1),)}, True),
        ({"snapshot": 9, "lineage": "0" * 32}, True),
    ],
)
def test_a_router_that_stands_before_what_was_dropped_is_refused(
    reopen: Callable[[], Spool], later: dict[str, Any], refused: bool
) -> None:
    reopen().follow(view(5, fences={}))
    spool = reopen()
    spool.append(rows(P0, range(3)), [], [Span(P0, 0, 3)])
    if not refused:
        spool.follow(view(fences={"alpha": {P0: 2}}, **later))
        assert spool.size() == 1
        return
    for _ in range(2):
        with pytest.raises(
            SpoolAhead, match=r"spool.sqlite: was led after snapshot 5 \(run first, .*home reread"
        ) as error:
            spool.follow(view(fences={"alpha": {P0: 2}}, **later))
        assert "\n" not in str(error.value)
    assert spool.size() == 3, "nothing is dropped by it"


def test_rows_of_another_log_are_dropped(spool: Spool) -> None:
    spool.note_log("stream", "old")
    spool.append(rows(P0, range(3)), [Marker(P0, 3, "alpha")], [Span(P0, 0, 4)])
    spool.follow(view(1, fences={}, logs={"stream": "old"}))
    assert spool.size() == 3
    spool.follow(view(2, fences={}, logs={"stream": "new"}))
    assert (spool.size(), spool.continuation(P0, 0), spool.log_of("stream")) == (0, 0, None)


def test_what_is_held_and_covered_of_a_stretch(spool: Spool) -> None:
    spool.append(rows(P0, [1, 2, 5]), [], [Span(P0, 0, 3), Span(P0, 5, 6)])
    held, read = spool.survey(P0, 1, 5)
    assert held.tolist() == [1, 2] and read == (Span(P0, 1, 3), Span(P0, 5, 6))
    assert spool.holes(P0, 0, 9) == [Span(P0, 3, 5), Span(P0, 6, 9)]
    nothing, unread = spool.survey(P1, 0, 9)
    assert (nothing.size, unread, spool.holes(P1, 3, 3)) == (0, (), [])


def test_a_stretch_is_recalled_in_order(spool: Spool) -> None:
    spool.append([*rows(P0, range(6)), *rows(P1, range(2))], [], [Span(P0, 0, 6), Span(P1, 0, 2)])
    assert offsets(spool.recall(P0, 1, 5, 3)) == [(0, 1), (0, 2), (0, 3)]
    assert spool.counts_from(P0, 4) == {"alpha": 2}


def test_its_bytes_grow_and_shrink_with_what_it_holds(spool: Spool) -> None:
    empty = spool.bytes()
    spool.append(
        [SpooledRow(P0, n, "alpha", str(n), False, "x" * 1000, "y" * 1000) for n in range(200)], [], [Span(P0, 0, 200)]
    )
    full = spool.bytes()
    assert full - empty > 300_000
    spool.follow(view(1, fences={"alpha": {P0: 200}}))
    assert spool.bytes() < empty + (full - empty) / 10


# -- files that can't be read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_spool_is_deleted_and_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "spool.sqlite"
    for part in ("", "-wal", "-journal"):
        path.with_name(path.name + part).write_bytes(content)
    spool = Spool(path)
    try:
        assert spool.trouble is not None and "it was deleted, and the stream is read again" in spool.trouble
        assert (spool.size(), spool.continuation(P0, 0)) == (0, 0)
    finally:
        spool.close()
    assert [each.name for each in tmp_path.iterdir()] == ["spool.sqlite"], "nothing of it was kept"
    assert content[-500:] not in path.read_bytes()


def test_every_file_of_a_spool_goes_with_it_and_no_other(tmp_path: Path) -> None:
    for part in ("", "-wal", "-shm", "-journal"):
        (tmp_path / f"spool.sqlite{part}").touch()
        (tmp_path / f"other.sqlite{part}").touch()
    delete_file(tmp_path / "spool.sqlite")
    assert {path.name.split(".")[0] for path in tmp_path.iterdir()} == {"other"}
    delete_file(tmp_path / "spool.sqlite")


def test_a_file_of_another_format_is_deleted(reopen: Callable[[], Spool], tmp_path: Path) -> None:
    spool = reopen()
    assert spool.trouble is None
    spool.append([row(P0, 0)], [], [Span(P0, 0, 1)])
    spool._db.execute("PRAGMA user_version=2")
    spool = reopen()
    assert spool.trouble is not None and "format 2, this version reads format 5" in spool.trouble
    assert spool.size() == 0 and {each.name for each in tmp_path.iterdir()} <= {"spool.sqlite", "spool.sqlite-wal"}
    assert reopen().trouble is None


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE facts SET value='many' WHERE name='snapshot'",
        "UPDATE facts SET value='-3' WHERE name='snapshot'",
        "UPDATE facts SET value=x'33' WHERE name='snapshot'",
        "UPDATE facts SET value=CAST(x'ff' AS TEXT) WHERE name='run'",
        "DELETE FROM facts WHERE name='lineage'",
        "DELETE FROM facts WHERE name='run'",
    ],
)
def test_a_file_with_facts_that_are_none_is_deleted_too(reopen: Callable[[], Spool], change: str) -> None:
    spool = reopen()
    spool.append([row(P0, 0)], [], [Span(P0, 0, 1)])
    spool.follow(view(3, fences={}))
    spool = reopen()
    assert (spool.trouble, spool.size()) == (None, 1)
    spool._db.execute(change)
    spool = reopen()
    assert spool.trouble is not None and "is damaged" in spool.trouble and "\n" not in spool.trouble
    assert (spool.size(), spool.continuation(P0, 0), spool.snapshot()) == (0, 0, None)


@pytest.mark.parametrize("byte", [b"\xff", b"z"], ids=["no text", "another name"])
@pytest.mark.parametrize(
    "name", [b"facts (name", b"PRIMARY KEY, value", b"offsets BLOB NOT NULL, content", b"PRIMARY KEY"]
)
def test_a_file_with_a_damaged_schema_is_deleted_too(
    reopen: Callable[[], Spool], tmp_path: Path, name: bytes, byte: bytes
) -> None:
    reopen().close()
    path = tmp_path / "spool.sqlite"
    content = path.read_bytes()
    place = content.index(name) + len(name) - 1
    path.write_bytes(content[:place] + byte + content[place + 1 :])
    spool = reopen()
    assert spool.trouble is not None and "is damaged" in spool.trouble and "\n" not in spool.trouble
    assert spool.size() == 0


@pytest.mark.parametrize(
    "change",
    [
        "content=CAST(replace(content, 'ask', x'ff6b6b') AS BLOB)",
        "content=x''",
        "content=x'90'",
        "content='text'",
        "content=CAST(replace(content, 'ask', 'as') AS BLOB)",
        "offsets=x'00'",
        "offsets=x''",
        "offsets='text of 8'",
    ],
)
def test_a_pack_that_is_none_counts_as_damage(spool: Spool, change: str) -> None:
    spool.append([row(P0, 0), row(P0, 1)], [], [Span(P0, 0, 2)])
    spool._db.execute(f"UPDATE packs SET {change}")
    for ask in (lambda: spool.recall(P0, 0, 2, 1), lambda: spool.examples("alpha", {P0: 2})):
        with pytest.raises(UnreadableSpool, match="it is damaged") as caught:
            ask()
        assert is_damage(caught.value)
    with pytest.raises(sqlite3.OperationalError) as other:
        spool._db.execute("SELECT nothing")
    assert not is_damage(other.value)


def test_it_begins_anew_where_its_file_breaks(spool: Spool, tmp_path: Path) -> None:
    spool.append([row(P0, 0)], [], [Span(P0, 0, 1)])
    spool.begin_anew("it is damaged")
    assert (spool.size(), spool.continuation(P0, 0)) == (0, 0)
    assert spool.trouble is not None and "it is damaged" in spool.trouble
    spool.append([row(P0, 0)], [], [Span(P0, 0, 1)])
    assert spool.size() == 1 and {each.suffix for each in tmp_path.iterdir()} <= {".sqlite", ".sqlite-wal"}


def test_what_is_begun_anew_is_made_by_the_same_template_and_from_the_same_log(reopen: Callable[[], Spool]) -> None:
    reopen().check_template("one")
    spool = reopen()
    spool.check_template("one")
    spool.note_log("stream", "log")
    spool.begin_anew("it is damaged")
    spool.append([row(P0, 0)], [], [Span(P0, 0, 1)])
    spool = reopen()
    spool.check_template("one")
    assert spool.log_of("stream") == "log"


def test_the_file_is_its_users_alone(tmp_path: Path) -> None:
    Spool(tmp_path / "own" / "spool.sqlite").close()
    assert (tmp_path / "own").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "own" / "spool.sqlite").stat().st_mode & 0o077 == 0


# -- ends of the process ----------------------------------------------------------------------------------------------


def test_what_was_stored_survives_a_kill(tmp_path: Path, repository: Path) -> None:
    path = tmp_path / "spool.sqlite"
    script = f"""
import os, signal
from pathlib import Path
from actors.coverage import Span
from actors.packs import SpooledRow
from actors.spool import Spool
from streaming.source import TopicPartition
partition = TopicPartition("stream", 0)
spool = Spool(Path({str(path)!r}))
rows = [SpooledRow(partition, n, "alpha", str(n), False, "ask", "say") for n in range(5)]
spool.append(rows, [], [Span(partition, 0, 5)])
spool._db.execute("BEGIN IMMEDIATE")
spool._db.execute("DELETE FROM packs")
os.kill(os.getpid(), signal.SIGKILL)
"""
    died = subprocess.run([sys.executable, "-c", script], cwd=repository, capture_output=True, timeout=60)
    assert died.returncode == -9, died.stderr.decode()
    spool = Spool(path)
    try:
        assert (spool.size(), spool.continuation(P0, 0)) == (5, 5)
    finally:
        spool.close()


def test_transactions_are_forced_to_the_disk_and_the_file_is_not_shared(spool: Spool, tmp_path: Path) -> None:
    assert spool._db.execute("PRAGMA synchronous").fetchone() == (2,)
    spool.append([row(P0, 0)], [], [Span(P0, 0, 1)])
    other = sqlite3.connect(tmp_path / "spool.sqlite", timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("SELECT count(*) FROM packs")
    other.close()


def test_rows_rendered_by_another_template_are_refused_and_others_are_not(spool: Spool) -> None:
    spool.check_template("one")
    spool.append([row(P0, 0)], [], [Span(P0, 0, 1)])
    spool.check_template("one")
    for _ in range(2):
        with pytest.raises(OtherHome, match="1 examples rendered by another prompt template"):
            spool.check_template("two")
    spool.discard([(P0, 0)])
    spool.check_template("two")


def test_texts_come_back_as_they_were(reopen: Callable[[], Spool]) -> None:
    texts = ["a\0b", "\n", " \U0001f600 \u00e4 ", "'; DROP TABLE rows; --", ""]
    written = [SpooledRow(P0, n, "alpha", str(n), False, text, text) for n, text in enumerate(texts)]
    reopen().append(written, [], [Span(P0, 0, len(texts))])
    block = reopen().block({}, 99)
    assert block is not None and list(block.rows) == written

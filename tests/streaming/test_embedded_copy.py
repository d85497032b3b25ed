"""The embedded stream's file is copied whole while it is written to; damage to it is said in one line."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from streaming.embedded_copy import check_log, copy_log
from streaming.embedded_log import EmbeddedLog, LogEntry
from streaming.errors import StreamError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    log = EmbeddedLog(tmp_path / "stream.sqlite")
    log.ensure_topic("t", 2)
    log.append(log.logs("t"), [LogEntry(n % 2, None, b"value" * 50, b"", n) for n in range(500)])
    log.close()
    return tmp_path / "stream.sqlite"


def test_a_copy_is_the_same_log(path: Path, tmp_path: Path) -> None:
    copy_log(path, tmp_path / "copy.sqlite")
    first, second = EmbeddedLog(path), EmbeddedLog(tmp_path / "copy.sqlite")
    assert first.identity("t") == second.identity("t")
    for log in first.logs("t"):
        assert first.read(log, 0, 1_000) == second.read(log, 0, 1_000)
    first.close()
    second.close()
    assert check_log(tmp_path / "copy.sqlite") == check_log(path) == 500


def test_a_copy_made_beside_a_writer_is_of_one_moment(path: Path, tmp_path: Path) -> None:
    """Appends write both partitions in one transaction, so that in a whole copy both are equally long."""
    stop, written = threading.Event(), threading.Event()

    def write() -> None:
        log = EmbeddedLog(path)
        while not stop.is_set():
            log.append(log.logs("t"), [LogEntry(0, None, b"a", b"", 1), LogEntry(1, None, b"b", b"", 1)])
            written.set()
        log.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert written.wait(30)
        copy_log(path, tmp_path / "copy.sqlite")
    finally:
        stop.set()
        writer.join()
    copy = EmbeddedLog(tmp_path / "copy.sqlite")
    ends = copy.ends(copy.logs("t"))
    copy.close()
    assert len(set(ends.values())) == 1 and check_log(tmp_path / "copy.sqlite") == sum(ends.values()) > 500


@pytest.mark.parametrize("damage", ["cut", "overwritten", "none at all"])
def test_damage_is_said(path: Path, damage: str) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "cut": content[: middle + 7],
            "overwritten": content[:middle] + b"\xff" * 9_000 + content[middle + 9_000 :],
            "none at all": b"not a database " * 1_000,
        }[damage]
    )
    with pytest.raises(StreamError, match=r"stream\.sqlite"):
        check_log(path)


def test_a_file_that_is_missing_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StreamError):
        check_log(tmp_path / "none.sqlite")
    with pytest.raises(StreamError):
        copy_log(tmp_path / "none.sqlite", tmp_path / "copy.sqlite")
    assert not (tmp_path / "none.sqlite").exists()

"""What only the embedded log has: one file shared by processes, crashes of a writer, static members."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from streaming.embedded import EmbeddedSink, EmbeddedSource
from streaming.embedded_log import EmbeddedLog
from streaming.errors import StreamError
from streaming.location import StreamLocation, open_source
from streaming.records import TaskRecord
from tests.streaming.streams import read

WRITER = """
import sys
from pathlib import Path
from streaming.embedded import EmbeddedSink
from streaming.embedded_log import EmbeddedLog
name, path, count, batch = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
sink = EmbeddedSink(EmbeddedLog(path), "t")
for number in range(count):
    sink.append_raw(b"x" * 100, (), f"{name}-{number}".encode())
    if number % batch == batch - 1:
        sink.flush()
        print(number + 1, flush=True)
sink.close()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "stream.sqlite"
    log = EmbeddedLog(path)
    log.ensure_topic("t", 2)
    log.close()
    return path


def writer(path: Path, repository: Path, name: str, count: int, batch: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, name, str(path), str(count), str(batch)]
    return subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True)


def test_several_processes_append_to_one_file(path: Path, repository: Path) -> None:
    source = EmbeddedSource(EmbeddedLog(path), "t", group="g")
    writers = [writer(path, repository, f"w{n}", 400, 20) for n in range(3)]
    try:
        found = read(source, 1_200, timeout_s=60)
        assert [each.wait(30) for each in writers] == [0, 0, 0]
    finally:
        for each in writers:
            each.kill()
            each.wait()
    assert source.poll(0.0, 10) == []
    assert len({each.key for each in found}) == 1_200
    for partition in range(2):
        mine = [each for each in found if each.partition == partition]
        assert [each.offset for each in mine] == list(range(len(mine)))
        for name in (b"w0-", b"w1-", b"w2-"):
            sent = [int(each.key.removeprefix(name)) for each in mine if each.key and each.key.startswith(name)]
            assert sent == sorted(sent)


def test_a_killed_writer_leaves_what_it_flushed_and_no_half_batch(path: Path, repository: Path) -> None:
    running = writer(path, repository, "w", 1_000_000, 50)
    try:
        assert running.stdout is not None
        flushed = 0
        while flushed < 500:
            flushed = int(running.stdout.readline())
        running.send_signal(signal.SIGKILL)
        flushed = int(([flushed, *running.stdout.read().split()])[-1])
    finally:
        running.kill()
        running.wait()
    with EmbeddedSourceOf(path) as source:
        found = []
        while polled := source.poll(0.0, 10_000):
            found += polled
    assert len(found) % 50 == 0
    assert flushed <= len(found) <= flushed + 50
    assert {each.key for each in found} == {f"w-{number}".encode() for number in range(len(found))}
    sink = EmbeddedSink(EmbeddedLog(path), "t")
    sink.append_raw(b"after", (), b"k")
    sink.close()


class EmbeddedSourceOf:
    """A source for a block."""

    def __init__(self, path: Path) -> None:
        self.source = EmbeddedSource(EmbeddedLog(path), "t", group=None)

    def __enter__(self) -> EmbeddedSource:
        return self.source

    def __exit__(self, *_: object) -> None:
        self.source.close()


def test_commits_are_synchronous(path: Path) -> None:
    """FULL in WAL mode: a transaction is on disk when flush returns."""
    log = EmbeddedLog(path)
    assert log._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert log._database.execute("PRAGMA synchronous").fetchone() == (2,)
    log.close()


def test_appends_wait_for_a_flush(path: Path) -> None:
    sink = EmbeddedSink(EmbeddedLog(path), "t")
    sink.append(TaskRecord(prompt="x", completion="y"))
    with EmbeddedSourceOf(path) as source:
        assert source.poll(0.0, 10) == []
        sink.flush()
        assert len(source.poll(0.0, 10)) == 1
    sink.close()


def test_members_share_the_partitions(tmp_path: Path) -> None:
    location = StreamLocation("embedded", "t", path=tmp_path / "s.sqlite")
    log = EmbeddedLog(tmp_path / "s.sqlite")
    log.ensure_topic("t", 5)
    log.close()
    sources = [open_source(location, group="g", member=member, members=2) for member in range(2)]
    shares = [{each.partition for each in source.assignment()} for source in sources]
    assert shares == [{0, 2, 4}, {1, 3}]
    assert all(len(source.partitions()) == 5 for source in sources)
    for source in sources:
        source.close()


@pytest.mark.parametrize(("member", "members"), [(-1, 2), (2, 2), (0, 0)])
def test_a_member_is_one_of_its_group(path: Path, member: int, members: int) -> None:
    with pytest.raises(StreamError, match="member"):
        EmbeddedSource(EmbeddedLog(path), "t", group="g", member=member, members=members)


def test_a_full_partition_does_not_starve_the_other(path: Path) -> None:
    sink = EmbeddedSink(EmbeddedLog(path), "t")
    for number in range(200):
        sink.append_raw(b"x", (), str(number).encode())
    sink.close()
    with EmbeddedSourceOf(path) as source:
        first, second = source.poll(0.0, 10), source.poll(0.0, 10)
    assert {each.partition for each in first + second} == {0, 1}


def test_topics_in_one_file_are_apart(path: Path) -> None:
    log = EmbeddedLog(path)
    log.ensure_topic("other", 2)
    sink = EmbeddedSink(log, "other")
    sink.append_raw(b"x", (), b"k")
    sink.flush()
    with EmbeddedSourceOf(path) as source:
        assert source.poll(0.0, 10) == []
    sink.close()


def test_partitions_do_not_depend_on_the_process(path: Path) -> None:
    """Python's own hash differs from process to process; CRC-32 does not."""
    sink = EmbeddedSink(EmbeddedLog(path), "t")
    for name in (b"a", b"b", b"c", b"d"):
        sink.append_raw(b"x", (), name)
    sink.close()
    with EmbeddedSourceOf(path) as source:
        places = {each.key: each.partition for each in source.poll(0.0, 10)}
    assert places == {b"a": 1, b"b": 1, b"c": 1, b"d": 0}


def test_a_file_that_is_no_log(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello, this is text" * 100)
    with pytest.raises(StreamError, match=r"notes\.txt.*SQLite"):
        EmbeddedLog(path)


def test_a_folder_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StreamError, match="embedded stream"):
        EmbeddedLog(tmp_path / "file" / "stream.sqlite")


def test_a_full_disk_loses_nothing_silently(path: Path) -> None:
    """The write fails, flush raises, and the log stays as it was."""
    log = EmbeddedLog(path)
    pages = log._database.execute("PRAGMA page_count").fetchone()[0]
    log._database.execute(f"PRAGMA max_page_count = {pages + 2}")
    sink = EmbeddedSink(log, "t")
    sink.append_raw(b"x" * 1_000_000, (), b"k")
    with pytest.raises(StreamError, match="cannot write"):
        sink.flush()
    log._database.execute("PRAGMA max_page_count = 1000000")
    sink.append_raw(b"fits", (), b"k")
    sink.close()
    with EmbeddedSourceOf(path) as source:
        assert [each.value for each in source.poll(0.0, 10)] == [b"fits"]


def test_a_busy_writer_is_waited_for(path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, lambda: other.execute("COMMIT"))
    release.start()
    began = time.monotonic()
    sink = EmbeddedSink(EmbeddedLog(path), "t")
    sink.append_raw(b"x", (), b"k")
    sink.flush()
    assert 0.1 < time.monotonic() - began < 10
    release.join()
    other.close()
    sink.close()

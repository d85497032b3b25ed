"""No file of a spool holds a text of a domain that was removed, whenever its rows were dropped."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.coverage import Span
from actors.observation import LedgerView
from actors.packs import SpooledRow
from actors.spool import Spool
from actors.takeover import take_over
from streaming.source import TopicPartition
from tests.actors.views import view

P0, P1 = TopicPartition("stream", 0), TopicPartition("stream", 1)
TEXT = "what secret holds"


def rows(first: int, end: int, domain: str = "secret", partition: TopicPartition = P0) -> list[SpooledRow]:
    text = f"what {domain} holds"
    return [SpooledRow(partition, n, domain, f"{domain}-{n}", False, f"{text} {n}", "say") for n in range(first, end)]


def led(snapshot: int, removed: str | None = None, logs: dict[str, str] | None = None, **fences: int) -> LedgerView:
    """The view at a snapshot, with the fences of domains in partition 0, and perhaps a domain that was removed."""
    known = view(snapshot, fences={domain: {P0: offset} for domain, offset in fences.items()}, logs=logs)
    return replace(known, removed=frozenset([removed] if removed else []))


def holding(folder: Path, text: str = TEXT) -> list[str]:
    """The files in a folder that hold a text."""
    return [path.name for path in sorted(folder.iterdir()) if text.encode() in path.read_bytes()]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Spool]]:
    """Opens a spool by its name; all are closed in the end."""
    spools: list[Spool] = []

    def _open(name: str = "ingest-0") -> Spool:
        spools.append(Spool(tmp_path / f"{name}.sqlite"))
        return spools[-1]

    yield _open
    for spool in spools:
        spool.close()


@pytest.fixture
def spool(opened: Callable[..., Spool]) -> Spool:
    return opened()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, as its only entry."""
    moment = [1000.0]
    monkeypatch.setattr("actors.spool.time.monotonic", lambda: moment[0])
    return moment


class Wipes:
    """How often a spool's file was made anew since it was asked last."""

    def __init__(self, spool: Spool) -> None:
        self._statements: list[str] = []
        spool._db.set_trace_callback(self._statements.append)

    def __call__(self) -> int:
        count = self._statements.count("VACUUM")
        self._statements.clear()
        return count


@pytest.mark.parametrize("seed", range(4))
def test_what_was_removed_is_gone_from_the_file(spool: Spool, tmp_path: Path, seed: int) -> None:
    """Also from pages that were split and filled anew meanwhile, which SQLite does not wipe by itself."""
    chance = random.Random(seed)
    for first in range(0, 2000, 10):
        some = []
        for offset in chance.sample(range(first, first + 10), 9):
            domain = chance.choice(["secret", "open"])
            text = f"what {domain} holds" + "x" * chance.randrange(200)
            some.append(SpooledRow(P0, offset, domain, str(offset), False, text, "say"))
        spool.append(some, [], [])
        spool.discard((P0, chance.randrange(first + 1)) for _ in range(3))
    spool.follow(replace(view(1, fences={"secret": {P0: 2000}}), removed=frozenset({"secret"})))
    assert set(spool.counts()) == {"open"}
    spool.close()
    for path in tmp_path.iterdir():
        assert b"what secret holds" not in path.read_bytes(), path.name


@pytest.mark.parametrize("how", ["published", "discarded", "published, and started again"])
def test_what_was_dropped_before_its_domain_was_removed_is_gone_too(
    opened: Callable[..., Spool], tmp_path: Path, how: str
) -> None:
    spool = opened()
    spool.append([*rows(0, 50), *rows(50, 60, "open")], [], [Span(P0, 0, 60)])
    spool.follow(led(1, secret=0))
    if how == "discarded":
        spool.discard((P0, offset) for offset in range(50))
    else:
        spool.follow(led(2, secret=50))
    assert spool.counts() == {"open": 10} and holding(tmp_path), "the test is about what stays behind"
    if how.endswith("again"):
        # As after a kill: closed in order, the log would be gone, and free pages alone may hold texts.
        for path in list(tmp_path.iterdir()):
            (tmp_path / f"copy-of-{path.name}").write_bytes(path.read_bytes())
        spool.close()
        (tmp_path / "ingest-0.sqlite").unlink()
        spool = opened("copy-of-ingest-0")
        assert holding(tmp_path)
    spool.follow(led(3, "secret", secret=60))
    assert holding(tmp_path) == [] and spool.counts() == {"open": 10}
    assert holding(tmp_path, "what open holds")


def test_a_wipe_is_due_once_for_each_removal(opened: Callable[..., Spool], now: list[float]) -> None:
    spool = opened()
    spool.append([*rows(0, 9), *rows(9, 12, "open")], [], [Span(P0, 0, 12)])
    wipes = Wipes(spool)

    def led_after(*args: Any, **fences: int) -> int:
        now[0] += 31.0
        spool.follow(led(*args, **fences))
        return wipes()

    assert led_after(1, secret=4, open=9) == 0, "what is published costs none"
    assert led_after(2, "secret", secret=6, open=9) == 1
    assert led_after(3, "secret", secret=6, open=11) == 0, "the other domain is published"
    spool.discard([(P0, 11)])
    assert led_after(4, "secret", secret=6, open=11) == 0
    assert led_after(5, "secret", secret=9, open=11) == 1, "removed again"
    spool.close()
    spool = opened()
    wipes = Wipes(spool)
    assert led_after(5, "secret", secret=9, open=11) == 0, "nor after a start"
    assert led_after(6, "open", open=12) == 1, "a domain that it holds nothing of"


def test_a_wipe_waits_for_a_while_after_the_last_one(spool: Spool, now: list[float]) -> None:
    spool.append(rows(0, 9), [], [Span(P0, 0, 9)])
    wipes = Wipes(spool)
    spool.follow(led(1, "secret", secret=3))
    spool.follow(led(2, "secret", secret=5))
    assert wipes() == 1
    now[0] += 31.0
    spool.follow(replace(led(2, "secret"), fences=None))
    spool.follow(replace(led(2, "secret"), fences=None))
    assert wipes() == 1


def test_a_spool_that_is_made_after_a_removal_needs_no_wipe(spool: Spool, now: list[float]) -> None:
    wipes = Wipes(spool)
    spool.follow(led(1, "secret", secret=3))
    spool.append(rows(3, 9), [], [Span(P0, 0, 9)])
    now[0] += 31.0
    spool.follow(led(1, "secret", secret=3))
    assert wipes() == 0
    spool.begin_anew("it is damaged")
    wipes = Wipes(spool)
    spool.follow(replace(led(1, "secret"), fences=None))
    assert wipes() == 0
    spool.append(rows(3, 9), [], [Span(P0, 3, 9)])
    spool.follow(led(2, "secret", secret=9))
    assert wipes() == 1


def test_a_wipe_that_is_cut_short_is_done_again(opened: Callable[..., Spool], tmp_path: Path) -> None:
    class Dies:
        """A database on which the last step of a wipe is not done."""

        def __init__(self, db: Any) -> None:
            self._db = db

        def __getattr__(self, name: str) -> Any:
            return getattr(self._db, name)

        def execute(self, statement: str, *values: Any) -> Any:
            if "wal_checkpoint" in statement:
                raise RuntimeError("dies")
            return self._db.execute(statement, *values)

    spool = opened()
    spool.append(rows(0, 50), [], [Span(P0, 0, 50)])
    spool._db = Dies(spool._db)  # type: ignore[assignment]
    with pytest.raises(RuntimeError):
        spool.follow(led(1, "secret", secret=50))
    assert holding(tmp_path)
    spool.close()
    spool = opened()
    wipes = Wipes(spool)
    spool.follow(led(1, "secret", secret=50))
    assert wipes() == 1 and holding(tmp_path) == []


def test_what_was_read_from_another_log_is_wiped_as_well(spool: Spool, tmp_path: Path, now: list[float]) -> None:
    wipes = Wipes(spool)
    spool.note_log("stream", "old")
    spool.append(rows(0, 50), [], [Span(P0, 0, 50)])
    spool.follow(led(1, "secret", {"stream": "old"}, secret=9))
    assert wipes() == 1 and spool.size() == 41
    for snapshot, expected in ((2, 1), (3, 0)):
        now[0] += 31.0
        # The domain was removed again by the same offsets, of another log.
        spool.follow(led(snapshot, "secret", {"stream": "new"}, secret=9))
        assert wipes() == expected and holding(tmp_path) == []


def test_what_comes_late_of_a_removed_domain_does_not_reach_the_file(spool: Spool, tmp_path: Path) -> None:
    spool.follow(led(1, "secret", secret=50))
    spool.append([*rows(0, 50), *rows(50, 51, "open")], [], [Span(P0, 0, 51)])
    assert spool.counts() == {"open": 1} and holding(tmp_path) == []
    spool.append(rows(51, 52), [], [Span(P0, 51, 52)])
    assert holding(tmp_path), "the domain begins anew"


@pytest.mark.parametrize("other_knew", [True, False])
def test_a_spool_that_is_taken_over_brings_nothing_of_what_was_removed(
    opened: Callable[..., Spool], tmp_path: Path, other_knew: bool
) -> None:
    own, other = opened(), opened("ingest-1")
    other.append([*rows(0, 50), *rows(50, 60, "open")], [], [Span(P0, 0, 60)])
    other.follow(led(1, secret=50 if other_knew else 0))
    other.close()
    own.follow(led(2, "secret", secret=60))
    assert take_over(own, [tmp_path / "ingest-1.sqlite"], led(2), []) == ([], None)
    assert own.counts() == {"open": 10} and holding(tmp_path) == []

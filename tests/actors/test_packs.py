"""Rows in packs are what single rows would be, whatever was appended, changed and read before: against a plain dict."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors import fresh_rows, packs
from actors.coverage import Span
from actors.packs import SpooledRow
from actors.spool import Spool
from streaming.source import TopicPartition
from tests.actors.views import view

P0, P1 = TopicPartition("stream", 0), TopicPartition("stream", 1)
DOMAINS = ("alpha", "beta", "gamma")
MOST = 40
"""Offsets of a partition in these tests."""

PARTITIONS = st.sampled_from([P0, P1])
OFFSETS = st.integers(0, MOST - 1)
PLACES = st.lists(st.tuples(PARTITIONS, OFFSETS), max_size=4)
READS = st.tuples(
    st.just("read"),
    PARTITIONS,
    OFFSETS,
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from(DOMAINS)), min_size=1, max_size=9),
    st.booleans(),
)
STEPS = st.lists(
    st.one_of(
        READS,
        READS,
        st.tuples(st.sampled_from(["discard", "turn"]), PLACES),
        st.tuples(st.just("fence"), st.sampled_from(DOMAINS), PARTITIONS, OFFSETS),
        st.tuples(st.just("reopen")),
    ),
    max_size=12,
)


def row(partition: TopicPartition, offset: int, domain: str = "alpha", text: str = "ask \u00e4") -> SpooledRow:
    return SpooledRow(partition, offset, domain, f"{domain}-{offset}", offset % 3 == 0, text, f"say {offset}")


class Model:
    """A spool, and what it should hold."""

    def __init__(self, path: Path) -> None:
        self.path, self.spool = path, Spool(path)
        self.rows: dict[tuple[TopicPartition, int], SpooledRow] = {}
        self.fences: dict[str, dict[TopicPartition, int]] = {}
        self.ends: dict[TopicPartition, int] = {}
        self.snapshot = 0

    def read(self, partition: TopicPartition, first: int, gaps: list[tuple[int, str]], goes_on: bool) -> None:
        """Rows with these gaps between their offsets, from where reading stood or from anywhere."""
        start = first = self.ends.get(partition, 0) if goes_on else first
        some = []
        for gap, domain in gaps:
            some.append(row(partition, first, domain))
            first += gap
        self.spool.append(some, [], [Span(partition, start, first)])
        self.ends[partition] = first
        for each in some:
            if each.offset >= self.fences.get(each.domain, {}).get(partition, 0):
                self.rows.setdefault((partition, each.offset), each)

    def discard(self, places: list[tuple[TopicPartition, int]]) -> None:
        self.spool.discard(places)
        for place in places:
            self.rows.pop(place, None)

    def turn(self, places: list[tuple[TopicPartition, int]]) -> None:
        self.spool.turn(places)
        for place in set(places) & self.rows.keys():
            self.rows[place] = self.rows[place]._replace(held_out=not self.rows[place].held_out)

    def fence(self, domain: str, partition: TopicPartition, offset: int) -> None:
        fences = self.fences.setdefault(domain, {})
        fences[partition] = max(offset, fences.get(partition, 0))
        self.snapshot += 1
        self.spool.follow(view(self.snapshot, fences=self.fences))
        gone = [each for each in self.rows.values() if each.offset < self.fences.get(each.domain, {}).get(each[0], 0)]
        for each in gone:
            del self.rows[each.partition, each.offset]

    def reopen(self) -> None:
        self.spool.close()
        self.spool = Spool(self.path)
        if self.snapshot:
            self.spool.follow(view(self.snapshot, fences=self.fences))

    def check(self) -> None:
        rows = [self.rows[place] for place in sorted(self.rows)]
        assert self.spool.counts() == Counter(each.domain for each in rows)
        for partition in (P0, P1):
            own = [each for each in rows if each.partition == partition]
            for at in (0, 7, MOST // 2):
                since = [each for each in own if each.offset >= at]
                assert self.spool.counts_from(partition, at) == Counter(each.domain for each in since)
                assert self.spool.recall(partition, at, 2**62, 5) == since[:5]
                assert self.spool.survey(partition, at, 30)[0].tolist() == [r.offset for r in since if r.offset < 30]
            for domain in DOMAINS:
                below = [each for each in own if each.domain == domain and each.offset < 25]
                assert self.spool.examples(domain, {partition: 25}) == below
        self.check_blocks(rows)

    def check_blocks(self, rows: list[SpooledRow]) -> None:
        """Whoever follows the blocks meets each row of what was read without a hole once, in order."""
        observed: dict[TopicPartition, int] = {}
        met: list[SpooledRow] = []
        while (block := self.spool.block(observed, 4)) is not None:
            assert len(block.rows) <= 4
            ((partition, (first, end)),) = block.spans.items()
            assert observed.get(partition, 0) == first < end
            observed[partition] = end
            met += block.rows
        assert sorted(met) == [each for each in rows if each.offset < observed.get(each.partition, 0)]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, most_bytes=st.sampled_from([0, 150, 16 << 20]), checks=st.booleans())
def test_packs_hold_what_single_rows_would(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any], most_bytes: int, checks: bool
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(packs, "_MOST_ROWS", 3)
        patched.setattr(packs, "_REACH", 8)
        patched.setattr(fresh_rows, "_MOST_BYTES", most_bytes)
        model = Model(tmp_path_factory.mktemp("packs") / "spool.sqlite")
        try:
            for name, *arguments in steps:
                getattr(model, name)(*arguments)
                if checks:
                    model.check()
            model.check()
        finally:
            model.spool.close()


def test_a_large_text_is_in_a_pack_of_its_own(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.sqlite")
    rows = [row(P0, n, text="x" * (600_000 if n == 2 else 10)) for n in range(5)]
    rows[4] = row(P0, 4, text="y" * 3_000_000)
    spool.append(rows, [], [Span(P0, 0, 5)])
    packed = spool._db.execute("SELECT first, rows, size FROM packs ORDER BY first").fetchall()
    assert sum(count for _, count, _ in packed) == 5 and all(size < 1 << 20 for _, count, size in packed if count > 1)
    assert spool.recall(P0, 0, 9, 9) == rows
    spool.close()


def test_a_poll_costs_a_pack_for_each_domain(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.sqlite")
    spool.append([row(P0, n, DOMAINS[n % 3]) for n in range(900)], [], [Span(P0, 0, 900)])
    assert spool._db.execute("SELECT count(*) FROM packs").fetchone() == (3,)
    spool.close()


def test_what_came_last_is_read_from_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path / "spool.sqlite")
    rows = [row(P0, n) for n in range(10)]
    spool.append(rows[:6], [], [Span(P0, 0, 6)])
    spool.append(rows[6:], [], [Span(P0, 6, 10)])
    filed: list[int] = []
    recall = spool._packs.recall
    monkeypatch.setattr(spool._packs, "recall", lambda *a: filed.append(a[1]) or recall(*a))
    first, second = spool.block({}, 4), spool.block({P0: 4}, 99)
    assert first is not None and second is not None and first.rows + second.rows == tuple(rows) and filed == []
    again = spool.block({}, 99)
    assert again is not None and again.rows == tuple(rows), "the router went back: what was handed over is in the file"
    spool.discard([(P0, 9)])
    last = spool.block({P0: 8}, 99)
    assert last is not None and last.rows == (rows[8],) and filed == [8]
    spool.close()

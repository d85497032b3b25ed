"""What ingest holds out, and what it does when its spool is full."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from actors.decoding import Decoding
from actors.exam import is_held_out
from streaming.records import TaskRecord
from streaming.source import Envelope
from streaming.wire import ContentType, encode
from tests.actors.house import House, limits, records_of, training
from tests.actors.standins import PlainTemplate

Build = Callable[..., House]


def rows_of(house: House, worker: int = 0) -> list[tuple[str, str, int]]:
    spool = house.ingests[worker]._spool
    rows = [row for pack in spool._packs.all() for row in pack]
    return sorted([(row.domain, row.record_id, int(row.held_out)) for row in rows], key=lambda row: row[1])


# -- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["application/json", "application/msgpack"])
def test_a_record_may_be_as_large_as_the_limit_and_no_larger(kind: ContentType) -> None:
    value, headers = encode(records_of("alpha", 1)[0], kind)
    envelopes = [Envelope("stream", 0, at, None, each, headers, 0) for at, each in enumerate([value, None])]
    for limit, reasons in ((len(value), ["undecodable"]), (len(value) - 1, ["too-large", "undecodable"])):
        decoding = Decoding(PlainTemplate(), limit, 0.5)  # type: ignore[arg-type]
        rows, _, letters = decoding.decode(envelopes)
        assert [error.reason for _, error in letters] == reasons and len(rows) == 2 - len(reasons)


# -- held out ---------------------------------------------------------------------------------------------------------


def test_held_out_by_split_or_by_hash(build: Build) -> None:
    house = build(options=limits(held_out_fraction=0.5))
    plain = [TaskRecord(id=f"p-{n}", domain="alpha", prompt=f"alpha {n}", completion="ok") for n in range(60)]
    split = records_of("beta", 20)
    house.send([*plain, *split])
    house.drain()
    held = {(domain, record_id): bool(held_out) for domain, record_id, held_out in rows_of(house)}
    assert all(held["beta", r.id] == (r.split == "test") for r in split)
    chosen = [r for r in plain if held["alpha", r.id]]
    assert 15 <= len(chosen) <= 45
    assert all(held["alpha", r.id] == is_held_out(r, 0.5) for r in plain)
    house.check_exact([*[r for r in plain if r not in chosen], *training(split)])


def test_held_out_shares_grow_with_the_fraction_and_depend_on_the_domain() -> None:
    records = [TaskRecord(id=str(n), domain="alpha", prompt=f"p {n}", completion="c") for n in range(400)]
    shares = {fraction: {r.id for r in records if is_held_out(r, fraction)} for fraction in (0.0, 0.1, 0.3, 1.0)}
    assert shares[0.0] == set() and len(shares[1.0]) == 400
    assert shares[0.1] < shares[0.3]
    assert 0.05 < len(shares[0.1]) / 400 < 0.15
    others = {r.id for r in records if is_held_out(r.model_copy(update={"domain": "beta"}), 0.3)}
    assert others != shares[0.3]


def test_features_are_computed_once_of_each_row_held_out_or_not(build: Build) -> None:
    house = build(partitions=1)
    records = records_of("alpha", 40)
    seen: list[str] = []
    observer = house.ingests[0]._observer

    class Looking:
        fingerprint = observer._extractor.fingerprint

        def extract(self, texts: Sequence[str]) -> np.ndarray:
            seen.extend(texts)
            return house.parts.extractor.extract(texts)

    observer._extractor = Looking()  # type: ignore[assignment]
    house.send(records)
    house.drain()
    assert sorted(seen) == sorted(house.parts.template.render(r.messages_or_prompt()) for r in records)
    counted = house.router.counts()["alpha"], sum(house.router.inner._sums._held_out.counts.values())
    assert counted == (30, 10), "what is held out is in no sum"


def test_a_single_example_is_counted_at_once(build: Build) -> None:
    house = build(partitions=1)
    house.send(records_of("alpha", 1))
    house.poll()
    assert house.observe() == 1
    assert house.router.counts() == {"alpha": 1}


# -- a full spool -----------------------------------------------------------------------------------------------------


def test_a_full_spool_pauses_the_stream_and_a_released_one_resumes_it(build: Build) -> None:
    house = build(options=limits(spool_limit=40, poll_records=10))
    records = [*records_of("alpha", 60), *records_of("beta", 60)]
    house.send(records)
    for _ in range(20):
        house.poll()
        house.observe()
    report = house.ingests[0].report()
    assert report.full and 40 <= report.spooled <= 50, "it overshoots by one poll at most"
    assert house.poll() == 0
    # What takes the rows away is publication; the largest domain is closed though nobody said it was complete.
    house.settle(lambda: sum(house.router.examples().values()) == 120, timeout_s=60)
    house.check_exact(training(records))
    house.settle(lambda: not house.ingests[0].report().full)


def test_a_spool_is_full_by_its_bytes_too(build: Build) -> None:
    house = build(partitions=1, options=limits(spool_bytes=200_000, poll_records=10))
    long = [record.model_copy(update={"completion": "y" * 5000}) for record in records_of("alpha", 100)]
    house.send(long)
    for _ in range(30):
        house.poll()
        house.observe()
    report = house.ingests[0].report()
    assert report.full and report.spooled < 60
    assert 200_000 <= report.spooled_bytes <= 300_000, "it overshoots by one poll at most"


@pytest.mark.parametrize("by", ["rows", "bytes"])
def test_a_domain_over_its_share_is_named_by_rows_and_by_bytes(build: Build, by: str) -> None:
    options = limits(spool_limit=100, domain_share=0.25) if by == "rows" else limits(spool_bytes=1 << 20)
    house = build(partitions=1, options=options)
    long = [record.model_copy(update={"completion": "y" * 9000}) for record in records_of("beta", 40)]
    house.send([*records_of("alpha", 26), *long[: 24 if by == "rows" else 40]])
    for _ in range(20):
        house.poll()
    assert house.ingests[0].report().over_share == ({"alpha"} if by == "rows" else {"beta"})
    shares = house.ingests[0]._spool.shares(100, 1 << 20)
    assert shares.keys() == {"alpha", "beta"} and all(0.0 < share <= 1.0 for share in shares.values())


def test_a_full_worker_pauses_partitions_that_come_later(build: Build) -> None:
    house = build(options=limits(spool_limit=10, poll_records=10))
    house.send(records_of("alpha", 40))
    house.poll()
    ingest = house.ingests[0]
    house.poll()
    assert ingest.report().full
    # A rebalance brings partitions that were never paused.
    ingest._source._paused.clear()
    assert house.poll() == 0
    assert ingest._source._paused == ingest._source.assignment()


def test_a_full_worker_reads_again_what_was_counted_and_nothing_beyond(build: Build) -> None:
    """A version waits for all of its rows, and nothing but versions makes room."""
    house = build(partitions=2)
    house.send([*records_of("alpha", 20), *records_of("beta", 20)])
    house.drain()
    house.options = limits(spool_limit=12, poll_records=5)
    house.delete_spool()
    house.send(records_of("gamma", 20))
    for _ in range(20):
        house.poll()
        house.observe()
    assert (house.waiting("alpha"), house.waiting("beta")) == (20, 20)
    assert house.ingests[0].report().full and house.waiting("gamma") <= 10, "one poll of each partition at most"

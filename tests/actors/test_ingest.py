"""Ingest: whatever comes on the stream, each example is spooled once, counted once, and the stream goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from actors import decoding as decoding_module
from streaming.errors import StreamError
from streaming.records import EndOfDomain, TaskRecord
from tests.actors.house import Failing, House, limits, partition, records_of, training

Build = Callable[..., House]


def rows_of(house: House, worker: int = 0) -> list[tuple[str, str, int]]:
    spool = house.ingests[worker]._spool
    rows = [row for pack in spool._packs.all() for row in pack]
    return sorted([(row.domain, row.record_id, int(row.held_out)) for row in rows], key=lambda row: row[1])


# -- what can't be read -----------------------------------------------------------------------------------------------


def test_bad_records_become_dead_letters_and_the_stream_goes_on(build: Build) -> None:
    house = build(partitions=1)
    good = records_of("alpha", 8)
    house.send(good[:4])
    long = TaskRecord(id="long", domain="alpha", prompt="x" * 20_000, completion="y")
    for value, headers in [
        (b"{not json", ()),
        (b"\xc1", (("content-type", b"application/msgpack"),)),
        (b"{}", (("content-type", b"text/csv"),)),
        (b'{"prompt": "p", "completion": "c", "domain": "Not A Slug"}', ()),
        (b'{"prompt": "p", "completion": "", "domain": "alpha"}', ()),
        (b'{"prompt": "p", "completion": "c", "domain": "alpha", "colour": 1}', ()),
        (json.dumps(long.to_mapping()).encode(), ()),
        (b'{"id": "no-domain", "prompt": "p", "completion": "c"}', ()),
    ]:
        house.sink.append_raw(value, headers, b"key")
    house.send(good[4:])
    house.drain()
    letters = house.letters.list()
    assert [letter.reason for letter in letters] == [
        "undecodable",
        "undecodable",
        "unknown-content-type",
        "bad-domain",
        "empty-completion",
        "bad-record",
        "too-large",
        "unlabelled",
    ]
    assert [letter.offset for letter in letters] == list(range(4, 12))
    assert "no-domain" in letters[-1].detail and "domain" in letters[-1].detail
    assert letters[0].value == b"{not json"
    house.check_exact(training(good))
    report = house.ingests[0].report()
    assert (report.polled, report.dead_letters, report.spooled) == (16, 8, 8)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}],
        [{"role": "user", "content": ""}],
    ],
    ids=["refused by the template", "nothing to read"],
)
def test_a_prompt_that_can_not_be_rendered_does_not_stop_the_router(
    build: Build, messages: list[dict[str, str]]
) -> None:
    house = build(partitions=1)
    good = records_of("alpha", 12)
    odd = TaskRecord.model_validate({"id": "odd", "domain": "alpha", "messages": messages, "completion": "hi"})
    house.send([*good[:6], odd, *good[6:]])
    house.drain()
    assert [(letter.reason, letter.offset) for letter in house.letters.list()] == [("bad-record", 6)]
    house.check_exact(training(good))


# -- nothing lost, nothing twice --------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["decode", "plain_reader", "render"])
def test_what_nobody_foresaw_of_a_record_is_a_dead_letter_too(
    build: Build, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    house = build(partitions=1)
    records = records_of("alpha", 12)
    house.send(records)
    ingest = house.ingests[0]
    place: Any = ingest._template if part == "render" else decoding_module
    act = getattr(place, part)
    if part == "plain_reader":
        act = act(())

    def fails(value: Any, *args: Any, **options: Any) -> Any:
        if str(records[5].prompt) in str(value):
            raise ZeroDivisionError("a mistake")
        return act(value, *args, **options)

    monkeypatch.setattr(place, part, (lambda _headers: fails) if part == "plain_reader" else fails)
    if part == "decode":
        monkeypatch.setattr(decoding_module, "plain_reader", lambda _headers: None)
    house.drain()
    (letter,) = house.letters.list()
    assert (letter.offset, letter.reason) == (5, "bad-record") and "can't be taken: a mistake" in letter.detail
    house.check_exact(training([*records[:5], *records[6:]]))


def test_a_template_that_renders_nothing_empties_nothing_into_the_dead_letters(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = build(partitions=1)
    records = records_of("alpha", 12)
    house.send(records)

    def fails(_messages: Any) -> str:
        raise ZeroDivisionError("a mistake")

    with monkeypatch.context() as patched:
        patched.setattr(house.ingests[0]._template, "render", fails)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                house.poll()
    house.drain()
    assert house.letters.list() == []
    house.check_exact(training(records))


def test_the_router_counts_what_was_sent(build: Build) -> None:
    house = build()
    records = [*records_of("alpha", 30), *records_of("beta", 26)]
    house.send(records)
    house.drain()
    house.check_exact(training(records), records_of("gamma", 3))
    assert house.router.examples() == {"alpha": 30, "beta": 26}


def test_a_burst_sent_twice_changes_nothing(build: Build) -> None:
    house = build()
    records = records_of("alpha", 30)
    house.send(records)
    house.drain()
    before = house.router.inner._sums.ridge.to_bytes()
    house.send(records)
    house.send(records)
    house.drain()
    assert house.router.inner._sums.ridge.to_bytes() == before
    assert len(rows_of(house)) == 30
    assert house.ingests[0].report().duplicates == 60


def test_repeats_within_one_block_count_once(build: Build) -> None:
    house = build(partitions=1, options=limits(block_rows=100))
    records = records_of("alpha", 9)
    house.send([*records, *records[:5], *records])
    house.drain()
    house.check_exact(training(records))
    assert len(rows_of(house)) == 9


def test_the_same_id_in_two_domains_is_two_examples(build: Build) -> None:
    house = build()
    records = [
        TaskRecord(id=str(n), domain=domain, prompt=f"{domain} {n}", completion="ok", split="train")
        for n in range(6)
        for domain in ("alpha", "beta")
    ]
    house.send(records)
    house.drain()
    house.check_exact(records)


def test_a_restarted_worker_repeats_nothing_and_misses_nothing(build: Build) -> None:
    house = build()
    records = records_of("alpha", 60)
    house.send(records[:30])
    house.poll()
    house.observe()
    house.restart_ingest()
    house.send(records[30:])
    house.poll()
    house.restart_ingest()
    house.drain()
    house.check_exact(training(records))
    assert len(rows_of(house)) == 60
    assert house.ingests[0].report().duplicates == 0


def test_a_worker_that_died_between_the_routers_yes_and_hearing_it(build: Build) -> None:
    house = build(partitions=1)
    records = records_of("alpha", 40)
    house.send(records)
    house.poll()
    for _ in range(3):
        house.observe()
    following = house.ingests[0]._following
    stale = dict(following.observed)
    house.observe()
    following.note(stale)
    following._asked_at = time.monotonic() + 3600  # it will not ask by itself
    house.drain()
    house.check_exact(training(records))


def test_a_router_restarted_without_a_snapshot_is_told_everything_again(build: Build) -> None:
    """The workers remember where it stood; what they would cut from there must not be accepted."""
    house = build()
    records = records_of("alpha", 50)
    house.send(records[:30])
    house.drain()
    house.start_router()
    house.ingests[0]._following._asked_at = time.monotonic() + 3600  # it will not ask by itself
    house.send(records[30:])
    house.drain()
    house.check_exact(training(records))


def test_a_router_restarted_behind_is_told_what_it_lacks(build: Build) -> None:
    house = build()
    records = [*records_of("alpha", 24), *records_of("beta", 20)]
    house.send([*records[:24], EndOfDomain(domain="alpha")])
    house.learn("alpha")
    at_snapshot = dict(house.router.observed())
    house.send(records[24:])
    house.drain()
    house.start_router()
    assert dict(house.router.observed()) == at_snapshot
    house.wait(3.0)
    house.drain()
    house.check_exact(training(records))
    assert house.router.examples() == {"alpha": 24, "beta": 20}


def test_a_lost_spool_is_read_again_counted_once_and_trained_once(build: Build) -> None:
    house = build(partitions=1)
    records = records_of("alpha", 30)
    house.send(records[:20])
    house.drain()
    house.delete_spool()
    house.send(records[20:])
    house.drain()
    house.check_exact(training(records))
    assert {row[1] for row in rows_of(house)} == {r.id for r in records}
    house.send([EndOfDomain(domain="alpha")])
    house.learn("alpha")
    assert house.trained("alpha") == [tuple(sorted(r.id for r in training(records)))]
    # What is settled is not read again.
    house.delete_spool()
    house.drain()
    assert house.poll() == 0 and rows_of(house) == []


def test_rows_sent_again_after_their_spool_was_lost_are_dropped_where_they_stand_again(build: Build) -> None:
    """The row that is trained is the one that was counted, at its place; what was sent again is a repeat of it."""
    house = build(partitions=1)
    records = records_of("alpha", 12)
    house.send(records)
    house.drain()
    house.delete_spool()
    house.send([*records, EndOfDomain(domain="alpha")])
    house.learn("alpha")
    assert house.trained("alpha") == [tuple(sorted(r.id for r in training(records)))]
    assert house.ingests[0].report().duplicates == 12
    house.check_exact(training(records))


@pytest.mark.parametrize("part", ["_dead_letters.put_all", "_spool.append", "_source.commit"])
def test_a_batch_that_could_not_be_kept_is_kept_later(build: Build, part: str) -> None:
    """The source has moved on by then and would not bring it again."""
    house = build(partitions=1)
    records = records_of("alpha", 20)
    house.send(records[:10])
    house.sink.append_raw(b"unreadable", (), b"key")
    house.send(records[10:])
    attribute, method = part.split(".")
    ingest = house.ingests[0]
    setattr(ingest, attribute, Failing(getattr(ingest, attribute), method, 2, StreamError("no disk")))
    failed = 0
    for _ in range(6):
        try:
            house.poll()
        except StreamError:
            failed += 1
    assert failed >= 1
    house.drain()
    house.check_exact(training(records))
    assert len(house.letters.list()) == 1
    assert ingest.report().polled == 21


# -- two workers ------------------------------------------------------------------------------------------------------


def test_two_workers_share_the_stream_and_the_features(build: Build) -> None:
    house = build(partitions=4, workers=2)
    records = [*records_of("alpha", 40), *records_of("beta", 40)]
    house.send(records)
    house.drain()
    house.check_exact(training(records))
    assert all(rows_of(house, worker) for worker in (0, 1))
    assert house.ingests[0].report().partitions == {partition(number) for number in range(4)}


def test_a_partition_that_changes_hands_is_read_without_a_hole(build: Build) -> None:
    """A worker takes over what another had polled but not yet observed; both hold the rows, each counts once."""
    house = build(partitions=1, workers=1)
    records = records_of("alpha", 40)
    house.send(records[:20])
    house.poll()
    house.observe()
    first = house.ingests[0]
    # Static membership would give a second worker nothing: it is handed what the first one had.
    second = house._ingest(1, member=0)
    house.ingests.append(second)
    house.employ(house.parts.learner)
    house.send(records[20:])
    house.drain()
    house.check_exact(training(records))
    held = [{row[1] for row in rows_of(house, worker)} for worker in (0, 1)]
    assert held[0] | held[1] == {record.id for record in records}
    assert held[0] & held[1], "the test is about rows that both hold"
    assert first.report().duplicates == second.report().duplicates == 0
    # Trained together, released together.
    house.start_coordinator()
    house.send([EndOfDomain(domain="alpha")])
    house.learn("alpha")
    assert len(house.trainer.asked) == 1
    assert house.trainer.asked[0][2] == tuple(sorted(r.id for r in training(records)))


def test_copies_that_arrive_late_go_with_what_was_learned(build: Build) -> None:
    """The worker that took over reads on from where the router stood, long after the other's rows were sealed."""
    house = build(partitions=1, workers=1)
    records = records_of("alpha", 24)
    house.send([*records, EndOfDomain(domain="alpha")])
    house.poll()
    house.observe()
    late = house._ingest(1, member=0)
    late._source.poll(0.0, 0)  # it is told where to begin, and reads nothing yet
    house.drain()
    house.ingests.append(late)
    house.start_coordinator()
    copies: list[int] = []
    house.trainer.before = lambda _domain: copies.append(late.poll_once(0.0))
    house.tick()
    assert house.version("alpha") == 1
    assert copies[0] > 0, "the test is about rows that are polled twice"
    house.settle(lambda: not house.waiting("alpha"))
    house.tick()
    assert len(house.trainer.asked) == 1
    house.check_exact(training(records))

"""Rows that can't be turned into features: found, put aside, and everything else goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from actors.errors import ActorError
from actors.observation import example_digest
from learning.errors import LearningError
from streaming.errors import StreamError
from streaming.records import EndOfDomain, TaskRecord
from tests.actors.house import Crash, House, limits, partition, records_of, training
from tests.actors.memory_log import MemoryStream

Build = Callable[..., House]


class Picky:
    """The extractor, which raises for blocks that hold some prompts, or gives figures that are none."""

    def __init__(self, inner: Any, bad: Callable[[str], bool], how: Exception | float) -> None:
        self.inner, self.bad, self.how = inner, bad, how
        self.extracted: list[int] = []

    def extract(self, texts: Sequence[str]) -> np.ndarray:
        self.extracted.append(len(texts))
        bad = [self.bad(text) for text in texts]
        if any(bad) and isinstance(self.how, Exception):
            raise self.how
        features = self.inner.extract(texts)
        features[bad, 3] = self.how if not isinstance(self.how, Exception) else 0.0
        return features

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def picky(house: House, bad: Callable[[str], bool], how: Exception | float) -> Picky:
    """Have the worker's extractor refuse some prompts."""
    observer = house.ingests[0]._observer
    extractor = Picky(house.parts.extractor, bad, how)
    observer._extractor = extractor  # type: ignore[assignment]
    return extractor


def begun(build: Build, **options: Any) -> tuple[House, list[TaskRecord]]:
    house = build(partitions=1, options=limits(block_rows=100, **options))
    first = records_of("alpha", 8)
    house.send(first)
    house.drain()
    return house, first


def of(numbers: Sequence[int]) -> Callable[[str], bool]:
    prompts = {f"alpha asks {number * 7919 % 1000}>" for number in numbers}
    return lambda text: text in prompts


@pytest.mark.parametrize(
    "how",
    [np.nan, np.inf, -np.inf, 1e200, -2e6, LearningError("no tokens"), RuntimeError("index out of range")],
    ids=["nan", "inf", "-inf", "absurd", "too large", "refused", "a mistake"],
)
@pytest.mark.parametrize("numbers", [[20], [16], [38], [16, 17, 18, 36, 38]], ids=["one", "first", "last", "several"])
def test_a_bad_row_is_a_dead_letter_and_the_stream_goes_on(
    build: Build, how: Exception | float, numbers: list[int]
) -> None:
    house, first = begun(build)
    picky(house, of(numbers), how)
    rest = records_of("alpha", 24, start=16)
    house.send(rest)
    house.drain()
    letters = house.letters.list()
    bad = {f"alpha-{number}" for number in numbers}
    assert {json.loads(letter.value or b"")["id"] for letter in letters} == bad
    assert {letter.reason for letter in letters} == {"bad-record"}
    assert {letter.offset for letter in letters} == {8 + number - 16 for number in numbers}
    good = [record for record in rest if record.id not in bad]
    assert house.router.counts() == {"alpha": len(training([*first, *good]))}
    assert house.router.examples() == {"alpha": len([*first, *good])}
    report = house.ingests[0].report()
    assert (report.dead_letters, report.spooled, report.trouble) == (len(bad), 8 + len(good), {})
    house.send([EndOfDomain(domain="alpha")])
    house.learn("alpha")
    assert not set(house.trained("alpha")[0]) & bad


def test_finding_one_bad_row_among_many_takes_few_extractions(build: Build) -> None:
    house, _ = begun(build)
    extractor = picky(house, of([40]), LearningError("no tokens"))
    house.send(records_of("alpha", 64, start=16, split="train"))
    house.drain()
    assert len(house.letters.list()) == 1
    assert len(extractor.extracted) <= 20, "halving, not one by one"


def test_a_row_for_which_there_is_no_memory_is_no_dead_letter(build: Build) -> None:
    """Others leave a device's memory again; and fewer rows at once may fit."""
    house, first = begun(build)
    extractor = picky(house, of([20]), MemoryError("the device is full"))
    rest = records_of("alpha", 8, start=16)
    house.send(rest)
    house.poll()
    for _ in range(2):
        with pytest.raises(MemoryError, match="device is full"):
            house.observe()
    assert extractor.extracted[-1] == 1, "it was tried with less"
    assert house.letters.list() == [] and house.router.counts() == {"alpha": len(training(first))}
    extractor.bad = lambda _text: False
    house.drain()
    house.check_exact(training([*first, *rest]))


@pytest.mark.parametrize("how", [LearningError("the device is lost"), 1e200], ids=["refused", "absurd"])
def test_an_extractor_that_refuses_everything_empties_nothing_into_the_dead_letters(
    build: Build, how: Exception | float
) -> None:
    house, first = begun(build)
    extractor = picky(house, lambda _text: True, how)
    rest = records_of("alpha", 12, start=16)
    house.send(rest)
    house.poll()
    for _ in range(3):
        with pytest.raises((LearningError, ValueError), match=r"device is lost|absurdly large"):
            house.observe()
    assert house.letters.list() == []
    extractor.bad = lambda _text: False
    house.drain()
    house.check_exact(training([*first, *rest]))


@pytest.mark.parametrize("error", [MemoryError(), ConnectionError("the store is away")])
def test_what_passes_is_no_rows_fault(build: Build, error: Exception) -> None:
    house, first = begun(build)
    extractor = picky(house, of([20]), error)
    rest = records_of("alpha", 12, start=16)
    house.send(rest)
    house.poll()
    with pytest.raises(type(error)):
        house.observe()
    extractor.bad = lambda _text: False
    house.drain()
    assert house.letters.list() == []
    house.check_exact(training([*first, *rest]))


def test_a_router_that_is_away_makes_no_dead_letters(build: Build) -> None:
    house, first = begun(build)
    rest = records_of("alpha", 12, start=16)
    house.send(rest)
    house.poll()

    def away(name: str) -> None:
        if name in ("observe", "fates"):
            raise LearningError("the router is restarting")

    house.router.on_call = away
    with pytest.raises(LearningError):
        house.observe()
    house.router.on_call = lambda _name: None
    house.drain()
    assert house.letters.list() == []
    house.check_exact(training([*first, *rest]))


@pytest.mark.parametrize("call", ["fates", "observe"])
@pytest.mark.parametrize(
    "error", [LearningError("no such label"), RuntimeError("a mistake"), ActorError("it names other rows")]
)
def test_a_row_that_the_router_refuses_is_found_and_the_others_are_counted(
    build: Build, call: str, error: Exception
) -> None:
    house, first = begun(build)
    rest = records_of("alpha", 24, start=16)
    house.send(rest)
    bad = {example_digest("alpha", "alpha-16"), example_digest("alpha", "alpha-30")}
    router, asked = house.router.inner, []
    act = getattr(router, call)

    def picks(what: Any) -> Any:
        rows = what if call == "fates" else what.rows
        asked.append(len(rows))
        if bad & {row.digest for row in rows}:
            raise error
        return act(what)

    setattr(router, call, picks)
    house.drain()
    letters = house.letters.list()
    assert {json.loads(letter.value or b"")["id"] for letter in letters} == {"alpha-16", "alpha-30"}
    assert all(f"the router refuses it: {error}" in letter.detail for letter in letters)
    house.check_exact(training([*first, *(each for each in rest if each.id not in ("alpha-16", "alpha-30"))]))
    assert len(asked) <= 40, "halving, not one by one"
    house.send(records_of("beta", 64))
    house.poll()
    for _ in range(9):
        house.observe()
    assert max(asked[-3:]) > 16, "afterwards blocks are whole again"


@pytest.mark.parametrize("point", ["put_all", "discard"])
def test_a_death_between_its_steps_leaves_one_letter(build: Build, point: str) -> None:
    house, first = begun(build)
    picky(house, of([20]), np.nan)
    rest = records_of("alpha", 12, start=16)
    house.send(rest)
    house.poll()
    ingest = house.ingests[0]
    target: Any = house.letters if point == "put_all" else ingest._spool
    act = getattr(target, point)

    def dies(*args: Any) -> None:
        act(*args)
        raise Crash

    setattr(target, point, dies)
    with pytest.raises(Crash):
        house.observe()
    setattr(target, point, act)
    house.restart_ingest()
    picky(house, of([20]), np.nan)
    house.drain()
    assert len(house.letters.list()) == 1
    house.check_exact(training([*first, *(record for record in rest if record.id != "alpha-20")]))


def test_a_letter_that_can_not_be_kept_keeps_its_row(build: Build) -> None:
    house, _ = begun(build)
    picky(house, of([20]), np.nan)
    house.send(records_of("alpha", 12, start=16))
    house.poll()
    put_all = house.letters.put_all

    def fails(_letters: Any) -> None:
        raise StreamError("no disk")

    house.letters.put_all = fails  # type: ignore[method-assign, assignment]
    with pytest.raises(StreamError):
        house.observe()
    assert house.ingests[0].report().spooled == 20
    house.letters.put_all = put_all  # type: ignore[method-assign]
    house.drain()
    assert len(house.letters.list()) == 1


def test_rows_are_not_dropped_by_what_a_router_said_that_has_started_again_since(build: Build) -> None:
    """The view is of the router before; asked about rows below it, the one that runs now has not seen them yet."""
    stream = MemoryStream(1)
    house = build(partitions=1, workers=2, stream=stream)
    sent = records_of("alpha", 8)
    house.send(sent)
    house.ingests[0].poll_once(0.0)
    while house.ingests[0].observe_once():
        pass
    house.wait(3.0)
    house.ingests[1].observe_once()
    house.start_router()
    stream.log.owners[partition(0)] = 1
    house.ingests[1].poll_once(0.0)
    for _ in range(3):
        house.ingests[1].observe_once()
    house.delete_spool(0)
    house.wait(3.0)
    house.drain()
    house.check_exact(training(sent))
    assert house.router.examples() == {"alpha": len(sent)}


@pytest.mark.parametrize("partitions", [1, 2])
def test_what_is_sent_again_after_a_removal_is_no_repeat_of_what_went(build: Build, partitions: int) -> None:
    """Both wait in one block, and the worker has not heard of the removal yet."""
    house = build(partitions=partitions)
    before, records = records_of("beta", 8), records_of("alpha", 8)
    house.send(before)
    house.drain()
    house.send(records[:5])
    house.poll()
    house.coordinator.remove("alpha")
    house.send(records)
    house.drain()
    house.check_exact(training([*before, *records]))
    assert house.router.examples() == {"alpha": 8, "beta": 8}
    assert house.waiting("alpha") == 8


def test_rows_that_are_read_again_while_others_are_asked_about_are_asked_about_too(build: Build) -> None:
    """A copy of a row that was counted would stay for ever, and its domain's versions never be whole."""
    house = build(partitions=1, options=limits(poll_records=10, block_rows=100))
    records = records_of("alpha", 20)
    house.send([*records, *records[:4]])
    house.drain()
    house.delete_spool()
    ingest = house.ingests[0]
    fates = house.router.inner.fates

    def fates_meanwhile(rows: Any) -> Any:
        found, house.router.inner.fates = fates(rows), fates
        for _ in range(2):
            ingest.poll_once(0.0)
        return found

    ingest.poll_once(0.0)
    house.router.inner.fates = fates_meanwhile
    for _ in range(5):
        house.observe()
    assert house.poll() == 0
    assert house.waiting("alpha") == 20
    house.send([EndOfDomain(domain="alpha")])
    house.learn("alpha")

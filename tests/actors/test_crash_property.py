"""Exactness under any course of events: whatever is polled, observed, sent again, killed and started again in whatever
order, the router ends with the sums of the distinct training examples, and what is published was learned once.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from learning.features import FeatureExtractor
from streaming.records import EndOfDomain, TaskRecord
from tests.actors.house import Crash, House, HouseParts, limits, records_of, training

DOMAINS = ("alpha", "beta")
POOL = {domain: records_of(domain, 36) for domain in DOMAINS}
"""All the examples there are; a course of events sends ranges of them, many of them more than once."""
MEMORY = Path("/dev/shm")
"""Processes die in a course, machines don't: to wait for a disk would be most of its time."""


class Remembering:
    """The extractor, computing each text once: a course repeats them many times, and they do not depend on batching."""

    def __init__(self, inner: FeatureExtractor) -> None:
        self._inner, self._known = inner, dict[str, np.ndarray]()

    def pooled(self, texts: Sequence[str]) -> np.ndarray:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self._inner.pooled(new), strict=True))
        return np.stack([self._known[text] for text in texts])

    def extract(self, texts: Sequence[str]) -> np.ndarray:
        return self._inner._expansion.apply(self._inner.standardisation.apply(self.pooled(texts)))

    @property
    def fingerprint(self) -> str:
        return self._inner.fingerprint


@pytest.fixture(scope="module")
def quick_parts(parts: HouseParts) -> HouseParts:
    return HouseParts(parts.template, Remembering(parts.extractor), parts.learner)  # type: ignore[arg-type]


worker = st.integers(0, 1)
burst = st.tuples(st.just("send"), st.sampled_from(DOMAINS), st.integers(0, 30), st.integers(1, 12))
event = st.one_of(
    burst,
    burst,
    st.tuples(st.just("poll"), worker),
    st.tuples(st.just("poll"), worker),
    st.tuples(st.just("observe"), worker),
    st.tuples(st.just("observe"), worker),
    st.tuples(st.just("restart worker"), worker),
    st.tuples(st.just("restart router")),
    st.tuples(st.just("lose receipt"), worker),
    st.tuples(st.just("die while observing"), worker),
    st.tuples(st.just("die while polling"), worker),
)
ending = st.one_of(
    event,
    event,
    event,
    st.tuples(st.just("mark"), st.sampled_from(DOMAINS)),
    st.tuples(st.just("learn")),
    st.tuples(st.just("crash")),
)


class Course:
    """A house to which things happen; it knows what was sent."""

    def __init__(self, home: Path, parts: HouseParts) -> None:
        options = limits(poll_records=9, block_rows=4)
        self.house = House(home, parts, workers=2, options=options)
        self.sent: dict[tuple[str, str], TaskRecord] = {}

    def happen(self, what: str, *how: Any) -> None:
        house = self.house
        match what:
            case "send":
                domain, start, count = how
                records = POOL[domain][start : start + count]
                house.send(records)
                self.sent.update({(domain, record.id): record for record in records})
            case "mark":
                house.send([EndOfDomain(domain=how[0])])
            case "poll":
                house.ingests[how[0]].poll_once(0.0)
            case "observe":
                house.ingests[how[0]].observe_once()
            case "restart worker":
                house.restart_ingest(how[0])
            case "restart router":
                house.start_router()
            case "lose receipt":
                ingest = house.ingests[how[0]]
                before = dict(ingest._observer.watermarks)
                ingest.observe_once()
                ingest._observer.watermarks = before
            case "die while observing":
                # The router may have applied the block; the worker never hears of it.
                self._die(how[0], "observe", house.ingests[how[0]].observe_once)
            case "die while polling":
                ingest = house.ingests[how[0]]
                append = ingest._spool.append
                ingest._spool.append = _then_die(append)  # type: ignore[method-assign]
                self._until_death(how[0], lambda: ingest.poll_once(0.0))
            case "learn":
                house.tick()
            case "crash":
                house.crash()

    def _die(self, index: int, method: str, act: Any) -> None:
        router = self.house.router.inner
        setattr(router, method, _then_die(getattr(router, method)))
        try:
            self._until_death(index, act)
        finally:
            vars(self.house.router.inner).pop(method, None)

    def _until_death(self, index: int, act: Any) -> None:
        with suppress(Crash):
            act()
        self.house.restart_ingest(index)

    def finish(self) -> None:
        """Send what makes the domains trainable at all, and let everything come to rest."""
        for domain in DOMAINS:
            self.happen("send", domain, 0, 8)
        for ingest in self.house.ingests:
            ingest._observer._asked_at = 0.0
        self.house.drain()

    @property
    def distinct(self) -> list[TaskRecord]:
        return list(self.sent.values())


def _then_die(act: Any) -> Any:
    def dies(*args: Any, **kwargs: Any) -> Any:
        act(*args, **kwargs)
        raise Crash

    return dies


def _run(parts: HouseParts, events: Sequence[tuple[Any, ...]]) -> tuple[Course, Path]:
    home = Path(tempfile.mkdtemp(prefix="course-", dir=MEMORY if MEMORY.is_dir() else None))
    course = Course(home, parts)
    try:
        for what, *how in events:
            course.happen(what, *how)
        course.finish()
    except BaseException:
        _tidy(course, home)
        raise
    return course, home


def _tidy(course: Course, home: Path) -> None:
    course.house.down()
    shutil.rmtree(home)


COMMON = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@COMMON
@example([("send", "alpha", 0, 12), ("poll", 0), ("poll", 1), ("observe", 0), ("restart router",), ("observe", 0)])
@example([("send", "beta", 0, 12), ("poll", 0), ("die while observing", 0), ("restart router",), ("poll", 1)])
@given(events=st.lists(event, max_size=40))
def test_the_sums_are_those_of_the_distinct_examples(quick_parts: HouseParts, events: list[tuple[Any, ...]]) -> None:
    course, home = _run(quick_parts, events)
    try:
        course.house.check_exact(training(course.distinct), [r for pool in POOL.values() for r in pool])
        known = {domain: sum(r.domain == domain for r in course.distinct) for domain in DOMAINS}
        assert course.house.router.examples() == known
    finally:
        _tidy(course, home)


@settings(COMMON, max_examples=10)
@example(
    [
        *[("send", "alpha", 0, 12), ("mark", "alpha"), ("poll", 0), ("poll", 1)],
        *[("observe", worker) for worker in (0, 1) * 4],
        *[("learn",), ("restart router",), ("send", "alpha", 6, 12), ("crash",), ("learn",)],
    ]
)
@given(events=st.lists(ending, max_size=40))
def test_with_publications_in_between_nothing_is_lost_or_learned_twice(
    quick_parts: HouseParts, events: list[tuple[Any, ...]]
) -> None:
    course, home = _run(quick_parts, events)
    house = course.house
    try:
        for domain in DOMAINS:
            course.happen("mark", domain)
        house.drain()
        # Every domain ends with nothing waiting but what a rejected version left.
        house.settle(lambda: house.is_drained() and not _to_be_learned(house))
        house.check_exact(training(course.distinct))
        for domain in DOMAINS:
            expected = {r.id for r in training(course.distinct) if r.domain == domain}
            kept = {(a.version, a.facts.status) for a in house.registry.adapters(domain)}
            learned = [
                record_id
                for asked, version, ids, *_ in house.trainer.asked
                if asked == domain and (version, "accepted") in kept
                for record_id in ids
            ]
            waiting = {row for ingest in house.ingests for row in _waiting(ingest, domain)}
            assert set(learned) | waiting == expected, "an example is lost"
            assert len(learned) == len(set(learned)), "an example is learned twice"
            assert not set(learned) & waiting, "an example was not released"
    finally:
        _tidy(course, home)


def _to_be_learned(house: House) -> bool:
    house.tick()
    if house.coordinator._jobs and not all(job.done() for job in house.coordinator._jobs.values()):
        return True
    stages = [state for domain in DOMAINS if (state := house.state(domain)) is not None]
    return any(state.waiting.sealed for state in stages) or any(map(house.markers, DOMAINS))


def _waiting(ingest: Any, domain: str) -> set[str]:
    found = ingest._spool._db.execute("SELECT record_id FROM rows WHERE domain=? AND held_out=0", (domain,))
    return {record_id for (record_id,) in found}

"""A learner that dies in the midst of a training: another one is asked at once, and goes on where it was left."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors.coordinator import Coordinator
from actors.errors import Unreachable
from actors.learner import LearnerWorker
from actors.observation import Seal
from actors.training import Trained, TrainingOrder
from actors.unfinished import Unfinished
from learning.contract import Example, Progress, TrainingJob, TrainingResult
from learning.lora import LoraLearner
from learning.lora_options import LoraOptions
from learning.template import PromptTemplate
from registry.disk import Disk
from streaming.records import EndOfDomain
from tests.actors.house import BASE, EXAMS, House, HouseParts, records_of
from tests.actors.standins import HashFeatures, PlainTemplate, RecordingLearner

ALPHA = EndOfDomain(domain="alpha")
STEPS = 6


class Killed(BaseException):
    """No handler catches it, as none could catch a SIGKILL."""


class Walks(RecordingLearner):
    """Trains in steps, and keeps after each which it was; `at` is called with each before that."""

    def __init__(self) -> None:
        super().__init__()
        self.at: Callable[[int], None] = lambda step: None
        self.walked: list[int] = []

    def train(self, job: TrainingJob, on_progress: Callable[[Progress], None] | None = None) -> TrainingResult:
        assert job.checkpoints is not None and on_progress is not None
        left = int(job.checkpoints.load() or b"0")
        for step in range(left + 1, STEPS + 1):
            self.walked.append(step)
            on_progress(Progress(step, STEPS, 1.0, None, left))
            self.at(step)
            job.checkpoints.save(str(step).encode())
        return replace(super().train(job), resumed_from=left)


class Mortal:
    """A learner's process as its coordinator sees it: after its death it is there again, with an empty folder."""

    def __init__(self, make: Callable[[], LearnerWorker]) -> None:
        self._make, self.worker, self.trained, self.deaths = make, make(), 0, 0

    def train(self, order: TrainingOrder) -> Trained:
        self.trained += 1
        try:
            return self.worker.train(order)
        except Killed:
            self.deaths, self.worker = self.deaths + 1, self._make()
            raise Unreachable("the learner does not answer (ActorDiedError)") from None

    def progress(self) -> Progress | None:
        return self.worker.progress()


class Pair:
    """A house with two such learners of one method, and one place for what they leave."""

    def __init__(self, home: Path, learner: Any) -> None:
        self.house = House(home, HouseParts(PlainTemplate(), HashFeatures(), learner))  # type: ignore[arg-type]
        self.unfinished = Unfinished(Disk(home / "shared"), 1 << 20)
        ingests = list(self.house.handles.values())
        self.learners = [
            Mortal(lambda work=home / f"work-{n}": LearnerWorker(learner, work, ingests, EXAMS, self.unfinished))  # type: ignore[misc]
            for n in range(2)
        ]
        self.start_coordinator()

    def start_coordinator(self) -> None:
        house = self.house
        house.coordinator.stop()
        house.coordinator = Coordinator(
            house.registry,
            BASE,
            house.handles,
            house.router,  # type: ignore[arg-type]
            {f"learner-{n}": each for n, each in enumerate(self.learners)},
            house.replicas,
            house.coordinator_options(),
            self.unfinished,
        )

    def close(self, rows: int = 24, start: int = 0) -> None:
        self.house.send([*records_of("alpha", rows, start=start), ALPHA])
        self.house.drain()


@pytest.fixture
def walks() -> Walks:
    return Walks()


@pytest.fixture
def scene(walks: Walks, tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path / "home", walks)
    yield made
    made.house.down()


def dies_at(*steps: int) -> Callable[[int], None]:
    """Dies once at each of these steps."""
    left = list(steps)

    def dies(step: int) -> None:
        if step in left:
            left.remove(step)
            raise Killed

    return dies


def test_another_learner_is_asked_at_once_and_goes_on_from_the_last_step_kept(scene: Pair, walks: Walks) -> None:
    walks.at = dies_at(4)
    scene.close()
    scene.house.tick()
    assert walks.walked == [1, 2, 3, 4] and scene.house.is_in("alpha", "failed")
    scene.house.tick()
    assert walks.walked[4:] == [4, 5, 6] and [each.trained for each in scene.learners] == [1, 1]
    assert scene.house.version("alpha") == 1
    (alpha,) = scene.house.status().domains
    assert alpha.versions[0].figures["resumed_from"] == 3.0


def test_who_dies_again_and_again_is_asked_with_pauses_and_comes_to_the_end(scene: Pair, walks: Walks) -> None:
    walks.at = dies_at(1, 2, 3, 5)
    scene.close()
    scene.house.tick()
    scene.house.tick()
    assert walks.walked == [1, 1, 2]
    for _ in range(3):
        scene.house.tick()
    assert walks.walked == [1, 1, 2], "a learner that can't live is not asked without a pause"
    scene.house.learn("alpha")
    assert walks.walked == [1, 1, 2, 2, 3, 3, 4, 5, 5, 6]


def test_a_coordinator_that_was_killed_too_finds_it(scene: Pair, walks: Walks) -> None:
    walks.at = dies_at(3)
    scene.close()
    scene.house.tick()
    scene.start_coordinator()
    scene.house.tick()
    assert walks.walked == [1, 2, 3, 3, 4, 5, 6] and scene.house.version("alpha") == 1


def test_the_status_says_from_where_it_goes_on(scene: Pair, walks: Walks) -> None:
    seen: list[tuple[int, int]] = []
    dies = dies_at(4)

    def look(step: int) -> None:
        dies(step)
        progress = next(each.progress for each in scene.house.coordinator.domains() if each.domain == "alpha")
        assert progress is not None
        seen.append((progress.step, progress.resumed_from))

    walks.at = look
    scene.close()
    scene.house.learn("alpha")
    assert seen == [(1, 0), (2, 0), (3, 0), (4, 3), (5, 3), (6, 3)]


def test_an_error_waits_and_keeps_what_was_done_by_then(scene: Pair, walks: Walks) -> None:
    errors = [RuntimeError("no connection")]

    def fails(step: int) -> None:
        if step == 3 and errors:
            raise errors.pop()

    walks.at = fails
    scene.close()
    for _ in range(3):
        scene.house.tick()
    assert walks.walked == [1, 2, 3] and scene.unfinished.of("alpha", 1).load() == b"2"
    scene.house.learn("alpha")
    assert walks.walked == [1, 2, 3, 3, 4, 5, 6]


def test_what_fails_before_a_further_step_is_begun_anew(scene: Pair, walks: Walks) -> None:
    """Whatever may be wrong with what was kept, it does not fail for ever."""
    walks.at = dies_at(3)
    scene.close()
    scene.house.tick()
    scene.unfinished.of("alpha", 1).save(b"not a number")
    scene.house.tick()
    assert scene.house.is_in("alpha", "failed") and scene.unfinished.names() == []
    scene.house.learn("alpha")
    assert walks.walked == [1, 2, 3, *range(1, STEPS + 1)]


# -- nothing is kept longer than its training -------------------------------------------------------------------------


def test_it_goes_when_its_version_is_there(scene: Pair, walks: Walks) -> None:
    walks.at = lambda step: None
    scene.close()
    scene.house.learn("alpha")
    scene.house.tick()
    assert scene.unfinished.names() == []


def test_it_goes_when_its_version_was_rejected(scene: Pair, walks: Walks) -> None:
    walks.rejects = {"alpha": 1}
    scene.close()
    scene.house.settle(lambda: scene.house.is_in("alpha", "rejected"))
    scene.house.tick()
    assert scene.unfinished.names() == []


def test_it_stays_while_its_training_waits(scene: Pair, walks: Walks) -> None:
    walks.at = dies_at(2, 3, 4)
    scene.close()
    scene.house.tick()
    scene.house.tick()
    assert scene.house.is_in("alpha", "failed") and scene.unfinished.names() == ["alpha@v1"]
    for _ in range(3):
        scene.house.tick()
    assert scene.unfinished.names() == ["alpha@v1"]


def test_it_goes_with_its_domain(scene: Pair, walks: Walks) -> None:
    """Also where the learner, which nobody tells, goes on with a training of it and keeps more."""
    walks.at = dies_at(2, 3)
    scene.close()
    scene.house.tick()
    scene.house.tick()
    assert scene.unfinished.names() == ["alpha@v1"]
    scene.house.coordinator.remove("alpha")
    scene.house.tick()
    assert scene.unfinished.names() == []
    scene.unfinished.of("alpha", 1).save(b"5")
    scene.house.tick()
    assert scene.unfinished.names() == []


def test_it_goes_when_its_rows_are_sealed_no_more(scene: Pair, walks: Walks) -> None:
    walks.at = dies_at(2, 3)
    scene.close()
    scene.house.tick()
    scene.house.tick()
    scene.house.router.reopen("alpha", 1)
    scene.house.coordinator._stages.clear()
    scene.house.coordinator._upkeep.go_over(is_idle=True)
    assert scene.unfinished.names() == []


# -- the real thing ---------------------------------------------------------------------------------------------------


class Dealt:
    """Ingest workers among which the same examples lie otherwise each time, some of them twice."""

    train, held_out = ([Example(f"e{n}", f"number {n}>", f"{n % 3}") for n in range(*to)] for to in ((30,), (30, 40)))

    def __init__(self) -> None:
        self.random = random.Random(0)

    def workers(self) -> list[Any]:
        every = [*self.train, *self.held_out]
        some = self.random.sample(every, 25)
        rest = [each for each in every if each not in some[5:]]
        return [SimpleNamespace(examples=partial(self._split, part)) for part in (some, rest)]

    def _split(self, part: list[Example], domain: str, until: object) -> tuple[list[Example], list[Example]]:
        self.random.shuffle(part)
        return [e for e in part if e in self.train], [e for e in part if e in self.held_out]


@pytest.mark.parametrize("dies", [(5,), (2, 7, 11)], ids=str)
def test_the_adapter_is_the_same_whoever_has_died_and_wherever_the_examples_lie_by_then(
    base: Path, template: PromptTemplate, tmp_path: Path, dies: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("learning.resumption._REST", 0.0)
    options = LoraOptions(
        frozen_layers=1, rank=2, dropout=0.1, max_steps=12, batch_size=4, threads=1, checkpoint_seconds=1e-9
    )
    dealt, unfinished = Dealt(), Unfinished(Disk(tmp_path / "shared"), 1 << 30)
    order = TrainingOrder("alpha", Seal(1, {}, len(dealt.train), len(dealt.held_out)), (), 7)

    def trained(name: str, last: int, shared: Unfinished | None) -> TrainingResult:
        method = DiesAt(LoraLearner(str(base), template, options), last)
        return LearnerWorker(method, tmp_path / name, dealt.workers(), EXAMS, shared).train(order).result

    expected = trained("undisturbed", 0, None)
    for last in dies:
        with pytest.raises(Killed):
            trained(f"killed-{last}", last, unfinished)
    result = trained("last", 0, unfinished)
    assert (result.resumed_from, result.trouble) == (dies[-1] - 1, "")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        one, other = (each.adapters[0].folder for each in (expected, result))
        assert one is not None and other is not None and (one / name).read_bytes() == (other / name).read_bytes()
    assert result.adapters[0].candidate == expected.adapters[0].candidate


class DiesAt:
    """A method whose process dies after a step; 0 for none."""

    name = "dies"

    def __init__(self, inner: LoraLearner, last: int) -> None:
        self._inner, self._last = inner, last

    def train(self, job: TrainingJob, on_progress: Callable[[Progress], None] | None = None) -> TrainingResult:
        def noted(progress: Progress) -> None:
            if progress.step == self._last:
                raise Killed

        return self._inner.train(job, noted)

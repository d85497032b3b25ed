"""A training ended at any step goes on from its last checkpoint to the same bits, or begins anew and says why."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from learning.contract import Incumbent, Learner, TrainingResult
from learning.resumption import Midway, Resumption
from learning.template import PromptTemplate
from tests.learning.bases import TEMPLATE, write_base
from tests.learning.colours import examples, job
from tests.learning.interruptions import (
    KINDS,
    STEPS,
    MemoryCheckpoints,
    StepClock,
    found,
    made,
    second_job,
    train_until,
)
from tests.learning.test_lora_memory import ScarceMemory

pytestmark = pytest.mark.slow

EVERY_STEP = 1.0


@pytest.fixture(scope="module")
def template(llama: Path) -> PromptTemplate:
    return PromptTemplate(str(llama), TEMPLATE, "\n")


@pytest.fixture
def place() -> MemoryCheckpoints:
    return MemoryCheckpoints()


# -- goes on ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_ended_at_every_step_it_gives_what_it_gives_uninterrupted(
    llama: Path, template: PromptTemplate, tmp_path: Path, clock: StepClock, place: MemoryCheckpoints, name: str
) -> None:
    method = made(llama, template, name, dropout=0.2, checkpoint_seconds=EVERY_STEP)
    plain = second_job(method, tmp_path)
    expected = found(method, plain)
    shutil.rmtree(plain.output)
    given = replace(plain, checkpoints=place)
    # What ends it comes after a step, and before that step is kept.
    train_until(method, given, clock, range(1, STEPS + 1))
    assert found(method, given, clock) == expected
    assert clock.steps() == [1, *(step for last in range(2, STEPS + 1) for step in (last - 1, last)), STEPS]


@pytest.mark.parametrize(
    ("ends", "changes"),
    [
        (12, {"schedule": "linear", "warmup_steps": 3, "b_rate": 4.0, "weight_decay": 0.1}),
        pytest.param(10, {"patience": 2, "evaluate_every": 1, "learning_rate": 0.1}, marks=pytest.mark.slow),
        pytest.param(
            12, {"micro_batch_tokens": 64, "gradient_checkpointing": True, "logit_chunk": 7}, marks=pytest.mark.slow
        ),
        pytest.param(12, {"dtype": "float16"}, marks=pytest.mark.slow),
        pytest.param(12, {"dtype": "bfloat16"}, marks=pytest.mark.slow),
        pytest.param(3, {"learning_rate": 1e4}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_whatever_a_training_is_made_with(
    llama: Path,
    template: PromptTemplate,
    tmp_path: Path,
    clock: StepClock,
    place: MemoryCheckpoints,
    ends: int,
    changes: dict[str, Any],
) -> None:
    method = made(llama, template, "lora", **{"max_steps": 12, "checkpoint_seconds": EVERY_STEP, **changes})
    files, result = found(method, job(tmp_path / "out"))
    assert result.steps == ends
    train_until(method, job(tmp_path / "out", checkpoints=place), clock, range(1, result.steps))
    again, other = found(method, job(tmp_path / "out", checkpoints=place))
    assert again == files and repr(other) == repr(result)  # which tells all digits, and NaN from no other


def test_what_was_halved_for_memory_stays_halved(
    llama: Path, template: PromptTemplate, tmp_path: Path, clock: StepClock, place: MemoryCheckpoints
) -> None:
    def scarce() -> tuple[Learner, ScarceMemory]:
        method = made(llama, template, "lora", checkpoint_seconds=EVERY_STEP)
        return method, ScarceMemory(method, 60, MemoryError())

    expected = found(scarce()[0], job(tmp_path / "out"))
    first, memory = scarce()
    train_until(first, job(tmp_path / "out", checkpoints=place), clock, [5])
    assert memory.failures > 0
    second, memory = scarce()
    assert found(second, job(tmp_path / "out", checkpoints=place)) == expected
    assert memory.failures == 0


@pytest.mark.parametrize("last", [3, 4, 8])
def test_no_more_than_one_interval_is_done_again(
    llama: Path, template: PromptTemplate, tmp_path: Path, clock: StepClock, place: MemoryCheckpoints, last: int
) -> None:
    method = made(llama, template, "lora", checkpoint_seconds=3.0)
    train_until(method, job(tmp_path, checkpoints=place), clock, [last])
    result = method.train(job(tmp_path, checkpoints=place), clock)
    kept = (last - 1) // 3 * 3
    assert clock.steps() == [*range(1, last + 1), *range(kept + 1, STEPS + 1)]
    assert result.resumed_from == kept == clock.seen[-1].resumed_from and last - kept <= 3
    assert result.steps == STEPS and result.trouble == ""


def test_what_ended_after_the_last_step_makes_none_again(
    llama: Path, template: PromptTemplate, tmp_path: Path, clock: StepClock, place: MemoryCheckpoints
) -> None:
    method = made(llama, template, "lora", checkpoint_seconds=EVERY_STEP)
    given = job(tmp_path / "out", checkpoints=place)
    expected = found(method, given, clock)
    assert place.saved == STEPS
    clock.seen.clear()
    assert found(method, given, clock) == expected and clock.steps() == []


def test_a_training_without_a_place_or_an_interval_keeps_and_reads_nothing(
    llama: Path, template: PromptTemplate, tmp_path: Path, clock: StepClock, place: MemoryCheckpoints
) -> None:
    place.content = b"left by somebody"
    method = made(llama, template, "lora", checkpoint_seconds=0.0)
    result = method.train(job(tmp_path, checkpoints=place), clock)
    assert (result.trouble, result.resumed_from, place.saved) == ("", 0, 0)


# -- begins anew ------------------------------------------------------------------------------------------------------


class Trained:
    """A learner, and a place in which it has left a short training after its second step of three."""

    def __init__(self, base: Path, template: PromptTemplate, folder: Path, clock: StepClock) -> None:
        self.base, self.template, self.clock, self.place = base, template, clock, MemoryCheckpoints()
        self.given = job(folder, train=examples(16), held_out=examples(4, 80), checkpoints=self.place)
        self.method = self.another()
        train_until(self.method, self.given, clock, [3])
        self.content = self.place.content

    def another(self, base: Path | None = None, **changes: Any) -> Learner:
        chosen = {"max_steps": 3, "checkpoint_seconds": EVERY_STEP, **changes}
        return made(base or self.base, self.template, "lora", **chosen)

    def again(self, method: Learner | None = None, **changes: Any) -> TrainingResult:
        self.clock.seen.clear()
        return (method or self.method).train(replace(self.given, **changes), self.clock)


@pytest.fixture(scope="module")
def left(llama: Path, template: PromptTemplate, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    clock = StepClock()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("learning.resumption.monotonic", lambda: clock.now)
        return Trained(llama, template, tmp_path_factory.mktemp("left"), clock)


@pytest.fixture
def trained(left: Trained, clock: StepClock) -> Trained:
    left.clock, left.place.content, left.place.error = clock, left.content, None
    return left


def test_one_of_its_own_is_gone_on_with(trained: Trained) -> None:
    """What the others here are to be told from."""
    result = trained.again(trained.another(checkpoint_seconds=2.0))
    assert (result.resumed_from, result.trouble, trained.clock.steps()) == (2, "", [3])


@pytest.mark.parametrize(
    ("other", "changes"),
    [
        ("domain", {"domain": "shapes"}),
        ("version", {"version": 2}),
        ("seed", {"seed": 1}),
        ("examples", {"train": examples(15)}),
        ("examples", {"train": [*examples(15), replace(examples(16)[15], completion="else")]}),
        ("examples", {"held_out": examples(3, 80)}),
    ],
)
def test_one_of_another_job_is_left_alone(trained: Trained, other: str, changes: dict[str, Any]) -> None:
    assert_began_anew(trained, trained.again(**changes), f"got one of other {other}")


@pytest.mark.parametrize("changes", [{"learning_rate": 0.02}, {"rank": 2}, {"dropout": 0.1}])
def test_one_of_other_options_is_left_alone(trained: Trained, changes: dict[str, Any]) -> None:
    assert_began_anew(trained, trained.again(trained.another(**changes)), "got one of other options")


def test_one_on_another_base_is_left_alone(trained: Trained, tmp_path: Path) -> None:
    other = trained.another(write_base(tmp_path / "other", "llama", seed=1))
    assert_began_anew(trained, trained.again(other), "got one of other base")


def test_one_that_began_from_something_else_is_left_alone(trained: Trained, tmp_path: Path) -> None:
    trained.method.train(job(tmp_path / "before"))
    before = [Incumbent("colours", 1, tmp_path / "before")]
    assert_began_anew(trained, trained.again(incumbents=before), "got one of other start")


def test_one_that_goes_on_from_a_state_that_is_no_more_is_left_alone(
    llama: Path, template: PromptTemplate, tmp_path: Path, clock: StepClock, place: MemoryCheckpoints
) -> None:
    method = made(llama, template, "seta", checkpoint_seconds=EVERY_STEP)
    given = replace(second_job(method, tmp_path), checkpoints=place)
    train_until(method, given, clock, [5])
    assert "got one of other start" in method.train(replace(given, state=None)).trouble


def test_one_of_another_torch_is_left_alone(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    method = trained.another()
    monkeypatch.setattr(torch, "__version__", "0.1")
    assert_began_anew(trained, trained.again(method), "got one of other torch")


def test_one_in_an_older_format_is_left_alone(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learning.resumption._FORMAT", "2")
    assert_began_anew(trained, trained.again(), "got one of other format")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("damage", ["changed", "cut"])
def test_a_damaged_one_is_left_alone(trained: Trained, share: float, damage: str) -> None:
    content = trained.place.content or b""
    where = int(share * len(content))
    rest = bytes([content[where] ^ 1]) + content[where + 1 :]
    trained.place.content = content[:where] + (rest if damage == "changed" else b"")
    assert_began_anew(trained, trained.again(), "expected a whole one, got a damaged one")


def test_one_whose_tensors_are_not_those_that_train_is_left_alone(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a library may come to lay them out in another way."""
    kept = Resumption.found

    def found_otherwise(self: Resumption) -> Midway | None:
        midway = kept(self)
        return midway and Midway(midway.facts, {**midway.tensors, "trained.0": torch.zeros(3)})

    monkeypatch.setattr(Resumption, "found", found_otherwise)
    assert_began_anew(trained, trained.again(), "expected tensors of what is trained, got others")


def test_a_place_that_can_not_be_reached_stops_no_training(trained: Trained, tmp_path: Path) -> None:
    trained.place.error = OSError("no space left")
    result = trained.again()
    assert_began_anew(trained, result, "no space left: the training began anew; checkpoint not kept: no space left")
    assert result.trouble.count("not kept") == 1, "what goes wrong often is said once"


def assert_began_anew(trained: Trained, result: TrainingResult, said: str) -> None:
    """And left nothing of what it was not to go on from in its place."""
    assert said in result.trouble and "the training began anew" in result.trouble
    assert (result.resumed_from, trained.clock.steps()) == (0, [1, 2, 3])


# -- how often --------------------------------------------------------------------------------------------------------


def test_keeping_takes_no_more_than_a_tenth_of_the_time(clock: StepClock) -> None:
    class Slow(MemoryCheckpoints):
        def save(self, content: bytes) -> None:
            super().save(content)
            clock.now += 5.0

    resumption = Resumption(Slow(), {}, 30.0)
    due = []
    while clock.now < 1000.0:
        clock.now += 1.0
        if resumption.is_due():
            due.append(clock.now)
            resumption.keep(Midway({}, {}))
    assert due[0] == 30.0 and {later - earlier for earlier, later in pairwise(due)} == {50.0}

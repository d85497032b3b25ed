"""SETA-style trainings, one domain after another: what is shared, what stays, what the others' exams say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from learning.contract import Incumbent, TrainingResult
from learning.errors import LearningError
from learning.gate import Gate
from learning.seta import SetaLearner
from learning.seta_options import SetaOptions
from learning.shared_part import SharedPart, shared_rank_of
from learning.template import PromptTemplate
from tests.learning.bases import TEMPLATE
from tests.learning.colours import OTHERWISE, examples, job, learner_of, options_of, weights

pytestmark = pytest.mark.slow

SHAPES = {"train": examples(80, 0, OTHERWISE, "fine "), "held_out": examples(16, 80, OTHERWISE, "fine ")}
"""Another domain than the colours, with the same words as answers."""


@pytest.fixture(scope="module")
def template(llama: Path) -> PromptTemplate:
    return PromptTemplate(str(llama), TEMPLATE, "\n")


def seta(llama: Path, template: PromptTemplate, **changes: Any) -> SetaLearner:
    return SetaLearner(str(llama), template, SetaOptions(**options_of(shared_rank=2, **changes)))


@pytest.fixture(scope="module")
def first(llama: Path, template: PromptTemplate, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    learner = seta(llama, template, learning_rate=2e-2, max_steps=150)
    return learner.train(job(tmp_path_factory.mktemp("first")))


@pytest.fixture(scope="module")
def colours(first: TrainingResult) -> Incumbent:
    return Incumbent("colours", 1, first.adapters[0].folder, examples(40, 1000))


def second(learner: SetaLearner, folder: Path, first: TrainingResult, *incumbents: Incumbent) -> TrainingResult:
    made = job(folder, domain="shapes", incumbents=incumbents, state=first.state, **SHAPES)
    result = learner.train(made)
    result.check(made)
    return result


def shared(folder: Path) -> dict[str, torch.Tensor]:
    return {name: part[:2] if ".lora_A." in name else part[:, :2] for name, part in weights(folder).items()}


def own(folder: Path) -> dict[str, torch.Tensor]:
    return {name: part[2:] if ".lora_A." in name else part[:, 2:] for name, part in weights(folder).items()}


def same(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(some[name], others[name]) for name in some)


def distance(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    return sum(float((some[name] - others[name]).square().sum()) for name in some) ** 0.5


def test_a_first_training_leaves_the_shared_part_as_its_state(first: TrainingResult) -> None:
    (adapter,) = first.adapters
    assert first.state is not None and shared_rank_of(adapter.folder) == 2 and first.touched == ()
    state = SharedPart.read(first.state)
    assert state.rank == 2 and same(shared(adapter.folder), {n: p / _scale(n) for n, p in state.tensors.items()})
    assert all((part >= 0).all() for part in state.need.values()) and any(part.any() for part in state.need.values())


def _scale(name: str) -> float:
    return 2.0 if ".lora_B." in name else 1.0


def test_a_second_one_gives_every_domain_the_shared_part_and_leaves_it_its_own(
    first: TrainingResult, colours: Incumbent, llama: Path, template: PromptTemplate, tmp_path: Path
) -> None:
    learner = seta(llama, template, learning_rate=2e-2, max_steps=150)
    result = second(learner, tmp_path, first, colours)
    mine, theirs = result.adapters
    assert (mine.domain, theirs.domain, theirs.continues) == ("shapes", "colours", 1)
    assert same(shared(mine.folder), shared(theirs.folder))
    assert not same(shared(mine.folder), shared(colours.adapter)), "it was trained"
    assert same(own(theirs.folder), own(colours.adapter)) and not same(own(mine.folder), own(theirs.folder))
    (exam,) = result.touched
    assert (exam.domain, exam.segment, exam.before.examples) == ("colours", 1, 40)
    assert (theirs.candidate, theirs.incumbent) == (exam.after, exam.before)
    assert Gate().decide(result).accepted
    assert exam.after.exact_match == pytest.approx(exam.before.exact_match, abs=0.1)
    model = PeftModel.from_pretrained(learner._base, str(theirs.folder))
    model.unload()


def test_the_anchor_holds_what_others_need(
    first: TrainingResult, colours: Incumbent, llama: Path, template: PromptTemplate, tmp_path: Path
) -> None:
    moved, losses = [], []
    for anchor in (0.0, 1.0, 1e3):
        learner = seta(llama, template, learning_rate=2e-2, max_steps=60, anchor=anchor)
        result = second(learner, tmp_path / str(anchor), first, colours)
        moved.append(distance(shared(result.adapters[0].folder), shared(colours.adapter)))
        losses.append(result.touched[0].after.loss)
    assert moved[0] > moved[1] > moved[2]
    assert losses[0] > losses[1] and losses[0] > losses[2]


def test_in_snapshot_mode_others_keep_the_part_that_they_were_trained_with(
    first: TrainingResult, colours: Incumbent, llama: Path, template: PromptTemplate, tmp_path: Path
) -> None:
    result = second(seta(llama, template, mode="snapshot"), tmp_path, first, colours)
    assert len(result.adapters) == 1 and result.touched == () and result.state is not None
    state = SharedPart.read(result.state)
    found = {name: part * _scale(name) for name, part in shared(result.adapters[0].folder).items()}
    assert same(found, state.tensors)


def test_a_domain_goes_on_from_its_own_part_and_the_shared_one_of_now(
    first: TrainingResult, colours: Incumbent, llama: Path, template: PromptTemplate, tmp_path: Path
) -> None:
    learner = seta(llama, template, learning_rate=2e-2, max_steps=60)
    other = second(learner, tmp_path / "other", first, colours)
    shapes = Incumbent("shapes", 1, other.adapters[0].folder, examples(8, 500, OTHERWISE, "fine "))
    colours = Incumbent("colours", 1, other.adapters[1].folder, colours.exam)
    still = seta(llama, template, learning_rate=1e-9, max_steps=1)
    again = job(tmp_path / "again", version=2, incumbents=[colours, shapes], state=other.state, train=examples(80, 200))
    result = still.train(again)
    result.check(again)
    assert result.adapters[0].continues == 1 and [each.domain for each in result.adapters] == ["colours", "shapes"]
    assert distance(weights(tmp_path / "again"), weights(colours.adapter)) < 1e-5
    assert {(each.domain, each.segment) for each in result.touched} == {("colours", 1), ("shapes", 1)}


@pytest.mark.parametrize("rank", [6, 3])
def test_its_own_part_may_change_its_rank(
    first: TrainingResult, colours: Incumbent, llama: Path, template: PromptTemplate, tmp_path: Path, rank: int
) -> None:
    still = seta(llama, template, learning_rate=1e-9, max_steps=1, rank=rank)
    result = still.train(job(tmp_path, version=2, incumbents=[colours], state=first.state, train=examples(80, 200)))
    (exam,) = result.touched
    assert result.adapters[0].rank == rank and shared_rank_of(tmp_path) == 2
    if rank > 4:
        assert exam.after.row_losses == pytest.approx(exam.before.row_losses, abs=1e-4)


def test_a_rank_that_leaves_a_domain_nothing_of_its_own_is_refused(
    first: TrainingResult, llama: Path, template: PromptTemplate, tmp_path: Path
) -> None:
    learner = SetaLearner(str(llama), template, SetaOptions(**options_of(shared_rank=1, rank=2)))
    with pytest.raises(LearningError, match="expected more than the 2 that domains share so far, got 2"):
        learner.train(job(tmp_path, domain="shapes", state=first.state, **SHAPES))


def test_what_another_method_has_trained_stays_as_it_is(
    first: TrainingResult, llama: Path, template: PromptTemplate, tmp_path: Path
) -> None:
    learner_of(llama, template).train(job(tmp_path / "lora", domain="lora"))
    lora = Incumbent("lora", 1, tmp_path / "lora", examples(8, 500))
    result = second(seta(llama, template), tmp_path / "seta", first, lora)
    assert len(result.adapters) == 1 and result.touched == ()


def test_the_same_job_gives_the_same_result(
    first: TrainingResult, colours: Incumbent, llama: Path, template: PromptTemplate, tmp_path: Path
) -> None:
    one, two = (second(seta(llama, template), tmp_path / name, first, colours) for name in ("one", "two"))
    for mine, other in zip(one.adapters, two.adapters, strict=True):
        assert same(weights(mine.folder), weights(other.folder))
    assert one.state is not None and two.state is not None
    assert (one.state / "shared.safetensors").read_bytes() == (two.state / "shared.safetensors").read_bytes()

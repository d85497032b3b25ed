"""Going on from what is in service: which segment, from where, at what rate, and what its exam says."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file

from learning.adapter_shape import StoredAdapter
from learning.contract import Incumbent, TrainingResult
from learning.errors import LearningError
from learning.gate import Gate
from learning.lora import LoraLearner
from learning.template import PromptTemplate
from tests.learning.bases import TEMPLATE
from tests.learning.colours import OTHERWISE, examples, job, learner_of, weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def template(llama: Path) -> PromptTemplate:
    return PromptTemplate(str(llama), TEMPLATE, "\n")


@pytest.fixture(scope="module")
def learner(llama: Path, template: PromptTemplate) -> LoraLearner:
    return learner_of(llama, template, learning_rate=2e-2, max_steps=150)


@pytest.fixture(scope="module")
def first(learner: LoraLearner, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """The first version of a domain."""
    return learner.train(job(tmp_path_factory.mktemp("first")))


@pytest.fixture(scope="module")
def incumbent(first: TrainingResult) -> Incumbent:
    """It in service, with an exam of questions that no test trains on."""
    return Incumbent("colours", 1, first.adapters[0].folder, examples(40, 1000))


def logits(learner: LoraLearner, folder: Path) -> torch.Tensor:
    """By PEFT's own way of reading a folder."""
    model = PeftModel.from_pretrained(learner._base, str(folder)).eval()
    with torch.no_grad():
        got: torch.Tensor = model(input_ids=torch.arange(60).reshape(3, 20)).logits
    model.unload()
    return got


def test_it_goes_on_from_the_segment_in_service(
    first: TrainingResult, incumbent: Incumbent, llama: Path, template: PromptTemplate, tmp_path: Path
) -> None:
    learner = learner_of(llama, template, max_steps=10)
    second = learner.train(job(tmp_path, version=2, incumbents=[incumbent], seed=5, train=examples(80, 200)))
    (adapter,) = second.adapters
    assert adapter.continues == 1 and adapter.base == first.adapters[0].base
    assert adapter.incumbent is not None
    assert adapter.incumbent.loss == pytest.approx(first.adapters[0].candidate.loss, rel=1e-5)
    (exam,) = second.touched
    assert (exam.domain, exam.segment, exam.before.examples, exam.after.examples) == ("colours", 1, 40, 40)
    assert exam.before.row_losses != exam.after.row_losses
    before, after = weights(first.adapters[0].folder), weights(tmp_path)
    assert before.keys() == after.keys() and not any(torch.equal(before[name], after[name]) for name in before)


def test_a_lower_rate_stays_nearer(incumbent: Incumbent, llama: Path, template: PromptTemplate, tmp_path: Path) -> None:
    before = weights(incumbent.adapter)
    moved = []
    for rate in (0.1, 1.0):
        learner = learner_of(llama, template, max_steps=10, continue_rate=rate, schedule="constant")
        learner.train(job(tmp_path / str(rate), incumbents=[incumbent], train=examples(80, 200)))
        after = weights(tmp_path / str(rate))
        moved.append(sum(float((after[name] - before[name]).abs().sum()) for name in before))
    assert moved[0] < 0.3 * moved[1]


def test_of_several_segments_the_best_on_the_new_examples_goes_on(
    learner: LoraLearner, incumbent: Incumbent, llama: Path, template: PromptTemplate, tmp_path: Path
) -> None:
    otherwise = {"train": examples(80, 0, OTHERWISE, "fine "), "held_out": examples(16, 80, OTHERWISE, "fine ")}
    learner.train(job(tmp_path / "other", **otherwise))
    segments = [incumbent, Incumbent("colours", 2, tmp_path / "other")]
    stranger = Incumbent("shapes", 1, tmp_path / "nowhere")
    short = learner_of(llama, template, max_steps=1)
    for changes, expected in ((otherwise, 2), ({"train": examples(80, 200)}, 1)):
        result = short.train(job(tmp_path / "next", incumbents=[stranger, *segments], **changes))
        assert result.adapters[0].continues == expected
        assert [comparison.segment for comparison in result.touched] == ([1] if expected == 1 else [])


def test_where_the_base_answers_better_than_any_segment_it_begins_from_the_base(
    incumbent: Incumbent, learner: LoraLearner, tmp_path: Path
) -> None:
    shutil.copytree(incumbent.adapter, tmp_path / "turned")
    turned = {name: tensor * (-3.0 if "lora_B" in name else 1.0) for name, tensor in weights(incumbent.adapter).items()}
    save_file(turned, tmp_path / "turned" / "adapter_model.safetensors")
    stranger = replace(incumbent, adapter=tmp_path / "turned")
    short = {"train": examples(80, 200)}
    alone = learner.train(job(tmp_path / "alone", **short))
    beside = learner.train(job(tmp_path / "beside", incumbents=[stranger], **short))
    (adapter,) = beside.adapters
    assert adapter.incumbent is not None and adapter.base.loss < adapter.incumbent.loss
    assert adapter.continues is None and beside.touched == ()
    assert adapter.candidate == alone.adapters[0].candidate, "at the full rate, as if there were no segment"
    assert Gate().decide(beside).segment_of_its_own
    # Without an exam in force nothing is to be lost: what is there is corrected.
    corrected = learner.train(job(tmp_path / "on", incumbents=[replace(stranger, exam=())], **short))
    assert corrected.adapters[0].continues == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"rank": 8},
        {"rank": 9, "alpha": 20.0, "rank_stabilised": True},
        {"rank_stabilised": True},
        {"targets": ("q_proj",)},
        {"frozen_layers": 1},
        {"frozen_layers": 3, "rank": 6},
    ],
    ids=str,
)
def test_a_larger_or_other_shape_starts_as_the_same_function(
    changes: dict[str, Any], incumbent: Incumbent, llama: Path, template: PromptTemplate, tmp_path: Path
) -> None:
    # So small a step that what is written is what it started from.
    learner = learner_of(llama, template, max_steps=1, learning_rate=1e-12, **changes)
    result = learner.train(job(tmp_path, incumbents=[incumbent], train=examples(80, 200)))
    shape = StoredAdapter.read(tmp_path).shape
    assert shape.rank == result.adapters[0].rank == changes.get("rank", 4)
    assert len(shape.targets) == 7 and shape.layers == {*range(changes.get("frozen_layers", 2), 4), 2, 3}
    before, after = logits(learner, incumbent.adapter), logits(learner, tmp_path)
    assert float((after - before).abs().max()) <= 1e-6 * float(before.abs().max())


def test_a_larger_rank_goes_on_learning(
    incumbent: Incumbent, llama: Path, template: PromptTemplate, tmp_path: Path
) -> None:
    result = learner_of(llama, template, rank=8, max_steps=40).train(
        job(tmp_path, incumbents=[incumbent], train=examples(80, 200), held_out=examples(16, 300))
    )
    (adapter,) = result.adapters
    assert adapter.incumbent is not None and adapter.candidate.loss < adapter.incumbent.loss
    new_columns = [tensor[:, 4:] for name, tensor in weights(tmp_path).items() if "lora_B" in name]
    assert all(column.any() for column in new_columns)


def test_a_smaller_rank_is_judged_against_the_whole_incumbent(
    first: TrainingResult, incumbent: Incumbent, llama: Path, template: PromptTemplate, tmp_path: Path
) -> None:
    learner = learner_of(llama, template, rank=1, max_steps=1, learning_rate=1e-12)
    (adapter,) = learner.train(job(tmp_path, incumbents=[incumbent], train=examples(80, 200))).adapters
    assert adapter.rank == 1 and adapter.incumbent is not None
    assert adapter.incumbent.loss == pytest.approx(first.adapters[0].candidate.loss, rel=1e-5)
    assert adapter.candidate.loss > adapter.incumbent.loss


def test_an_incumbent_that_is_not_there_is_an_error(learner: LoraLearner, tmp_path: Path) -> None:
    with pytest.raises(LearningError, match="no readable adapter"):
        learner.train(job(tmp_path / "v2", incumbents=[Incumbent("colours", 1, tmp_path / "nowhere")]))


@pytest.mark.slow
def test_another_distribution_under_one_name_becomes_a_segment_of_its_own(
    learner: LoraLearner, incumbent: Incumbent, tmp_path: Path
) -> None:
    news = {"train": examples(80, 400, OTHERWISE, "fine "), "held_out": examples(16, 480, OTHERWISE, "fine ")}
    for rows in (40, 5):
        known = replace(incumbent, exam=incumbent.exam[:rows])
        result = learner.train(job(tmp_path / str(rows), version=2, incumbents=[known], **news))
        (comparison,) = result.touched
        assert comparison.after.exact_match < comparison.before.exact_match
        verdict = Gate().decide(result)
        assert verdict.accepted and verdict.segment_of_its_own, (rows, verdict.reason)
        assert "exam of colours segment 1" in verdict.reason and f"over {rows} rows" in verdict.reason


@pytest.mark.slow
def test_the_same_distribution_goes_on_in_its_segment(
    learner: LoraLearner, incumbent: Incumbent, tmp_path: Path
) -> None:
    for seed in range(3):
        more = {"train": examples(80, 400 + 100 * seed), "held_out": examples(16, 480 + 100 * seed)}
        result = learner.train(job(tmp_path / str(seed), version=2, incumbents=[incumbent], seed=seed, **more))
        verdict = Gate().decide(result)
        assert verdict.accepted and not verdict.segment_of_its_own, (seed, verdict.reason)
        (comparison,) = result.touched
        assert comparison.after.exact_match >= comparison.before.exact_match


def test_a_corrected_exam_question_is_learned_and_not_asked(
    incumbent: Incumbent, llama: Path, template: PromptTemplate, tmp_path: Path
) -> None:
    learner = learner_of(llama, template, max_steps=1)
    corrected = [replace(example, completion="blue") for example in incumbent.exam[:4]]
    repeated = list(incumbent.exam[4:6])
    result = learner.train(job(tmp_path, incumbents=[incumbent], train=[*examples(20, 200), *corrected, *repeated]))
    (comparison,) = result.touched
    assert comparison.before.examples == len(incumbent.exam) - 4 and result.skipped == 2

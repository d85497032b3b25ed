"""OSFT trainings, one domain after another: what changes, what stays, who is examined, and how it goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from learning.base_delta import WEIGHTS, RevisableModel, read_base_delta
from learning.completion_loss import CompletionLoss, encode
from learning.contract import Incumbent, TrainingJob, TrainingResult
from learning.errors import LearningError
from learning.evaluation import evaluate
from learning.gate import Gate
from learning.kept_directions import Kept
from learning.osft import OsftLearner
from learning.osft_options import OsftOptions
from learning.output_layer import OutputLayer
from learning.seta import SetaLearner
from learning.seta_options import SetaOptions
from learning.template import PromptTemplate
from learning.token_budget import TokenBudget
from tests.learning.bases import TEMPLATE
from tests.learning.colours import OTHERWISE, examples, job, learner_of, options_of, weights

pytestmark = pytest.mark.slow

SHAPES = {
    "domain": "shapes",
    "train": examples(80, 0, OTHERWISE, "fine "),
    "held_out": examples(16, 80, OTHERWISE, "fine "),
}
EXAM = examples(40, 1000)
FORMS: dict[str, dict[str, Any]] = {
    "core": {"learning_rate": 1e-2},
    "factors": {"form": "factors", "learning_rate": 3e-3},
}
BASES: dict[str, dict[str, Any]] = {
    "adaptive": {"ratio": None, "mrr": 0.1, "trr": 0.4, "learning_rate": 1e-2},
    "inputs": {"basis": "inputs", "learning_rate": 2e-3},
    "input-factors": {"basis": "inputs", "form": "factors", "learning_rate": 2e-3},
    "soft": {"basis": "kronecker", "learning_rate": 2e-3},
    "hard": {"basis": "kronecker", "curvature": "hard", "learning_rate": 2e-3},
}


@pytest.fixture(scope="module")
def template(llama: Path) -> PromptTemplate:
    return PromptTemplate(str(llama), TEMPLATE, "\n")


def osft(llama: Path, template: PromptTemplate, **changes: Any) -> OsftLearner:
    chosen = {key: value for key, value in options_of(**changes).items() if key not in ("rank", "alpha")}
    return OsftLearner(str(llama), template, OsftOptions(**chosen))


def run(learner: Any, made: TrainingJob) -> TrainingResult:
    result: TrainingResult = learner.train(made)
    result.check(made)
    return result


@pytest.fixture(scope="module")
def first(llama: Path, template: PromptTemplate, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    learner = osft(llama, template, learning_rate=1e-2, max_steps=150)
    return run(learner, job(tmp_path_factory.mktemp("first") / "out"))


COLOURS = Incumbent("colours", 1, None, EXAM)


def delta(result: TrainingResult) -> dict[str, Tensor]:
    assert result.base_delta is not None
    return read_base_delta(result.base_delta)


@pytest.mark.parametrize("form", FORMS)
def test_a_first_domain_is_answered_by_a_changed_base(
    llama: Path, template: PromptTemplate, tmp_path: Path, form: str
) -> None:
    result = run(osft(llama, template, max_steps=150, **FORMS[form]), job(tmp_path / "out"))
    (own,) = result.adapters
    assert (own.domain, own.folder, own.rank, own.continues, own.incumbent) == ("colours", None, 0, None, None)
    assert own.base is not None and own.candidate.loss < 0.7 * own.base.loss and Gate().decide(result).accepted
    assert result.state is None, "a fixed share needs none"


def test_only_targets_above_the_frozen_layers_change_and_only_within_what_is_free(
    first: TrainingResult, llama: Path
) -> None:
    own = load_file(llama / "model.safetensors")
    changed = delta(first)
    assert {name.split(".")[2] for name in changed} == {"2", "3"} and len(changed) == 14
    for name, tensor in changed.items():
        assert tensor.dtype == torch.float32 and not torch.equal(tensor, own[name])
        left, _, right = torch.linalg.svd(own[name].double(), full_matrices=False)
        change, kept = tensor.double() - own[name].double(), min(tensor.shape) // 2
        # Stored beside the weight, a change is as exact as the weight's last digit.
        assert (left[:, :kept].T @ change).norm() / change.norm() < 3e-6, name
        assert (change @ right[:kept].T).norm() / change.norm() < 3e-6, name


def test_greedy_answers_of_base_and_change_are_those_of_the_trained_model(
    first: TrainingResult, llama: Path, template: PromptTemplate
) -> None:
    """The model as a replica makes it, and its own generation."""
    fresh = RevisableModel(str(llama), "float32", "cpu")
    fresh.stand_on(first.base_delta)
    held_out = examples(16, 80)
    encoded = encode(held_out, template, 64)
    figures = evaluate(CompletionLoss(OutputLayer(fresh.model), 1024), TokenBudget(8, None), fresh.model, encoded)
    assert figures == first.adapters[0].candidate
    for example, exact in zip(encoded, figures.row_exact, strict=True):
        prompt = torch.tensor([example.ids[: example.prompt_tokens]])
        got = fresh.model.generate(prompt, max_new_tokens=example.completion_tokens, do_sample=False, use_cache=True)
        expected = example.ids[example.prompt_tokens :]
        assert (got[0, example.prompt_tokens :].tolist() == expected) == exact


@pytest.mark.parametrize("kind", [*FORMS, *BASES])
def test_the_same_job_gives_the_same_bits_whatever_ran_before(
    first: TrainingResult, llama: Path, template: PromptTemplate, tmp_path: Path, kind: str
) -> None:
    """As when a training is repeated that was killed: in the same process, and in one that starts anew."""
    changes = {**FORMS, **BASES}[kind]
    learner = osft(llama, template, max_steps=12, **changes)
    state = run(learner, job(tmp_path / "before")).state
    found = []
    for name, each in (("one", learner), ("two", learner), ("three", osft(llama, template, max_steps=12, **changes))):
        made = job(tmp_path / name, incumbents=[COLOURS], state=state, base_delta=first.base_delta, **SHAPES)
        result = run(each, made)
        assert result.base_delta is not None
        files = [result.base_delta / WEIGHTS, *sorted(result.state.iterdir() if result.state else [])]
        found.append([file.read_bytes() for file in files])
        assert result.touched[0].before == run_exam(first, llama, template), "it stands where it is told to"
    assert found[0] == found[1] == found[2]


def run_exam(first: TrainingResult, llama: Path, template: PromptTemplate) -> Any:
    fresh = RevisableModel(str(llama), "float32", "cpu")
    fresh.stand_on(first.base_delta)
    loss = CompletionLoss(OutputLayer(fresh.model), 1024)
    return evaluate(loss, TokenBudget(8, None), fresh.model, encode(EXAM, template, 64))


@pytest.mark.parametrize("kind", BASES)
def test_each_basis_keeps_what_earlier_domains_need(
    llama: Path, template: PromptTemplate, tmp_path: Path, kind: str
) -> None:
    """Against the same training without what is kept: the old exam loses less."""
    learner = osft(llama, template, max_steps=150, **BASES[kind])
    one = run(learner, job(tmp_path / "one"))
    assert one.state is not None
    kept = Kept.read(one.state)
    modules = {name.removesuffix(".weight") for name in delta(one)}
    named = kept.importances or kept.tensors
    assert kept.basis == BASES[kind].get("basis", "weights")
    assert {name.removesuffix(".inputs").removesuffix(".gradients") for name in named} == modules
    made = job(tmp_path / "two", incumbents=[COLOURS], state=one.state, base_delta=one.base_delta, **SHAPES)
    two = run(learner, made)
    assert two.adapters[0].base is not None and two.adapters[0].candidate.loss < two.adapters[0].base.loss
    if kind != "adaptive":
        free = run(learner, replace(made, state=None, output=tmp_path / "free"))
        assert two.touched[0].after.loss < free.touched[0].after.loss


def test_a_domain_goes_on_and_others_are_examined(
    first: TrainingResult, llama: Path, template: PromptTemplate, tmp_path: Path
) -> None:
    learner = osft(llama, template, learning_rate=3e-3)
    shapes = Incumbent("shapes", 2, None, examples(8, 500, OTHERWISE, "fine "))
    empty = Incumbent("empty", 1, None)
    made = job(
        tmp_path / "again",
        version=2,
        incumbents=[shapes, COLOURS, empty],
        base_delta=first.base_delta,
        train=examples(80, 200),
    )
    result = run(learner, made)
    own, *others = result.adapters
    assert (own.domain, own.continues, own.incumbent) == ("colours", 1, own.base)
    assert [(each.domain, each.continues, each.folder, each.rank) for each in others] == [
        ("shapes", 2, None, 0),
        ("empty", 1, None, 0),
    ]
    assert {(each.domain, each.segment, each.before.examples) for each in result.touched} == {
        ("colours", 1, 40),
        ("shapes", 2, 8),
    }
    assert (others[0].incumbent, others[0].candidate) == (result.touched[1].before, result.touched[1].after)


def test_what_is_trained_no_more_stays_changed(
    first: TrainingResult, llama: Path, template: PromptTemplate, tmp_path: Path
) -> None:
    learner = osft(llama, template, frozen_layers=3, targets=("q_proj",), max_steps=11)
    result = run(learner, job(tmp_path / "out", incumbents=[COLOURS], base_delta=first.base_delta, **SHAPES))
    before, after = delta(first), delta(result)
    differing = {name for name in after if not torch.equal(after[name], before[name])}
    assert before.keys() == after.keys() and differing == {"model.layers.3.self_attn.q_proj.weight"}


def test_from_lora_to_osft_adapters_stay_and_are_judged_on_the_new_base(
    llama: Path, template: PromptTemplate, tmp_path: Path
) -> None:
    learner_of(llama, template, learning_rate=2e-2, max_steps=150).train(job(tmp_path / "lora"))
    lora = Incumbent("colours", 1, tmp_path / "lora", EXAM)
    learner = osft(llama, template, learning_rate=1e-2)
    result = run(learner, job(tmp_path / "shapes", incumbents=[lora], **SHAPES))
    _, beside = result.adapters
    assert (beside.domain, beside.continues, beside.rank) == ("colours", 1, 4) and beside.folder is not None
    assert sorted(each.name for each in beside.folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert all(torch.equal(each, weights(tmp_path / "lora")[name]) for name, each in weights(beside.folder).items())
    (exam,) = result.touched
    assert exam.before.exact_match > 0.5 and exam.after != exam.before
    fresh = learner_of(llama, template)
    again = job(tmp_path / "check", incumbents=[replace(lora, adapter=beside.folder)], base_delta=result.base_delta)
    start = fresh.train(replace(again, train=examples(8, 300))).touched[0].before
    assert start.row_losses == pytest.approx(exam.after.row_losses, abs=1e-5), "measured with its adapter"


def test_a_domain_with_an_adapter_begins_a_segment_that_the_base_answers(
    llama: Path, template: PromptTemplate, tmp_path: Path
) -> None:
    """What its adapter knows is not in the base: it stays in service beside it."""
    learner_of(llama, template, max_steps=20).train(job(tmp_path / "lora"))
    lora = Incumbent("colours", 1, tmp_path / "lora", EXAM)
    result = run(osft(llama, template), job(tmp_path / "osft", version=2, incumbents=[lora], train=examples(80, 200)))
    own, beside = result.adapters
    assert (own.continues, own.folder, beside.continues, beside.rank) == (None, None, 1, 4)
    assert own.incumbent is not None and own.base is not None and own.incumbent.loss < own.base.loss


@pytest.mark.parametrize("method", ["lora", "seta"])
def test_from_osft_to_adapters_a_new_one_continues_what_the_base_answers(
    first: TrainingResult, llama: Path, template: PromptTemplate, tmp_path: Path, method: str
) -> None:
    learner = (
        learner_of(llama, template)
        if method == "lora"
        else SetaLearner(str(llama), template, SetaOptions(**options_of(shared_rank=2)))
    )
    made = job(tmp_path / "out", version=2, incumbents=[COLOURS], base_delta=first.base_delta, train=examples(80, 200))
    result = run(learner, made)
    (own,) = result.adapters
    assert (own.continues, own.rank, own.incumbent) == (1, 4, own.base) and own.base is not None
    assert own.base == first.adapters[0].candidate, "it stands on the changed base"
    assert own.candidate.loss < own.base.loss and result.base_delta is None
    (exam,) = result.touched
    assert exam.before == run_exam(first, llama, template) and exam.after.loss < exam.before.loss


def test_a_training_that_diverges_is_refused(llama: Path, template: PromptTemplate, tmp_path: Path) -> None:
    learner = osft(llama, template, learning_rate=1e4)
    result = run(learner, job(tmp_path / "out", incumbents=[Incumbent("shapes", 1, None, EXAM)]))
    assert result.failure.startswith("training diverged") and result.state is None
    assert not Gate().decide(result).accepted
    assert all(tensor.isfinite().all() for tensor in delta(result).values())
    still = osft(llama, template, max_steps=11)
    after, anew = (run(each, job(tmp_path / str(number))) for number, each in enumerate((learner, still)))
    assert after.adapters[0].base == anew.adapters[0].base, "nothing of it stays in the model"


def test_where_nothing_is_free_it_says_so(llama: Path, template: PromptTemplate, tmp_path: Path) -> None:
    learner = osft(llama, template, basis="inputs", energy=1.0, max_steps=11)
    full = {
        name.removesuffix(".weight"): torch.eye(tensor.shape[1])
        for name, tensor in load_file(llama / "model.safetensors").items()
        if name.endswith("proj.weight")
    }
    Kept("inputs", tensors=full).save(tmp_path / "state")
    with pytest.raises(LearningError, match=r"all directions of the base are kept.*lower ratio, trr or energy"):
        learner.train(job(tmp_path / "out", state=tmp_path / "state"))


def test_a_narrow_base_is_trained_in_float32(llama: Path, template: PromptTemplate, tmp_path: Path) -> None:
    learner = osft(llama, template, dtype="bfloat16", learning_rate=1e-5, max_steps=20)
    result = run(learner, job(tmp_path / "out"))
    own = load_file(llama / "model.safetensors")
    changed = delta(result)
    assert all(tensor.dtype == torch.float32 for tensor in changed.values())
    steps = [(tensor - own[name].bfloat16().float()).abs().max() for name, tensor in changed.items()]
    assert all(0.0 < float(step) < 1e-3 for step in steps), "far below the last digit of a bfloat16"
    again = run(learner, job(tmp_path / "again", base_delta=result.base_delta, incumbents=[COLOURS], **SHAPES))
    gone_on = [(tensor - changed[name]).abs().max() for name, tensor in delta(again).items()]
    assert all(0.0 < float(step) < 1e-3 for step in gone_on)

"""The LoRA learner: what it trains, what it leaves alone, what it reports."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from learning.completion_loss import CompletionLoss, EncodedExample, encode
from learning.contract import Evaluation, Example, Learner, Progress, TrainingResult
from learning.errors import LearningError
from learning.evaluation import evaluate
from learning.lora import LoraLearner
from learning.output_layer import OutputLayer
from learning.template import PromptTemplate
from learning.token_budget import TokenBudget
from tests.learning.bases import TEMPLATE
from tests.learning.colours import examples, job, learner_of, weights


@pytest.fixture(scope="module")
def template(llama: Path) -> PromptTemplate:
    return PromptTemplate(str(llama), TEMPLATE, "\n")


@pytest.fixture(scope="module")
def learner(llama: Path, template: PromptTemplate) -> LoraLearner:
    return learner_of(llama, template)


@pytest.fixture(scope="module")
def trained(learner: LoraLearner, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """A whole training, to be looked at from several sides."""
    return learner.train(job(tmp_path_factory.mktemp("trained") / "v1"))


def measure(model: PeftModel, held_out: list[EncodedExample]) -> Evaluation:
    base: Any = model.get_base_model()
    return evaluate(CompletionLoss(OutputLayer(base), 1024), TokenBudget(5, None), model, held_out)


def test_it_meets_the_contract_and_learns(llama: Path, template: PromptTemplate, tmp_path: Path) -> None:
    learner: Learner = learner_of(llama, template, learning_rate=2e-2, max_steps=100)
    assert learner.name == "lora"
    seen: list[Progress] = []
    result = learner.train(job(tmp_path), seen.append)
    (adapter,) = result.adapters
    assert (adapter.domain, adapter.folder, adapter.rank) == ("colours", tmp_path, 4)
    assert (adapter.continues, adapter.incumbent, result.touched, result.failure) == (None, None, (), "")
    # A random model with a frozen, tied head: a little is what can be learnt.
    assert adapter.base.exact_match == 0.0 and adapter.candidate.exact_match > 0.6
    assert adapter.candidate.loss < 1.5 < 4.0 < adapter.base.loss and result.train_loss < 1.2
    assert adapter.candidate.examples == adapter.base.examples == 16 and result.skipped == 0
    assert [progress.step for progress in seen] == list(range(1, 101)) and result.steps == 100
    assert result.epochs == 10.0 and result.seconds > 0
    measured = [progress.held_out_loss for progress in seen if progress.held_out_loss is not None]
    assert len(measured) == 10 and adapter.candidate.loss == min(measured)


def test_it_tells_how_a_few_held_out_examples_are_read(
    trained: TrainingResult, llama: Path, template: PromptTemplate
) -> None:
    (adapter,) = trained.adapters
    assert len(adapter.parity) == 4
    base = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, adapter.folder).eval()
    for row in adapter.parity:
        with torch.no_grad():
            logprobs = model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
        own = [float(logprobs[at - 1, row.ids[at]]) for at in range(row.prompt_tokens, len(row.ids))]
        assert row.loss == pytest.approx(-sum(own) / len(own), abs=1e-4)


def test_prompts_that_lost_their_middle_are_counted(llama: Path, template: PromptTemplate, tmp_path: Path) -> None:
    longest = learner_of(llama, template, max_tokens=24, max_steps=1).train(job(tmp_path / "a"))
    rows = [*examples(80), *examples(16, 80)]
    assert longest.shortened == sum(len(template.encode_prompt(row.prompt)) > 24 - 5 for row in rows) > 0
    assert learner_of(llama, template, max_steps=1).train(job(tmp_path / "b")).shortened == 0


def test_the_folder_is_plain_peft_and_serves_what_was_measured(
    trained: TrainingResult, llama: Path, template: PromptTemplate
) -> None:
    (adapter,) = trained.adapters
    assert {file.name for file in adapter.folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    config = json.loads((adapter.folder / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["r"] == 4 and config["layers_to_transform"] == [2, 3]
    base = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(adapter.folder))
    held_out = encode(examples(16, 80), template, 64)
    assert measure(model, held_out).loss == pytest.approx(adapter.candidate.loss, rel=1e-5)
    exact = 0
    for example in held_out:
        prompt = torch.tensor([example.ids[: example.prompt_tokens]])
        expected = example.ids[example.prompt_tokens :]
        generated = model.generate(input_ids=prompt, max_new_tokens=len(expected), do_sample=False, eos_token_id=None)
        exact += generated[0, prompt.shape[1] :].tolist() == expected
    assert exact / len(held_out) == adapter.candidate.exact_match


def test_adapters_stand_in_upper_layers_alone(trained: TrainingResult) -> None:
    names = weights(trained.adapters[0].folder)
    assert {name.split(".layers.")[1].split(".")[0] for name in names} == {"2", "3"} and len(names) == 2 * 7 * 2


def test_the_base_is_bit_identical_and_bare_after_every_job(
    llama: Path, template: PromptTemplate, tmp_path: Path
) -> None:
    learner = learner_of(llama, template, max_steps=10)
    untouched = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32).state_dict()

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    learner.train(job(tmp_path / "a"))
    with pytest.raises(KeyboardInterrupt):
        learner.train(job(tmp_path / "b"), stop)
    state = learner._base.state_dict()
    assert list(state) == list(untouched)
    assert all(torch.equal(state[name], untouched[name]) for name in state)
    assert not any(parameter.requires_grad for parameter in learner._base.parameters())
    assert not hasattr(learner._base, "peft_config") and not learner._base.training


def test_a_seed_gives_one_adapter_whatever_came_before(llama: Path, template: PromptTemplate, tmp_path: Path) -> None:
    # More steps than a round over the examples has: the order of the next one is seeded too.
    learner = learner_of(llama, template, max_steps=14, evaluate_every=7)
    torch.manual_seed(11)
    learner.train(job(tmp_path / "a"))
    torch.manual_seed(12)
    expected_random = torch.rand(3)
    torch.manual_seed(12)
    learner_of(llama, template, max_steps=14, evaluate_every=7).train(job(tmp_path / "b"))
    assert torch.equal(torch.rand(3), expected_random)
    learner.train(job(tmp_path / "c", seed=1))
    content = [
        [(tmp_path / name / file).read_bytes() for file in ("adapter_model.safetensors", "adapter_config.json")]
        for name in "abc"
    ]
    assert content[0] == content[1] and content[0][0] != content[2][0]


def test_dropout_is_seeded_too(llama: Path, template: PromptTemplate, tmp_path: Path) -> None:
    learner = learner_of(llama, template, dropout=0.2, max_steps=5)
    for name in "ab":
        learner.train(job(tmp_path / name))
    first, second = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_patience_ends_a_job_and_the_best_state_is_kept(llama: Path, template: PromptTemplate, tmp_path: Path) -> None:
    learner = learner_of(llama, template, learning_rate=1.0, patience=0, evaluate_every=2, schedule="constant")
    seen: list[Progress] = []
    result = learner.train(job(tmp_path), seen.append)
    measured = [progress.held_out_loss for progress in seen if progress.held_out_loss is not None]
    assert result.steps < 60 and measured[-1] > min(measured) == measured[-2] == result.adapters[0].candidate.loss
    again = PeftModel.from_pretrained(learner._base, str(tmp_path))
    found = measure(again, encode(examples(16, 80), template, 64)).loss
    again.unload()
    assert found == pytest.approx(min(measured), rel=1e-5)


def test_without_held_out_examples_the_last_state_is_kept(learner: LoraLearner, tmp_path: Path) -> None:
    result = learner.train(job(tmp_path, held_out=[]))
    assert result.steps == 60 and result.adapters[0].candidate.examples == result.adapters[0].base.examples == 0
    assert result.train_loss < 2.5 and result.adapters[0].folder.is_dir()


def test_epochs_limit_a_job(llama: Path, template: PromptTemplate, tmp_path: Path) -> None:
    result = learner_of(llama, template, max_epochs=2.0).train(job(tmp_path, train=examples(20)))
    assert result.steps == 6 and result.epochs == 2.0


def test_completions_that_do_not_fit_are_left_out_and_counted(
    llama: Path, template: PromptTemplate, tmp_path: Path
) -> None:
    learner = learner_of(llama, template, max_steps=2)
    long, other = (Example(word, f"<s>{word}\n", "x" * 64) for word in ("red", "blue"))
    result = learner.train(job(tmp_path, train=[*examples(8), long], held_out=[*examples(2, 80), other]))
    assert result.skipped == 2 and result.adapters[0].candidate.examples == 2
    with pytest.raises(LearningError, match="of the others none has a completion that fits"):
        learner.train(job(tmp_path, train=[long]))


def test_a_training_that_diverges_stops_says_so_and_leaves_the_best_state(
    llama: Path, template: PromptTemplate, tmp_path: Path
) -> None:
    learner = learner_of(llama, template, learning_rate=10.0, schedule="constant")
    result = learner.train(job(tmp_path))
    assert re.search(r"training diverged: the loss .* at step \d+", result.failure) and result.steps < 60
    (adapter,) = result.adapters
    assert adapter.candidate.loss <= adapter.base.loss
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())


def test_a_loss_that_is_no_number_costs_no_weights(llama: Path, template: PromptTemplate, tmp_path: Path) -> None:
    learner = learner_of(llama, template)
    total, calls = learner._loss.total, iter(range(100))
    learner._loss.total = lambda piece: total(piece) * (1.0 if next(calls) < 4 else math.nan)  # type: ignore[method-assign]
    result = learner.train(job(tmp_path, held_out=[]))
    assert result.failure == "training diverged: the loss is nan at step 5; lower learning_rate" and result.steps == 5
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())


def test_b_takes_steps_of_its_own_size(llama: Path, template: PromptTemplate, tmp_path: Path) -> None:
    """AdamW's first step is the step size, whatever the gradient; A's gradient is nought while B is."""
    learner = learner_of(llama, template, learning_rate=1e-3, b_rate=4.0, max_steps=1, evaluate_every=1)
    learner.train(job(tmp_path))
    greatest = max(float(tensor.abs().max()) for name, tensor in weights(tmp_path).items() if "lora_B" in name)
    assert greatest == pytest.approx(4e-3, rel=1e-3)


def test_evaluations_are_bounded(llama: Path, template: PromptTemplate, tmp_path: Path) -> None:
    learner = learner_of(llama, template, evaluate_examples=3, judge_examples=10, max_steps=20)
    rows, measured = learner._loss.rows, list[int]()

    def counted(piece: Any) -> Any:
        measured.append(len(piece))
        return rows(piece)

    learner._loss.rows = counted  # type: ignore[method-assign]
    (adapter,) = learner.train(job(tmp_path)).adapters
    assert adapter.candidate.examples == adapter.base.examples == len(adapter.candidate.row_losses) == 10
    # The base and the outcome in pieces of 8 and 2, two evaluations of 3 between them.
    assert measured == [8, 2, 3, 3, 8, 2]


def test_nothing_is_trained_on_twice_or_that_is_judged_by(
    llama: Path, template: PromptTemplate, tmp_path: Path
) -> None:
    learner = learner_of(llama, template, max_steps=3, max_epochs=1.0)
    held_out = examples(16, 80)
    spelt = [replace(example, prompt=example.prompt.upper().replace(" ", "  ")) for example in held_out[:3]]
    result = learner.train(job(tmp_path, train=[*examples(20), *examples(20), *held_out[3:5]]))
    assert result.skipped == 2 and result.epochs == 1.0 and result.steps == 3
    assert learner.train(job(tmp_path, train=[*examples(20), *spelt])).skipped == 3
    with pytest.raises(LearningError, match="2 of 2 examples ask what a held-out one asks"):
        learner.train(job(tmp_path, train=held_out[:2]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frozen_layers": 4}, "expected 0 to 3"),
        ({"targets": ("q_proj", "query")}, r"\['query'\] are no linear layers"),
    ],
    ids=str,
)
def test_options_that_this_base_cannot_meet_are_refused(
    llama: Path, template: PromptTemplate, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(LearningError, match=message):
        learner_of(llama, template, **changes)

"""A learner in little memory does what it does in much: pieces, checkpoints, chunks, narrow weights, memory run out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from learning.completion_loss import CompletionLoss, EncodedExample, encode
from learning.contract import TrainingResult
from learning.errors import LearningError
from learning.evaluation import evaluate
from learning.output_layer import OutputLayer
from learning.template import PromptTemplate
from learning.token_budget import TokenBudget
from tests.learning.bases import TEMPLATE
from tests.learning.colours import examples, job, learner_of, weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def template(llama: Path) -> PromptTemplate:
    return PromptTemplate(str(llama), TEMPLATE, "\n")


@pytest.fixture(scope="module")
def plain(llama: Path, template: PromptTemplate, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    learner = learner_of(llama, template, max_steps=20, logit_chunk=100_000)
    return learner.train(job(tmp_path_factory.mktemp("plain")))


def furthest(first: Path, second: Path) -> float:
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize(
    "changes",
    [
        {"micro_batch_tokens": 64},
        {"micro_batch_tokens": 1},
        {"gradient_checkpointing": True},
        {"logit_chunk": 7},
        {"micro_batch_tokens": 64, "gradient_checkpointing": True, "logit_chunk": 7},
    ],
    ids=str,
)
def test_less_memory_gives_the_same_adapter(
    changes: dict[str, Any], plain: TrainingResult, llama: Path, template: PromptTemplate, tmp_path: Path
) -> None:
    result = learner_of(llama, template, max_steps=20, **changes).train(job(tmp_path))
    assert furthest(tmp_path, plain.adapters[0].folder) < 1e-5
    assert result.train_loss == pytest.approx(plain.train_loss, abs=1e-5)
    assert result.adapters[0].candidate.loss == pytest.approx(plain.adapters[0].candidate.loss, abs=1e-5)


def test_loss_counts_completion_tokens_alone_whatever_the_pieces(llama: Path, template: PromptTemplate) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float64).eval()
    encoded = encode(examples(9), template, 64)
    rows, right = [], []
    for example in encoded:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([example.ids])).logits[0, example.prompt_tokens - 1 : -1]
        expected = torch.tensor(example.ids[example.prompt_tokens :])
        rows.append(-torch.log_softmax(logits, -1)[range(len(expected)), expected])
        right.append(bool((logits.argmax(-1) == expected).all()))
    for rows_a_piece, tokens, chunk in [(9, None, 1000), (4, None, 5), (9, 40, 3), (1, 1, 1)]:
        loss = CompletionLoss(OutputLayer(model), chunk)
        assert float(loss.total(encoded).detach()) == pytest.approx(float(torch.cat(rows).sum()), rel=1e-6)
        found = evaluate(loss, TokenBudget(rows_a_piece, tokens), model, encoded)
        assert found.loss == pytest.approx(float(torch.cat(rows).mean()), rel=1e-6) and found.examples == 9
        assert found.row_losses == pytest.approx([float(row.mean()) for row in rows], rel=1e-6)
        assert found.row_exact == tuple(right) and found.exact_match == sum(right) / 9


class ScarceMemory:
    """Makes a learner's loss fail as an allocator does, where a piece holds more tokens than there is room for."""

    def __init__(self, learner: Any, tokens: int, error: Exception) -> None:
        self.failures = 0
        self._total = learner._loss.total
        self._tokens = tokens
        self._error = error
        learner._loss.total = self.total

    def total(self, piece: list[EncodedExample]) -> torch.Tensor:
        # After the forward, so that a piece done before has left its gradient.
        loss: torch.Tensor = self._total(piece)
        if len(piece) * max(len(example.ids) for example in piece) > self._tokens:
            self.failures += 1
            raise self._error
        return loss


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes. Error code 12"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_when_memory_runs_out_a_step_is_repeated_in_halves(
    error: Exception, plain: TrainingResult, llama: Path, template: PromptTemplate, tmp_path: Path
) -> None:
    learner = learner_of(llama, template, max_steps=20)
    scarce = ScarceMemory(learner, 60, error)
    result = learner.train(job(tmp_path))
    assert 1 <= scarce.failures <= 4 and result.steps == 20
    assert furthest(tmp_path, plain.adapters[0].folder) < 1e-5


def test_memory_that_does_not_hold_one_example_is_an_error_that_says_so(
    llama: Path, template: PromptTemplate, tmp_path: Path
) -> None:
    learner = learner_of(llama, template)
    ScarceMemory(learner, 10, MemoryError("no more"))
    with pytest.raises(LearningError, match=r"out of memory with one example of \d+ tokens: lower max_tokens"):
        learner.train(job(tmp_path))


def test_an_allocation_that_really_fails_is_recognised(llama: Path, template: PromptTemplate, tmp_path: Path) -> None:
    learner = learner_of(llama, template)
    learner._loss.total = lambda piece: torch.empty(2**60)  # type: ignore[method-assign]
    with pytest.raises(LearningError, match="out of memory with one example"):
        learner.train(job(tmp_path))


def test_other_errors_are_not_taken_for_a_lack_of_memory(llama: Path, template: PromptTemplate, tmp_path: Path) -> None:
    learner = learner_of(llama, template)
    ScarceMemory(learner, 10, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        learner.train(job(tmp_path))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_narrow_base_trains_a_float32_adapter(
    dtype: str, llama: Path, template: PromptTemplate, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"micro_batch_tokens": 100, "gradient_checkpointing": True, "logit_chunk": 20}
    learner = learner_of(llama, template, dtype=dtype, max_steps=40, **changes)
    result = learner.train(job(tmp_path))
    assert {parameter.dtype for parameter in learner._base.parameters()} == {getattr(torch, dtype)}
    assert {tensor.dtype for tensor in weights(tmp_path).values()} == {torch.float32}
    (adapter,) = result.adapters
    assert adapter.candidate.loss < 0.5 * adapter.base.loss and result.failure == ""


def test_checkpoints_are_off_again_after_a_job(llama: Path, template: PromptTemplate, tmp_path: Path) -> None:
    learner = learner_of(llama, template, gradient_checkpointing=True, max_steps=2)
    learner.train(job(tmp_path))
    assert not learner._base.is_gradient_checkpointing

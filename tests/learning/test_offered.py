"""An adapter made elsewhere is judged as it is, by every method, and compared as an update is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from learning.adapted import carrying
from learning.adapter_shape import StoredAdapter
from learning.base_delta import RevisableModel
from learning.completion_loss import CompletionLoss, encode
from learning.contract import Incumbent, TrainingJob, TrainingResult
from learning.errors import LearningError
from learning.evaluation import evaluate
from learning.gate import Gate
from learning.osft import OsftLearner
from learning.osft_options import OsftOptions
from learning.output_layer import OutputLayer
from learning.seta import SetaLearner
from learning.seta_options import SetaOptions
from learning.template import PromptTemplate
from learning.token_budget import TokenBudget
from tests.learning.bases import TEMPLATE
from tests.learning.colours import examples, job, learner_of, options_of, weights
from tests.learning.elsewhere import write_adapter


@pytest.fixture(scope="module")
def template(llama: Path) -> PromptTemplate:
    return PromptTemplate(str(llama), TEMPLATE, "\n")


@pytest.fixture(scope="module")
def learners(llama: Path, template: PromptTemplate) -> dict[str, Any]:
    plain = {key: value for key, value in options_of().items() if key not in ("rank", "alpha")}
    return {
        "lora": learner_of(llama, template),
        "seta": SetaLearner(str(llama), template, SetaOptions(**options_of(rank=6, shared_rank=2))),
        "osft": OsftLearner(str(llama), template, OsftOptions(**plain)),
    }


@pytest.fixture(scope="module")
def trained(llama: Path, template: PromptTemplate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good one, with other targets than the learners have, in a lower layer too."""
    made = job(tmp_path_factory.mktemp("trained") / "out", train=examples(80, 200), held_out=examples(16, 280))
    learner_of(llama, template, frozen_layers=1, rank=3, targets=("q_proj", "up_proj"), max_steps=120).train(made)
    return made.output


def offered(learner: Any, made: TrainingJob) -> TrainingResult:
    result: TrainingResult = learner.train(made)
    result.check(made)
    return result


@pytest.mark.parametrize("method", ["lora", "seta", "osft"])
def test_its_figures_are_those_of_the_adapter_as_it_is(
    llama: Path, template: PromptTemplate, learners: dict[str, Any], trained: Path, tmp_path: Path, method: str
) -> None:
    made = job(tmp_path / "out", offered=trained)
    result = offered(learners[method], made)
    new = result.adapters[0]
    assert new.folder is not None and weights(new.folder).keys() == weights(trained).keys()
    assert (new.rank, new.continues, new.incumbent, result.steps, result.base_delta, result.state) == (
        *(3, None, None, 0),
        *(None, None),
    )
    model = RevisableModel(str(llama), "float32", "cpu").model
    loss = CompletionLoss(OutputLayer(model), 1024)
    encoded = encode(made.held_out, template, 64)
    with carrying(model, StoredAdapter.read(trained), 0) as carrier:
        expected = evaluate(loss, TokenBudget(8, None), carrier, encoded)
    assert new.candidate.loss == pytest.approx(expected.loss, rel=1e-5)
    assert Gate().decide(result).accepted, new
    assert len(new.parity) == 4 and {row.loss for row in new.parity} <= set(new.candidate.row_losses)


def test_it_is_held_against_the_best_segment_and_sits_its_exam(
    llama: Path, learners: dict[str, Any], trained: Path, tmp_path: Path
) -> None:
    bad = write_adapter(tmp_path / "bad", llama, size=0.5)
    exam = tuple(examples(12, 500))
    incumbents = (Incumbent("colours", 1, bad, exam), Incumbent("colours", 2, trained, exam))
    result = offered(learners["lora"], job(tmp_path / "one", offered=bad, incumbents=incumbents))
    new, touched = result.adapters[0], result.touched[0]
    assert new.continues == 2 and new.incumbent is not None and new.incumbent.loss < new.candidate.loss
    assert (touched.segment, touched.before.examples) == (2, 12) and touched.before.loss < touched.after.loss
    assert not Gate().decide(result).accepted
    result = offered(learners["lora"], job(tmp_path / "two", offered=trained, incumbents=incumbents[:1]))
    assert result.adapters[0].continues == 1 and Gate().decide(result).accepted


def test_the_base_is_left_as_it_was(learners: dict[str, Any], trained: Path, tmp_path: Path) -> None:
    learner = learners["lora"]
    before = {name: each.clone() for name, each in learner._base.state_dict().items()}
    offered(learner, job(tmp_path / "out", offered=trained))
    after = learner._base.state_dict()
    assert before.keys() == after.keys() and all((before[name] == after[name]).all() for name in before)


def test_a_method_that_trains_instead_is_found_out(learners: dict[str, Any], trained: Path, tmp_path: Path) -> None:
    made = job(tmp_path / "out")
    result: TrainingResult = learners["lora"].train(made)
    result.check(made)
    with pytest.raises(LearningError, match="expected the adapter that was offered"):
        result.check(replace(made, offered=trained))

"""Methods with one model on a small stream: what they train, keep and go on from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from benchmarks.continual.baseline_options import FullOptions, LowRankSequenceOptions
from benchmarks.continual.baselines import BASELINES, OPTIONS, baseline, low_rank_ablations
from benchmarks.continual.kept_rows import ROWS
from benchmarks.continual.low_rank_sequence import LowRankSequence, overlap
from benchmarks.continual.one_model import TENSORS
from benchmarks.continual.sensitivity import anchored, fisher, of_mean_one
from learning.base_delta import RevisableModel
from learning.completion_loss import CompletionLoss, encode
from learning.errors import LearningError
from learning.lora_options import LoraOptions
from learning.output_layer import OutputLayer
from learning.seta_options import SetaOptions
from tests.benchmarks.continual.two_domains import COLOURS, HUES, SHAPES, TinyStream, answers, changed, same
from tests.learning.colours import examples

METHODS: dict[str, dict[str, Any]] = {
    "plain": {"kind": "full"},
    "held": {"kind": "full", "ewc": 1.0},
    "replay": {"kind": "full", "rows": "replay", "replay_share": 0.1},
    "joint": {"kind": "full", "rows": "joint"},
    "carried": {"kind": "low_rank_sequence", "ewc": 1.0, "dropout": 0.1},
    "merged": {"kind": "low_rank_sequence", "after": "merge"},
    "orthogonal": {"kind": "low_rank_sequence", "after": "orthogonal"},
    "joint adapter": {"kind": "low_rank_sequence", "rows": "joint"},
    "sparse": {"kind": "sparse_seta"},
    "sparse, own": {"kind": "sparse_seta", "split": "all_unique"},
    "sparse, common": {"kind": "sparse_seta", "split": "all_shared"},
    "sparse, whole": {"kind": "sparse_seta", "masked": False, "random_masks": True},
}
LONGER = ("plain", "joint adapter", "sparse, common", "sparse, whole")
"""Of whose parts the others have each."""
each_method = pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, id=name, marks=[pytest.mark.slow] if name in LONGER else [])
        for name, options in METHODS.items()
    ],
)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> TinyStream:
    return TinyStream(tmp_path_factory.mktemp("llama"))


@each_method
def test_one_that_was_saved_goes_on_as_one_that_was_not(
    options: dict[str, Any], stream: TinyStream, tmp_path: Path
) -> None:
    untouched = stream.own()
    through, broken, taken_up = (stream.method(**options) for _ in range(3))
    for method in (through, broken):
        method.learn(COLOURS)
        assert same(stream.own(), untouched), "others may use the base"
    broken.save(tmp_path / "saved")
    taken_up.load(tmp_path / "saved")
    rows = (tmp_path / "saved" / ROWS).stat().st_size
    tensors = load_file(tmp_path / "saved" / TENSORS)
    assert broken.stored_bytes() == taken_up.stored_bytes() == rows + sum(each.nbytes for each in tensors.values())
    told: list[tuple[int, int]] = []
    one = through.learn(SHAPES, lambda step, steps: told.append((step, steps)))
    other = taken_up.learn(SHAPES)
    assert replace(one, seconds=0.0) == replace(other, seconds=0.0) and one.failure == ""
    assert told == [(step, one.steps) for step in range(1, one.steps + 1)]
    for task in (COLOURS, SHAPES):
        assert same(answers(through, task.name), answers(taken_up, task.name))
        assert changed(answers(through, task.name), untouched)
    assert same(stream.own(), untouched)


@each_method
def test_before_anything_is_learned_the_base_answers(options: dict[str, Any], stream: TinyStream) -> None:
    method = stream.method(**options)
    assert same(answers(method, "colours"), stream.own())


@pytest.mark.parametrize("name", ["plain", "carried", "orthogonal", "sparse, common"])
def test_one_model_answers_for_every_name(name: str, stream: TinyStream) -> None:
    method = stream.method(**METHODS[name])
    method.learn(COLOURS)
    assert method.has_one_model and same(answers(method, "colours"), answers(method, "unheard of"))


@pytest.mark.slow
def test_it_learns(stream: TinyStream) -> None:
    targets = ("q_proj", "v_proj", "o_proj", "up_proj", "down_proj")
    method = stream.method("full", max_steps=200, max_epochs=50.0, evaluate_every=50, targets=targets)
    learned = method.learn(replace(COLOURS, train=tuple(examples(160, 200))))
    loss = CompletionLoss(OutputLayer(stream.base.model), 1024)
    with method.answering("colours"):
        right = [row.exact for row in loss.rows(encode(COLOURS.test, stream.template, 64))]
    assert sum(right) >= 10 and learned.train_loss < 1.0


@pytest.mark.parametrize(
    ("everything", "expected"), [(False, {"q_proj", "down_proj"}), (True, {"norm", "embed_tokens"})]
)
def test_what_is_trained(everything: bool, expected: set[str], stream: TinyStream) -> None:
    method = stream.method("full", all_parameters=everything)
    learned = method.learn(COLOURS)
    moved = changed(answers(method, "colours"), stream.own())
    leaves = {name.split(".")[-2] for name in moved}
    assert expected <= leaves
    if not everything:
        assert leaves == expected
        assert {name.split(".")[2] for name in moved} == {"2", "3"}, "the frozen layers stay"
        assert learned.weights_trained == 2 * (32 * 32 + 32 * 48)


def test_joint_training_of_one_domain_is_sequential_training_of_it(stream: TinyStream) -> None:
    plain, joint = stream.method("full"), stream.method("full", rows="joint")
    assert plain.learn(COLOURS).train_loss == joint.learn(COLOURS).train_loss
    assert same(answers(plain, "colours"), answers(joint, "colours"))


def test_joint_training_starts_from_the_base_and_trains_longer(stream: TinyStream) -> None:
    whole, late = stream.method("full", rows="joint"), stream.method("full", rows="joint", train_from=2)
    whole.learn(COLOURS)
    assert late.learn(COLOURS).steps == 0 and same(answers(late, "colours"), stream.own())
    one, other = whole.learn(SHAPES), late.learn(SHAPES)
    assert one.steps == other.steps == 6
    assert same(answers(whole, "shapes"), answers(late, "shapes"))


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.1, 4), (1.0, 40)])
def test_replay_keeps_its_share(share: float, count: int, stream: TinyStream) -> None:
    method = stream.method("full", rows="replay", replay_share=share, max_steps=1, ewc=1.0)
    for domains, task in enumerate((COLOURS, SHAPES, HUES)):
        rows = method._rows.beside(task)
        assert len(rows.train) == 40 + domains * count and len(rows.watched) == 8
        assert method._fisher_rows(rows.train, 99) == encode(task.train, stream.template, 64)
        method.learn(task)
    assert method._rows.counts == [count] * 3
    kept = {row.prompt for rows in method._rows._train for row in rows}
    assert len(kept) == 3 * count and kept <= {row.prompt for t in (COLOURS, SHAPES, HUES) for row in t.train}


def test_the_spring_is_the_sum_of_needs_and_squares() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    other = torch.nn.Parameter(torch.tensor([[0.5]]))
    need = {"weight": torch.tensor([2.0, 0.0, 1.0]), "other": torch.tensor([[4.0]])}
    penalty = anchored({"weight": weight, "other": other}, need, 0.5)
    assert penalty is not None and penalty().item() == 0.0
    with torch.no_grad():
        weight += torch.tensor([1.0, 5.0, -2.0])
        other += 3.0
    assert penalty().item() == 0.5 * (2 * 1 + 0 * 25 + 1 * 4 + 4 * 9)
    penalty().backward()
    assert weight.grad is not None and weight.grad.tolist() == [2 * 0.5 * 2 * 1, 0.0, 2 * 0.5 * 1 * -2]
    assert anchored({"weight": weight}, {}, 1.0) is None and anchored({"weight": weight}, need, 0.0) is None


def test_the_need_is_the_mean_of_squared_slopes(stream: TinyStream) -> None:
    """Against differences of the loss itself, at the weights that matter most."""
    name = "model.layers.3.mlp.down_proj.weight"
    parameter = dict(stream.base.model.named_parameters())[name]
    loss = CompletionLoss(OutputLayer(stream.base.model), 1024)
    rows = encode(COLOURS.train[:5], stream.template, 64)
    parameter.requires_grad_(True)
    found = fisher(loss, {name: parameter}, rows)[name]
    parameter.requires_grad_(False)
    own = parameter.clone()
    for place in torch.topk(found.flatten(), 3).indices.tolist():
        slopes = []
        for row in rows:
            ends = []
            for step in (1e-2, -1e-2):
                parameter.view(-1)[place] = own.view(-1)[place] + step
                ends.append(loss.rows([row])[0].loss / row.completion_tokens)
            parameter.copy_(own)
            slopes.append((ends[0] - ends[1]) / 2e-2)
        assert float(found.view(-1)[place]) == pytest.approx(sum(each**2 for each in slopes) / len(rows), rel=0.02)
    unit = of_mean_one({"some": found[:5], "others": found[5:]})
    assert float(torch.cat([part.flatten() for part in unit.values()]).mean()) == pytest.approx(1.0)


def test_a_stronger_spring_leaves_more_as_it_was(stream: TinyStream) -> None:
    moved = []
    for strength in (0.0, 10.0, 1e4):
        method = stream.method("full", ewc=strength)
        method.learn(COLOURS)
        before = answers(method, "colours")
        method.learn(SHAPES)
        after = answers(method, "colours")
        moved.append(sum(float((after[name] - before[name]).square().sum()) for name in before))
    assert moved[0] > moved[1] > moved[2] > 0


def test_orthogonal_rows_cost_nothing_and_others_their_products() -> None:
    old = {"q.lora_A.weight": torch.tensor([[1.0, 0.0, 0.0]]), "q.lora_B.weight": torch.ones(2, 1)}
    older = {"q.lora_A.weight": torch.tensor([[0.0, 2.0, 0.0]]), "q.lora_B.weight": torch.ones(2, 1)}
    apart = {"q.lora_A.weight": torch.tensor([[0.0, 0.0, 5.0]]), "q.lora_B.weight": torch.ones(2, 1)}
    crossing = {"q.lora_A.weight": torch.tensor([[-3.0, 1.0, 1.0], [0.0, 1.0, 0.0]])}
    assert float(overlap([old, older], apart)) == 0.0
    assert float(overlap([old, older], crossing)) == 3.0 + 0.0 + 2.0 + 2.0


def test_orthogonal_adapters_read_other_directions_and_stay(stream: TinyStream) -> None:
    overlaps = []
    for weight in (0.0, 1.0):
        method = stream.method(
            "low_rank_sequence", after="orthogonal", orthogonality=weight, max_steps=8, learning_rate=2e-2
        )
        assert isinstance(method, LowRankSequence)
        method.learn(COLOURS)
        (first,) = method._adapters
        method.learn(SHAPES)
        kept, second = method._adapters
        assert same(kept, first)
        overlaps.append(float(overlap([kept], second)))
    assert overlaps[1] < 0.3 * overlaps[0]
    name = "model.layers.2.self_attn.q_proj"
    products = [
        each[f"base_model.model.{name}.lora_B.weight"] @ each[f"base_model.model.{name}.lora_A.weight"]
        for each in (kept, second)
    ]
    expected = stream.own()[f"{name}.weight"] + 2.0 * (products[0] + products[1])
    assert torch.allclose(answers(method, "shapes")[f"{name}.weight"], expected, atol=1e-6)


def test_merged_and_carried_adapters_begin_from_the_same_function(stream: TinyStream) -> None:
    """Their first domains are the same training; only then do they part."""
    carried, merged = (stream.method("low_rank_sequence", after=after) for after in ("carry", "merge"))
    assert carried.learn(COLOURS).train_loss == merged.learn(COLOURS).train_loss
    assert same(answers(carried, "colours"), answers(merged, "colours"))
    carried.learn(SHAPES)
    merged.learn(SHAPES)
    assert not same(answers(carried, "shapes"), answers(merged, "shapes"))
    assert carried.stored_bytes() < merged.stored_bytes()


def test_every_named_baseline_has_a_method(stream: TinyStream) -> None:
    for name, settings in BASELINES.items():
        options = OPTIONS[settings["kind"]](frozen_layers=2, **{k: v for k, v in settings.items() if k != "kind"})
        assert baseline(stream.base, stream.template, options, 0, name).label == name


def test_ablations_change_one_thing(stream: TinyStream) -> None:
    options = SetaOptions(rank=8, alpha=16.0, shared_rank=4, learning_rate=1e-3, max_steps=7)
    found = low_rank_ablations(options)
    ranks = {name: each.adapter_rank for name, each in found.items() if isinstance(each, LoraOptions)}
    assert ranks == {"all unique, r4": 4, "all unique, r8": 8, "control, r5": 5}
    for each in found.values():
        assert (each.learning_rate, each.max_steps) == (1e-3, 7)
        assert getattr(each, "alpha", 0.0) / each.adapter_rank == 2.0
    shared = found["all shared"], found["all shared, no anchor"]
    assert [each.ewc for each in shared if isinstance(each, LowRankSequenceOptions)] == [1.0, 0.0]


def test_what_can_not_be_is_refused(stream: TinyStream) -> None:
    with pytest.raises(ValidationError, match="ewc"):
        FullOptions(rows="joint", ewc=1.0)
    with pytest.raises(ValidationError, match="ewc"):
        LowRankSequenceOptions(after="merge", ewc=1.0)
    with pytest.raises(LearningError, match="float32"):
        stream.method("full", dtype="bfloat16")
    with pytest.raises(LearningError, match="in layers from 4 on"):
        stream.method("full", frozen_layers=4)
    with pytest.raises(LearningError, match="kinds"):
        baseline(stream.base, stream.template, LoraOptions(), 0, "lora")
    with pytest.raises(LearningError, match="max_tokens"):
        stream.method("full", max_tokens=2).learn(COLOURS)
    assert isinstance(stream.base, RevisableModel)

"""Sparse experts: who owns which weight, and what a later domain changes for an earlier one."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from benchmarks.continual.sparse_experts import SparseExperts, Split, pack, unpack
from benchmarks.continual.sparse_seta import SparseSeta
from tests.benchmarks.continual.two_domains import COLOURS, HUES, SHAPES, TinyStream, answers, changed, same


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> TinyStream:
    return TinyStream(tmp_path_factory.mktemp("llama"))


def sparse(stream: TinyStream, **changes: Any) -> SparseSeta:
    method = stream.method("sparse_seta", **changes)
    assert isinstance(method, SparseSeta)
    return method


def random_course(split: Split, masked: bool, seed: int) -> list[tuple[SparseExperts, dict[str, torch.Tensor]]]:
    """Five domains with random masks and trainings: after each, the experts and every domain's weights."""
    generator = torch.Generator().manual_seed(seed)
    experts = SparseExperts(torch.randn(200, generator=generator), split, masked)
    course = []
    for number in range(5):
        mask = torch.rand(200, generator=generator) < 0.3
        used = experts.used_by(mask)
        trained = experts.start(used, True) + used * torch.randn(200, generator=generator)
        experts.add(f"d{number}", mask, trained, torch.rand(200, generator=generator))
        frozen = SparseExperts(experts._base_N, split, masked)
        frozen.unpack(experts.packed(), list(experts.masks))
        course.append((frozen, {name: experts.weights_of(name) for name in experts.masks}))
    return course


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("masked", [True, False])
def test_shared_and_unique_weights_are_apart_and_unique_ones_stay(masked: bool, seed: int) -> None:
    course = random_course("on_share", masked, seed)
    for (before, then), (after, now) in pairwise(course):
        new = after.masks[max(after.masks)]
        unique = [after.unique_N(name) for name in after.masks]
        assert not any((each & after.shared_N).any() for each in unique)
        assert int(torch.stack(unique).sum(0).max()) == 1, "no weight is unique to two"
        assert not (before.shared_N & ~after.shared_N).any(), "what is shared stays shared"
        for name in before.masks:
            mine = after.unique_N(name)
            assert torch.equal(then[name][mine], now[name][mine])
            moved = then[name] != now[name]
            own = after.masks[name] if masked else after.masks[name] | after.shared_N
            assert not (moved & ~own).any()
            if masked:
                assert not (moved & ~new).any() and moved.any()
            assert torch.equal(now[name][~own], after._base_N[~own])


@pytest.mark.parametrize("seed", range(3))
def test_where_all_is_unique_nothing_changes_for_others(seed: int) -> None:
    course = random_course("all_unique", True, seed)
    for (before, then), (after, now) in pairwise(course):
        assert all(torch.equal(then[name], now[name]) for name in before.masks)
        assert not after.shared_N.any()


def test_where_all_is_shared_all_answer_alike() -> None:
    experts, weights = random_course("all_shared", True, 0)[-1]
    assert all(torch.equal(each, weights["d0"]) for each in weights.values())
    assert torch.equal(experts.shared_N, experts.chosen_N)


@pytest.mark.parametrize("split", ["on_share", "all_unique", "all_shared"])
def test_what_is_stored_is_all_there_is(split: Split) -> None:
    for experts, weights in random_course(split, True, 1):
        for name, expected in weights.items():
            assert torch.equal(experts.weights_of(name), expected)
    stored = random_course(split, True, 1)[-1][0].packed()
    chosen = int(experts.chosen_N.sum())
    values = sum(int(mask.sum()) for mask in experts.masks.values()) if split == "all_unique" else 2 * chosen
    bits = -(-200 // 8) + 5 * -(-chosen // 8)
    assert sum(part.nbytes for part in stored.values()) == 4 * values + bits


@pytest.mark.parametrize("count", [0, 1, 5, 600, 1000])
def test_a_mask_is_stored_as_bits_or_indices(count: int) -> None:
    mask = torch.zeros(1000, dtype=torch.bool)
    mask[torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:count]] = True
    packed = pack(mask)
    assert packed.nbytes == min(4 * count, 125) and torch.equal(unpack(packed, 1000), mask)


def test_a_later_domain_changes_an_earlier_one_on_its_own_mask_only(stream: TinyStream) -> None:
    method = sparse(stream, max_steps=4)
    answered: dict[str, dict[str, torch.Tensor]] = {}
    for task in (COLOURS, SHAPES, HUES):
        learned = method.learn(task)
        new = method._parts(method.experts.masks[task.name])
        assert learned.weights_trained == sum(round(0.1 * mask.numel()) for mask in new.values())
        for name, before in answered.items():
            moved = changed(answers(method, name), before)
            own = method._parts(method.experts.masks[name])
            assert moved and all(not (where & ~(new[part] & own[part])).any() for part, where in moved.items())
        answered = {name: answers(method, name) for name in method.tasks}
    assert method.experts.shared_N.any() and not method.has_one_model
    assert same(answers(method, "unheard of"), stream.own())


def test_unique_experts_change_nothing_for_others_and_the_anchor_less(stream: TinyStream) -> None:
    moved = []
    for changes in ({"split": "all_unique"}, {"anchor": 1e4}, {"anchor": 0.0}):
        method = sparse(stream, max_steps=5, **changes)
        method.learn(COLOURS)
        before = answers(method, "colours")
        method.learn(SHAPES)
        after = answers(method, "colours")
        moved.append(sum(float((after[name] - before[name]).square().sum()) for name in before))
    assert moved[0] == 0.0 < moved[1] < 0.5 * moved[2]


def test_masks_by_sensitivity_are_not_those_by_chance(stream: TinyStream) -> None:
    chosen, again, chance = sparse(stream), sparse(stream), sparse(stream, random_masks=True)
    for method in (chosen, again, chance):
        method.learn(COLOURS)
    masks = [each.experts.masks["colours"] for each in (chosen, again, chance)]
    assert torch.equal(masks[0], masks[1]) and masks[0].sum() == masks[2].sum()
    assert float((masks[0] & masks[2]).sum()) < 0.5 * float(masks[0].sum())


def test_a_fresh_start_is_the_base(stream: TinyStream) -> None:
    cold, warm = (sparse(stream, split="all_unique", warm_start=warm) for warm in (False, True))
    alone = sparse(stream, split="all_unique", seed=0)
    for method in (cold, warm):
        method.learn(COLOURS)
    alone.tasks.append("nothing")  # the second training's seed
    alone.experts.masks["nothing"] = torch.zeros_like(cold.experts.masks["colours"])
    for method in (cold, warm, alone):
        method.learn(SHAPES)
    assert same(answers(cold, "shapes"), answers(alone, "shapes"))
    assert not same(answers(warm, "shapes"), answers(alone, "shapes"))

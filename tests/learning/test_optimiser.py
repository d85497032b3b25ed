"""The order of batches and the learning rate's schedule."""

from itertools import islice

import pytest
import torch

from learning.optimiser import batches, rate_factor, rate_groups


def test_every_index_once_an_epoch_in_batches_of_like_length() -> None:
    lengths = [(number * 37) % 100 for number in range(130)]
    per_epoch = 9
    epochs = batches(lengths, 16, seed=0)
    first, second = ([list(batch) for batch in islice(epochs, per_epoch)] for _ in range(2))
    for epoch in (first, second):
        assert sorted(index for batch in epoch for index in batch) == list(range(130))
    assert first != second
    spreads = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in first]
    assert sum(spreads) / len(spreads) < 25
    assert list(islice(batches(lengths, 16, seed=0), per_epoch)) == first
    assert list(islice(batches(lengths, 16, seed=1), per_epoch)) != first


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [1 / 3, 2 / 3, 1, 1, 1, 1]), ("linear", [1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25])],
)
def test_schedules_rise_then_keep_or_fall(schedule: str, expected: list[float]) -> None:
    assert [rate_factor(schedule, step, 6, 2) for step in range(6)] == pytest.approx(expected)


def test_cosine_starts_whole_and_is_half_way_down_in_the_middle() -> None:
    assert rate_factor("cosine", 0, 10, 0) == 1.0 and rate_factor("cosine", 5, 10, 0) == pytest.approx(0.5)
    assert rate_factor("cosine", 9, 10, 0) < 0.05


def test_b_takes_larger_steps_than_a() -> None:
    names = ["layers.0.q_proj.lora_A.default.weight", "layers.0.q_proj.lora_B.default.weight"]
    parameters = [(name, torch.nn.Parameter(torch.ones(2, 2))) for name in names]
    groups = rate_groups(parameters, 1e-3, 16.0)
    assert [(group["lr"], group["peak"]) for group in groups] == [(1e-3, 1e-3), (pytest.approx(16e-3),) * 2]
    assert [group["params"][0] is parameter for group, (_, parameter) in zip(groups, parameters, strict=True)] == [
        True,
        True,
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
    for _, parameter in parameters:
        parameter.grad = torch.ones(2, 2)
    optimiser.step()
    moved = [float((1.0 - parameter.detach()).mean()) for _, parameter in parameters]
    assert moved[1] / moved[0] == pytest.approx(16.0, rel=1e-3)

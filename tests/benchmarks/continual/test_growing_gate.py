"""The growing gate on Gaussians that can be told apart, one task after another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.continual.growing_gate import GrowingGate, GrowingGateOptions, _term
from benchmarks.continual.router import Features, TaskRouter
from learning.errors import LearningError

TASKS = ("a", "b", "c", "d")


def features(task: str, seed: int, rows: int = 80) -> Features:
    chance = np.random.default_rng([ord(task), seed])
    centre = 3.0 * np.random.default_rng(ord(task)).standard_normal(8)
    pooled = centre + chance.standard_normal((rows, 8))
    return Features(pooled, pooled)


def gate_of(hold: str, seed: int = 0) -> GrowingGate:
    return GrowingGate(
        GrowingGateOptions.model_validate(
            {"hold": hold, "seed": seed, "steps": 80, "learning_rate": 0.05, "batch_size": 32}
        ),
        hold,
    )


def share_right(gate: TaskRouter, tasks: tuple[str, ...]) -> list[float]:
    return [sum(each == task for each in gate.route(features(task, 1))) / 80 for task in tasks]


@pytest.mark.parametrize("hold", ["replay", "mass"])
def test_a_held_gate_routes_what_it_routed(hold: str) -> None:
    gate = gate_of(hold)
    for task in TASKS:
        gate.learn(features(task, 0), task)
    assert min(share_right(gate, TASKS)) > 0.95


@pytest.mark.parametrize("hold", ["none", "renormalised"])
def test_one_that_is_not_or_is_blind_gives_all_to_the_new_task(hold: str) -> None:
    """Renormalised over the old experts, mass that moves to the new one costs nothing."""
    gate = gate_of(hold)
    for task in TASKS:
        gate.learn(features(task, 0), task)
    right = share_right(gate, TASKS)
    assert right[-1] == 1.0 and np.mean(right[:-1]) < 0.5


def test_the_terms_are_what_they_are_called() -> None:
    old = torch.tensor([[0.75, 0.25]], dtype=torch.float64)
    moved = torch.log(torch.tensor([[0.15, 0.05, 0.8]], dtype=torch.float64))
    owner = torch.tensor([0])
    assert float(_term("mass", moved, old, owner)) == pytest.approx(np.log(5.0))
    assert float(_term("renormalised", moved, old, owner)) == pytest.approx(0.0, abs=1e-12)
    assert float(_term("replay", moved, old, owner)) == pytest.approx(-np.log(0.15))
    kept = torch.log(torch.tensor([[0.75, 0.25, 1e-30]], dtype=torch.float64))
    assert float(_term("mass", kept, old, owner)) == pytest.approx(0.0, abs=1e-12)
    certain = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert float(_term("mass", kept, certain, owner)) == pytest.approx(-np.log(0.75))


@pytest.mark.parametrize("hold", ["none", "mass"])
def test_one_that_was_saved_goes_on_as_one_that_was_not(hold: str, tmp_path: Path) -> None:
    through, broken, taken_up, other = gate_of(hold), gate_of(hold), gate_of(hold), gate_of(hold, seed=1)
    for gate in (through, broken, other):
        for task in TASKS[:2]:
            gate.learn(features(task, 0), task)
    broken.save(tmp_path / "gate")
    taken_up.load(tmp_path / "gate")
    for gate in (through, taken_up, other):
        gate.learn(features("c", 0), "c")
    assert through._tensors.keys() == taken_up._tensors.keys()
    assert all(np.array_equal(each, taken_up._tensors[name]) for name, each in through._tensors.items())
    assert not np.array_equal(through._tensors["weight"], other._tensors["weight"])


def test_it_counts_what_it_keeps() -> None:
    held, free = gate_of("mass"), gate_of("none")
    for gate in (held, free):
        for task in TASKS[:3]:
            gate.learn(features(task, 0), task)
    assert free.stored_bytes() == 8 * (2 * 8 + 3 * 9)
    assert held.stored_bytes() == free.stored_bytes() + 8 * (3 * 8 + 8 * 8)


def test_what_can_not_be_is_refused() -> None:
    gate = gate_of("mass")
    with pytest.raises(LearningError, match="before it routes"):
        gate.route(features("a", 0))
    gate.learn(features("a", 0), "a")
    for rows, task in ((80, "a"), (0, "b")):
        with pytest.raises(LearningError, match="new task"):
            gate.learn(features(task, 0, rows), task)

"""Routers against oracles: batch solutions, means, and what a gate without replay must lose."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.continual.kinds import ROUTERS, router
from benchmarks.continual.router import Features, TaskRouter
from benchmarks.continual.summary import confusion, routing_figures
from cluster.errors import ClusterError
from learning.symmetric import Float64

TASKS = ("one", "two", "three")
RANDOM = np.random.default_rng(0)
CENTRES = RANDOM.normal(size=(3, 12))


def features(task: int, rows: int, seed: int) -> Features:
    chance = np.random.default_rng([task, seed])
    pooled_ND = CENTRES[task] + chance.normal(size=(rows, 12))
    projection_DE = np.random.default_rng(7).normal(size=(12, 40))
    return Features(pooled_ND, np.maximum(pooled_ND @ projection_DE, 0.0).astype(np.float32).astype(np.float64))


TRAIN = [features(task, 50, 0) for task in range(3)]
TEST = features(0, 20, 1), features(1, 20, 1), features(2, 20, 1)


def learned(kind: str, **settings: object) -> TaskRouter:
    made = router(kind, kind, settings, 0)
    for name, part in zip(TASKS, TRAIN, strict=True):
        made.learn(part, name)
    return made


def routed(made: TaskRouter) -> list[Sequence[str]]:
    return [made.route(part) for part in TEST]


def batch_ridge(ridge: float) -> list[list[str]]:
    rows_NE = np.concatenate([part.expanded_NE for part in TRAIN])
    targets_NK = np.repeat(np.eye(3), 50, axis=0)
    weight_EK = np.linalg.lstsq(
        np.concatenate([rows_NE, np.sqrt(ridge) * np.eye(40)]),
        np.concatenate([targets_NK, np.zeros((40, 3))]),
        rcond=None,
    )[0]
    return [[TASKS[place] for place in (part.expanded_NE @ weight_EK).argmax(axis=1)] for part in TEST]


@pytest.mark.parametrize("kind", ["analytic", "joint_ridge"])
def test_ridges_are_the_batch_solution(kind: str) -> None:
    assert routed(learned(kind, ridge=3.0)) == batch_ridge(3.0)


def test_the_joint_ridge_is_the_analytic_router_after_every_task() -> None:
    analytic, joint = router("analytic", "a", {"ridge": 3.0}, 0), router("joint_ridge", "j", {"ridge": 3.0}, 0)
    for name, part in zip(TASKS, TRAIN, strict=True):
        analytic.learn(part, name)
        joint.learn(part, name)
        assert routed(analytic) == routed(joint)


def test_the_centroid_is_the_mean_of_all_rows_of_a_task_in_whatever_parts() -> None:
    whole, parts = learned("centroid"), router("centroid", "c", {}, 0)
    for name, part in zip(TASKS, TRAIN, strict=True):
        for rows in (slice(0, 13), slice(13, 50)):
            parts.learn(Features(part.pooled_ND[rows], part.expanded_NE[rows]), name)
    assert routed(whole) == routed(parts)
    means_KD = np.stack([part.pooled_ND.mean(axis=0) for part in TRAIN])

    def nearest(row_D: Float64) -> str:
        return TASKS[int(np.linalg.norm(means_KD - row_D, axis=1).argmin())]

    assert routed(whole) == [[nearest(row_D) for row_D in part.pooled_ND] for part in TEST]


def test_a_gate_without_replay_takes_all_for_the_last_task_and_a_joint_one_does_not() -> None:
    def accuracy(made: TaskRouter) -> list[float]:
        return [float(np.mean([each == name for each in rows])) for name, rows in zip(TASKS, routed(made), strict=True)]

    alone, joint = (
        accuracy(learned("linear", epochs=60, rate=0.01)),
        accuracy(learned("linear_joint", epochs=60, rate=0.01)),
    )
    assert alone[2] == 1.0 and alone[0] < 0.3
    assert min(joint) > 0.8


@pytest.mark.parametrize(
    "kind", [kind for kind in ROUTERS if ROUTERS[kind].startswith("benchmarks.continual.routers") or "linear" in kind]
)
def test_what_is_saved_routes_and_learns_on_the_same(kind: str, tmp_path: Path) -> None:
    made = router(kind, kind, {}, 0)
    for name, part in zip(TASKS[:2], TRAIN[:2], strict=True):
        made.learn(part, name)
    made.save(tmp_path / "router")
    again = router(kind, kind, {}, 0)
    again.load(tmp_path / "router")
    assert routed(again) == routed(made) and again.stored_bytes() == made.stored_bytes()
    for each in (made, again):
        each.learn(TRAIN[2], TASKS[2])
    assert routed(again) == routed(made)


def test_bytes_are_those_of_what_is_kept() -> None:
    assert learned("centroid").stored_bytes() == 3 * 13 * 8
    assert learned("joint_ridge").stored_bytes() == 150 * 40 * 8
    assert learned("analytic").stored_bytes() == 8 * (40 * 41 // 2 + 3 * (40 + 40 + 1))


def test_figures_of_routing_by_hand() -> None:
    decisions = [{"one": ["one", "one"]}, {"one": ["one", "two"], "two": ["two", "two", "two"]}]
    assert routing_figures(decisions) == pytest.approx({"accuracy": 4 / 5, "lowest": 4 / 5, "bwt": -0.5})
    assert confusion(decisions[-1]) == {"one": {"one": 1, "two": 1}, "two": {"two": 3}}


def test_an_unknown_kind_is_told() -> None:
    with pytest.raises(ClusterError, match="router kind 'magic': expected one of"):
        router("magic", "m", {}, 0)

"""What methods have learned, served by vLLM in one engine's life: every answer is their own model's, and none fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.continual.cells import CellStore
from benchmarks.continual.plan import ContinualPlan
from benchmarks.continual.running import run_all
from benchmarks.continual.serving import serve_all
from benchmarks.continual.summary import summarise
from benchmarks.continual.tables import document
from benchmarks.continual.tasks import Limits
from serving import service

pytestmark = pytest.mark.vllm

QUIET = Console(quiet=True)
LOW_RANK = {"rank": 4, "alpha": 8.0, "learning_rate": 0.02}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"kind": "lora", **LOW_RANK},
    "osft": {"kind": "osft", "form": "factors", "learning_rate": 0.003},
    "seta": {"kind": "seta", "shared_rank": 2, "anchor": 0.1, **LOW_RANK},
    "full": {"kind": "full", "learning_rate": 0.003},
    "seq_lora": {"kind": "low_rank_sequence", **LOW_RANK},
    "o_lora": {"kind": "low_rank_sequence", "after": "orthogonal", **LOW_RANK},
    "sparse": {"kind": "sparse_seta", "density": 0.3, "fisher_examples": 16, "learning_rate": 0.01},
}
TASKS = ("banking", "travel", "work")


def the_plan(shared: Path, work: Path) -> ContinualPlan:
    return ContinualPlan(
        base=str(shared / "models" / "stories260K"),
        data=shared / "data" / "clinc150",
        work=work,
        orders=(TASKS,),
        seeds=(0,),
        prompt={"chat_template": "{{ bos_token }}{{ messages[-1]['content'] }}{{ '\\n' }}", "terminator": "\n"},
        training={
            "frozen_layers": 3,
            "batch_size": 16,
            "max_steps": 40,
            "evaluate_every": 20,
            "max_tokens": 128,
            "threads": 1,
        },
        features={"layers": [0, 2], "poolings": ["mean"], "expansion": 256, "max_tokens": 128},
        methods=METHODS,
        routers={"analytic": {"kind": "analytic", "ridge": 10.0}},
        limits=Limits(120, 20),
        serving={"kv_cache_bytes": 64 << 20},
    )


@pytest.fixture(scope="module")
def served(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> ContinualPlan:
    plan = the_plan(shared, tmp_path_factory.mktemp("work"))
    run_all(plan, QUIET)
    serve_all(plan, QUIET)
    return plan


def figures(plan: ContinualPlan, label: str) -> dict[str, Any]:
    (course,) = [each for each in plan.courses() if each.label == label]
    found = CellStore(plan.work, course, plan.facts(course)).served()
    assert found is not None
    return found


@pytest.mark.parametrize("label", sorted(METHODS))
def test_every_served_answer_is_the_methods_own(label: str, served: ContinualPlan) -> None:
    found = figures(served, label)
    assert (found["equal"], found["equal_routed"], found["failed"]) == (1.0, 1.0, 0)
    assert set(found["by_name"]) == set(TASKS)
    # By name alone where each task's base is another one; else by name and routed.
    assert found["requests"] == 20 * len(TASKS) * (1 if label == "sparse" else 2)


def test_each_is_deployed_in_its_own_way(served: ContinualPlan) -> None:
    found = {label: figures(served, label) for label in METHODS}
    ways = {label: (each["deployments"], each["adapters"], each["base_changes"]) for label, each in found.items()}
    assert ways == {
        "lora": (1, 3, 0),
        "osft": (1, 0, 1),
        "seta": (1, 3, 0),
        "full": (1, 0, 1),
        "seq_lora": (1, 3, 0),
        "o_lora": (1, 3, 0),
        "sparse": (3, 0, 3),
    }


def test_served_by_name_they_score_what_they_did_without_an_engine(served: ContinualPlan) -> None:
    """There it was told by the completions' likeliest tokens, with nothing generated."""
    result = summarise(served)
    for course in result["courses"]:
        own = dict(zip(TASKS, course["matrix"][-1], strict=True))
        assert course["served"]["by_name"] == pytest.approx(own), course["method"]
    assert max(max(course["served"]["by_name"].values()) for course in result["courses"]) >= 0.2
    # Equality would say little of models that are all the same.
    assert len({round(course["losses"][-1][0], 4) for course in result["courses"]}) == len(METHODS)
    assert "Served by vLLM" in document(result)


def test_what_was_served_is_not_served_again(served: ContinualPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("an engine was started")

    monkeypatch.setattr(service.RoutedService, "start", never)
    serve_all(served, QUIET)

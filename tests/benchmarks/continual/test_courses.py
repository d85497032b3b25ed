"""Courses: what is measured after each task, and that an interrupted one comes to the same result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from torch import nn

from benchmarks.continual.cells import CellStore
from benchmarks.continual.choosing import choose, with_chosen
from benchmarks.continual.courses import CourseRunner
from benchmarks.continual.examiner import mean_score
from benchmarks.continual.finished import finished, written
from benchmarks.continual.kinds import method
from benchmarks.continual.pictures import draw
from benchmarks.continual.plan import ContinualPlan
from benchmarks.continual.running import run_all
from benchmarks.continual.summary import summarise
from benchmarks.continual.tables import document
from cluster.errors import ClusterError
from learning.features import FeatureExtractor
from tests.benchmarks.continual.small_stream import ANSWERS, METHODS, cells, measured, plan, write_stream
from tests.learning.bases import write_base

pytestmark = pytest.mark.slow

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stream(tmp_path_factory.mktemp("stream"))


@pytest.fixture(scope="module")
def whole(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> ContinualPlan:
    """Both methods of the service, run through."""
    made = plan(base, data, tmp_path_factory.mktemp("whole"), methods=METHODS)
    run_all(made, QUIET)
    return made


class Killed(Exception):
    pass


@pytest.mark.parametrize("label", sorted(METHODS))
def test_killed_after_its_second_task_a_course_comes_to_the_same(
    label: str, whole: ContinualPlan, tmp_path: Path
) -> None:
    again = replace(whole, work=tmp_path, methods={label: METHODS[label]})
    (course,) = again.courses()
    trained: list[int] = []

    def in_the_third(step: int, steps: int) -> None:
        trained.append(step)
        if trained.count(1) == 3 and step == 5:
            raise Killed

    with pytest.raises(Killed):
        CourseRunner(again).run(course, in_the_third)
    assert len(cells(again, label)) == 2
    CourseRunner(again).run(course)
    assert list(map(measured, cells(again, label))) == list(map(measured, cells(whole, label)))


def test_an_adapter_a_task_forgets_nothing_by_name(whole: ContinualPlan) -> None:
    result = summarise(whole)
    (lora,) = [course for course in result["courses"] if course["method"] == "lora"]
    assert lora["figures"]["bwt"] == 0.0 and lora["figures"]["changed"] == 0.0
    assert lora["figures"]["perplexity_change"] == 0.0 and lora["figures"]["fwt"] == 0.0
    assert lora["figures"]["diagonal"] > max(lora["zero"]), "something is learned"
    assert lora["stored_bytes"] == [place * 4 * lora["figures"]["weights_trained"] for place in (1, 2, 3)]
    # Layers 2 and 3: q and o 32 x 32, k and v 32 x 16, gate, up and down 32 x 48.
    assert lora["figures"]["weights_trained"] == 4 * 2 * (2 * 64 + 2 * 48 + 3 * 80)


def test_shared_parts_are_counted_once(whole: ContinualPlan) -> None:
    lora, seta = (cells(whole, label)[-1]["stored_bytes"] for label in ("lora", "seta"))
    own, shared = lora // 3 // 2, lora // 3 // 2
    # Own parts of three; the shared one as it stands in the adapters, and as the state has it with its need.
    assert seta == 3 * own + shared + 2 * shared


def test_routed_scores_are_those_of_the_models_that_rows_are_routed_to(whole: ContinualPlan) -> None:
    """Against an evaluation of every row by itself."""
    runner = CourseRunner(whole)
    (course,) = [each for each in whole.courses() if each.label == "lora"]
    store = CellStore(whole.work, course, whole.facts(course))
    made = method("lora", runner._workbench, "lora", METHODS["lora"], 0, whole.work / "asked")
    assert store.restore(made) == 3
    for label, there in runner.routes(0, 0).items():
        for task, taken in there["decisions"][-1].items():
            rows = []
            for row, name in enumerate(taken):
                with made.answering(name) as model:
                    rows += runner._examiner.sit(runner._examiner.meet(model), task, [row])
            assert store.cells()[-1]["routed"][label][task] == mean_score(rows)


def test_answering_leaves_the_base_bare(whole: ContinualPlan) -> None:
    runner = CourseRunner(whole)
    bare = runner._examiner.meet(runner._workbench.model.model).name
    (course,) = [each for each in whole.courses() if each.label == "seta"]
    made = method("seta", runner._workbench, "seta", METHODS["seta"], 0, whole.work / "bare")
    CellStore(whole.work, course, whole.facts(course)).restore(made)
    with made.answering("heat") as model:
        assert runner._examiner.meet(model).name != bare
    with made.answering("unheard of") as model:
        assert runner._examiner.meet(model).name == bare


def test_a_model_changed_in_the_least_is_another_one(whole: ContinualPlan) -> None:
    runner = CourseRunner(whole)
    model: nn.Module = runner._workbench.model.model
    before = runner._examiner.meet(model).name
    weight = model.get_parameter("model.layers.3.mlp.down_proj.weight")
    weight.data[0, 0] += 1e-3
    assert runner._examiner.meet(model).name != before
    weight.data[0, 0] = float("nan")
    assert runner._examiner.meet(model).name != before


def test_the_streams_features_are_the_services(whole: ContinualPlan) -> None:
    runner = CourseRunner(whole)
    extractor = FeatureExtractor(whole.base, _feature_options(whole), runner.template)
    expected = extractor.extract([row.prompt for row in runner.tasks["place"].train])
    assert (runner._features.train("place").expanded_NE == expected).all()
    assert len(runner._features.judged("size").pooled_ND) == 8


def _feature_options(of: ContinualPlan) -> Any:
    from learning.feature_options import FeatureOptions

    return FeatureOptions.model_validate(of.features)


def test_cells_of_other_settings_are_not_gone_on_with(whole: ContinualPlan) -> None:
    other = replace(whole, training={**whole.training, "max_steps": 13})
    with pytest.raises(ClusterError, match=r"lora-order0-seed0: begun with other training; give another --work"):
        run_all(other, QUIET)


def test_a_task_that_comes_again_goes_on_from_its_adapter(base: Path, data: Path, tmp_path: Path) -> None:
    again = plan(base, data, tmp_path, orders=(("heat", "place", "heat"),), methods=METHODS)
    run_all(again, QUIET)
    result = summarise(again)
    assert not result["unfinished"] and not any(course["failures"] for course in result["courses"])
    (lora,) = [course for course in result["courses"] if course["method"] == "lora"]
    first, _, last = (row[0] for row in lora["losses"])
    assert last < first


def test_the_gate_leaves_out_what_is_no_better_than_the_base(base: Path, data: Path, tmp_path: Path) -> None:
    idle = {**METHODS["lora"], "learning_rate": 1e-12, "max_steps": 1, "evaluate_every": 1, "gate": True}
    made = plan(base, data, tmp_path, orders=(("heat",),), methods={"lora": idle})
    run_all(made, QUIET)
    (cell,) = cells(made, "lora")
    assert cell["learned"]["failure"].startswith("left out by the gate") and cell["stored_bytes"] == 0
    assert cell["scores"] == cell["before"]["scores"]


def test_values_are_chosen_by_held_out_rows(base: Path, data: Path, tmp_path: Path) -> None:
    swept = {"lora": {**METHODS["lora"], "learning_rate": 1e-9, "sweep": {"learning_rate": [1e-9, 2e-2]}}}
    made = plan(base, data, tmp_path, orders=(("heat", "place"),))
    chosen = choose(made, swept, QUIET)
    assert chosen["lora"]["values"] == {"learning_rate": 2e-2}
    assert [trial["label"] for trial in chosen["lora"]["trials"]] == [
        "lora learning_rate=1e-09",
        "lora learning_rate=0.02",
    ]
    assert with_chosen(swept, chosen) == {"lora learning_rate=0.02": {**METHODS["lora"], "learning_rate": 2e-2}}
    facts = json.loads(next((tmp_path / "choosing" / "cells").glob("*/course.json")).read_text())
    assert facts["judged_by"] == "held-out rows"


def test_the_result_is_told_and_drawn(whole: ContinualPlan, tmp_path: Path) -> None:
    result = summarise(whole)
    text = document(result)
    for heading in ("## By name", "## Costs", "## Routed: AA (BWT)", "## Routers"):
        assert heading in text
    assert "| lora | " in text and ", ".join(ANSWERS) in text
    by_name = result["methods"]["lora"]["figures"]["aa"]["mean"]
    assert f"[{by_name * result['routers']['analytic']['figures']['accuracy']['mean']:.3f}]" in text
    pictures = draw(result, tmp_path / "out")
    assert [path.name for path in pictures] == ["curves.png", "matrices-order0.png", "routing.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)


def test_what_a_result_holds_is_not_run_again_unless_it_depends_on_other_facts(
    whole: ContinualPlan, tmp_path: Path
) -> None:
    """As on another machine, which has nothing but the result."""
    result = tmp_path / "result.json"
    result.write_text(written(summarise(whole)))
    elsewhere = replace(whole, work=tmp_path / "elsewhere", routers={})
    assert finished(elsewhere, result) == {}, "a course was judged by other routers"
    elsewhere = replace(whole, work=tmp_path / "elsewhere")
    again = replace(elsewhere, known=finished(elsewhere, result))
    run_all(again, QUIET)
    assert not list(again.work.glob("cells/*/cell-*"))
    found, before = summarise(again), json.loads(result.read_text())
    assert found["courses"] == before["courses"]
    assert found["routers"]["analytic"]["confusion"] == before["routers"]["analytic"]["confusion"]
    other = replace(elsewhere, training={**whole.training, "max_steps": 7})
    assert finished(other, result) == {} == finished(elsewhere, tmp_path / "nothing.json")
    result.write_text("[]")
    with pytest.raises(ClusterError, match="expected this benchmark's result"):
        finished(elsewhere, result)


@pytest.mark.parametrize("workers", [0, 1])
def test_no_course_begins_when_its_time_is_over(whole: ContinualPlan, tmp_path: Path, workers: int) -> None:
    late = replace(whole, work=tmp_path)
    run_all(late, QUIET, workers, minutes=0.0)
    found = summarise(late)
    assert len(found["courses"]) + len(found["unfinished"]) == len(late.courses()) and found["unfinished"]


def test_an_order_without_a_finished_course_has_no_picture(whole: ContinualPlan, tmp_path: Path) -> None:
    later = replace(whole, orders=(*whole.orders, tuple(reversed(whole.orders[0]))))
    result = summarise(later)
    assert len(result["unfinished"]) == len(METHODS)
    assert {path.name for path in draw(result, tmp_path)} == {"curves.png", "matrices-order0.png", "routing.png"}

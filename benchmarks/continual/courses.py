"""Courses: a method learns one task after another, and after each all that is asked of it is measured.

By name: every task's rows under the model that answers for it, tasks to come included. Routed, for methods with several
models: the rows of the tasks learned so far, each under the model of the task that a router takes it for. A router
sees the stream once for all methods, as the layers that make its features are the same for all.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.continual.cells import CellStore, Course
from benchmarks.continual.examiner import GENERAL, Examiner, ModelIdentity, RowResult, mean_loss, mean_score
from benchmarks.continual.kinds import method, router
from benchmarks.continual.method import ContinualMethod
from benchmarks.continual.plan import ContinualPlan
from benchmarks.continual.stream_features import TaskFeatures, stream_features
from benchmarks.continual.tasks import read_tasks
from benchmarks.continual.workbench import Workbench
from benchmarks.footprint import footprint
from learning.template import PromptTemplate

OnStep = Callable[[int, int], None]
Decisions = dict[str, list[str]]
"""Of each task's rows, in order, the task that each is taken for."""


class CourseRunner:
    """Runs courses of a plan in this process; base, rows and features are loaded once."""

    def __init__(self, plan: ContinualPlan) -> None:
        self.plan = plan
        torch.set_num_threads(int(plan.training.get("threads") or torch.get_num_threads()))
        prompt = plan.prompt
        self.template = PromptTemplate(plan.base, prompt.get("chat_template"), prompt.get("terminator"))
        self._workbench = Workbench(plan.base, self.template, plan.training)
        tasks = read_tasks(plan.data, self.template, plan.tasks, plan.limits, plan.metrics, prefixed=plan.prefixed)
        self.tasks = {task.name: task for task in tasks}
        """With the rows that a run of the plan takes."""
        self._examiner = Examiner(self._workbench, tasks, held_out=plan.held_out)

    def run(self, course: Course, on_step: OnStep = lambda step, steps: None) -> None:
        """All cells of a course that are not there yet."""
        store = self.store(course)
        with self.restored(course) as (made, done, scratch):
            for place in range(done, len(self.plan.orders[course.order])):
                store.add(place, self._cell(made, course, place, scratch, on_step), made)

    @contextmanager
    def restored(self, course: Course) -> Iterator[tuple[ContinualMethod, int, Path]]:
        """A course's method as its last cell left it, how many tasks it has learned, and the folder that it owns."""
        settings = self.plan.methods[course.label]
        with tempfile.TemporaryDirectory(prefix="anabranch-course-") as scratch:
            made = method(str(settings["kind"]), self._workbench, course.label, settings, course.seed, Path(scratch))
            yield made, self.store(course).restore(made), Path(scratch)

    def store(self, course: Course) -> CellStore:
        """The course's cells."""
        return CellStore(self.plan.work, course, self.plan.facts(course))

    def routes(self, order: int, seed: int) -> dict[str, dict[str, Any]]:
        """By router: its decisions after each task, bytes and seconds; computed once for an order and a seed."""
        found = {}
        for label, settings in self.plan.routers.items():
            path = self.plan.work / "routes" / f"{Course(label, order, seed).folder}.json"
            facts = {
                "settings": dict(settings),
                "features": dict(self.plan.features),
                "order": list(self.plan.orders[order]),
                "rows": self._examiner.counts,
            }
            there = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            if there.get("facts") != facts:
                there = {"facts": facts, **self._routed_stream(label, settings, order, seed)}
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(there) + "\n", encoding="utf-8")
            found[label] = there
        return found

    def _routed_stream(self, label: str, settings: Mapping[str, Any], order: int, seed: int) -> dict[str, Any]:
        options = {key: value for key, value in settings.items() if key != "kind"}
        made = router(str(settings["kind"]), label, options, seed)
        decisions: list[Decisions] = []
        sizes, started = [], time.process_time()
        names = self.plan.orders[order]
        for place, name in enumerate(names):
            made.learn(self._features.train(name), name)
            seen = dict.fromkeys(names[: place + 1])
            decisions.append({task: list(made.route(self._features.judged(task))) for task in seen})
            sizes.append(made.stored_bytes())
        return {"decisions": decisions, "stored_bytes": sizes, "cpu_seconds": round(time.process_time() - started, 3)}

    @cached_property
    def _features(self) -> TaskFeatures:
        tasks = list(self.tasks.values())
        texts = [
            text for task in tasks for text in (*(row.prompt for row in task.train), *self._examiner.prompts(task.name))
        ]
        found = stream_features(self.plan.base, self.template, self.plan.features, texts, self.plan.work)
        return TaskFeatures(found, tasks, self._examiner.counts)

    def _cell(
        self, made: ContinualMethod, course: Course, place: int, scratch: Path, on_step: OnStep
    ) -> dict[str, Any]:
        order = self.plan.orders[course.order]
        before = self._before(order) if place == 0 else {}
        with footprint(scratch) as cost:
            learned = made.learn(self.tasks[order[place]], on_step)
        started = time.perf_counter()
        measured = self._measured(made, course, place)
        return {
            "label": made.label,
            "task": order[place],
            "learned": asdict(learned),
            "seconds": round(cost.seconds, 3),
            "measuring_seconds": round(time.perf_counter() - started, 3),
            "resident_bytes": cost.resident,
            "peak_bytes": cost.peak,
            "stored_bytes": made.stored_bytes(),
            **before,
            **measured,
        }

    def _before(self, order: Sequence[str]) -> dict[str, Any]:
        """The bare base on every task, and on the general text."""
        base = self._workbench.model
        base.stand_on(None)
        met = self._examiner.meet(base.model)
        scores = {task: mean_score(self._examiner.sit(met, task)) for task in dict.fromkeys(order)}
        return {"before": {"scores": scores, "general_loss": mean_loss(self._examiner.sit(met, GENERAL))}}

    def _measured(self, made: ContinualMethod, course: Course, place: int) -> dict[str, Any]:
        order = self.plan.orders[course.order]
        seen = tuple(dict.fromkeys(order[: place + 1]))
        routes: dict[str, Decisions] = {}
        if not made.has_one_model:
            found = self.routes(course.order, course.seed)
            routes = {label: each["decisions"][place] for label, each in found.items()}
        by_name: dict[str, list[RowResult]] = {}
        routed: dict[tuple[str, str, int], RowResult] = {}
        for name in dict.fromkeys(order):
            with made.answering(name) as model:
                met = self._examiner.meet(model)
                # One model answers for all names, and is asked for all while it is there.
                for task in dict.fromkeys(order) if made.has_one_model else (name,):
                    by_name[task] = self._examiner.sit(met, task)
                routed |= self._routed_to(met, name, routes, seen)
            if made.has_one_model:
                break
        with made.answering(GENERAL) as model:
            general_loss = mean_loss(self._examiner.sit(self._examiner.meet(model), GENERAL))
        return {
            "scores": {task: mean_score(rows) for task, rows in by_name.items()},
            "losses": {task: mean_loss(rows) for task, rows in by_name.items()},
            "answers": {task: "".join(row.answer for row in rows) for task, rows in by_name.items()},
            "general_loss": general_loss,
            "routed": {
                label: {
                    task: mean_score([routed[label, task, row] for row in range(len(decisions[task]))]) for task in seen
                }
                for label, decisions in routes.items()
            },
        }

    def _routed_to(
        self, met: ModelIdentity, name: str, routes: Mapping[str, Decisions], seen: Sequence[str]
    ) -> dict[tuple[str, str, int], RowResult]:
        """Results of the rows that some router takes for `name`, by router, task and row."""
        found: dict[tuple[str, str, int], RowResult] = {}
        for task in seen:
            by_router = {
                label: [row for row, taken in enumerate(decisions[task]) if taken == name]
                for label, decisions in routes.items()
            }
            wanted = sorted({row for rows in by_router.values() for row in rows})
            results = dict(zip(wanted, self._examiner.sit(met, task, wanted), strict=True)) if wanted else {}
            found |= {(label, task, row): results[row] for label, rows in by_router.items() for row in rows}
        return found

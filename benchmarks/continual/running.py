"""Runs all courses of a plan, in this process or several, with a bar that knows how long it will take."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import connection, get_context, parent_process

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.continual.cells import CellStore, Course, count_cells
from benchmarks.continual.courses import CourseRunner
from benchmarks.continual.plan import ContinualPlan

_LOOK_AGAIN_S = 1.0
_runners: dict[str, CourseRunner] = {}
"""Of this process, by the folder of the run."""


def run_all(plan: ContinualPlan, console: Console, workers: int = 0, minutes: float | None = None) -> None:
    """All cells that are not there yet; `workers` processes beside this one, or this one alone. No course begins after
    so many minutes."""
    end = math.inf if minutes is None else time.monotonic() + 60 * minutes
    courses = plan.courses()
    cells = sum(len(plan.orders[course.order]) for course in courses)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bars:
        bar = bars.add_task("cells", total=cells, completed=_there(plan, courses))
        steps = bars.add_task("", total=None, visible=False)
        runner = _runner(plan)
        unfinished = [each for each in courses if _cells(plan, each) < len(plan.orders[each.order])]
        streams = sorted({(each.order, each.seed) for each in courses})
        for order, seed in streams[: 1 if workers else None]:
            # The first makes the features, which the others read.
            bars.update(steps, description=f"routers, order {order}, seed {seed}", visible=True, total=None)
            runner.routes(order, seed)
        if workers:
            bars.update(steps, visible=False)
            _beside(
                plan, streams[1:], unfinished, workers, end, lambda: bars.update(bar, completed=_there(plan, courses))
            )
            return
        for course in unfinished:
            if time.monotonic() > end:
                break
            bars.update(steps, description=f"{course.label}, order {course.order}, seed {course.seed}")

            def on_step(step: int, total: int) -> None:
                bars.update(steps, completed=step, total=total)
                bars.update(bar, completed=_there(plan, courses))

            runner.run(course, on_step)
            bars.update(bar, completed=_there(plan, courses))
        bars.update(steps, visible=False)


def _beside(
    plan: ContinualPlan,
    streams: list[tuple[int, int]],
    courses: list[Course],
    workers: int,
    end: float,
    on_look: Callable[[], None],
) -> None:
    """Routers of the streams, then the courses: each reads what its routers decided."""
    left = list(courses)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        running: set[Future[None]] = set()
        try:
            for routed in [pool.submit(_route, plan, order, seed) for order, seed in streams]:
                routed.result()
            while running or (left and time.monotonic() <= end):
                # One at a time for each worker: what the pool has taken begins, however late it is by then.
                while left and len(running) < workers and time.monotonic() <= end:
                    running.add(pool.submit(_run, plan, left.pop(0)))
                done, running = wait(running, timeout=_LOOK_AGAIN_S, return_when=FIRST_COMPLETED)
                for each in done:
                    each.result()
                on_look()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """Where this process's parent is killed, it ends too, and not after the course that it is at."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run(plan: ContinualPlan, course: Course) -> None:
    _runner(plan).run(course)


def _route(plan: ContinualPlan, order: int, seed: int) -> None:
    _runner(plan).routes(order, seed)


def _runner(plan: ContinualPlan) -> CourseRunner:
    key = str(plan.work)
    if key not in _runners or _runners[key].plan != plan:
        _runners[key] = CourseRunner(plan)
    return _runners[key]


def _cells(plan: ContinualPlan, course: Course) -> int:
    """Whole cells, of the same facts as the plan's."""
    if course in plan.known:
        return len(plan.orders[course.order])
    return len(CellStore(plan.work, course, plan.facts(course)).cells())


def _there(plan: ContinualPlan, courses: list[Course]) -> int:
    return sum(
        len(plan.orders[course.order]) if course in plan.known else count_cells(plan.work, course) for course in courses
    )

"""What the methods of a run have learned, served by vLLM and asked through the front door, by name and routed.

After the last task of each course its method is deployed: a manifest of a real registry for each state of the base that
it needs, on one engine in float32 that changes its adapters and its base from one to the next. The test rows' prompts
go to the application over HTTP, without a socket. Beside the scores: which share of the answers is letter by letter
what the method's own model gives greedily, and how many requests failed. Knows no method by name.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError
from rich.console import Console
from transformers import AutoTokenizer

from benchmarks.continual.cells import Course
from benchmarks.continual.courses import CourseRunner
from benchmarks.continual.deploying import DeploymentRegistry, rank_of, router_of
from benchmarks.continual.examiner import plain
from benchmarks.continual.generating import generate
from benchmarks.continual.method import Deployment, Task
from benchmarks.continual.metrics import METRICS
from benchmarks.continual.plan import ContinualPlan
from benchmarks.continual.routers import RIDGE
from benchmarks.continual.unattended import Unattended
from benchmarks.evaluation import Outcome
from cluster.errors import ClusterError
from learning.checkpoint import base_digest, resolve
from learning.feature_options import FeatureOptions
from learning.features import FeatureExtractor
from registry.manifest import BaseRevision
from serving.frontdoor import build_app
from serving.options import EngineOptions
from serving.served import AUTO
from serving.service import RoutedService

_KNOBS: dict[str, Any] = {"max_num_seqs": 16, "kv_cache_bytes": 256 << 20, "enforce_eager": True, "threads": 1}
"""What an engine is started with where the settings do not say otherwise."""


@dataclass(frozen=True)
class OwnAnswers:
    """A course's method as it is to be served, and what its own models answer to the test rows, by task."""

    course: Course
    deployments: Sequence[Deployment]
    answers: Mapping[str, Sequence[str]]


def serve_all(plan: ContinualPlan, console: Console) -> None:
    """Serves every whole course that was not served yet, and keeps what came of it beside its cells.

    Raises `ClusterError` on settings that no engine takes; the engine is down afterwards, whatever happens.
    """
    runner = CourseRunner(plan)
    wanted = [each for each in plan.courses() if _is_whole(runner, each) and runner.store(each).served() is None]
    if not wanted:
        return
    with tempfile.TemporaryDirectory(prefix="anabranch-served-") as scratch:
        own = []
        for place, course in enumerate(wanted):
            console.print(f"own answers of {course.folder}", highlight=False)
            own.append(own_answers(runner, course, Path(scratch) / str(place)))
        asyncio.run(_serve(runner, own, Path(scratch) / "registry", console))


def _is_whole(runner: CourseRunner, course: Course) -> bool:
    return len(runner.store(course).cells()) == len(runner.plan.orders[course.order])


def own_answers(runner: CourseRunner, course: Course, folder: Path) -> OwnAnswers:
    """What a course has learned, deployed below a new folder, and its greedy answers without an engine."""
    with runner.restored(course) as (made, _, _):
        deployments = made.deployments(folder)
        answers: dict[str, Sequence[str]] = {}
        for task in (task for deployment in deployments for task in deployment.tasks):
            with made.answering(task) as model:
                answers[task] = generate(
                    plain(model),
                    AutoTokenizer.from_pretrained(resolve(runner.plan.base)),
                    [runner.template.encode_prompt(row.prompt) for row in runner.tasks[task].test],
                    _most_tokens(runner, runner.tasks[task]),
                    runner.template.terminator,
                    rows=16,
                )
    return OwnAnswers(course, deployments, answers)


def _most_tokens(runner: CourseRunner, task: Task) -> int:
    """Enough for the longest right answer and its end."""
    longest = max(len(runner.template.encode_completion(row.completion)) for row in task.test)
    return METRICS[task.metric].tokens or longest


def engine_options(runner: CourseRunner, own: Sequence[OwnAnswers]) -> EngineOptions:
    """An engine that all of it fits into. Raises `ClusterError` on settings that are none."""
    plan = runner.plan
    folders = [each for one in own for deployed in one.deployments for each in deployed.adapters.values()]
    prompts = [row.prompt for task in runner.tasks.values() for row in task.test]
    longest = max(len(runner.template.encode_prompt(prompt)) for prompt in prompts)
    answer = max(_most_tokens(runner, task) for task in runner.tasks.values())
    slots = max((len(deployed.tasks) for one in own for deployed in one.deployments), default=1)
    fitting = {
        "model": plan.base,
        "dtype": "float32",
        "max_model_len": longest + answer + 1,
        "chat_template": runner.template.chat_template,
        "terminator": runner.template.terminator,
        "max_loras": slots,
        "max_cpu_loras": 2 * slots,
        "max_lora_rank": max((rank_of(folder) for folder in folders), default=1),
    }
    try:
        return EngineOptions.model_validate({**_KNOBS, **fitting, **plan.serving})
    except ValidationError as error:
        first = error.errors()[0]
        raise ClusterError(f"settings of serving: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


async def _serve(runner: CourseRunner, own: Sequence[OwnAnswers], folder: Path, console: Console) -> None:
    plan = runner.plan
    options = engine_options(runner, own)
    extractor = FeatureExtractor(plan.base, FeatureOptions.model_validate(dict(plan.features)), runner.template)
    ridge = float(plan.routers.get("analytic", {}).get("ridge", RIDGE))
    router = router_of(list(runner.tasks.values()), extractor, ridge)
    base = BaseRevision(model=plan.base, digest=base_digest(resolve(plan.base)))
    shelf = DeploymentRegistry(folder, base, router)
    with console.status("starting vLLM"):
        service = await RoutedService.start(options, shelf.registry, lambda _: extractor, base)
    try:
        transport = httpx.ASGITransport(app=build_app(service, Unattended()), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://replica", timeout=None) as client:
            for each in own:
                asking = _Asking(runner, client, options.max_num_seqs)
                figures = await _served(runner, service, shelf, each, asking)
                runner.store(each.course).add_served(figures)
                line = f"{each.course.folder}: {figures['equal']:.1%} of answers as its own, {figures['failed']} failed"
                console.print(line, highlight=False)
    finally:
        await service.stop()


async def _served(
    runner: CourseRunner, service: RoutedService, shelf: DeploymentRegistry, own: OwnAnswers, asking: _Asking
) -> dict[str, Any]:
    """Figures of one course, as they are kept."""
    started = time.perf_counter()
    by_name: dict[str, list[Outcome]] = {}
    routed: dict[str, list[Outcome]] = {}
    for deployment in own.deployments:
        examples = sum(len(runner.tasks[task].train) for task in deployment.tasks)
        await asyncio.to_thread(shelf.publish, deployment, str(runner.plan.methods[own.course.label]["kind"]), examples)
        await service.catch_up()
        for task in deployment.tasks:
            by_name[task] = await asking.of(task, task)
            # Where only some of the tasks are served, no router can have its say.
            if len(own.deployments) == 1:
                routed[task] = await asking.of(task, AUTO)
    await service.settle()
    rows = {task: list(zip(by_name[task], own.answers[task], strict=True)) for task in by_name}
    sent = [each for found in (by_name, routed) for outcomes in found.values() for each in outcomes]
    return {
        "deployments": len(own.deployments),
        "adapters": sum(len(each.adapters) for each in own.deployments),
        "base_changes": sum(each.base_delta is not None for each in own.deployments),
        "by_name": {task: asking.score(task, outcomes) for task, outcomes in by_name.items()},
        "routed": {task: asking.score(task, outcomes) for task, outcomes in routed.items()},
        "routed_right": {
            task: sum(each.domain == task for each in outcomes) / len(outcomes) for task, outcomes in routed.items()
        },
        "equal": share([reply.text == answer for pairs in rows.values() for reply, answer in pairs]),
        "equal_routed": share(
            [
                reply.text == answer
                for task, outcomes in routed.items()
                for reply, answer in zip(outcomes, own.answers[task], strict=True)
                if reply.domain == task
            ]
        ),
        "requests": len(sent),
        "failed": sum(each.status != 200 for each in sent),
        "seconds": round(time.perf_counter() - started, 3),
    }


class _Asking:
    """Sends the test rows' prompts, greedily, at most `concurrency` at a time."""

    def __init__(self, runner: CourseRunner, client: httpx.AsyncClient, concurrency: int) -> None:
        self._runner, self._client = runner, client
        self._slots = asyncio.Semaphore(concurrency)

    async def of(self, task: str, model: str) -> list[Outcome]:
        """Answers to all rows of a task, in their order."""
        tokens = _most_tokens(self._runner, self._runner.tasks[task])
        rows = self._runner.tasks[task].test
        return list(await asyncio.gather(*(self._ask(row.prompt, model, tokens) for row in rows)))

    def score(self, task: str, outcomes: Sequence[Outcome]) -> float:
        """Mean by the task's metric; a failed request is worth nothing."""
        metric = METRICS[self._runner.tasks[task].metric]
        scores = [
            metric.of(each.text, row.completion, row.prompt) if each.status == 200 else 0.0
            for each, row in zip(outcomes, self._runner.tasks[task].test, strict=True)
        ]
        return sum(scores) / len(scores)

    async def _ask(self, prompt: str, model: str, tokens: int) -> Outcome:
        # The template has written the begin token already.
        body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "add_special_tokens": False}
        async with self._slots:
            answer = await self._client.post("/v1/completions", json=body)
        if answer.status_code != 200:
            return Outcome(answer.status_code, answer.text)
        headers = answer.headers
        text = answer.json()["choices"][0]["text"]
        return Outcome(200, text, headers["x-anabranch-domain"], headers["x-anabranch-adapter"])


def share(found: Sequence[bool]) -> float:
    """Of those that are true; 1 of none."""
    return sum(found) / len(found) if found else 1.0

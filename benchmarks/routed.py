"""What choosing by content costs: `auto` against the domain's name, through one replica's service and vLLM.

The service of a replica runs in this process on the demo's base, with one untrained adapter a domain and a router that
has learned the example stream. The same prompts are asked for by name, by `auto` when nobody has seen them before
(`routed`), and by `auto` once more (`again`), in turns, so that whatever else the machine does is spread over all.
Counted is the CPU time of this process, every thread of it, client included; the engine's core is a child and is not.
Run it with `OMP_NUM_THREADS=1 python -m benchmarks.routed`: Ray gives a replica of one core as many threads.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.evaluation import Question
from benchmarks.hardware import describe
from benchmarks.start import publish
from cluster import builders
from configs.loader import load
from serving.served import AUTO
from serving.service import RoutedService

RESULT = Path(__file__).parent / "results" / "routed.json"
STREAM = Path(__file__).parents[1] / "examples" / "stream"
DOMAINS = ("access-log", "german-dates", "sales-sql", "service-log", "shop-support")
WAYS = ("named", "routed", "again")
REQUESTS = {1: 40, 8: 80, 32: 160}
"""Requests a measurement, by concurrency."""
_LEARNED = 150
_ANSWER_TOKENS = 16


@dataclass(frozen=True)
class Pass:
    """One way at one concurrency in one round."""

    requests: int
    seconds: float
    cpu_seconds: float
    first: tuple[float, ...]
    """Seconds to each request's first event."""

    def figures(self) -> dict[str, float]:
        """What is compared."""
        return {
            "requests_per_second": self.requests / self.seconds,
            "cpu_ms_per_request": 1e3 * self.cpu_seconds / self.requests,
            "first_token_ms_p50": 1e3 * statistics.median(self.first),
        }


def main() -> None:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], help="a setting of the preset demo, changed")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="anabranch-routed-") as folder:
        result = asyncio.run(measure(Path(folder), options.rounds, options.set))
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


async def measure(folder: Path, rounds: int, changes: Sequence[str]) -> dict[str, Any]:
    """All figures of one run, as they go into the result file."""
    hardware = describe()
    asked: dict[int, dict[str, list[dict[str, float]]]] = {many: {way: [] for way in WAYS} for many in REQUESTS}
    async with _service(folder, changes) as service:
        fresh = _questions()
        for number in range(rounds + 1):
            for many, count in REQUESTS.items():
                questions = [next(fresh) for _ in range(count)]
                # Who comes first takes turns; `again` comes behind `routed`, or nothing would be known.
                order = ("named", "routed", "again") if number % 2 else ("routed", "again", "named")
                for way in order:
                    figures = (await _measured(service, questions, way, many)).figures()
                    print(f"round {number}, {many} at a time, {way}: {figures}", file=sys.stderr, flush=True)
                    if number:
                        asked[many][way].append(figures)
    return {
        "claim": __doc__.splitlines()[0] if __doc__ else "",
        "hardware": hardware,
        "changed": list(changes),
        "rounds": rounds,
        "by_concurrency": {str(many): summary(ways) for many, ways in asked.items()},
    }


def summary(ways: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians over the rounds of each way, and of `routed` and `again` against `named` in the same round."""
    whole: dict[str, Any] = {way: _medians(rounds) for way, rounds in ways.items()}
    for way in ("routed", "again"):
        pairs = list(zip(ways[way], ways["named"], strict=True))
        whole[f"{way}_against_named"] = _medians(
            [
                {
                    "requests_ratio": ours["requests_per_second"] / named["requests_per_second"],
                    "cpu_ms_more": ours["cpu_ms_per_request"] - named["cpu_ms_per_request"],
                    "first_token_ms_more": ours["first_token_ms_p50"] - named["first_token_ms_p50"],
                }
                for ours, named in pairs
            ]
        )
    return whole


def _medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(each[name] for each in rounds), 3) for name in rounds[0]} if rounds else {}


@asynccontextmanager
async def _service(folder: Path, changes: Sequence[str]) -> AsyncIterator[RoutedService]:
    settings = load("demo", [f"home={folder / 'home'}", *changes])
    torch.set_num_threads(settings.serving.threads or 1)  # as a replica's process has
    learned = {domain: [question.prompt for question in _rows(domain)[:_LEARNED]] for domain in DOMAINS}
    await asyncio.to_thread(publish, settings, folder, learned)
    service = await RoutedService.start(
        builders.engine_options(settings),
        builders.registry(settings),
        builders.extractor_for(settings),
        builders.base_revision(settings),
    )
    try:
        yield service
    finally:
        await service.stop()


def _questions() -> Iterator[Question]:
    """Prompts that nobody has learned, each once, domain by turns."""
    for row in zip(*(_rows(domain)[_LEARNED:] for domain in DOMAINS), strict=False):
        yield from row


def _rows(domain: str) -> list[Question]:
    found: dict[str, Question] = {}
    for split in ("train", "test"):
        for line in (STREAM / f"{domain}.{split}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row.get("prompt"):
                found.setdefault(row["prompt"], Question(domain, row["prompt"], row["completion"]))
    return list(found.values())


async def _measured(service: RoutedService, questions: Sequence[Question], way: str, many: int) -> Pass:
    left = iter(questions)
    first: list[float] = []

    async def client() -> None:
        for question in left:
            model = question.domain if way == "named" else AUTO
            first.append(await _answered(service, question.prompt, model))

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client() for _ in range(many)))
    return Pass(len(questions), time.perf_counter() - started, time.process_time() - cpu, tuple(first))


async def _answered(service: RoutedService, prompt: str, model: str) -> float:
    """Seconds until the first event of a streamed answer, which is read to its end."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": _ANSWER_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    started = time.perf_counter()
    reply = await service.chat(body)
    seconds = 0.0
    assert reply.events is not None
    async for _ in reply.events:
        seconds = seconds or time.perf_counter() - started
    return seconds


if __name__ == "__main__":
    main()

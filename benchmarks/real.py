"""A real chat model through the whole: SmolLM2-135M, Kafka in, vLLM out, clinc150 domains and generation tasks.

Two claims, as a client of the running service gets them. A routed question is answered about as well as one that names
its domain. And the model's general skills stay within reach: with two domains published, general questions asked of
`auto` are left to the base, which answers in its own words.

Each domain is fed when the one before it is served. Answers are greedy. Run it with `anabranch bench real --data DIR`;
on two cores a domain takes minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.evaluation import Asker, Outcome, Question, read_questions, score
from benchmarks.hardware import describe
from benchmarks.real_report import GeneralAnswers, LearnedDomain, Run, lines, summarise, table
from benchmarks.routing_texts import QUESTIONS
from cluster import builders
from cluster.errors import ClusterError
from cluster.runtime import Runtime
from configs.loader import load
from configs.settings import Settings
from streaming.broker import broker_in, kafka_home
from streaming.feeding import append_all, labelled_records
from streaming.records import EndOfDomain

RESULT = Path(__file__).parent / "results" / "real.json"
EXAMPLES = Path(__file__).parents[1] / "examples" / "stream"
DOMAINS = ("work", "travel", "german-dates", "service-log", "banking", "credit_cards", "auto_and_commute")
"""In the order in which they are fed; those that examples/stream does not hold come from the data folder."""
AFTER = 2
"""Domains published when the general questions are asked."""
_MAX_TOKENS = 48
_GENERAL_TOKENS = 32
_LOOK_AGAIN_S = 3.0
_PATIENCE_S = 3600.0


def main() -> None:
    """Run the benchmark, print its table and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of clinc150: DOMAIN/train.jsonl and DOMAIN/test.jsonl")
    parser.add_argument("--domains", type=int, default=len(DOMAINS), help="how many of " + ", ".join(DOMAINS))
    parser.add_argument("--questions", type=int, default=100, help="test questions a domain")
    parser.add_argument("--examples", type=int, help="rows a domain; default: all")
    parser.add_argument("--general", type=int, default=200, help="general questions")
    parser.add_argument("--broker", choices=["apache", "tansu"], default="apache" if kafka_home() else "tansu")
    parser.add_argument("--config", default="smollm2", help="preset or YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    sources = [_source(options.data, name) for name in DOMAINS[: options.domains]]
    console = Console()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="anabranch-real-")))
        result = measure(options, sources, folder, stack, console)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    console.print(table(result))
    for line in lines(result):
        console.print(line, highlight=False)


@dataclass(frozen=True)
class Source:
    """The files of a domain."""

    name: str
    train: Path
    test: Path


def _source(data: Path | None, name: str) -> Source:
    """Where a domain's rows are. Raises `ClusterError` where they are not."""
    own = Source(name, EXAMPLES / f"{name}.train.jsonl", EXAMPLES / f"{name}.test.jsonl")
    if own.train.is_file() and own.test.is_file():
        return own
    if data is None:
        raise ClusterError(
            f"domain {name}: expected --data DIR, got nothing; DIR is clinc150 by domain, "
            '`DIR/{domain}/train.jsonl` and `test.jsonl` of rows {"task": DOMAIN, "input": TEXT, "output": INTENT}'
        )
    source = Source(name, data / name / "train.jsonl", data / name / "test.jsonl")
    for file in (source.train, source.test):
        if not file.is_file():
            raise ClusterError(f"domain {name}: expected {file}, got nothing there; give another --data")
    return source


def measure(
    options: argparse.Namespace, sources: Sequence[Source], folder: Path, stack: ExitStack, console: Console
) -> dict[str, Any]:
    """All figures of one run, as they go into the result file; `stack` takes down what is started."""
    hardware = describe()
    started = time.monotonic()
    broker = stack.enter_context(broker_in(folder / "broker", options.broker))
    where = ["stream.kind=kafka", f'stream.bootstrap="{broker.bootstrap}"', "stream.topic=real"]
    settings = load(options.config, [f"home={folder / 'home'}", "serving.port=0", *where, *options.set])
    with console.status("starting Ray, a vLLM replica and the front door"):
        url = stack.enter_context(Runtime(settings)).url
    # Told to end, take down what was started. Only now: Ray puts a handler of its own in place when it starts.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console.print(f"ready after {time.monotonic() - started:.0f} s: {url}/v1", highlight=False)
    # Bars for who watches; what is done is printed as well.
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"))
    bars = stack.enter_context(Progress(*columns, TimeElapsedColumn(), console=console, transient=True))
    run = asyncio.run(_Driver(settings, url, options, bars).drive(sources))
    run.seconds = time.monotonic() - started
    summary = summarise(run)
    learner = settings.learner.model_dump(include={"max_steps", "batch_size", "rank", "frozen_layers", "dtype"})
    return {
        "claim": __doc__.splitlines()[0] if __doc__ else "",
        "broker": options.broker,
        "base": settings.base.model,
        "base_dtype": settings.base.dtype,
        "features": settings.features.model,
        "keep": settings.router.keep,
        "learner": learner,
        **summary,
        "hardware": hardware,
    }


class _Driver:
    """Feeds, waits, asks and counts, from outside."""

    def __init__(self, settings: Settings, url: str, options: argparse.Namespace, bars: Progress) -> None:
        self._settings, self._options, self._bars = settings, options, bars
        slots = settings.serving.max_num_seqs
        self._asker = Asker(url, max_tokens=_MAX_TOKENS, concurrency=slots)
        # In reduced precision, what else is in a batch may change a greedy answer: then one at a time.
        alike = settings.base.dtype == "float32"
        self._general_asker = Asker(url, max_tokens=_GENERAL_TOKENS, concurrency=slots if alike else 1)
        self._run = Run(questions=options.questions)

    async def drive(self, sources: Sequence[Source]) -> Run:
        """The whole run."""
        questions = {source.name: read_questions(source.test, self._options.questions) for source in sources}
        try:
            for place, source in enumerate(sources, start=1):
                self._run.domains.append(await self._learned(source, questions[source.name]))
                if place == AFTER and self._options.general:
                    self._run.general = await self._general([learned.name for learned in self._run.domains])
            for learned in self._run.domains:
                asked = questions[learned.name]
                learned.routed = score(asked, await self._ask(f"{learned.name}, routed", asked, "auto"))
                learned.by_name = score(asked, await self._ask(f"{learned.name}, by name", asked, None))
                self._say(
                    f"{learned.name}: exact match {learned.by_name.exact_match:.3f} by name, "
                    f"{learned.routed.exact_match:.3f} routed; routing {learned.routed.routed_right:.3f}"
                )
            self._run.status = {each.domain: each for each in (await self._asker.status()).domains}
        finally:
            await self._asker.close()
            await self._general_asker.close()
        return self._run

    async def _learned(self, source: Source, questions: list[Question]) -> LearnedDomain:
        """Feed a domain and wait until its own adapter answers a question of it that was asked of `auto`."""
        records = labelled_records(source.train, close=False)[: self._options.examples]
        ended = [*records, EndOfDomain(domain=source.name)]
        await asyncio.to_thread(append_all, builders.sink(self._settings), ended)
        fed = time.monotonic()
        bar = self._bars.add_task(f"{source.name}: learning", total=self._settings.learner.max_steps)
        for question in itertools.cycle(questions):
            outcome = await self._asker.ask(question, "auto")
            self._count([outcome])
            if outcome.domain == source.name:
                break
            await self._look_on(source.name, bar)
            if time.monotonic() - fed > _PATIENCE_S:
                raise ClusterError(f"domain {source.name}: not served within {_PATIENCE_S:.0f} s of its last record")
            await asyncio.sleep(_LOOK_AGAIN_S)
        seconds = time.monotonic() - fed
        self._bars.remove_task(bar)
        self._say(f"{source.name}: {len(records)} records; first answer routed to it after {seconds:.0f} s")
        return LearnedDomain(source.name, len(records), seconds)

    async def _look_on(self, domain: str, bar: Any) -> None:
        for each in (await self._asker.status()).domains:
            if each.domain != domain:
                continue
            if each.state in ("rejected", "failed"):
                raise ClusterError(f"domain {domain}: {each.state}: {each.detail}")
            if each.progress is not None:
                self._bars.update(bar, completed=each.progress.step, total=each.progress.steps)

    async def _general(self, after: list[str]) -> GeneralAnswers:
        rows = [json.loads(line) for line in QUESTIONS.read_bytes().splitlines()]
        questions = [Question("base", row["prompt"], "") for row in rows[: self._options.general]]
        auto = await self._ask("general questions, auto", questions, "auto", self._general_asker)
        base = await self._ask("general questions, base", questions, "base", self._general_asker)
        general = GeneralAnswers.of(after, auto, base)
        self._say(f"general questions: {general.by_the_base} of {general.asked} to the base, {general.same_text} alike")
        return general

    async def _ask(
        self, what: str, questions: Sequence[Question], model: str | None, asker: Asker | None = None
    ) -> list[Outcome]:
        """Ask all of one model, None each of its domain; the bar goes on with every answer."""
        bar = self._bars.add_task(what, total=len(questions))

        async def ask(question: Question) -> Outcome:
            outcome = await (asker or self._asker).ask(question, model or question.domain)
            self._bars.advance(bar)
            return outcome

        outcomes = list(await asyncio.gather(*(ask(question) for question in questions)))
        self._bars.remove_task(bar)
        self._count(outcomes)
        return outcomes

    def _count(self, outcomes: Sequence[Outcome]) -> None:
        self._run.requests += len(outcomes)
        self._run.failed += sum(outcome.status != 200 for outcome in outcomes)

    def _say(self, line: str) -> None:
        self._bars.console.print(line, highlight=False)


if __name__ == "__main__":
    main()

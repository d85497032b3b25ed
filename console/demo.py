"""The demo: the example domains streamed one after another into a live system, while a client keeps asking.

It drives the system from outside, by its stream and its HTTP surface, as any user would; the figures it reports are
what that user got.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path

from rich.console import Console

from benchmarks.evaluation import Accuracy, Asker, Question, SteadyClient, read_questions, score
from cluster import builders
from cluster.errors import ClusterError
from cluster.runtime import Runtime
from configs.loader import load
from configs.settings import Settings
from console.bases import offer
from console.measured import Measured
from console.report import write_report
from console.terminal import asked_to_stop, stream_overrides
from learning.catalogue import CATALOGUE
from streaming.broker import TansuBroker
from streaming.feeding import append_all, counts, labelled_records

EXAMPLES = Path(str(files("examples"))) / "stream"
ORDER = (
    "german-dates",
    "shop-support",
    "service-log",
    "sales-sql",
    "dutch-dates",
    "access-log",
    "it-helpdesk",
    "shell-commands",
    "amount-words",
)
_MAX_TOKENS = 58
_BASE_QUESTIONS = 20
_MATRIX_QUESTIONS = 15
_FINAL_QUESTIONS = 50
_PATIENCE = "to learn a domain takes about five minutes of a core"
_LOOK_AGAIN_S = 1.0
"""How often a new domain's first answer is looked for: each look takes part of two cores from what is looked for."""


def run_demo(
    config: str,
    overrides: Sequence[str],
    folder: Path,
    stream: str,
    count: int,
    console: Console,
    *,
    keep: bool = False,
) -> Measured:
    """Run the demo and write its report into `folder`; a folder of an earlier run is begun anew. With `keep` it returns
    once it is asked to stop, and serves until then."""
    domains = list(ORDER[:count])
    questions = {domain: read_questions(_file(domain, "test"), _FINAL_QUESTIONS) for domain in domains}
    home = folder.absolute() / "home"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    with ExitStack() as stack:
        where = _where(stream, folder, stack)
        settings = load(config, [f"home={home}", "serving.port=0", *where, *overrides])
        offer(settings.base.model)
        if settings.base.model in CATALOGUE:
            console.print(f"base {settings.base.model}: {_PATIENCE}; stop it with Ctrl-C, or ask for fewer --domains")
        started = time.monotonic()
        with console.status("starting Ray, one vLLM replica and the front door"):
            runtime = stack.enter_context(Runtime(settings))
        console.print(f"ready after {time.monotonic() - started:.0f} s: {runtime.url}/v1")
        console.print(f"watch it: {runtime.url}/")
        measured = asyncio.run(_drive(settings, runtime.url, domains, questions, console))
        measured.seconds = time.monotonic() - started
        write_report(measured, folder, stream, console)
        if keep:
            console.print(f"serving on: {runtime.url}/ ; Ctrl-C stops it")
            asked_to_stop().wait()
    return measured


def _file(domain: str, part: str) -> Path:
    path = EXAMPLES / f"{domain}.{part}.jsonl"
    if not path.is_file():
        raise ClusterError(
            f"{path.name}: expected the demo's data in examples/stream, got nothing; restore the checkout"
        )
    return path


def _where(stream: str, folder: Path, stack: ExitStack) -> list[str]:
    """The overrides that put the stream where `--stream` says; `kafka` starts a development broker for it."""
    if stream == "kafka":
        broker = stack.enter_context(TansuBroker(folder / "broker"))
        stream = f"kafka://{broker.bootstrap}/anabranch-demo"
    return stream_overrides(stream)


async def _drive(
    settings: Settings, url: str, domains: list[str], questions: dict[str, list[Question]], console: Console
) -> Measured:
    measured = Measured(domains)
    asker = Asker(url, max_tokens=_MAX_TOKENS, concurrency=settings.serving.max_num_seqs)
    client = SteadyClient(Asker(url, max_tokens=_MAX_TOKENS), [q for some in questions.values() for q in some])
    asking = asyncio.create_task(client.run())
    teaching = asyncio.create_task(_teach(settings, asker, measured, domains[0], questions[domains[0]], console))
    try:
        for domain in domains:
            measured.base[domain] = await _ask(asker, measured, questions[domain][:_BASE_QUESTIONS], "base")
        console.print(f"base model: exact match {_mean(measured.base):.3f}")
        for index in range(len(domains)):
            manifest = await teaching
            asked = {d: questions[d][:_MATRIX_QUESTIONS] for d in domains[: index + 2]}
            if index + 1 < len(domains):
                # Learned while this row is measured: that takes longer than asking, and the report says if it did not.
                after = domains[index + 1]
                teaching = asyncio.create_task(_teach(settings, asker, measured, after, questions[after], console))
            await _measure_row(asker, measured, asked, manifest, console)
        for domain in domains:
            outcomes = await asker.ask_all(questions[domain], "auto")
            measured.requests += len(outcomes)
            measured.routed[domain] = score(questions[domain], outcomes)
            for outcome in outcomes:
                row_of = measured.routed_to.setdefault(domain, {})
                row_of[outcome.domain] = row_of.get(outcome.domain, 0) + 1
            measured.oracle[domain] = await _ask(asker, measured, questions[domain], None)
        measured.status = await asker.status()
    finally:
        teaching.cancel()
        client.stop()
        await asking
        await asker.close()
        await client.asker.close()
    measured.requests += client.asked
    measured.failed_requests += len(client.failures) + sum(a.failed for a in measured.routed.values())
    measured.manifests_seen = len(client.manifests)
    return measured


async def _measure_row(
    asker: Asker, measured: Measured, asked: dict[str, list[Question]], manifest: int, console: Console
) -> None:
    """Ask questions of these domains, and count the answers that a manifest after `manifest` gave."""
    row: list[float | None] = []
    for questions in asked.values():
        outcomes = await asker.ask_all(questions, "auto")
        accuracy = score(questions, outcomes)
        measured.requests += len(questions)
        measured.failed_requests += accuracy.failed
        measured.late_matrix_answers += sum(outcome.manifest > manifest for outcome in outcomes)
        row.append(accuracy.exact_match)
    measured.matrix.append(row + [None] * (len(measured.domains) - len(row)))
    console.print("  exact match now: " + "  ".join(f"{d} {v:.2f}" for d, v in zip(asked, row, strict=True)))


async def _ask(asker: Asker, measured: Measured, questions: Sequence[Question], model: str | None) -> Accuracy:
    accuracy = score(questions, await asker.ask_all(questions, model))
    measured.requests += len(questions)
    measured.failed_requests += accuracy.failed
    return accuracy


async def _teach(
    settings: Settings, asker: Asker, measured: Measured, domain: str, questions: list[Question], console: Console
) -> int:
    """Feed a domain and wait until its own adapter answers a question of it; returns the manifest that then served."""
    measured.records_fed[domain] = await asyncio.to_thread(_feed, settings, domain)
    fed = time.monotonic()
    for place in itertools.count():
        outcome = await asker.ask(questions[place % len(questions)], "auto")
        measured.requests += 1
        measured.failed_requests += outcome.status != 200
        if outcome.domain == domain:
            break
        await _fail_if_rejected(asker, domain)
        await asyncio.sleep(_LOOK_AGAIN_S)
    seconds = time.monotonic() - fed
    measured.seconds_to_first_routed_answer[domain] = seconds
    console.print(f"{domain}: served by {outcome.adapter} {seconds:.1f} s after its last record")
    return outcome.manifest


async def _fail_if_rejected(asker: Asker, domain: str) -> None:
    for each in (await asker.status()).domains:
        if each.domain == domain and each.state in ("rejected", "failed"):
            raise ClusterError(f"domain {domain}: {each.state}: {each.detail}")


def _feed(settings: Settings, domain: str) -> int:
    records = labelled_records(_file(domain, "train"), close=True)
    append_all(builders.sink(settings), records)
    return sum(counts(records).values())


def _mean(by_domain: dict[str, Accuracy]) -> float:
    return sum(accuracy.exact_match for accuracy in by_domain.values()) / len(by_domain)

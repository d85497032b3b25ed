"""Ten domains of real messages, streamed through Kafka into `anabranch up` on a small pretrained model.

One claim: routing accuracy, exact match by name and routed, and abstention (AUROC of the top score, out-of-scope
messages against in-domain ones, and how many of either are left to the base), as a client of the running service gets
them. A message of a domain that is left to the base counts as routed wrong. Needs the clinc150 data and the
stories260K model in ../shared. Run it with `python -m benchmarks.clinc`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from benchmarks.evaluation import Accuracy, Asker, Outcome, Question, read_questions, score
from benchmarks.hardware import PACKAGES, describe
from cluster import builders
from cluster.runtime import Runtime
from configs.loader import load
from learning.metrics import auroc
from serving.api import DomainList, DomainStatus
from streaming.broker import BrokerKind, broker_in, kafka_home
from streaming.feeding import append_all, labelled_records

SHARED = Path(__file__).parents[2] / "shared"
RESULT = Path(__file__).parent / "results" / "clinc.json"


def main() -> None:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", choices=["apache", "tansu"], default="apache" if kafka_home() else "tansu")
    parser.add_argument("--questions", type=int, default=300, help="test messages a domain")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    data = SHARED / "data" / "clinc150"
    if not data.is_dir():
        raise SystemExit(f"{data}: not there; the benchmark needs this data")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="anabranch-clinc-")))
        result = _run(options.broker, options.questions, data, folder, stack)
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "by_domain"}, indent=1))


def _run(kind: BrokerKind, limit: int, data: Path, folder: Path, stack: ExitStack) -> dict[str, Any]:
    domains = sorted(path.name for path in data.iterdir())
    broker = stack.enter_context(broker_in(folder / "broker", kind))
    where = ["stream.kind=kafka", f'stream.bootstrap="{broker.bootstrap}"', "stream.topic=clinc", "stream.partitions=2"]
    settings = load(Path(__file__).parent / "clinc.yaml", [f"home={folder / 'home'}", *where])
    url = stack.enter_context(Runtime(settings)).url
    started = time.monotonic()
    for domain in domains:
        append_all(builders.sink(settings), labelled_records(data / domain / "train.jsonl", close=True))
    _wait_until_served(url, domains)
    learned = time.monotonic() - started
    questions = {d: read_questions(data / d / "test.jsonl", limit) for d in domains}
    outside = read_questions(data.parent / "clinc150_oos" / "test.jsonl")
    by_name, routed, inside, outer = asyncio.run(_ask(url, questions, outside))
    return {
        "domains": domains,
        "broker": kind,
        "partitions": 2,
        "router_rows": {each.domain: each.router_rows for each in _domains(url)},
        "routing_accuracy": _mean([a.routed_right for a in routed.values()]),
        "exact_match_by_name": _mean([a.exact_match for a in by_name.values()]),
        "exact_match_routed": _mean([a.exact_match for a in routed.values()]),
        "left_to_the_base": _left(inside),
        "out_of_scope_left_to_the_base": _left(outer),
        "abstention_auroc": round(auroc(_scores(inside), _scores(outer)), 4),
        "failed_requests": sum(a.failed for a in [*by_name.values(), *routed.values()]),
        "questions": sum(len(q) for q in questions.values()),
        "out_of_scope_questions": len(outside),
        "seconds_from_first_record_to_all_served": round(learned, 1),
        "by_domain": {
            d: {
                "by_name": by_name[d].exact_match,
                "routed": routed[d].exact_match,
                "routing": routed[d].routed_right,
            }
            for d in domains
        },
        "hardware": describe(PACKAGES),
    }


def _domains(url: str) -> tuple[DomainStatus, ...]:
    return DomainList.model_validate_json(httpx.get(f"{url}/v1/domains", timeout=60).content).domains


def _wait_until_served(url: str, domains: list[str], timeout_s: float = 2400) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        states = {each.domain: each for each in _domains(url)}
        for each in states.values():
            if each.state in ("failed", "rejected"):
                raise SystemExit(f"{each.domain}: {each.state}: {each.detail}")
        done = [d for d in domains if d in states and states[d].version]
        print(f"{len(done)} of {len(domains)} domains served", end="\r", flush=True)
        if len(done) == len(domains):
            return
        time.sleep(1.0)
    raise SystemExit(f"not all domains served within {timeout_s:.0f} s")


async def _ask(
    url: str, questions: dict[str, list[Question]], outside: list[Question]
) -> tuple[dict[str, Accuracy], dict[str, Accuracy], list[Outcome], list[Outcome]]:
    asker = Asker(url, max_tokens=16)
    by_name: dict[str, Accuracy] = {}
    routed: dict[str, Accuracy] = {}
    inside: list[Outcome] = []
    for domain, asked in questions.items():
        by_name[domain] = score(asked, await asker.ask_all(asked, None))
        replies = await asker.ask_all(asked, "auto")
        routed[domain] = score(asked, replies)
        inside += replies
    outer = await asker.ask_all(outside, "auto")
    await asker.close()
    return by_name, routed, inside, outer


def _scores(replies: list[Outcome]) -> list[float]:
    return [reply.score for reply in replies if reply.score is not None]


def _left(replies: list[Outcome]) -> float:
    """Share of the replies that the base gave."""
    return _mean([float(reply.domain == "base") for reply in replies])


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 4)


if __name__ == "__main__":
    main()

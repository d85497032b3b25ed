"""What a request costs before and behind the engine, against vLLM's own server on the same base with the same adapters.

Both are started once, as a user starts them, and asked in turns: by name of an adapter and for the base, with 1, 8 and
32 requests in flight, each answer of the same length. Counted is the processor time of every process that a request
goes through, the engine's core apart: here HAProxy and the replica, there the API server. Processor time, as another's
work on the machine lengthens the clock and not that. The first token of a stream is by the clock, one request here, one
there. Before each turn nothing is asked for a while: vLLM's worker goes on looking for work for a second after its
last, on a core that the other's turn would be without. Run it with `python -m benchmarks.front_end`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from benchmarks.hardware import describe
from benchmarks.start import DOMAINS, MESSAGES, anabranch_server, publish, running, vllm_server
from configs.loader import load

RESULT = Path(__file__).parent / "results" / "front_end.json"
PACKAGES = ("ray", "vllm", "fastapi", "starlette", "uvicorn", "uvloop", "httptools", "pydantic")
IN_FLIGHT = (1, 8, 32)
TOKENS = 16
REST_S = 2.0
PROMPT = "Write the date 3. Mai 2021 as ISO."
_ENGINE = ("EngineCore", "vllm.v1.engine.core")
"""In the title of a process in which vLLM computes, here made by a fork server; all below it belongs to it."""
_ON_THE_WAY = ("ServeReplica", "haproxy")
"""In the titles of our processes that a request goes through."""


@dataclass(frozen=True)
class Server:
    """A running server: where it answers, the name it has for the base, and its first process."""

    url: str
    base: str
    root: psutil.Process
    on_the_way: Callable[[str], bool]

    def seconds(self) -> tuple[float, float]:
        """Processor seconds so far: of the processes that a request goes through, and of the engine."""
        front = engine = 0.0
        for process, title in self._family():
            times = process.cpu_times()
            if title in _ENGINE:
                engine += times.user + times.system
            elif self.on_the_way(title):
                front += times.user + times.system
        return front, engine

    def _family(self) -> list[tuple[psutil.Process, str]]:
        found = []
        for process in (self.root, *self.root.children(recursive=True)):
            try:
                found.append((process, " ".join(process.cmdline())))
            except psutil.NoSuchProcess:
                continue
        engines = {process.pid for process, title in found if any(each in title for each in _ENGINE)}
        below = {each.pid for process, _ in found if process.pid in engines for each in process.children(True)}
        return [(process, _ENGINE[0] if process.pid in engines | below else title) for process, title in found]


def main() -> None:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=256, help="in each turn with more than one in flight")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    hardware = describe(PACKAGES)
    with tempfile.TemporaryDirectory(prefix="anabranch-front-") as folder, ExitStack() as stack:
        servers = _start(Path(folder), stack)
        result = asyncio.run(measure(servers, options.rounds, options.requests))
    claim = __doc__.splitlines()[0] if __doc__ else ""
    result = {"claim": claim, "hardware": hardware, "tokens": TOKENS, **result}
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["median_ratios"], indent=1))


def _start(folder: Path, stack: ExitStack) -> dict[str, Server]:
    settings = load("demo", [f"home={folder / 'home'}"])
    adapters = publish(settings, folder, MESSAGES)
    servers = {}
    for name, (command, port) in {
        "vllm": vllm_server(settings, adapters),
        "anabranch": anabranch_server(settings),
    }.items():
        process = stack.enter_context(running((command, port), folder / f"{name}.log"))
        is_ours = name == "anabranch"
        servers[name] = Server(
            f"http://127.0.0.1:{port}",
            "base" if is_ours else settings.base.model,
            psutil.Process(process.pid),
            (lambda title: any(each in title for each in _ON_THE_WAY)) if is_ours else (lambda title: True),
        )
    return servers


async def measure(servers: Mapping[str, Server], rounds: int, requests: int) -> dict[str, Any]:
    """All figures, as they go into the result file."""
    turns: list[dict[str, Any]] = []
    firsts: list[dict[str, float]] = []
    for number in range(rounds + 1):
        for rows in ("named", "base"):
            for in_flight in IN_FLIGHT:
                count = requests if in_flight > 1 else requests // 4
                figures = {name: await _turn(each, rows, in_flight, count) for name, each in servers.items()}
                if number:
                    turns.append({"rows": rows, "in_flight": in_flight, **figures})
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    for _ in range(20 * rounds):
        firsts.append({name: await _first_token(each) for name, each in servers.items()})
    return {"median_ratios": _ratios(turns, firsts), "turns": turns, "first_token": _quantiles(firsts)}


async def _turn(server: Server, rows: str, in_flight: int, count: int) -> dict[str, float]:
    """Ask `count` times, so many at once: processor ms a request before the engine and in it, and requests a second."""
    await asyncio.sleep(REST_S)
    async with _session(in_flight) as session:
        left = iter(range(count))

        async def ask() -> None:
            for number in left:
                model = server.base if rows == "base" else DOMAINS[number % len(DOMAINS)]
                async with session.post(f"{server.url}/v1/chat/completions", json=_body(model)) as answer:
                    told = await answer.json()
                    if answer.status != 200 or told["usage"]["completion_tokens"] != TOKENS:
                        raise SystemExit(f"{server.url}: expected {TOKENS} tokens, got {answer.status} {told}")

        before, began = server.seconds(), time.monotonic()
        await asyncio.gather(*(ask() for _ in range(in_flight)))
        taken, after = time.monotonic() - began, server.seconds()
    front, engine = (1000 * (end - start) / count for start, end in zip(before, after, strict=True))
    return {"front_ms": round(front, 3), "engine_ms": round(engine, 3), "requests_per_second": round(count / taken, 2)}


async def _first_token(server: Server) -> float:
    """Seconds from a request until the first event with a text has come."""
    async with _session(1) as session:
        began = time.monotonic()
        body = {**_body(DOMAINS[0]), "stream": True}
        async with session.post(f"{server.url}/v1/chat/completions", json=body) as answer:
            async for line in answer.content:
                if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                    return time.monotonic() - began
    raise SystemExit(f"{server.url}: a stream without a text")


def _session(in_flight: int) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=in_flight), timeout=aiohttp.ClientTimeout(total=300)
    )


def _body(model: str) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "temperature": 0,
    }


def _ratios(turns: list[dict[str, Any]], firsts: list[dict[str, float]]) -> dict[str, Any]:
    """Medians over the rounds of ours by vLLM's."""
    told: dict[str, Any] = {}
    for rows in ("named", "base"):
        for in_flight in IN_FLIGHT:
            same = [turn for turn in turns if (turn["rows"], turn["in_flight"]) == (rows, in_flight)]
            figures: dict[str, float] = {}
            for figure in ("front_ms", "requests_per_second"):
                pairs = [(turn["anabranch"][figure], turn["vllm"][figure]) for turn in same]
                figures[figure] = round(statistics.median(ours / theirs for ours, theirs in pairs), 3)
            whole = [
                {name: turn[name]["front_ms"] + turn[name]["engine_ms"] for name in ("anabranch", "vllm")}
                for turn in same
            ]
            figures["all_ms"] = round(statistics.median(each["anabranch"] / each["vllm"] for each in whole), 3)
            figures |= {
                f"front_ms_{name}": round(statistics.median(turn[name]["front_ms"] for turn in same), 2)
                for name in ("anabranch", "vllm")
            }
            told[f"{rows} {in_flight}"] = figures
    told["first_token"] = round(statistics.median(each["anabranch"] / each["vllm"] for each in firsts), 3)
    return told


def _quantiles(firsts: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Milliseconds of each, at the median and where nine tenths lie below."""
    return {
        name: {
            "p50_ms": round(1000 * statistics.median(each[name] for each in firsts), 2),
            "p90_ms": round(1000 * statistics.quantiles((each[name] for each in firsts), n=10)[8], 2),
        }
        for name in firsts[0]
    }


if __name__ == "__main__":
    main()

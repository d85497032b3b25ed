"""Tokens a second of requests with adapters on a CPU: rows grouped by adapter, against vLLM's own products.

Two engines on one base with the same adapters take turns within one run, with 1, 8 and 32 requests at once, spread over
the adapters; every answer is compared, token by token. vLLM's own gives base rows beside adapter rows the last slot's
adapter, so here every row has one. Run it with `python -m benchmarks.lora_rows`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.hardware import describe
from benchmarks.slots import House
from cluster import builders
from configs.loader import load
from serving.engine import LoadedAdapter
from serving.vllm_engine import VllmEngine

RESULT = Path(__file__).parent / "results" / "lora_rows.json"
AT_ONCE = (1, 8, 32)
_PROMPTS = [[1, 7 + at, 20, 31, 12 + at % 5] for at in range(max(AT_ONCE))]


async def measure(folder: Path, rounds: int, tokens: int, adapters: int) -> dict[str, Any]:
    """All figures of one run, as they go into the result file."""
    hardware = describe()
    settings = load("demo", [f"serving.max_loras={adapters}", f"serving.max_num_seqs={max(AT_ONCE)}"])
    options = builders.engine_options(settings)
    plain = options.model_copy(update={"engine": {**options.engine, "worker_extension_cls": ""}})
    house = House(folder, settings)
    house.publish(adapters)
    engines = {
        "grouped": await VllmEngine.start(options, "{{ messages }}"),
        "plain": await VllmEngine.start(plain, "{{ messages }}"),
    }
    loaded = [LoadedAdapter(each.name, at, each.domain, 8) for at, each in enumerate(house.adapters, 1)]
    seen: dict[str, dict[int, list[float]]] = {name: {count: [] for count in AT_ONCE} for name in engines}
    alike = True
    try:
        for engine in engines.values():
            for adapter, kept in zip(loaded, house.adapters, strict=True):
                await engine.load(adapter, kept.path)
        for turn in range(rounds + 1):
            for count in AT_ONCE:
                told = {}
                for name in sorted(engines, reverse=turn % 2 == 1):
                    began = time.perf_counter()
                    told[name] = await asyncio.gather(
                        *(_tokens(engines[name], loaded[at % adapters], at, tokens) for at in range(count))
                    )
                    # The first turn warms up.
                    if turn:
                        seen[name][count].append(count * tokens / (time.perf_counter() - began))
                alike &= told["grouped"] == told["plain"]
    finally:
        for engine in engines.values():
            await engine.stop()
    ratios = {
        str(count): [one / other for one, other in zip(seen["grouped"][count], seen["plain"][count], strict=True)]
        for count in AT_ONCE
    }
    return {
        "claim": (__doc__ or "").splitlines()[0],
        "hardware": hardware,
        "adapters": adapters,
        "tokens_an_answer": tokens,
        "tokens_a_second": {
            name: {str(count): round(statistics.median(rates), 1) for count, rates in by_count.items()}
            for name, by_count in seen.items()
        },
        "ratios": {count: [round(each, 2) for each in every] for count, every in ratios.items()},
        "median_ratios": {count: round(statistics.median(every), 2) for count, every in ratios.items()},
        "same_tokens": alike,
    }


async def _tokens(engine: VllmEngine, adapter: LoadedAdapter, at: int, tokens: int) -> list[int]:
    body = {"prompt": _PROMPTS[at], "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    answer = await engine.generate(engine.parse("completion", {**body, "return_token_ids": True}), adapter)
    if not isinstance(answer, dict):
        raise TypeError("expected a whole answer, got a stream")
    found: list[int] = answer["choices"][0]["token_ids"]
    return found


def main() -> None:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--adapters", type=int, default=4)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="anabranch-lora-rows-") as folder:
        result = asyncio.run(measure(Path(folder), options.rounds, options.tokens, options.adapters))
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

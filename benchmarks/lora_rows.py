"""Tokens a second of requests with adapters on a CPU: rows grouped by adapter, against vLLM's own products.

Two engines on one base with the same adapters take turns within one run, with 1, 8 and 32 requests at once, spread over
the adapters; every answer is compared, token by token. vLLM's own gives base rows beside adapter rows the last slot's
adapter, so here every row has one. What the base makes without any adapter is the most that either could. Bases: the
demo's, 160 wide, with adapters in four of its six layers, and a drawn Qwen3, 256 wide, with adapters in all of its
four. Run it with `python -m benchmarks.lora_rows`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.hardware import describe
from benchmarks.slots import House
from cluster import builders
from configs.loader import load
from learning.catalogue import located
from serving.engine import LoadedAdapter
from serving.vllm_engine import VllmEngine

RESULT = Path(__file__).parent / "results" / "lora_rows.json"
AT_ONCE = (1, 8, 32)
_PROMPTS = [[1, 7 + at, 20, 31, 12 + at % 5] for at in range(max(AT_ONCE))]


async def measure(folder: Path, base: Sequence[str], rounds: int, tokens: int, adapters: int) -> dict[str, Any]:
    """The figures of one base, which `base` sets."""
    settings = load("demo", [f"serving.max_loras={adapters}", f"serving.max_num_seqs={max(AT_ONCE)}", *base])
    options = builders.engine_options(settings)
    plain = options.model_copy(update={"engine": {**options.engine, "worker_extension_cls": ""}})
    house = House(folder, settings)
    house.publish(adapters)
    engines = {
        "grouped": await VllmEngine.start(options, "{{ messages }}"),
        "plain": await VllmEngine.start(plain, "{{ messages }}"),
    }
    loaded = [LoadedAdapter(each.name, at, each.domain, 8) for at, each in enumerate(house.adapters, 1)]
    ways = [*engines, "base"]
    seen: dict[str, dict[int, list[float]]] = {name: {count: [] for count in AT_ONCE} for name in ways}
    alike = True
    try:
        for engine in engines.values():
            for adapter, kept in zip(loaded, house.adapters, strict=True):
                await engine.load(adapter, kept.path)
        for turn in range(rounds + 1):
            for count in AT_ONCE:
                told = {}
                for name in sorted(ways, reverse=turn % 2 == 1):
                    own = [None] if name == "base" else loaded
                    engine = engines.get(name, engines["grouped"])
                    began = time.perf_counter()
                    told[name] = await asyncio.gather(
                        *(_tokens(engine, own[at % len(own)], at, tokens) for at in range(count))
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
        "tokens_a_second": {
            name: {str(count): round(statistics.median(rates), 1) for count, rates in by_count.items()}
            for name, by_count in seen.items()
        },
        "ratios": {count: [round(each, 2) for each in every] for count, every in ratios.items()},
        "median_ratios": {count: round(statistics.median(every), 2) for count, every in ratios.items()},
        "same_tokens": alike,
    }


async def _tokens(engine: VllmEngine, adapter: LoadedAdapter | None, at: int, tokens: int) -> list[int]:
    body = {"prompt": _PROMPTS[at], "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    answer = await engine.generate(engine.parse("completion", {**body, "return_token_ids": True}), adapter)
    if not isinstance(answer, dict):
        raise TypeError("expected a whole answer, got a stream")
    found: list[int] = answer["choices"][0]["token_ids"]
    return found


def _drawn_base(folder: Path) -> list[str]:
    """Settings of a base without a purpose but its shape, with the demo's tokenizer."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    shutil.copytree(located(load("demo").base.model), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = Qwen3Config(
        vocab_size=262,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=512,
        # Wide, so that no two tokens are as likely but for rounding.
        initializer_range=0.1,
        bos_token_id=1,
        eos_token_id=2,
        dtype="float32",
    )
    Qwen3ForCausalLM(config).save_pretrained(str(folder))  # type: ignore[no-untyped-call]
    return [f"base.model={folder}", "learner.frozen_layers=0", "features.layers=[0]"]


def main() -> None:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--adapters", type=int, default=4)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    result: dict[str, Any] = {
        "claim": (__doc__ or "").splitlines()[0],
        "hardware": describe(),
        "adapters": options.adapters,
        "tokens_an_answer": options.tokens,
    }
    with tempfile.TemporaryDirectory(prefix="anabranch-lora-rows-") as name:
        folder = Path(name)
        for base, overrides in {"demo": [], "drawn": _drawn_base(folder / "base")}.items():
            (folder / base).mkdir()
            result[base] = asyncio.run(
                measure(folder / base, overrides, options.rounds, options.tokens, options.adapters)
            )
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

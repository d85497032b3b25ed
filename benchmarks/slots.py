"""Two hundred domains on four slots: what turns cost, how long rare domains wait, how fast one more is served.

Clients ask for domains by Zipf's law, each again as soon as it is answered, more of them than the engine computes at
once. The same load meets, in turns within one run, a service with the gate and few places in memory, and one without a
gate on an engine that has all adapters in memory: vLLM by itself, at its best. Both have four slots for requests.
Beside the load one more domain is published in each turn of the gated service. In one process, without HTTP, on the
demo's base; adapters are drawn at random, as what they say is of no interest. Run it with `python -m benchmarks.slots`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.hardware import describe
from cluster import builders
from configs.loader import load
from configs.settings import Settings
from learning.catalogue import located
from registry.adapters import Adapter, AdapterFacts
from registry.manifest import BaseRevision, Manifest
from registry.registry import Registry
from serving.options import EngineKnobs
from serving.service import RoutedService

RESULT = Path(__file__).parent / "results" / "slots.json"
_RANK = 8
_BASE = BaseRevision(model="demo", digest="b" * 64)


@dataclass(frozen=True)
class ManyDomains:
    """Domains, slots, places in memory, clients, tokens of an answer on average, seconds of a turn, turns."""

    domains: int = 200
    slots: int = 4
    places: int = 32
    clients: int = 96
    tokens: int = 16
    seconds: float = 20.0
    rounds: int = 5


@dataclass
class AnsweredLoad:
    """Of one service, over all turns: tokens a second in each, and by the domain's rank how long its requests took."""

    rates: list[float] = field(default_factory=list)
    waited: dict[int, list[float]] = field(default_factory=dict)
    failed: int = 0
    publications: list[float] = field(default_factory=list)

    def p99(self, ranks: range) -> float:
        """Seconds, of the requests for these domains."""
        return float(np.quantile([each for rank in ranks for each in self.waited.get(rank, ())], 0.99))


class House:
    """A registry with as many adapters as are asked for, all of the same shape and none like another."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.registry = Registry(folder / "registry", writer=True)
        self._folder, self._random = folder, np.random.default_rng(0)
        self._pattern = _pattern(settings, folder / "pattern")
        self._epoch = self.registry.begin_epoch()
        self.adapters: list[Adapter] = []

    def publish(self, count: int) -> int:
        """Put `count` more domains into force; returns the manifest's number."""
        for _ in range(count):
            self.adapters.append(self._drawn(f"domain-{len(self.adapters):04}"))
        current = self.registry.current()
        manifest = Manifest(
            number=current.number + 1 if current else 1,
            parent=current.number if current else None,
            parent_digest=current.digest() if current else "",
            created_at=datetime.now(UTC),
            base=_BASE,
            routes={adapter.domain: adapter.route() for adapter in self.adapters},
        )
        parent = self.registry.head().snapshot_digest
        self.registry.commit({}, [], epoch=self._epoch, parent=parent, manifest=manifest, weights=None)
        return manifest.number

    def _drawn(self, domain: str) -> Adapter:
        folder = self._folder / domain
        folder.mkdir()
        (folder / "adapter_config.json").write_bytes((self._pattern / "adapter_config.json").read_bytes())
        drawn = {
            name: self._random.normal(0.0, 0.05, weight.shape).astype(weight.dtype)
            for name, weight in load_file(self._pattern / "adapter_model.safetensors").items()
        }
        save_file(drawn, folder / "adapter_model.safetensors")
        facts = AdapterFacts(
            domain=domain,
            version=1,
            status="accepted",
            rank=_RANK,
            base_digest=_BASE.digest,
            learner="drawn",
            train_examples=0,
            held_out_examples=0,
            created_at=datetime.now(UTC),
        )
        return self.registry.add_adapter(domain, 1, folder, facts)


def _pattern(settings: Settings, folder: Path) -> Path:
    """An adapter where the learner of these settings puts its own."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base, chosen = AutoModelForCausalLM.from_pretrained(located(settings.base.model)), settings.learner
    layers = list(range(chosen.frozen_layers, base.config.num_hidden_layers))
    config = LoraConfig(r=_RANK, target_modules=list(chosen.targets), layers_to_transform=layers)
    get_peft_model(base, config).save_pretrained(str(folder))
    return folder


async def measure(folder: Path, wanted: ManyDomains) -> dict[str, Any]:
    """All figures of one run, as they go into the result file."""
    hardware = describe()
    gated = _demo(wanted.slots, wanted.places)
    # The engine has one slot more than it is asked for, which the gate keeps for probes.
    alone = _demo(wanted.slots - 1, wanted.domains + 100)
    house = House(folder, gated)
    house.publish(wanted.domains)
    no_gate = EngineKnobs(max_loras=10**6, max_cpu_loras=10**6, max_lora_rank=16, max_num_seqs=10**6)
    services = {
        "gated": await _service(gated, gated.serving, house),
        "alone": await _service(alone, no_gate, house),
    }
    seen = {name: AnsweredLoad() for name in services}
    try:
        for turn in range(wanted.rounds + 1):
            for name in sorted(services, reverse=turn % 2 == 1):
                # The first turn of each warms it up.
                into = seen[name] if turn else AnsweredLoad()
                await _turn(services[name], into, house, wanted, turn, publishes=name == "gated")
    finally:
        for service in services.values():
            await service.stop()
    health = services["gated"].metrics
    return {"claim": (__doc__ or "").splitlines()[0], "hardware": hardware, "load": asdict(wanted)} | _figures(
        seen, wanted, health.text().decode()
    )


def _demo(slots: int, places: int) -> Settings:
    return load("demo", [f"serving.max_loras={slots}", f"serving.max_cpu_loras={places}"])


async def _service(settings: Settings, knobs: EngineKnobs, house: House) -> RoutedService:
    """One with the engine of these settings, and a gate by `knobs`."""
    from serving.vllm_engine import VllmEngine

    template = builders.template(settings)
    engine = await VllmEngine.start(builders.engine_options(settings), template.chat_template)
    service = RoutedService(engine, house.registry, _unasked, template, knobs, _BASE)
    await service.catch_up()
    return service


def _unasked(manifest: Manifest) -> Any:
    raise AssertionError("nothing is routed by content here")


async def _turn(
    service: RoutedService, seen: AnsweredLoad, house: House, wanted: ManyDomains, turn: int, publishes: bool
) -> None:
    """`wanted.seconds` of load, and what was answered within them."""
    draw, until = random.Random(turn), time.monotonic() + wanted.seconds
    weights = [1 / rank for rank in range(1, wanted.domains + 1)]
    # Another order of popularity than of publication.
    names = [house.adapters[at].domain for at in np.random.default_rng(1).permutation(wanted.domains)]
    tokens = 0

    async def client() -> None:
        nonlocal tokens
        while (asked := time.monotonic()) < until:
            rank = draw.choices(range(wanted.domains), weights)[0]
            count = draw.randint(wanted.tokens // 2, 3 * wanted.tokens // 2)
            body = {"model": names[rank], "prompt": "the dog", "max_tokens": count, "ignore_eos": True, "stop": []}
            try:
                await service.complete(body)
            except Exception:
                seen.failed += 1
                continue
            answered = time.monotonic()
            seen.waited.setdefault(rank, []).append(answered - asked)
            tokens += count * (answered <= until)

    clients = [asyncio.create_task(client()) for _ in range(wanted.clients)]
    if publishes:
        await asyncio.sleep(wanted.seconds / 3)
        number = await asyncio.to_thread(house.publish, 1)
        began = time.monotonic()
        await service.prepare(number)
        await service.commit(number)
        await service.complete({"model": house.adapters[-1].domain, "prompt": "the dog", "max_tokens": 1})
        seen.publications.append(time.monotonic() - began)
    await asyncio.gather(*clients)
    seen.rates.append(tokens / wanted.seconds)


def _figures(seen: dict[str, AnsweredLoad], wanted: ManyDomains, metrics: str) -> dict[str, Any]:
    popular, rare = range(10), range(wanted.domains // 2, wanted.domains)
    ratios = [one / other for one, other in zip(seen["gated"].rates, seen["alone"].rates, strict=True)]
    moves = [line for line in metrics.splitlines() if line.startswith("anabranch_adapter_moves_total")]
    return {
        "tokens_a_second": {name: [round(rate, 1) for rate in each.rates] for name, each in seen.items()},
        "gated_over_alone": {
            "rounds": [round(each, 3) for each in ratios],
            "median": round(float(np.median(ratios)), 3),
        },
        "p99_seconds": {
            name: {"popular": round(each.p99(popular), 2), "rare": round(each.p99(rare), 2)}
            for name, each in seen.items()
        },
        "answered": {name: sum(map(len, each.waited.values())) for name, each in seen.items()},
        "failed": {name: each.failed for name, each in seen.items()},
        "seconds_from_publication_to_answer": [round(each, 2) for each in seen["gated"].publications],
        "moves": {line.split('"')[1]: float(line.split()[-1]) for line in moves},
    }


def main() -> None:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in asdict(ManyDomains()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = vars(parser.parse_args())
    out: Path = options.pop("out")
    with tempfile.TemporaryDirectory(prefix="anabranch-slots-") as folder:
        result = asyncio.run(measure(Path(folder), ManyDomains(**options)))
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

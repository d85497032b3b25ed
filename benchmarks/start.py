"""How long `anabranch up laptop` takes to answer, against vLLM's own server on the same base with two adapters.

Both are started in turns on one machine, each as a user starts it, and each serves the same base and the same two LoRA
adapters. Measured from the start of the command until each of the two adapters has answered a request. Caches are warm:
the first start of each is thrown away. What the learning side loads behind, at low priority, is not waited for. Run it
with `python -m benchmarks.start`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from actors.change import Change
from actors.observation import Observation, RowKey, example_digest
from benchmarks.hardware import describe
from cluster import builders, control_actors
from configs.loader import load
from configs.settings import Settings
from learning.statistics import Statistics
from registry.adapters import AdapterFacts
from streaming.broker import free_port
from streaming.source import TopicPartition

RESULT = Path(__file__).parent / "results" / "start.json"
DOMAINS = ("news", "sport")
MESSAGES = {domain: [f"{domain} {number}" for number in range(64)] for domain in DOMAINS}
_TIMEOUT_S = 300.0


def main() -> None:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="anabranch-start-") as folder:
        result = measure(Path(folder), options.rounds)
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """All figures of one run, as they go into the result file; seconds, in the order measured."""
    hardware = describe()
    settings = load("laptop", [f"home={folder / 'home'}"])
    adapters = publish(settings, folder, MESSAGES)
    seconds: dict[str, list[float]] = {"vllm": [], "anabranch": []}
    for number in range(rounds + 1):
        taken = {
            "vllm": _seconds_to_answers(vllm_server(settings, adapters), folder / "vllm.log"),
            "anabranch": _seconds_to_answers(anabranch_server(settings), folder / "anabranch.log"),
        }
        print(f"round {number}: {taken}", file=sys.stderr, flush=True)
        if number:
            for name, value in taken.items():
                seconds[name].append(round(value, 2))
    ratios = [ours / theirs for ours, theirs in zip(seconds["anabranch"], seconds["vllm"], strict=True)]
    return {
        "claim": __doc__.splitlines()[0] if __doc__ else "",
        "hardware": hardware,
        "seconds": seconds,
        "median_seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "ratios": [round(ratio, 3) for ratio in ratios],
        "median_ratio": round(statistics.median(ratios), 3),
    }


def publish(settings: Settings, folder: Path, messages: Mapping[str, Sequence[str]]) -> dict[str, Path]:
    """Publish untrained adapters with a router that has learned each domain's messages, on the settings' home; returns
    the adapters' folders by domain."""
    registry = builders.registry(settings)
    router = control_actors.router(settings)
    extractor = builders.extractor(settings)
    template = builders.template(settings)
    texts = [template.render([{"role": "user", "content": text}]) for own in messages.values() for text in own]
    domains = [domain for domain, own in messages.items() for _ in own]
    stream = TopicPartition("start", 0)
    rows = tuple(
        RowKey(domain, example_digest(domain, str(place)), stream, place, False) for place, domain in enumerate(domains)
    )
    statistics = Statistics.of(extractor.extract(texts), domains, extractor.fingerprint)
    router.observe(Observation({stream: (0, len(rows))}, rows, statistics=statistics))
    folders: dict[str, Path] = {}
    for domain in messages:
        _write_adapter(settings, folder / domain)
        facts = AdapterFacts(
            domain=domain,
            version=1,
            status="accepted",
            rank=settings.learner.adapter_rank,
            base_digest=builders.base_revision(settings).digest,
            learner="none",
            train_examples=0,
            held_out_examples=0,
            created_at=datetime.now(UTC),
        )
        adapter = registry.add_adapter(domain, 1, folder / domain, facts)
        router.seal(domain, 1, {stream: len(rows)})
        router.publish(Change(reason=f"{domain} added", puts={domain: adapter.name}))
        folders[domain] = adapter.path
    return folders


def _write_adapter(settings: Settings, folder: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    chosen = settings.learner
    base = AutoModelForCausalLM.from_pretrained(settings.base.model)
    layers = list(range(chosen.frozen_layers, base.config.num_hidden_layers))
    config = LoraConfig(r=chosen.adapter_rank, target_modules=list(chosen.targets), layers_to_transform=layers)
    get_peft_model(base, config).save_pretrained(str(folder))


def vllm_server(settings: Settings, adapters: dict[str, Path]) -> tuple[list[str], int]:
    """vLLM's server with the engine arguments of a replica, and its port."""
    port, serving = free_port(), settings.serving
    arguments = {
        "model": settings.base.model,
        "dtype": settings.base.dtype,
        "max-model-len": settings.base.max_model_len,
        "max-loras": serving.max_loras,
        "max-cpu-loras": serving.max_cpu_loras,
        "max-lora-rank": serving.max_lora_rank,
        "max-num-seqs": serving.max_num_seqs,
        "kv-cache-memory-bytes": serving.kv_cache_bytes,
        "host": "127.0.0.1",
        "port": port,
    }
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    named = [f"{domain}={path}" for domain, path in adapters.items()]
    module = "vllm.entrypoints.openai.api_server"
    return [sys.executable, "-m", module, *words, "--enforce-eager", "--enable-lora", "--lora-modules", *named], port


def anabranch_server(settings: Settings) -> tuple[list[str], int]:
    """The preset of the settings' name on their home, and its port."""
    port = free_port()
    sets = ["--set", f"home={settings.home}", "--set", f"serving.port={port}"]
    return [sys.executable, "-m", "console.cli", "up", settings.name, *sets], port


def _seconds_to_answers(server: tuple[Sequence[str], int], log: Path) -> float:
    """Seconds from the command's start until both adapters have answered; everything it started is ended."""
    started = time.monotonic()
    with running(server, log):
        return time.monotonic() - started


@contextmanager
def running(server: tuple[Sequence[str], int], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server and wait until both adapters have answered; everything that it started is ended afterwards."""
    command, port = server
    environment = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **os.environ}
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
    try:
        for domain in DOMAINS:
            while not _answers(port, domain):
                if process.poll() is not None or time.monotonic() - started > _TIMEOUT_S:
                    raise SystemExit(f"{command[2]} does not answer:\n{log.read_text()[-2000:]}")
                time.sleep(0.1)
        yield process
    finally:
        _end(process)


def _answers(port: int, domain: str) -> bool:
    body = {"model": domain, "prompt": "one", "max_tokens": 1, "temperature": 0}
    with suppress(httpx.HTTPError):
        return httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=60).status_code == 200
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(signal.SIGTERM)
    _, left = psutil.wait_procs(family, timeout=60)
    for each in left:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(left, timeout=20)
    process.wait()


if __name__ == "__main__":
    main()

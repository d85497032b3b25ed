"""OSFT on two replicas: the base changes under a steady stream of requests, forth and back, and none fails."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoTokenizer

from cluster import builders
from configs.loader import load
from learning.base_delta import RevisableModel
from learning.template import PromptTemplate
from tests.e2e.system import System, run

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.timeout(900)]

FIRST, SECOND = "german-dates", "service-log"
TOKENS = 24
SETTINGS = [
    "learner.kind=osft",
    "learner.learning_rate=2e-3",
    "learner.max_steps=40",
    "learner.patience=null",
    "learner.evaluate_every=20",
    # What is forgotten is another test's matter.
    "gate.exact_tolerance=1.0",
    "gate.loss_tolerance=1000.0",
    "features.expansion=256",
    "serving.replicas=2",
    "serving.num_cpus=0.3",
    "learner.num_cpus=0.3",
]


class Asking:
    """Two clients that ask by name, routed and of the base, one streamed in three, until they are stopped."""

    def __init__(self, url: str, prompts: list[str]) -> None:
        self.failures: list[str] = []
        self.answers: list[tuple[str, str, str, str]] = []
        """Of those that were not streamed: base, adapter, prompt and text."""
        self._url, self._prompts = url, prompts
        self._done = threading.Event()

    @contextmanager
    def run(self) -> Iterator[Asking]:
        threads = [threading.Thread(target=self._ask, args=(start,)) for start in (0, 1)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._done.set()
            for thread in threads:
                thread.join(120)

    def _ask(self, start: int) -> None:
        models = itertools.cycle(["auto", "base", "auto", FIRST])
        with httpx.Client(timeout=120) as client:
            for count in itertools.count(start):
                if self._done.is_set():
                    return
                prompt, stream = self._prompts[count % len(self._prompts)], count % 3 == 2
                body: dict[str, Any] = {"model": next(models), "temperature": 0, "max_tokens": TOKENS, "stream": stream}
                body["messages"] = [{"role": "user", "content": prompt}]
                try:
                    answer = client.post(f"{self._url}/v1/chat/completions", json=body)
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    continue
                if answer.status_code != 200 and not (answer.status_code == 404 and body["model"] == FIRST):
                    self.failures.append(answer.text)
                elif answer.status_code == 200 and not stream:
                    text = answer.json()["choices"][0]["message"]["content"]
                    base = answer.json()["anabranch"]["base"]
                    self.answers.append((base, answer.headers["x-anabranch-adapter"], prompt, text))


def wait_until_everywhere(system: System, domain: str, before: str | None) -> None:
    """Until a domain has another version, and every replica answers from the manifest that has it: a version is in the
    registry before the first replica is led to it."""

    def there() -> bool:
        status = system.status()
        version = next((each["version"] for each in status["domains"] if each["domain"] == domain), None)
        led = {each["manifest"] for each in status["replicas"].values()}
        return version not in (None, before) and led == {status["manifest"]}

    system.wait_for(there, 240, f"another version of {domain} on every replica")


@torch.no_grad()
def greedy(model: RevisableModel, template: PromptTemplate, tokenizer: Any, prompt: str) -> str:
    ids = template.encode_prompt(template.render([{"role": "user", "content": prompt}]))
    generate: Any = model.model.generate
    out = generate(torch.tensor([ids]), max_new_tokens=TOKENS, do_sample=False)
    return str(tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)).split(template.terminator or "\0")[0]


def test_the_base_changes_forth_and_back_under_load(tmp_path: Path, repository: Path) -> None:
    stream = repository / "examples" / "stream"
    trainings = ((FIRST, slice(0, 120)), (SECOND, slice(0, 120)), (FIRST, slice(120, 240)))
    prompts = [
        json.loads(line)["prompt"]
        for domain in (FIRST, SECOND)
        for line in (stream / f"{domain}.test.jsonl").read_text().splitlines()[:6]
    ]
    with System("demo", tmp_path / "home", SETTINGS) as system, Asking(system.url, prompts).run() as asking:
        versions: list[str] = []
        bases: list[str] = []
        for domain, rows in trainings:
            before = system.domain(domain).get("version")
            part = tmp_path / "part.jsonl"
            part.write_text("".join((stream / f"{domain}.train.jsonl").read_text().splitlines(True)[rows]))
            system.feed(part)
            wait_until_everywhere(system, domain, before)
            versions.append(system.domain(FIRST)["version"])
            bases.append(system.ask(prompts[0], "base").json()["anabranch"]["base"])
        assert len(set(versions)) == len(set(bases)) == 3
        done = run("domains", "rollback", FIRST, "--url", system.url)
        assert done.returncode == 0, done.stderr
        wait_until_everywhere(system, FIRST, versions[2])
        back = system.ask(prompts[0], FIRST)
        assert (back.headers["x-anabranch-adapter"], back.json()["anabranch"]["base"]) == (versions[1], bases[1])
        assert system.status()["trouble"] is None and len(system.status()["replicas"]) == 2
    assert asking.failures == []
    assert {base for base, *_ in asking.answers} >= {"", *bases}
    check_wholly_from_their_base(asking.answers, tmp_path / "home")


def check_wholly_from_their_base(answers: list[tuple[str, str, str, str]], home: Path) -> None:
    """Each answer is what the base that it names gives greedily: no version here has an adapter."""
    settings = load("demo")
    model = RevisableModel(settings.base.model, "float32", "cpu")
    template, tokenizer = builders.template(settings), AutoTokenizer.from_pretrained(settings.base.model)
    for base in {base for base, *_ in answers}:
        model.stand_on(home / "registry" / "bases" / base if base else None)
        asked = {(prompt, text) for of, _, prompt, text in answers if of == base}
        for prompt in {prompt for prompt, _ in asked}:
            texts = {text for of, text in asked if of == prompt}
            assert texts == {greedy(model, template, tokenizer, prompt)}, (base, prompt)

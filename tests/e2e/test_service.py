"""A running service met through its front door: the official client, the commands, bad records, clean shutdown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from learning.template import PromptTemplate
from tests.e2e.system import System, run

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.timeout(600)]

DOMAIN = "german-dates"
PROMPT = "Lieferung bis 05. August 1967"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("service")
    lines = (repository / "examples" / "stream" / f"{DOMAIN}.train.jsonl").read_text().splitlines()[:200]
    file = folder / "domain.jsonl"
    file.write_text("\n".join(lines) + "\n")
    quick = ["learner.max_steps=40", "learner.patience=null", "learner.evaluate_every=20", "features.expansion=256"]
    with System("demo", folder / "home", quick) as running:
        running.feed(file)
        running.wait_until_published(DOMAIN)
        yield running


def test_official_client(system: System) -> None:
    client = openai.OpenAI(base_url=f"{system.url}/v1", api_key="none")
    assert {"auto", "base", DOMAIN} <= {model.id for model in client.models.list()}
    messages = [{"role": "user", "content": PROMPT}]
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=messages, temperature=0, max_tokens=24
    )
    version = system.domain(DOMAIN)["version"]
    assert raw.headers["x-anabranch-domain"] == DOMAIN
    assert raw.headers["x-anabranch-adapter"] == version == raw.parse().model
    whole = raw.parse().choices[0].message.content
    pieces = client.chat.completions.create(
        model="auto", messages=messages, temperature=0, max_tokens=24, stream=True, logprobs=True
    )
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == whole
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=messages)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "x" * 5000}])


def test_bad_records_go_to_the_dead_letters(system: System) -> None:
    before = system.status()["ingest"][0]
    refused = httpx.post(f"{system.url}/v1/records", json={"domain": "Bad Slug", "prompt": "a", "completion": "b"})
    assert refused.status_code == 400
    # Past the front door's own check, straight into the log.
    from cluster import builders
    from configs.loader import load

    settings = load("demo", [f"home={system.home}"])
    sink = builders.sink(settings)
    bad = {"no json": b"{", "empty": json.dumps({"domain": DOMAIN, "prompt": "a", "completion": ""}).encode()}
    for key, value in bad.items():
        sink.append_raw(value, (), key.encode())
    sink.flush()
    sink.close()
    seen = before["dead_letters"] + len(bad)
    system.wait_for(lambda: system.status()["ingest"][0]["dead_letters"] == seen, 30, "dead letters")
    listed = run("dead-letters", "list", "--config", "demo", "--set", f"home={system.home}", "--json")
    reasons = {json.loads(line)["reason"] for line in listed.stdout.splitlines()}
    assert {"undecodable", "empty-completion"} <= reasons
    assert system.status()["ingest"][0]["trouble"] == {}


def test_commands(system: System) -> None:
    at = ["--url", system.url]
    assert DOMAIN in run("status", *at).stdout
    assert json.loads(run("status", "--json", *at).stdout)["manifest"] >= 1
    assert DOMAIN in run("domains", "list", *at).stdout
    assert json.loads(run("route", PROMPT, "--json", *at).stdout)["domain"] == DOMAIN
    assert run("domains", "pin", DOMAIN, *at).returncode == 0
    assert system.domain(DOMAIN)["pinned"]
    assert run("domains", "pin", DOMAIN, "--off", *at).returncode == 0
    assert run("domains", "rollback", DOMAIN, *at).returncode == 2
    assert run("domains", "show", "nobody", *at).returncode == 2


def test_a_version_is_exported_and_added_as_one_made_elsewhere(
    system: System, repository: Path, tmp_path: Path
) -> None:
    """What PEFT says with the exported folder, what the merged model says, and what is served of it is one text."""
    base, home = repository / "examples" / "base", ["--home", str(system.home)]
    out, merged = tmp_path / "out", tmp_path / "merged"
    for command, folder in (("export", out), ("merge", merged)):
        done = run("adapters", command, DOMAIN, str(folder), *home)
        assert done.returncode == 0, done.stderr
    rows = (repository / "examples" / "stream" / f"{DOMAIN}.train.jsonl").read_text().splitlines()[200:280]
    file = tmp_path / "examples.jsonl"
    fields = [{**json.loads(row), "domain": None} for row in rows]
    file.write_text("".join(json.dumps({**each, "id": f"added-{each['id']}"}) + "\n" for each in fields))
    arguments = ["adapters", "add", str(out), "--domain", "added", "--examples", str(file), "--version-note", "by hand"]
    to = ["--config", "demo", "--set", f"home={system.home}", "--url", system.url]
    done = run(*arguments, *to)
    assert done.returncode == 0, done.stderr
    system.wait_until_published("added")
    version = system.domain("added")["versions"][0]
    assert version["reason"].endswith("; by hand") and version["figures"]["steps"] == 0
    assert "imported" in run("adapters", "list", *home).stdout
    template = PromptTemplate(str(base))
    tokenizer = AutoTokenizer.from_pretrained(base)
    plain = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), out)
    for row in fields[:6]:
        ids = tokenizer(template.render([{"role": "user", "content": row["prompt"]}]), add_special_tokens=False)
        tokens = torch.tensor([ids["input_ids"]])
        texts = {
            system.ask(row["prompt"], name, 24).json()["choices"][0]["message"]["content"] for name in (DOMAIN, "added")
        }
        for model in (plain.eval(), adapted.eval()):
            found = model.generate(tokens, max_new_tokens=24, do_sample=False)[0, tokens.shape[1] :]
            texts.add(tokenizer.decode(found, skip_special_tokens=True))
        assert len(texts) == 1, texts
    again = run(*arguments, *to)
    assert again.returncode == 0 and "is in service, with this adapter" in again.stdout
    assert run("domains", "remove", "added", "--url", system.url).returncode == 0


def test_metrics(system: System) -> None:
    text = httpx.get(f"{system.url}/metrics", timeout=60).text
    assert f'anabranch_domain_examples{{domain="{DOMAIN}"}} 200.0' in text
    assert "vllm:" in text


def test_removed_domain_is_gone(system: System) -> None:
    assert run("domains", "remove", DOMAIN, "--url", system.url).returncode == 0
    assert system.ask(PROMPT, DOMAIN).status_code == 404
    assert system.ask(PROMPT).headers["x-anabranch-domain"] == "base"
    assert system.domain(DOMAIN) == {}


def test_nothing_is_left_behind(system: System) -> None:
    family = system.family()
    assert len(family) > 3
    system.stop()
    assert not [process for process in family if process.is_running()]

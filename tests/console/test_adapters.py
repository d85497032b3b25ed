"""Adapters at the command line: added to a running system, listed, exported and merged from a home that lies still."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner, Result

from console.cli import app
from learning.adapter_check import AdapterCheck
from learning.base_delta import save_base_delta
from learning.checkpoint import base_digest
from learning.errors import LearningError
from registry.adapters import Adapter, AdapterFacts, Parity
from registry.disk import Disk
from registry.manifest import BaseRevision, Manifest
from registry.offers import Offers
from registry.registry import Registry
from tests.console.answers import FrontDoor, front_door
from tests.learning.bases import write_base
from tests.learning.elsewhere import CONFIG, CORRUPT, WEIGHTS, pickle_beside, write_adapter

ANSWER = {"domain": "news", "manifest": 3, "reason": "news@offer-x is taken", "ids": ["a"] * 500}
PROMPT = torch.tensor([[0, 40, 41, 42, 43]])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"), "llama")


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("made") / "adapter", base, size=0.3)


@pytest.fixture
def adapter(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "adapter"))


class Life:
    """A home in which versions of news are in service, one after another."""

    def __init__(self, home: Path, base: Path) -> None:
        self.home, self.base = home, base
        self.registry = Registry(home / "registry")
        self.digest = base_digest(base)

    def add(
        self, folder: Path | None, version: int = 1, status: str = "accepted", delta: Path | None = None
    ) -> Adapter:
        rank = json.loads((folder / CONFIG).read_text())["r"] if folder else 0
        facts = AdapterFacts(
            domain="news",
            version=version,
            status=status,  # type: ignore[arg-type]
            reason="as the gate said",
            rank=rank,
            base_digest=self.digest,
            base_delta=self.registry.bases.put(delta) if delta else "",
            learner="lora",
            parity=(Parity(ids=(7, 8), prompt_tokens=1, loss=0.5),),
            train_examples=9,
            held_out_examples=3,
            created_at=datetime.now(UTC),
        )
        return self.registry.add_adapter("news", version, folder, facts, b'{"private": 1}\n')

    def publish(self, adapter: Adapter) -> None:
        current = self.registry.current()
        manifest = Manifest(
            number=(current.number if current else 0) + 1,
            parent=current.number if current else None,
            parent_digest=current.digest() if current else "",
            created_at=datetime.now(UTC),
            base=BaseRevision(model=str(self.base), digest=self.digest, delta=adapter.facts.base_delta),
            routes={"news": adapter.route()},
        )
        epoch = self.registry.epoch() or self.registry.begin_epoch()
        self.registry.commit({}, [], epoch=epoch, parent=self.registry.head().snapshot_digest, manifest=manifest)


@pytest.fixture
def life(tmp_path: Path, base: Path) -> Life:
    return Life(tmp_path / "home", base)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["adapters", *arguments])


def done(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, (result.output, result.stderr, result.exception)
    return result.stdout


def refused(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 2, (result.output, result.exception)
    assert len(result.stderr.strip().splitlines()) == 1
    return result.stderr.strip()


def tokens(model: torch.nn.Module) -> list[int]:
    found = model.generate(PROMPT, max_new_tokens=32, do_sample=False, eos_token_id=None)  # type: ignore[operator]
    return list(found[0].tolist())


def plain(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


# -- exported and merged ----------------------------------------------------------------------------------------------


def test_an_exported_version_loads_with_peft_and_may_be_added_again(
    life: Life, base: Path, made: Path, tmp_path: Path
) -> None:
    version = life.add(made)
    life.publish(version)
    out = tmp_path / "out"
    assert version.name in done("export", version.name, str(out), "--home", str(life.home))
    assert {path.name for path in out.iterdir()} == {CONFIG, WEIGHTS, "anabranch.json"}, "the exam stays"
    facts = json.loads((out / "anabranch.json").read_text())["facts"]
    assert facts["base_digest"] == life.digest and not {"parity", "exam_digest"} & facts.keys()
    expected = tokens(PeftModel.from_pretrained(plain(base), made))
    assert tokens(PeftModel.from_pretrained(plain(base), out)) == expected != tokens(plain(base))
    check = AdapterCheck(str(base), 8)
    assert check.folder(out, (life.digest, ""), []).rank == 4
    with pytest.raises(LearningError, match="expected the base"):
        check.folder(out, ("0" * 64, ""), [])


def test_a_merged_version_answers_by_itself(life: Life, base: Path, made: Path, tmp_path: Path) -> None:
    life.publish(life.add(made))
    done("merge", "news", str(tmp_path / "out"), "--home", str(life.home), "--dtype", "float32")
    assert tokens(plain(tmp_path / "out")) == tokens(PeftModel.from_pretrained(plain(base), made))
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_a_version_on_a_changed_base_is_merged_with_the_change(
    life: Life, base: Path, made: Path, tmp_path: Path
) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    model = plain(base)
    changed = model.state_dict()[name] * -1
    save_base_delta({name: changed}, tmp_path / "delta")
    life.publish(life.add(None, 1, delta=tmp_path / "delta"))
    life.publish(life.add(made, 2, delta=tmp_path / "delta"))
    first = life.registry.adapters()[0].name
    assert "has no adapter" in refused("export", first, str(tmp_path / "no"), "--home", str(life.home))
    done("merge", first, str(tmp_path / "one"), "--home", str(life.home))
    done("merge", "news", str(tmp_path / "two"), "--home", str(life.home))
    model.state_dict()[name].copy_(changed)
    assert tokens(plain(tmp_path / "one")) == tokens(model)
    assert tokens(plain(tmp_path / "two")) == tokens(PeftModel.from_pretrained(model, made))


@pytest.mark.parametrize("command", ["export", "merge"])
def test_what_is_there_is_left_alone_and_what_fails_leaves_nothing(
    life: Life, made: Path, tmp_path: Path, command: str
) -> None:
    version = life.add(made)
    life.publish(version)
    at = ["--home", str(life.home)]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("full", "file", "link"):
        assert "a new or an empty folder" in refused(command, version.name, str(tmp_path / name), *at)
    (tmp_path / "empty").mkdir()
    done(command, version.name, str(tmp_path / "empty"), *at)
    before = sorted(tmp_path.iterdir())
    assert "not in" in refused(command, "news@v9-00000000", str(tmp_path / "out"), *at)
    assert "not in" in refused(command, "../registry", str(tmp_path / "out"), *at)
    weights = life.home / "registry" / "adapters" / version.name / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-4] + b"xxxx")
    assert "sha256" in refused(command, version.name, str(tmp_path / "out"), *at)
    assert sorted(tmp_path.iterdir()) == before


def test_another_base_is_not_merged_into(life: Life, made: Path, tmp_path: Path) -> None:
    life.publish(life.add(made))
    other = write_base(tmp_path / "other", "llama", seed=1)
    line = refused("merge", "news", str(tmp_path / "out"), "--home", str(life.home), "--base", str(other))
    assert "expected its base" in line and not (tmp_path / "out").exists()
    assert "--dtype" in refused("merge", "news", str(tmp_path / "out"), "--home", str(life.home), "--dtype", "int8")


def test_the_list_tells_versions_and_offers(life: Life, made: Path, tmp_path: Path) -> None:
    life.publish(life.add(made))
    life.add(made, 2, status="rejected")
    offers = Offers(Disk(life.home / "registry"))
    offers.put("sport", b"{}", b"")
    text = done("list", "--home", str(life.home))
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "news@v" in line]
    assert [line[1:5] for line in lines] == [["accepted", "lora", "yes", "4"], ["rejected", "lora", "", "4"]]
    assert float(lines[0][5]) > 0
    assert "no registry" in refused("list", "--home", str(tmp_path))


# -- added ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def door() -> Iterator[FrontDoor]:
    with front_door(FrontDoor(body=json.dumps(ANSWER).encode())) as opened:
        yield opened


def system(home: Path, base: Path) -> list[str]:
    return ["--config", "demo", "--set", f"home={home}", "--set", f"base.model={base}"]


def uploads(home: Path) -> list[str]:
    folder = home / "registry" / "offered"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_it_is_uploaded_taken_and_its_examples_sent(door: FrontDoor, base: Path, adapter: Path, tmp_path: Path) -> None:
    pickle_beside(adapter)
    file = tmp_path / "examples.jsonl"
    rows = [{"prompt": "a", "completion": "b"}, {"task": "news", "input": "c", "output": "d"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["adapters", "add", str(adapter), "--domain", "news", "--examples", str(file)]
    result = door.run(*arguments, *system(tmp_path / "home", base))
    assert result.exit_code == 0, (result.output, result.exception)
    assert "is taken" in result.stdout and "news: 2 examples sent, closed" in result.stdout
    assert "training_args.bin" in result.stderr and not (tmp_path / "unpickled").exists()
    assert door.asked == ["POST /v1/domains/news/adapters", "POST /v1/records"]
    assert len(uploads(tmp_path / "home")) == 1 and uploads(tmp_path / "home")[0].startswith("news@offer-")
    assert door.run(*arguments, *system(tmp_path / "home", base)).exit_code == 0
    assert len(uploads(tmp_path / "home")) == 1


@pytest.mark.parametrize("name", CORRUPT)
def test_a_spoiled_one_is_neither_uploaded_nor_asked_for(
    door: FrontDoor, base: Path, adapter: Path, tmp_path: Path, name: str
) -> None:
    spoil, _ = CORRUPT[name]
    spoil(adapter)
    door.refused("adapters", "add", str(adapter), "--domain", "news", *system(tmp_path / "home", base))
    assert door.asked == [] and uploads(tmp_path / "home") == []


def test_what_else_is_refused_before_anything_is_sent(
    door: FrontDoor, base: Path, adapter: Path, tmp_path: Path
) -> None:
    to = system(tmp_path / "home", base)
    file = tmp_path / "examples.jsonl"
    with_file = ["--examples", str(file)]
    assert "check the path" in door.refused("adapters", "add", str(adapter), "--domain", "news", *with_file, *to)
    file.write_text('{"domain": "sport", "prompt": "a", "completion": "b"}\n')
    assert "some of sport" in door.refused("adapters", "add", str(adapter), "--domain", "news", *with_file, *to)
    file.write_text("\n")
    assert "got none" in door.refused("adapters", "add", str(adapter), "--domain", "news", *with_file, *to)
    for domain in ("../news", "News", "", "base"):
        door.refused("adapters", "add", str(adapter), "--domain", domain, *to)
        door.refused("adapters", "add", str(adapter), "--domain", domain, *with_file, *to)
    door.refused("adapters", "add", str(tmp_path / "nowhere"), "--domain", "news", *to)
    door.refused("adapters", "add", str(file), "--domain", "news", *to)
    assert door.asked == [] and uploads(tmp_path / "home") == []


def test_the_servers_refusal_is_told_and_no_example_sent(
    door: FrontDoor, base: Path, adapter: Path, tmp_path: Path
) -> None:
    door.status = 409
    door.body = json.dumps({"error": {"message": "news is pinned", "type": "ConflictError", "code": 409}}).encode()
    file = tmp_path / "examples.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n')
    arguments = ["adapters", "add", str(adapter), "--domain", "news", "--examples", str(file)]
    assert "news is pinned" in door.refused(*arguments, *system(tmp_path / "home", base))
    assert door.asked == ["POST /v1/domains/news/adapters"]

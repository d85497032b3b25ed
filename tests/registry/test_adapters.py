"""Adapters: immutable names, whole folders, refusals that say what to do."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.numpy

from registry.adapters import Adapter
from registry.errors import DigestMismatch, NewerHome, RegistryError, UnknownAdapter
from registry.records import sealed
from registry.registry import Registry
from tests.registry.conftest import facts_of, peft_folder
from tests.registry.places import files, remove_tree


def test_an_added_adapter_is_a_plain_peft_folder(registry: Registry, tmp_path: Path) -> None:
    source = peft_folder(tmp_path / "out")
    adapter = registry.add_adapter("news", 1, source, facts_of("news"))
    assert adapter.name == f"news@v1-{adapter.digest[:8]}"
    if isinstance(registry.root, Path):
        assert adapter.path == registry.root / "adapters" / adapter.name
    names = {path.name for path in adapter.path.iterdir()} - {".files.json"}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "anabranch.json"}
    for name in names - {"anabranch.json"}:
        assert (adapter.path / name).read_bytes() == (source / name).read_bytes()
    assert safetensors.numpy.load_file(adapter.path / "adapter_model.safetensors").keys() == {"layers.0.lora_A.weight"}
    assert registry.adapter(adapter.name) == adapter
    adapter.verify()


def test_other_weights_never_get_the_same_name(registry: Registry, tmp_path: Path) -> None:
    one = registry.add_adapter("news", 1, peft_folder(tmp_path / "a", 1), facts_of("news"))
    two = registry.add_adapter("news", 2, peft_folder(tmp_path / "b", 2), facts_of("news", 2))
    same = registry.add_adapter("sport", 1, peft_folder(tmp_path / "a", 1), facts_of("sport"))
    assert one.digest == same.digest and len({one.name, two.name, same.name}) == 3


def test_adding_again_returns_what_is_there(registry: Registry, tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "a")
    first = registry.add_adapter("news", 1, folder, facts_of("news"))
    again = registry.add_adapter("news", 1, folder, facts_of("news", figures={"loss": 0.7}))
    assert again == first and again.facts.figures == {"loss": 0.5}
    assert len(registry.adapters()) == 1


def test_other_content_or_another_verdict_for_a_version_is_refused(registry: Registry, tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "a", 1)
    registry.add_adapter("news", 1, folder, facts_of("news"))
    with pytest.raises(RegistryError, match=r"other content.*next version"):
        registry.add_adapter("news", 1, peft_folder(tmp_path / "b", 2), facts_of("news"))
    with pytest.raises(RegistryError, match="verdict is final"):
        registry.add_adapter("news", 1, folder, facts_of("news", status="rejected"))


def test_a_loss_that_is_no_number_can_be_kept(registry: Registry, tmp_path: Path) -> None:
    figures = {"loss": math.nan, "base_loss": math.inf}
    facts = facts_of("news", status="rejected", figures=figures)
    name = registry.add_adapter("news", 1, peft_folder(tmp_path / "a"), facts).name
    found = registry.adapter(name).facts.figures
    assert math.isnan(found["loss"]) and found["base_loss"] == math.inf


def test_listing_is_by_domain_and_number(registry: Registry, add: Callable[..., Adapter]) -> None:
    for version in (2, 10, 1):
        add("news", version)
    add("a-b", 1)
    stranger = files(registry) / "adapters" / "not an adapter"
    stranger.mkdir() if isinstance(stranger, Path) else stranger.write_bytes(b"")
    assert [(adapter.domain, adapter.version) for adapter in registry.adapters()] == [
        ("a-b", 1),
        ("news", 1),
        ("news", 2),
        ("news", 10),
    ]
    assert [adapter.version for adapter in registry.adapters("news")] == [1, 2, 10]
    assert registry.adapters("new") == []


@pytest.mark.parametrize("new_storage", ["folder"], indirect=True)
def test_facts_are_read_once_and_the_folder_is_listed_once_a_call(
    registry: Registry, add: Callable[..., Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name never means other content: what a status asks for again and again costs no reading."""
    for number in range(6):
        add(f"domain-{number}")
    fresh = Registry(registry.storage)
    read, listed = [], []
    read_bytes, listdir = Path.read_bytes, os.listdir
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path), read_bytes(path))[1])
    monkeypatch.setattr(os, "listdir", lambda *of: (listed.append(of), listdir(*of))[1])
    for calls in (1, 2, 3):
        assert len(fresh.adapters()) == 6
        assert (len(read), len(listed)) == (6, calls)
    assert fresh.adapter(fresh.adapters("domain-3")[0].name).domain == "domain-3"
    assert len(read) == 6


def test_what_another_process_adds_and_prunes_is_seen(registry: Registry, add: Callable[..., Adapter]) -> None:
    reader = Registry(registry.storage)
    one = add("news")
    assert reader.adapters() == [one]
    two = add("news", 2)
    assert reader.adapters() == [one, two]
    remove_tree(files(one))
    assert reader.adapters() == [two]
    with pytest.raises(UnknownAdapter):
        reader.adapter(one.name)


@pytest.mark.parametrize("name", ["news", "news@v1-00000000", "../news@v1-00000000", "", "news@v1-00000000/x"])
def test_an_unknown_name_is_said_to_be_unknown(registry: Registry, name: str) -> None:
    with pytest.raises(UnknownAdapter, match=r"expected a full name"):
        registry.adapter(name)


def test_verify_finds_one_changed_byte(add: Callable[..., Adapter]) -> None:
    adapter = add("news")
    weights = files(adapter) / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(DigestMismatch, match=rf"{adapter.digest}, got"):
        adapter.verify()


@pytest.mark.parametrize("damage", ["{", "", '{"format": 3}', "[]"])
def test_damaged_facts_are_named(registry: Registry, add: Callable[..., Adapter], damage: str) -> None:
    adapter = add("news")
    (files(adapter) / "anabranch.json").write_text(damage)
    with pytest.raises(DigestMismatch, match=r"anabranch\.json is damaged"):
        Registry(registry.storage).adapter(adapter.name)


def test_any_changed_byte_of_the_facts_is_found(registry: Registry, add: Callable[..., Adapter]) -> None:
    adapter = add("news", figures={"loss": math.nan})
    path = files(adapter) / "anabranch.json"
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(DigestMismatch, match=r"anabranch\.json is damaged"):
            Registry(registry.storage).adapter(adapter.name)
    path.write_bytes(content)
    assert Registry(registry.storage).adapter(adapter.name).name == adapter.name


def test_facts_of_a_later_format_are_refused_in_one_line(registry: Registry, add: Callable[..., Adapter]) -> None:
    adapter = add("news")
    path = files(adapter) / "anabranch.json"
    content = json.loads(path.read_bytes())
    del content["sha256"]
    path.write_bytes(sealed({**content, "format": 4, "more": []}, "anabranch.json"))
    with pytest.raises(NewerHome, match=r"expected format 3, got 4; it is of a newer Anabranch: upgrade"):
        Registry(registry.storage).adapter(adapter.name)
    assert Registry(registry.storage).survey()[1].keys() == {adapter.name}


def test_one_old_damaged_version_stops_neither_its_successors_nor_looking_them_up(
    registry: Registry, add: Callable[..., Adapter], tmp_path: Path
) -> None:
    damaged, two = add("news", 1), add("news", 2)
    (files(damaged) / "anabranch.json").write_text("{")
    three = add("news", 3)
    registry = Registry(registry.storage)
    assert registry.numbered("news", 2) == two and registry.numbered("news", 3) == three
    assert registry.numbered("news", 4) is None and registry.numbered("new", 1) is None
    assert [adapter.version for adapter in registry.survey("news")[0]] == [2, 3]
    # Itself it can be neither read nor added again, and its number stays given.
    with pytest.raises(DigestMismatch, match="damaged"):
        registry.numbered("news", 1)
    with pytest.raises(DigestMismatch, match="damaged"):
        registry.add_adapter("news", 1, tmp_path / "trained" / "news1", facts_of("news", 1))
    (files(three) / "anabranch.json").write_text("{")
    assert registry.newest_version("news") == 3


def test_facts_of_another_adapter_are_refused(registry: Registry, add: Callable[..., Adapter]) -> None:
    one, two = add("news", 1), add("news", 2)
    (files(one) / "anabranch.json").write_bytes((files(two) / "anabranch.json").read_bytes())
    with pytest.raises(DigestMismatch, match="speaks of"):
        Registry(registry.storage).adapter(one.name)


class TestRefused:
    """What is no adapter stays outside, and leaves nothing behind."""

    @pytest.fixture(autouse=True)
    def _nothing_stays(self, registry: Registry) -> object:
        yield
        assert registry.adapters() == []
        assert [path for path in files(registry).rglob("*") if path.is_file() and path.suffix == ".safetensors"] == []

    def test_a_missing_file(self, registry: Registry, tmp_path: Path) -> None:
        folder = peft_folder(tmp_path / "a")
        (folder / "adapter_model.safetensors").unlink()
        with pytest.raises(RegistryError, match="expected a PEFT folder"):
            registry.add_adapter("news", 1, folder, facts_of("news"))

    def test_weights_cut_short(self, registry: Registry, tmp_path: Path) -> None:
        folder = peft_folder(tmp_path / "a")
        weights = folder / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-3])
        with pytest.raises(DigestMismatch, match="expected a whole safetensors file"):
            registry.add_adapter("news", 1, folder, facts_of("news"))

    @pytest.mark.parametrize("content", [b"", b"pickled", b"\xff" * 64, b"\x02" + b"\0" * 7 + b"[]"])
    def test_weights_of_another_format(self, registry: Registry, tmp_path: Path, content: bytes) -> None:
        folder = peft_folder(tmp_path / "a")
        (folder / "adapter_model.safetensors").write_bytes(content)
        with pytest.raises(DigestMismatch, match="expected a whole safetensors file"):
            registry.add_adapter("news", 1, folder, facts_of("news"))

    @pytest.mark.parametrize("config", ["{", "[]", json.dumps({"r": 8}), "{}"])
    def test_a_config_that_contradicts_the_facts(self, registry: Registry, tmp_path: Path, config: str) -> None:
        folder = peft_folder(tmp_path / "a")
        (folder / "adapter_config.json").write_text(config)
        with pytest.raises(RegistryError, match=r"expected (JSON|rank 4)"):
            registry.add_adapter("news", 1, folder, facts_of("news"))

    def test_facts_of_another_version(self, registry: Registry, tmp_path: Path) -> None:
        with pytest.raises(RegistryError, match="speak of news version 2"):
            registry.add_adapter("news", 1, peft_folder(tmp_path / "a"), facts_of("news", 2))


def test_those_that_can_not_be_read_are_told_apart_and_keep_their_numbers(
    registry: Registry, add: Callable[..., Adapter]
) -> None:
    whole, damaged, closed = add("news", 1), add("news", 2), add("sport", 1)
    (files(damaged) / "anabranch.json").write_text("{}")
    facts = files(closed) / "anabranch.json"
    facts.unlink()
    if isinstance(facts, Path):
        facts.mkdir()
    found, troubles = Registry(registry.storage).survey()
    assert found == [whole] and set(troubles) == {damaged.name, closed.name}
    assert all(name in str(trouble) and "restore it" in str(trouble) for name, trouble in troubles.items())
    for domain in ("news", "sport", None):
        with pytest.raises(RegistryError, match="restore it"):
            Registry(registry.storage).adapters(domain)
    assert [registry.newest_version(domain) for domain in ("news", "sport", "weather")] == [2, 1, 0]


def test_two_threads_may_list_while_adapters_come_and_go(
    registry: Registry, add: Callable[..., Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One looks up what it has read of a name just when the other, who no longer saw it, has forgotten it."""
    news = add("news")
    assert registry.adapters() == [news]
    store = registry._adapters

    class Looked(str):
        def __eq__(self, other: object) -> bool:
            # In the dictionary's lookup: the other thread's listing is done.
            store._read = {}
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    monkeypatch.setattr(os, "listdir", lambda _: [Looked(news.name)])
    assert registry.adapters() == [news]


def test_an_exam_lies_beside_its_version_and_is_what_was_added(registry: Registry, tmp_path: Path) -> None:
    exam = b'{"id": "1", "prompt": "p", "completion": "c"}\n'
    news = registry.add_adapter("news", 1, peft_folder(tmp_path / "news"), facts_of("news"), exam)
    bare = registry.add_adapter("sport", 1, peft_folder(tmp_path / "sport", 1), facts_of("sport"))
    assert (news.exam(), bare.exam(), (bare.path / "exam.jsonl").exists()) == (exam, b"", False)
    news.verify()
    (files(news) / "exam.jsonl").write_bytes(exam.replace(b"c", b"d"))
    with pytest.raises(DigestMismatch, match="exam of news@v1"):
        news.exam()
    news.verify()
    (files(news) / "exam.jsonl").unlink()
    with pytest.raises(DigestMismatch, match="can't be read"):
        news.exam()

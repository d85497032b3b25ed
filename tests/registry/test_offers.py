"""Offers in a folder and in a bucket: whole or not at all, one a domain, found again, and nothing left for good."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.adapters import content_digest
from registry.disk import Disk
from registry.errors import DigestMismatch, RegistryError
from registry.offers import Offer, Offers, offer_name
from registry.registry import Registry
from registry.storage import Storage
from tests.registry.conftest import START

CONFIG, WEIGHTS = b'{"r": 4}', b"weights" * 100


def offer_of(domain: str, name: str, **changes: object) -> Offer:
    fields = {"domain": domain, "name": name, "digest": "a" * 64, "state": "waiting", "created_at": START}
    return Offer(**fields | changes)  # type: ignore[arg-type]


@pytest.fixture
def offers(registry: Registry) -> Offers:
    return Offers(registry.storage)


def there(storage: Storage) -> list[str]:
    return [each.name for each in storage.folders("offered")]


def test_an_upload_is_read_back_and_put_once(offers: Offers, storage: Storage) -> None:
    name = offers.put("news", CONFIG, WEIGHTS)
    assert name == offer_name("news", content_digest(CONFIG, WEIGHTS)) == offers.put("news", CONFIG, WEIGHTS)
    assert offers.read("news", name, 10_000) == (CONFIG, WEIGHTS)
    assert there(storage) == [name]
    other = Offers(storage)
    assert other.read("news", name, 10_000) == (CONFIG, WEIGHTS)
    assert offers.put("sport", CONFIG, WEIGHTS) != name


def test_bounds_and_names(offers: Offers) -> None:
    name = offers.put("news", CONFIG, WEIGHTS)
    with pytest.raises(DigestMismatch, match="at most 10 bytes"):
        offers.read("news", name, 10)
    for domain, wrong in (
        ("sport", name),
        ("news", "../adapters"),
        ("news", f"{name}/.."),
        ("news", ""),
        ("news", f"{name}\n"),
    ):
        with pytest.raises(RegistryError, match="expected one for"):
            offers.read(domain, wrong, 10_000)
    with pytest.raises(RegistryError, match="it is not there"):
        offers.read("news", "news@offer-" + "0" * 16, 10_000)
    for domain in ("", "../x", "A", "x" * 64, "a/b", "a\n"):
        with pytest.raises(RegistryError, match="expected a name of"):
            offers.put(domain, CONFIG, WEIGHTS)


def test_what_is_decided_is_found_again_and_tidied(offers: Offers, storage: Storage) -> None:
    assert offers.get("news") is None and offers.all() == []
    first, second = offers.put("news", CONFIG, WEIGHTS), offers.put("news", CONFIG, WEIGHTS + b"2")
    sport = offers.put("sport", CONFIG, WEIGHTS)
    offers.decide(offer_of("news", first, note="a word"))
    assert Offers(storage).get("news") == offer_of("news", first, note="a word")
    assert there(storage) == [first, sport], "what another domain was offered may still be taken"
    offers.decide(offer_of("sport", sport))
    second = offers.put("news", CONFIG, WEIGHTS + b"2")
    offers.decide(offer_of("news", second))
    assert there(storage) == [second, sport] and {each.domain for each in offers.all()} == {"news", "sport"}
    offers.decide(offer_of("news", second, state="refused", reason="too large"))
    assert there(storage) == [sport]
    assert offers.forget("sport", "b" * 64) is False and there(storage) == [sport]
    assert offers.forget("sport") is True and offers.forget("sport") is False
    assert there(storage) == [] and [each.state for each in offers.all()] == ["refused"]


def test_what_nobody_took_goes_after_a_day(tmp_path: Path) -> None:
    offers = Offers(Disk(tmp_path / "registry"))
    old, new = offers.put("sport", CONFIG, WEIGHTS), offers.put("news", CONFIG, WEIGHTS)
    path = tmp_path / "registry" / "offered" / old
    os.utime(path, (1, path.stat().st_mtime - 25 * 3600))
    offers.decide(offer_of("news", new))
    assert there(Disk(tmp_path / "registry")) == [new]


def test_damage_is_told_and_mended(new_storage: Callable[[str], Storage]) -> None:
    storage = new_storage("registry")
    offers = Offers(storage)
    name = offers.put("news", CONFIG, WEIGHTS)
    offers.decide(offer_of("news", name))
    storage.keep("offers/news.json", [b"{}"], hashlib.sha256(b"{}").hexdigest())
    with pytest.raises(DigestMismatch, match="offer to news"):
        offers.get("news")
    assert offers.all() == []
    assert offers.forget("news") and offers.get("news") is None
    if isinstance(storage, Disk):
        (storage.path / "offered" / name / "adapter_model.safetensors").write_bytes(b"other")
        with pytest.raises(DigestMismatch, match="not what its name says"):
            offers.read("news", name, 10_000)
        assert offers.put("news", CONFIG, WEIGHTS) == name
    assert offers.read("news", name, 10_000) == (CONFIG, WEIGHTS)


def test_a_registry_that_is_read_by_others_is_none_the_worse(registry: Registry, offers: Offers) -> None:
    offers.decide(offer_of("news", offers.put("news", CONFIG, WEIGHTS)))
    assert registry.adapters() == [] and registry.current() is None
    again = Registry(registry.storage, writer=True)
    assert Offers(again.storage).get("news") is not None

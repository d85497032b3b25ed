"""The manifest record: canonical, closed, and consistent with itself."""

import json
from datetime import datetime
from typing import Any

import pytest
from pydantic import ValidationError

from registry.errors import RegistryError
from registry.manifest import Manifest, Placed, Route, RouterRef, Tombstone, adapter_name, column
from tests.registry.conftest import next_manifest

DIGEST = "0123456789abcdef" * 4


def route(domain: str = "news", version: int = 3) -> Route:
    return Route(adapter=adapter_name(domain, version, DIGEST), digest=DIGEST, rank=4, version=version)


def test_text_and_back() -> None:
    manifest = next_manifest(None, routes={"news": route()})
    text = manifest.to_json()
    assert Manifest.from_json(text, "here") == manifest
    assert Manifest.from_json(text, "here").to_json() == text


def test_equal_manifests_have_one_name() -> None:
    manifest = next_manifest(None, routes={"news": route()})
    assert manifest.digest() == Manifest.from_json(manifest.to_json(), "here").digest()
    assert manifest.digest() != manifest.model_copy(update={"reason": "another"}).digest()


@pytest.mark.parametrize(("version", "refused"), [(2, True), (3, True), (4, False)])
def test_what_was_removed_is_not_routed_to(version: int, refused: bool) -> None:
    removed = {"news": Tombstone(version=3, manifest=1), "sport": Tombstone(version=9, manifest=1)}
    fields = next_manifest(None, routes={"news": route(version=version)}).model_dump() | {"removed": removed}
    if refused:
        with pytest.raises(ValidationError, match="removed with manifest 1; only versions after v3"):
            Manifest.model_validate(fields)
    else:
        assert Manifest.model_validate(fields).removed == removed


def test_it_names_base_and_adapters_together() -> None:
    manifest = json.loads(next_manifest(None, routes={"news": route()}).to_json())
    assert manifest["base"].keys() == {"model", "revision", "digest", "delta"}
    assert manifest["routes"]["news"] == {
        "adapter": "news@v3-01234567",
        "digest": DIGEST,
        "rank": 4,
        "version": 3,
        "segment": 1,
        "beside": {},
        "pinned": False,
    }


def test_a_route_names_the_adapters_of_all_segments() -> None:
    other = Placed(adapter="news@v2-89abcdef", digest="89abcdef" * 8, rank=4, version=2)
    whole = route().model_copy(update={"segment": 2, "beside": {1: other}})
    assert whole.names == ("news@v2-89abcdef", "news@v3-01234567") and list(whole.segments) == [1, 2]
    again = Manifest.from_json(next_manifest(None, routes={"news": whole}).to_json(), "a manifest")
    assert again.routes["news"] == whole
    for wrong in ({2: other}, {1: other.model_copy(update={"adapter": "sport@v2-89abcdef"})}):
        with pytest.raises(ValueError, match=r"two adapters|expected adapter"):
            next_manifest(None, routes={"news": whole.model_copy(update={"beside": wrong})})
    assert (column("news", 1), column("news", 2)) == ("news", "news#2")


@pytest.mark.parametrize(
    "change",
    [
        {"routes": {"sport": route()}},
        {"routes": {"news": route().model_copy(update={"version": 2})}},
        {"routes": {"News": route()}},
        {"number": 0},
        {"created_at": datetime(2030, 1, 1)},
        {"router": {"fingerprint": "f", "path": "/etc/passwd"}},
        {"router": {"fingerprint": "f", "path": "routers/../../x"}},
        {"format": 1},
        {"more": 1},
    ],
)
def test_contradictions_are_refused(change: dict[str, Any]) -> None:
    fields = next_manifest(None).model_dump() | change
    with pytest.raises(ValidationError):
        Manifest.model_validate(fields)


def test_a_damaged_text_names_file_key_and_remedy() -> None:
    with pytest.raises(RegistryError, match=r"^m\.json: number: .*restore or upgrade$"):
        Manifest.from_json(next_manifest(None).to_json().replace('"number": 1', '"number": "x"'), "m.json")
    with pytest.raises(RegistryError, match=r"^m\.json: manifest: "):
        Manifest.from_json(b"{", "m.json")


def test_frozen() -> None:
    with pytest.raises(ValidationError):
        RouterRef(fingerprint="f").path = "x"  # type: ignore[misc]

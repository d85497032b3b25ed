"""The manifest record: canonical, closed, and consistent with itself."""

import json
from datetime import datetime
from typing import Any

import pytest
from pydantic import ValidationError

from registry.errors import RegistryError
from registry.manifest import Manifest, Route, RouterRef, adapter_name
from tests.registry.conftest import next_manifest

DIGEST = "0123456789abcdef" * 4


def route(domain: str = "news", version: int = 3) -> Route:
    return Route(adapter=adapter_name(domain, version, DIGEST), digest=DIGEST, rank=4, version=version)


def test_text_and_back() -> None:
    manifest = next_manifest(None, routes={"news": route()})
    text = manifest.to_json()
    assert Manifest.from_json(text, "here") == manifest
    assert Manifest.from_json(text, "here").to_json() == text


def test_an_earlier_manifests_empty_features_digest_is_passed_over_and_no_other_value() -> None:
    manifest = next_manifest(None)
    earlier = json.loads(manifest.to_json()) | {"features_digest": None}
    assert Manifest.from_json(json.dumps(earlier), "here") == manifest
    with pytest.raises(RegistryError, match="features_digest"):
        Manifest.from_json(json.dumps(earlier | {"features_digest": "c" * 64}), "here")


def test_it_names_base_and_adapters_together() -> None:
    manifest = json.loads(next_manifest(None, routes={"news": route()}).to_json())
    assert manifest["base"].keys() == {"model", "revision", "digest"}
    assert manifest["routes"]["news"] == {
        "adapter": "news@v3-01234567",
        "digest": DIGEST,
        "rank": 4,
        "version": 3,
        "pinned": False,
    }


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
        {"format": 2},
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

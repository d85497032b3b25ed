"""Access keys in a folder and in a bucket: what is kept of them, who changes them at once, what damage says."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from registry.backup import back_up
from registry.errors import DigestMismatch, KeyRefused, NewerHome, RegistryError, UnknownKey
from registry.key_form import digest_of, id_of, masked, mint
from registry.keys import AccessKey, Grant, KeyStore
from registry.records import sealed
from registry.registry import Registry
from registry.storage import Storage
from registry.verification import verify
from tests.registry.conftest import next_manifest
from tests.registry.places import files

START = datetime(2030, 1, 1, tzinfo=UTC)


class Watch:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def store(registry: Registry, watch: Watch) -> KeyStore:
    return KeyStore(registry.storage, watch)


def grant(**changes: Any) -> Grant:
    return Grant(**{"name": "a", "scopes": ("infer",), **changes})


def opens(key: AccessKey, text: str, now: datetime) -> bool:
    """Whether a text opens a key, by its record alone."""
    ended = key.ended_at()
    right = [each for each in key.secrets if each.digest == digest_of(text)]
    return any(each.until is None or now < each.until for each in right) and (ended is None or now < ended)


def test_a_key_is_told_once_and_kept_as_a_digest(store: KeyStore, registry: Registry) -> None:
    asked = grant(domains=("cats", "base"), requests_per_minute=3, tokens_per_day=5, expires_at=START + timedelta(1))
    key, text = store.create(asked)
    assert store.read() == (key,) and id_of(text) == key.id and opens(key, text, START)
    assert Grant.model_validate(key.model_dump(include=set(Grant.model_fields))) == asked
    content = (files(registry) / "keys.json").read_bytes()
    assert text.rpartition("-")[2].encode() not in content and digest_of(text).encode() in content


def test_keys_are_never_alike_nor_guessable_from_one_another() -> None:
    made = [mint() for _ in range(1_000)]
    assert len({text.split("-")[1] for text in made}) == len({text.split("-")[2] for text in made}) == 1_000
    assert all(len(bytes.fromhex(text.split("-")[2])) == 32 for text in made)


def test_others_see_a_change_at_once(store: KeyStore, registry: Registry) -> None:
    other = KeyStore(Registry(registry.storage).storage)
    key, _ = store.create(grant())
    assert other.read() == (key,)
    other.revoke(key.id)
    assert store.read()[0].revoked_at is not None


def test_a_revoked_key_stays_revoked(store: KeyStore, watch: Watch) -> None:
    key, text = store.create(grant())
    watch.now += timedelta(hours=1)
    first = store.revoke(key.id)
    watch.now += timedelta(hours=1)
    assert store.revoke(key.id) == first and not opens(first, text, watch.now)
    with pytest.raises(KeyRefused, match="ended"):
        store.rotate(key.id, timedelta(0))


def test_a_rotated_key_opens_by_both_for_a_while(store: KeyStore, watch: Watch) -> None:
    key, old = store.create(grant())
    rotated, new = store.rotate(key.id, timedelta(hours=1))
    assert id_of(new) == key.id and new != old
    assert opens(rotated, old, START) and opens(rotated, new, START)
    later = START + timedelta(hours=1)
    assert not opens(rotated, old, later) and opens(rotated, new, later)
    # An earlier end is not put off by another rotation.
    watch.now = START + timedelta(minutes=30)
    again, newest = store.rotate(key.id, timedelta(hours=5))
    assert not opens(again, old, later) and opens(again, new, later) and opens(again, newest, later)
    watch.now = START + timedelta(hours=12)
    assert len(store.rotate(key.id, timedelta(0))[0].secrets) == 2


def test_secrets_of_a_key_are_bounded(store: KeyStore, watch: Watch) -> None:
    key, _ = store.create(grant())
    for _ in range(7):
        store.rotate(key.id, timedelta(hours=1))
    with pytest.raises(KeyRefused, match="8 secrets"):
        store.rotate(key.id, timedelta(hours=1))
    watch.now += timedelta(hours=1)
    store.rotate(key.id, timedelta(hours=1))


def test_many_change_keys_at_once_and_nothing_is_lost(registry: Registry) -> None:
    key, first = KeyStore(registry.storage).create(grant())
    others = [KeyStore(registry.storage).create(grant())[0] for _ in range(2)]

    def change(place: int) -> str:
        mine = KeyStore(registry.storage)
        if place < 4:
            return mine.rotate(key.id, timedelta(hours=1))[1]
        if place < 6:
            return mine.rotate(others[place - 4].id, timedelta(hours=1))[1]
        return mine.create(grant(name=str(place)))[1]

    with ThreadPoolExecutor(8) as pool:
        texts = [first, *pool.map(change, range(12))]
    now, keys = datetime.now(UTC), {each.id: each for each in KeyStore(registry.storage).read()}
    assert len(keys) == 3 + 6
    assert all(opens(keys[id_of(text) or ""], text, now) for text in texts)


@pytest.mark.parametrize("name", ["revoke", "rotate"])
def test_an_unknown_key_is_named(store: KeyStore, name: str) -> None:
    ask: Callable[[], object] = {
        "revoke": lambda: store.revoke("0" * 12),
        "rotate": lambda: store.rotate("0" * 12, timedelta(0)),
    }[name]
    with pytest.raises(UnknownKey, match="0" * 12):
        ask()


def test_what_has_ended_is_dropped_after_a_while(store: KeyStore, watch: Watch) -> None:
    revoked, _ = store.create(grant())
    store.revoke(revoked.id)
    store.create(grant(expires_at=START + timedelta(days=1)))
    lasting, _ = store.create(grant())
    watch.now += timedelta(days=92)
    key, _ = store.create(grant())
    assert store.read() == (lasting, key)


def test_a_first_key_is_taken_once(store: KeyStore) -> None:
    text = mint()
    key = store.first(grant(), text)
    assert key is not None and opens(key, text, START)
    assert store.first(grant(), text) is None and store.first(grant(), mint()) is None
    store.revoke(key.id)
    assert store.first(grant(), text) is None and len(store.read()) == 1


GOOD = f"ab-{12 * '1'}-{64 * 'a'}"


@pytest.mark.parametrize("text", ["", "secret", "ab-123-456", GOOD.upper(), f"{GOOD}0", f" {GOOD}"])
def test_a_first_key_has_the_form_of_one(store: KeyStore, text: str) -> None:
    with pytest.raises(RegistryError, match="openssl") as caught:
        store.first(grant(), text)
    assert not text or text not in str(caught.value)
    assert store.read() == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"scopes": ()},
        {"scopes": ("root",)},
        {"name": ""},
        {"name": "a\nb"},
        {"requests_per_minute": 0},
        {"tokens_per_day": -1},
        {"expires_at": "2030-01-01T00:00:00"},
        {"domains": ("",)},
        {"scope": "infer"},
    ],
)
def test_what_no_key_can_be_for_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        grant(**changes)


def test_damage_is_said_with_what_to_do(store: KeyStore, registry: Registry) -> None:
    store.create(grant())
    path = files(registry) / "keys.json"
    whole = path.read_text()
    for text, error in (
        (whole.replace("infer", "admin"), DigestMismatch),
        (whole[:-9], DigestMismatch),
        (sealed({"format": 2, "keys": []}, "x").decode(), NewerHome),
        (sealed({"format": 1, "keys": [{"id": 3}]}, "x").decode(), RegistryError),
        (sealed({"format": 1, "keys": 3}, "x").decode(), RegistryError),
    ):
        path.write_text(text)
        with pytest.raises(error, match=r"keys\.json"):
            store.read()
        with pytest.raises(error):
            store.create(grant())
        assert any("keys.json" in line for line in verify(registry))
    path.write_text(whole)
    assert len(store.read()) == 1 and verify(registry) == []


def test_a_home_that_is_away_is_no_home_without_keys(new_storage: Callable[[str], Storage], store: KeyStore) -> None:
    assert store.read() == ()
    with pytest.raises(RegistryError, match="expected a home"):
        KeyStore(new_storage("elsewhere")).read()


def test_a_backup_has_the_keys(
    store: KeyStore, registry: Registry, publish: Callable[..., Any], new_storage: Callable[[str], Storage]
) -> None:
    key, _ = store.create(grant())
    publish()
    target = new_storage("backup")
    assert back_up(registry, target) == []
    assert KeyStore(target).read() == (key,)
    assert next_manifest(Registry(target).current()).number == 2


def test_no_text_with_a_key_in_it_is_written() -> None:
    text = mint()
    told = masked(f"DELETE /v1/keys/{text}/rotate?x={text.upper()} {text[:40]}")
    secret = text.split("-")[2]
    assert secret not in told.lower() and secret[:20] not in told.lower()
    assert f"ab-{id_of(text)}" in told


def test_a_folder_that_can_t_be_written_to_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(tmp_path / "registry")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(registry.storage, "replace", full)
    with pytest.raises(RegistryError, match="No space left"):
        KeyStore(registry.storage).create(grant())

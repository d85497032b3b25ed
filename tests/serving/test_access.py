"""The door by a real client at a real socket: who is let in, for what, and with which answer not."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from registry.adapters import Adapter
from registry.errors import StoreAway
from registry.key_form import mint
from serving import key_ring
from tests.serving.doors import House
from tests.serving.memory_engine import MemoryEngine
from tests.serving.sockets import listening

CATS = {"model": "cats", "prompt": "meow"}
SHOWN = {"include_usage": True}
RECORD = {"id": "1", "domain": "cats", "prompt": "p", "completion": "c"}


def refused(answer: httpx.Response, status: int, kind: str) -> str:
    """The message of an error, which has OpenAI's form."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == (kind, status)
    return str(error["message"])


def unknown(answer: httpx.Response) -> str:
    said = refused(answer, 401, "AuthenticationError")
    assert answer.headers["www-authenticate"] == 'Bearer realm="anabranch"'
    return said


PATHS = [
    ("POST", "/v1/completions", CATS, "infer"),
    ("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "meow"}]}, "infer"),
    ("POST", "/v1/route", {"input": "meow"}, "infer"),
    ("GET", "/v1/models", None, "infer"),
    ("GET", "/v1/models/cats", None, "infer"),
    ("POST", "/v1/records", RECORD, "ingest"),
    ("GET", "/v1/domains", None, "admin"),
    ("DELETE", "/v1/domains/cats", None, "admin"),
    ("POST", "/v1/domains/cats/rollback", None, "admin"),
    ("POST", "/v1/domains/cats/pin", None, "admin"),
    ("POST", "/v1/domains/cats/unpin", None, "admin"),
    ("POST", "/v1/domains/cats/learn", None, "admin"),
    ("POST", "/v1/domains/cats/adapters", {"offer": "cats~0123abcd"}, "admin"),
    ("GET", "/v1/status", None, "admin"),
    ("GET", "/v1/decisions", None, "admin"),
    ("GET", "/v1/dead-letters", None, "admin"),
    ("POST", "/v1/dead-letters/replay", None, "admin"),
    ("GET", "/v1/publications", None, "admin"),
    ("GET", "/v1/keys", None, "admin"),
    ("POST", "/v1/keys", {"name": "b", "scopes": ["infer"]}, "admin"),
    ("GET", "/v1/audit", None, "admin"),
    ("GET", "/metrics", None, "admin"),
    ("GET", "/openapi.json", None, ""),
]


async def test_each_path_wants_its_scope_and_no_other_will_do(house: House, cast: dict[str, Adapter]) -> None:
    scopes = ("infer", "ingest", "admin")
    async with listening(house.app()) as url, httpx.AsyncClient(base_url=url) as client:
        keys = {scope: house.key(scope) for scope in scopes}
        for method, path, body, wanted in PATHS:
            unknown(await client.request(method, path, json=body))
            for scope, headers in keys.items():
                answer = await client.request(method, path, json=body, headers=headers)
                if wanted in ("", scope):
                    assert answer.is_success, f"{path}: {answer.text}"
                else:
                    assert wanted in refused(answer, 403, "PermissionDeniedError")
    assert house.notebook.records == [RECORD]
    assert [call[0] for call in house.notebook.calls] == ["remove", "rollback", "pin", "unpin", "learn", "add_adapter"]


async def test_every_path_that_there_is_has_been_asked(house: House) -> None:
    there = {(method, route.path) for route in house.app().routes for method in route.methods}
    asked = {(method, path.replace("/cats", "/{domain}")) for method, path, _, _ in PATHS}
    asked = {(method, "/v1/models/{model:path}" if path == "/v1/models/{domain}" else path) for method, path in asked}
    ours = {("DELETE", "/v1/keys/{key}"), ("POST", "/v1/keys/{key}/rotate"), ("GET", "/v1/decisions/{decision}")}
    ours |= {("GET", "/v1/domains/{domain}/exam")}
    open_ = {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/"), ("GET", "/assets/{name}")}
    # A stream that does not end: tests/serving/test_events.py.
    assert there == asked | ours | open_ | {("GET", "/v1/events")}


@pytest.mark.parametrize(
    "path",
    ["/v1/nothing", "/v1/records/", "//v1/models", "/v1/Models", "/v1/adapters", "/docs", "/index.html", "/assets"],
)
async def test_a_path_that_nobody_has_named_is_for_administrators(house: House, path: str) -> None:
    async with house.client(house.app()) as client:
        unknown(await client.get(path))
        refused(await client.get(path, headers=house.key("infer", "ingest")), 403, "PermissionDeniedError")
        limited = house.key("admin", domains=("cats",))
        refused(await client.get(path, headers=limited), 403, "PermissionDeniedError")
        assert (await client.get(path, headers=house.key("admin"))).status_code in (307, 404, 405)


async def test_health_is_open_and_tells_strangers_nothing(house: House, cast: dict[str, Adapter]) -> None:
    async with listening(house.app()) as url, httpx.AsyncClient(base_url=url) as client:
        for path in ("/healthz", "/readyz"):
            for headers in ({}, house.key("infer"), {"authorization": "Bearer nonsense"}):
                answer = await client.get(path, headers=headers)
                assert answer.status_code == 200 and answer.json()["loaded"] == []
            whole = (await client.get(path, headers=house.key("admin"))).json()
            assert whole["loaded"] == sorted(each.name for each in cast.values())
        house.service.fence("dogs@v1-12345678 is broken")
        answer = await client.get("/readyz")
        assert answer.status_code == 503 and "dogs" not in answer.text and answer.headers["retry-after"]
        house.service.unfence()


async def test_figures_are_open_where_that_is_set(house: House) -> None:
    async with house.client(house.app(metrics="open")) as client:
        assert "anabranch_leases" in (await client.get("/metrics")).text
        unknown(await client.get("/v1/status"))


async def test_without_keys_nobody_is_asked(house: House, cast: dict[str, Adapter]) -> None:
    async with house.client(house.app(required=False)) as client:
        assert (await client.post("/v1/completions", json=CATS)).status_code == 200
        assert (await client.delete("/v1/domains/cats")).status_code == 200
        assert (await client.get("/v1/audit")).json() == {"acts": []}


def good(headers: dict[str, str]) -> str:
    return headers["authorization"].removeprefix("Bearer ")


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER  "])
async def test_the_scheme_is_written_as_one_likes(house: House, scheme: str) -> None:
    async with listening(house.app()) as url, httpx.AsyncClient(base_url=url) as client:
        headers = {"Authorization": scheme + good(house.key("infer"))}
        assert (await client.get("/v1/models", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "written",
    [
        b"",
        b"Bearer",
        b"Basic KEY",
        b"KEY",
        b"Bearer KEY KEY",
        b"Bearer KEY,",
        b"Bearer \xc3\xa4\xff",
        b"Bearer KEY\xe2\x80\x8b",
        b"Bearer " + b"a" * 50_000,
        b"Bearer " + b"KEY" * 500,
        b"Bearer ab-000000000000-" + b"0" * 64,
        b"Bearer ab--",
        b"Bearer UPPER",
    ],
    ids=lambda written: repr(written[:30]),
)
async def test_what_is_no_key_opens_nothing(house: House, written: bytes) -> None:
    async with listening(house.app()) as url, httpx.AsyncClient(base_url=url) as client:
        text = good(house.key("infer")).encode()
        value = written.replace(b"KEY", text).replace(b"UPPER", text.upper())
        said = unknown(await client.get("/v1/models", headers=[(b"authorization", value)]))
        assert text.decode().split("-")[2] not in said


async def test_one_character_apart_opens_nothing(house: House) -> None:
    app = house.app()
    text = good(house.key("infer"))
    async with house.client(app) as client:
        for place in (3, 14, 16, 50, len(text) - 1):
            other = text[:place] + ("0" if text[place] != "0" else "1") + text[place + 1 :]
            assert "not known" in unknown(await client.get("/v1/models", headers=house.bearer(other)))


async def test_two_authorizations_are_one_too_many(house: House) -> None:
    async with listening(house.app()) as url, httpx.AsyncClient(base_url=url) as client:
        value = house.key("infer")["authorization"].encode()
        for second in (value, b"Bearer x", b""):
            pair = [(b"authorization", value), (b"Authorization", second)]
            assert "got 2" in unknown(await client.get("/v1/models", headers=pair))


async def test_a_key_in_the_address_opens_nothing_even_beside_a_right_one(house: House) -> None:
    async with listening(house.app()) as url, httpx.AsyncClient(base_url=url) as client:
        headers = house.key("infer", "admin")
        text = good(headers)
        for path in (f"/v1/models?api_key={text}", f"/v1/models?x={text.replace('-', '%2D')}", f"/v1/keys/{text}"):
            for sent in ({}, headers):
                assert "revoke it" in unknown(await client.get(path, headers=sent))


async def test_before_there_is_a_key_that_is_said(house: House) -> None:
    async with house.client(house.app()) as client:
        headers = {"authorization": f"Bearer {mint()}"}
        assert "keys create" in unknown(await client.get("/v1/models", headers=headers))


# -- ends -------------------------------------------------------------------------------------------------------------


async def test_a_key_ends_when_it_expires(house: House) -> None:
    app = house.app()
    now = datetime.now(UTC)
    async with house.client(app) as client:
        soon = house.key("infer", expires_at=now + timedelta(hours=1))
        assert (await client.get("/v1/models", headers=soon)).status_code == 200
        late = house.key("infer", expires_at=now - timedelta(seconds=1))
        assert "has ended" in unknown(await client.get("/v1/models", headers=late))


async def test_a_rotated_key_opens_by_both_until_the_first_ends(house: House) -> None:
    app = house.app()
    (one, first), (two, second) = house.made_key("infer"), house.made_key("infer")
    news = [house.rotated(one, timedelta(hours=1)), house.rotated(two, timedelta(hours=1))]
    async with house.client(app) as client:
        for headers in (first, second, *news):
            assert (await client.get("/v1/models", headers=headers)).status_code == 200
        newest = house.rotated(one, timedelta(0))
        for headers in (first, news[0]):
            assert "has ended" in unknown(await client.get("/v1/models", headers=headers))
        for headers in (second, news[1], newest):
            assert (await client.get("/v1/models", headers=headers)).status_code == 200


async def test_a_key_that_is_revoked_elsewhere_opens_nothing_after_the_stated_time(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = house.app()
    key, headers = house.made_key("infer")
    async with house.client(app) as client:
        assert (await client.get("/v1/models", headers=headers)).status_code == 200
        house.access.store.revoke(key.id)
        # Time passes, also for a replica that nobody asks meanwhile.
        house.access.ring._as_of -= key_ring.FRESH_SECONDS + 0.01
        house.access.ring._tried -= key_ring.FRESH_SECONDS
        assert "has ended" in unknown(await client.get("/v1/models", headers=headers))
    assert key_ring.FRESH_SECONDS == 5.0


async def test_what_was_begun_is_finished_when_its_key_is_revoked(
    house: House, engine: MemoryEngine, cast: dict[str, Adapter]
) -> None:
    async with listening(house.app()) as url, httpx.AsyncClient(base_url=url) as client:
        key, headers = house.made_key("infer")
        body = {**CATS, "prompt": "a b c d", "stream": True}
        async with client.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
            lines = answer.aiter_lines()
            assert (await anext(lines)).startswith("data: {")
            engine.gate.clear()
            house.access.store.revoke(key.id)
            house.access.ring.forget()
            unknown(await client.get("/v1/models", headers=headers))
            engine.gate.set()
            assert [line async for line in lines if line][-1] == "data: [DONE]"


async def test_while_the_registry_is_away_known_keys_hold_and_that_is_said(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = house.app()
    headers = house.key("infer", "admin")

    def away() -> Any:
        raise StoreAway("bucket: get failed; mend the way to the store")

    async with house.client(app) as client:
        assert (await client.get("/v1/models", headers=headers)).status_code == 200
        monkeypatch.setattr(house.access.store, "read", away)
        house.access.ring._as_of -= 60.0
        house.access.ring._tried -= 60.0
        assert (await client.get("/v1/models", headers=headers)).status_code == 200
        trouble = (await client.get("/v1/status", headers=headers)).json()["replica"]["trouble"]
        assert "get failed" in trouble and "hold meanwhile" in trouble
        unknown(await client.get("/v1/models", headers=house.bearer(mint())))
        monkeypatch.undo()
        await asyncio.sleep(1.05)
        for _ in range(3):
            await client.get("/v1/models", headers=headers)
            await asyncio.sleep(0.05)
        assert (await client.get("/v1/status", headers=headers)).json()["replica"]["trouble"] is None


async def test_before_the_keys_were_ever_read_everybody_is_told_to_come_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = house.app()
    headers = house.key("infer")

    def away() -> Any:
        raise StoreAway("bucket: get failed")

    monkeypatch.setattr(house.access.store, "read", away)
    async with house.client(app) as client:
        answer = await client.get("/v1/models", headers=headers)
        refused(answer, 503, "ServiceUnavailableError")
        assert answer.headers["retry-after"] and (await client.get("/readyz")).status_code == 200
